"""Rooms of the house: where threads and processes start, where locks stand, what imports torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "napari_peftsam"
STARTERS = {"Thread", "Timer", "Popen", "ProcessPoolExecutor", "ThreadPoolExecutor", "LocalCluster"}
MODULES = {"multiprocessing", "concurrent.futures", "distributed"}
MAY_START = ("widgets/_runner.py", "app/child.py", "batch/", "cli/_console.py")
LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "FileLock"}


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    """Return all modules of the package; reading them takes seconds."""
    return tuple(
        (path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    )


def called(tree: ast.Module) -> set[str]:
    """Return the last names of everything that a module calls."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    attributes = {each.attr for each in functions if isinstance(each, ast.Attribute)}
    return attributes | {each.id for each in functions if isinstance(each, ast.Name)}


def imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_threads_and_processes_start_in_the_named_rooms_only() -> None:
    starting = {name for name, tree in modules() if called(tree) & STARTERS}
    starting |= {
        name
        for name, tree in modules()
        if any(each == m or each.startswith(f"{m}.") for each in imported(tree) for m in MODULES)
    }
    assert [name for name in sorted(starting) if not name.startswith(MAY_START)] == []


def test_each_module_with_a_lock_is_listed_in_the_architecture() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = page.split("| lock | guards |")[1].split("## ")[0]
    for name, tree in modules():
        if called(tree) & LOCKS:
            module = Path(name).stem
            assert module in table.lower(), f"{name} has a lock"


def test_torch_is_not_imported_at_start() -> None:
    names = ["napari_peftsam", "napari_peftsam.cli"]
    names += [
        f"napari_peftsam.app.{each}" for each in ("advice", "prompting", "finetuning", "runner")
    ]
    names += ["napari_peftsam.widgets.annotate"]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_other_users_of_segment_anything_see_nothing_of_ours() -> None:
    code = (
        "import napari_peftsam.models, sys; assert 'segment_anything' not in sys.modules;"
        "from segment_anything import sam_model_registry, SamPredictor;"
        "import segment_anything; segment_anything.modeling.Sam"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
