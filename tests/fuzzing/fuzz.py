"""Damaged files of every format: each must be read, or refused with one of the project's errors.

``python -m tests.fuzzing.fuzz --seconds 600`` damages small valid files and reads each in a process
of its own. What ends in another error, takes too long or too much memory is written to
``--output`` as a file, with the reason beside it; of each kind only the first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_peftsam.errors import PeftSamError
from tests.fuzzing.formats import FORMATS, Format

SECONDS, BYTES = 20, 2**30
"""What reading a bad file may take, the memory beyond what the process began with."""
_EXTREMES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"-1", b"1e999", b"NaN", b"[" * 2000, b'"' * 50)
_MOST_CHANGES = 6


@dataclass(frozen=True)
class Finding:
    """What went wrong: ``kind`` is the same for files that fail alike."""

    kind: str
    text: str


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes of a file with a few changes: flipped, cut, doubled, replaced, moved."""
    made = bytearray(content)
    for _ in range(int(rng.integers(1, _MOST_CHANGES + 1))):
        if not made:
            break
        at, length = int(rng.integers(len(made))), int(2 ** rng.uniform(0, 8))
        match int(rng.integers(7)):
            case 0:
                made[at] ^= 1 << int(rng.integers(8))
            case 1:
                del made[at : at + length]
            case 2:
                made[at:at] = made[at : at + length]
            case 3:
                made[at : at + 4] = int(rng.integers(2**32)).to_bytes(4, "little")
            case 4:
                made[at : at + 1] = _EXTREMES[int(rng.integers(len(_EXTREMES)))]
            case 5:
                del made[at:]
            case _:
                other = int(rng.integers(len(made)))
                made[at : at + length] = made[other : other + length]
    return bytes(made)


def damage(path: Path, rng: np.random.Generator) -> None:
    """Damage a file, or one of the files of a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    chosen = files[int(rng.integers(len(files)))]
    if path.is_dir() and rng.random() < 0.05:
        chosen.unlink()
    else:
        chosen.write_bytes(damaged(chosen.read_bytes(), rng))


def judge(read: Callable[[Path], object], path: Path) -> Finding | None:
    """Read a file in a process of its own; return what went wrong, None if nothing did."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = os.fork()
    if process == 0:
        os._exit(_read_and_tell(read, path, theirs))
    theirs.close()
    told = ours.poll(SECONDS)
    if not told:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    try:
        found: Finding | None = ours.recv() if told else Finding("time", f"more than {SECONDS} s")
    except EOFError:
        found = Finding(f"ended {status}", f"the process ended with status {status}")
    ours.close()
    return found


def _read_and_tell(read: Callable[[Path], object], path: Path, pipe: object) -> int:
    """Read with bounded memory, and send what went wrong; the exit status of the process."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    found = None
    try:
        read(path)
    except PeftSamError as error:
        text = str(error)
        if any(ord(c) < ord(" ") and c not in "\n\t" for c in text):
            found = Finding("message", f"control characters: {text!r}")
    except BaseException as error:  # noqa: BLE001  # these are what is looked for
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        found = Finding(f"{type(error).__name__} {where}", "".join(traceback.format_exc()[-4000:]))
    pipe.send(found)  # type: ignore[attr-defined]
    return 0


def fuzz(
    formats: dict[str, Format], seeds: Iterator[int], output: Path, until: Callable[[], bool]
) -> dict[tuple[str, str], Path]:
    """Damage and read until the time is over; return the first file of each kind of failure."""
    found: dict[tuple[str, str], Path] = {}
    with tempfile.TemporaryDirectory() as scratch:
        valid = {name: each.write(Path(scratch, name)) for name, each in formats.items()}
        for name, path in valid.items():
            problem = judge(formats[name].read, path)
            assert problem is None, f"the valid file of {name} is refused: {problem}"
        for seed in seeds:
            if until():
                break
            rng = np.random.default_rng(seed)
            name = list(formats)[int(rng.integers(len(formats)))]
            bad = Path(scratch, "bad") / valid[name].name
            shutil.rmtree(bad.parent, ignore_errors=True)
            bad.parent.mkdir()
            (shutil.copytree if valid[name].is_dir() else shutil.copy)(valid[name], bad)
            damage(bad, rng)
            problem = judge(formats[name].read, bad)
            if problem is None or (name, problem.kind) in found:
                continue
            kept = output / f"{name}-{seed}" / bad.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if bad.is_dir() else shutil.copy)(bad, kept)
            (kept.parent / "reason.txt").write_text(f"{problem.kind}\n\n{problem.text}\n", "utf-8")
            found[name, problem.kind] = kept
            print(f"{name}, seed {seed}: {problem.kind}", flush=True)
    return found


def main() -> int:
    """Return 1 if something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--output", type=Path, default=Path("fuzz-output"))
    args = parser.parse_args()
    end, tried = time.monotonic() + args.seconds, 0

    def seeds() -> Iterator[int]:
        nonlocal tried
        while True:
            yield args.first + tried
            tried += 1

    chosen = {name: FORMATS[name] for name in args.formats}
    found = fuzz(chosen, seeds(), args.output, lambda: time.monotonic() > end)
    print(f"{tried} files, {len(found)} kinds of failure" + (f" in {args.output}" * bool(found)))
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
