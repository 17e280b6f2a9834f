"""The benchmarks run, and say what they are to say; no test looks at a time."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from napari_peftsam.models import pick_precision

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KEYS = {
    "embed_bf16", "embed_fp32", "prompt", "lora_iteration", "lora_peak_memory",
    "late50_iteration", "late25_iteration", "frozen_encoder_iteration", "reload_fraction",
    "adapter_megabytes", "lora_iteration_4_rounds", "prompts_32", "prompts_400_builtin",
    "prompts_400_vit_b", "objects_per_second", "frame_512_embed", "frame_512_iteration",
    "train_start_cpu", "open_window",
}  # fmt: skip
OF_MICRO_SAM = {
    "lora_iteration", "lora_peak_memory", "late50_iteration", "late25_iteration",
    "frozen_encoder_iteration", "adapter_megabytes", "lora_iteration_4_rounds",
    "objects_per_second", "frame_512_iteration",
}  # fmt: skip
WITHOUT_PEER = {"prompts_400_builtin", "prompts_400_vit_b", "train_start_cpu", "open_window"}
NEEDS_A_DISPLAY = "open_window"


# All three in one process, since each would import torch. The GPU's comes first: what it
# has imported by its end is what it needs.
QUICK = """
import sys
from pathlib import Path

folder = Path(sys.argv[1])
import bench, gpu, scaling

gpu.main(
    ["--here", "--device", "cpu", "--architectures", "tiny", "--batches", "1", "2",
     "--repeats", "1", "--prompts", "1", "--output", f"{folder}/bench-gpu.json"]
)
(folder / "modules.txt").write_text("\\n".join(sys.modules))
scaling.main(["--quick", "--output", f"{folder}/bench-scaling.json"])
bench.main(
    ["--quick", "--output", f"{folder}/bench.json", "--report", f"{folder}/bench-report.json"]
)
"""


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the root of the repository, as make does, beside the benchmarks."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", **variables}
    command = [sys.executable, *words]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that a quick run of all benchmarks wrote into."""
    folder = tmp_path_factory.mktemp("benchmarks")
    done = run("-c", QUICK, str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests import what the scripts import: their neighbours."""
    monkeypatch.syspath_prepend(str(HERE))


def module(name: str) -> ModuleType:
    return import_module(name)


def test_the_figures_have_their_keys_and_fields(quick: Path) -> None:
    figures = read(quick / "bench.json")
    unmeasured = {NEEDS_A_DISPLAY} | {"embed_bf16"} - {f"embed_{pick_precision('cpu')}"}
    assert set(figures) == KEYS
    for key, entry in figures.items():
        assert set(entry) - {"reason"} == {
            "ours", "peer", "ratio", "limit_share", "goal", "reached",
        }  # fmt: skip
        assert (entry["ours"] is None) == (key in unmeasured)
        assert entry["goal"] is entry["reached"] is None, "goals are for a ViT-B"
        if None not in (entry["peer"], entry["ours"]):
            assert entry["ratio"] == pytest.approx(entry["peer"] / entry["ours"])
    assert figures["embed_fp32"]["limit_share"] > 0


def test_a_peer_that_was_not_measured_is_null_with_a_reason(quick: Path) -> None:
    figures = read(quick / "bench.json")
    unmeasured = {key for key, entry in figures.items() if entry["peer"] is None}
    assert unmeasured - {"embed_bf16"} == OF_MICRO_SAM | WITHOUT_PEER
    for key in unmeasured & OF_MICRO_SAM:
        assert figures[key]["ratio"] is None
        assert "quick run" in figures[key]["reason"]


def test_the_report_says_on_what_and_how_it_was_measured(quick: Path) -> None:
    report = read(quick / "bench-report.json")
    assert report["machine"].keys() >= {"processor", "cores", "features", "torch", "threads"}
    assert report["settings"].keys() >= {"architecture", "seed", "rounds", "repeats"}
    assert report["errors"]["fp32"] <= 1e-5
    assert all(report["profile"][name] for name in ("embed", "prompt", "training"))
    assert any("micro-sam was not measured" in warning for warning in report["warnings"])
    assert report["measured"]


def test_the_table_of_goals_and_the_figures_are_printed(quick: Path) -> None:
    text = (quick / "printed.txt").read_text()
    assert json.loads(text.splitlines()[-1]) == read(quick / "bench.json")
    for row in read(quick / "bench-report.json")["goals"]:
        assert row["title"] in text
        assert row["reached"] == "-", "goals are for a ViT-B"


def test_scaling_tells_time_and_memory_of_every_value(quick: Path) -> None:
    rows = read(quick / "bench-scaling.json")["rows"]
    assert len({row["axis"] for row in rows}) == 6
    assert all(row["seconds"] > 0 and row["gigabytes"] > 0 for row in rows)


def test_the_page_takes_what_the_benchmarks_wrote(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    script = runpy.run_path(str(ROOT / "docs" / "make_performance.py"))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    figures = {
        "report": read(quick / "bench-report.json"),
        "scaling": read(quick / "bench-scaling.json"),
        "gpu": read(quick / "bench-gpu.json"),
    }
    filled = script["filled"](page, figures)
    assert script["NOT_YET"] not in filled
    assert "| tiny | LoRA iteration |" in filled


def test_a_gpu_benchmark_without_a_gpu_says_so_in_one_line() -> None:
    done = run(str(HERE / "gpu.py"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["no CUDA device was found: nothing was measured"]


def test_the_gpu_benchmark_needs_neither_qt_nor_napari(quick: Path) -> None:
    imported = (quick / "modules.txt").read_text().split()
    assert "gpu" in imported
    assert not {"qtpy", "PyQt6", "napari", "pytest"} & set(imported)


@pytest.mark.usefixtures("benchmarks")
class TestChildren:
    def test_a_work_is_done_in_a_process_of_its_own(self) -> None:
        children = module("_children")
        work = children.Work("rate", "_limit.py", "rate", {"precision": "fp32", "repeats": 1})
        found = children.measure(work, threads=1)
        assert found.answer["rate"] > 0
        assert found.answer["threads"] == 1

    def test_a_failure_is_told_by_its_last_line(self) -> None:
        children = module("_children")
        with pytest.raises(children.ChildError, match="nonsense: KeyError: 'nonsense'"):
            children.measure(children.Work("nonsense", "_limit.py", "nonsense"))

    def test_a_peer_that_fails_is_noted_once_and_the_others_go_on(self) -> None:
        children = module("_children")
        asked = []

        def runner(work: Any, threads: int | None) -> Any:
            asked.append(work.name)
            if work.name.startswith("peer"):
                raise children.ChildError("no memory")
            return children.Measured(work.name, {}, {"seconds": [3.0, 1.0, 2.0]}, None, None)

        works = [children.Work(name, "", "") for name in ("peer a", "ours a") * 2]
        results = children.measure_all(works, runner=runner)
        assert asked == ["peer a", "ours a", "ours a"]
        assert results.failures == {"peer a": "no memory"}
        assert results.seconds("ours a") == 2.0
        assert results.seconds("peer a") is None

    def test_a_failure_of_ours_ends_the_run(self) -> None:
        children = module("_children")

        def runner(work: Any, threads: int | None) -> Any:
            raise children.ChildError("broken")

        with pytest.raises(children.ChildError, match="broken"):
            children.measure_all([children.Work("ours a", "", "")], runner=runner)


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize(
    ("errors", "wrong"),
    [({"fp32": 9e-6, "bf16": 9e-3}, None), ({"fp32": 2e-5}, "fp32"), ({"bf16": 2e-2}, "bf16"),
     ({"fp32": float("nan")}, "fp32")],
    ids=["within", "fp32 too far", "bf16 too far", "not a number"],
)  # fmt: skip
def test_a_wrong_embedding_has_no_speed(errors: Mapping[str, float], wrong: str | None) -> None:
    bench, children = module("bench"), module("_children")

    def runner(work: Any, threads: int | None) -> Any:
        return children.Measured(work.name, {}, {"errors": errors}, None, None)

    if wrong is None:
        assert bench.agreement("tiny", None, runner) == errors
    else:
        with pytest.raises(children.ChildError, match=f"{wrong} is .* no speed to report"):
            bench.agreement("tiny", None, runner)


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"peer": None, "ratio": None}, "no ratio and no reason"),
        ({"ours": 1}, "neither a number nor null"),
        ({"limit_share": "75 %"}, "prompt.limit_share"),
        ({"peer": ...}, "prompt.peer"),
        ({"peer": None, "ratio": None, "reason": "absent"}, None),
    ],
    ids=["all there", "no reason", "not a float", "a text", "a field less", "with a reason"],
)
def test_only_complete_figures_are_written(change: dict[str, Any], problem: str | None) -> None:
    goals = module("_goals")
    figures = {key: goals.figure(1.0, 2.0) for key in KEYS}
    figures["prompt"] = {k: v for k, v in (figures["prompt"] | change).items() if v is not ...}
    problems = goals.missing(figures)
    assert bool(problems) == bool(problem)
    assert not problem or problem in problems[0]


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize(
    ("key", "figure", "verdict"),
    [
        ("frame_512_iteration", {"peer": 10.0}, "yes"),
        ("frame_512_iteration", {"peer": 9.9}, "no"),
        ("frame_512_iteration", {}, "not measured"),
        ("objects_per_second", {"peer": 0.125, "more_is_better": True}, "yes"),
        ("objects_per_second", {"peer": 0.13, "more_is_better": True}, "no"),
        ("embed_fp32", {"limit": 0.9}, "yes"),
        ("embed_fp32", {"limit": 0.89}, "no"),
        ("embed_fp32", {}, "not measured"),
        ("prompts_400_vit_b", {}, "yes"),
        ("prompts_400_builtin", {}, "no"),
    ],
)
def test_a_goal_is_reached_from_its_bound_on(
    key: str, figure: dict[str, Any], verdict: str
) -> None:
    goals = module("_goals")
    figures = {key: goals.figure(1.0, **{"peer": None, "reason": "absent"} | figure)}
    [row] = goals.judged(figures, "vit_b")
    assert row["reached"] == verdict
    entry = goals.with_goals(figures, "vit_b")[key]
    assert entry["goal"] == row["goal"]
    assert entry["reached"] == {"yes": True, "no": False, "not measured": None}[verdict]


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("installed", [True, False], ids=["with micro-sam", "without"])
def test_every_peer_is_planned_that_is_installed(installed: bool) -> None:
    plan = module("_plan").Plan(
        "vit_b", 3, 24, 2, ("fp32", "bf16"), "python" if installed else None
    )
    works = [*plan.works(), *plan.once()]
    of_micro_sam = {work.name for work in works if work.script == "_micro_sam.py"}
    assert of_micro_sam == (
        {"peer lora fp32", "peer lora bf16", "peer adapter"} if installed else set()
    )
    assert {work.python for work in works if work.script == "_micro_sam.py"} <= {"python"}
    names = [work.name for work in works]
    assert len(names) == len(set(names))
    for script in {work.script for work in works} - {"_micro_sam.py"}:
        known = module(Path(script).stem).WORKS
        assert {work.work for work in works if work.script == script} <= known.keys()


@pytest.mark.usefixtures("benchmarks")
def test_crops_are_compared_by_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.zeros((2, 64, 64), np.uint16)
    labels[1, 8:20, 8:20], labels[1, 30:50, 30:40] = 1, 2
    for kind in ("images", "labels"):
        (tmp_path / "stacks" / kind).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "stacks" / kind / "a.tif", labels)
    crops, threads = module("crops"), torch.get_num_threads()
    crops.main([str(tmp_path), "--model", "tiny", "--threads", str(threads)])
    crops.main(["--speed", "2", "--model", "tiny", "--threads", str(threads)])
    domain, every, speed = map(json.loads, capsys.readouterr().out.splitlines())
    assert (domain["domain"], every["domain"], every["objects"]) == ("stacks", "all", 2)
    assert domain["crop with whole"] == 1  # the whole of so small a grid
    assert {"whole", "exact", "crop"} <= speed.keys()


@pytest.mark.usefixtures("benchmarks")
def test_the_page_of_the_gate_counts_what_went_wrong() -> None:
    """Sessions by what the held-out objects, the IoU and the hidden images say of the result."""
    gate = module("_gate_page")
    saves, costs = [0.5, 0.6, 0.7, 0.9], [0.5, 0.7, 0.9]

    def answers(curve: list[float]) -> dict[str, Any]:
        return {"given": curve[:1], "clicked": curve}

    def row(number: int, held_out: int, iou: float, hidden: int) -> dict[str, Any]:
        better, worse = (saves, costs), (costs, saves)
        old, new = {1: better, -1: worse, 0: (costs, costs)}[held_out]
        trial = {"image": "a", "old": answers(old), "new": answers(new), "in_fold": False}
        before, after = {1: better, -1: worse, 0: (costs, costs)}[hidden]
        return {
            "session": number, "kind": "clean", "trials": [trial] * 8, "iou_before": 0.5,
            "iou_after": iou, "hidden": {"old": [before] * 2, "new": [after] * 2},
        }  # fmt: skip

    rows = [row(0, 1, 0.6, 1), row(1, 1, 0.4, -1), row(2, 0, 0.6, 1), row(3, -1, 0.6, -1)]
    sessions = [gate.Session(each) for each in rows]
    found = [[(r.cases, r.all) for r in gate.rates(sessions, rule)]
             for rule in (gate.gate(), gate.higher_iou)]  # fmt: skip
    assert found == [[(2, 4), (1, 4), (1, 2)], [(3, 4), (1, 4), (0, 2)]]
    page = gate.page(rows)
    assert "4 of 100 planned sessions were run" in page
    assert "**not shown**, 1 of 4 (1 to 81 %) so far" in page
    whole = gate.found_text((gate.Rate(40, 100), gate.Rate(25, 100), gate.Rate(1, 20)))
    assert "in at most 2 of 100: **not met**, 25 of 100 (17 to 35 %)" in whole
    assert "in at most 10 of 100: met, 1 of 100 (0 to 5 %)" in whole
    first = next(iter(gate.others(sessions)))
    assert first == ["70 %", "0 clicks, 0 % IoU", "1 of 4, 1 of 2", "0 of 0, 0 of 0"]
