"""Programs that are killed again and again, and at last end as if nothing had happened.

``python -m tests.fuzz.kills COUNT SEED FOLDER`` kills so often and prints a line of JSON: how many
times each program was killed, and what was wrong.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from unittest import mock

import torch

from seg_eval.evaluation import evaluate
from synth3d.completion import CompleteRequest, complete_cohort
from synth3d.files import sha256
from synth3d.training import train_run
from tests.fuzz import corpus
from tests.fuzz.children import begin, end_of
from tests.fuzz.worker import half_written, limit_memory, state_of
from tests.seg_eval.conftest import FakeMachines

Work = Callable[[Path, Path], object]
CHANGES = ("fsync", "replace", "rename", "unlink", "link", "mkdir", "open")
"""Of ``os``: what leaves a trace on the disk, before or after which a program is killed."""

DRAWN = ("draw_dice", "draw_volumes", "draw_scatter", "draw_panel")


def _train(root: Path, out: Path) -> None:
    torch.set_num_threads(1)
    train_run(corpus.training(root, out))


def _complete(root: Path, out: Path) -> None:
    """FLAIR anew."""
    complete_cohort(
        CompleteRequest(root / "few", out / "out", run=root / "work" / "runs" / "run",
                        missing=("t2f",), device="cpu", threads=1)
    )  # fmt: skip


def _experiment(root: Path, out: Path) -> None:
    drawn = dict.fromkeys(DRAWN, lambda *given: given[-1].touch())
    with mock.patch.multiple("seg_eval.report.outputs", page=lambda *_, **__: "", **drawn):
        asked = corpus.experiment(root, out, arms=("copy,ridge,synthetic,plumbing",), seeds="0,1")
        evaluate(asked, FakeMachines().engines())


@dataclass(frozen=True)
class Program:
    """What is killed.

    In the end all files have to be the same but those whose names end as ``but`` says, and those
    like ``keeps`` that were there when it was killed are the very files.
    """

    work: Work
    but: tuple[str, ...]
    keeps: str


PROGRAMS = {
    "train": Program(_train, ("done.json", "log.jsonl", "environment.json", "curves.png"),
                     "nothing"),
    "complete": Program(_complete, ("receipt.json", "index.html"), "out/*/*.receipt.json"),
    "seg_eval": Program(_experiment, ("summary.json", "times.json", "commands.json", "arm.json",
                                      "report.html", "report.md", "case_files.json",
                                      "segmenters.json"), "eval/toy/*/*/*/*.nii.gz"),
}  # fmt: skip
"""Left out is what says how long something took; that it is whole is looked at all the same."""


def outcome(out: Path, but: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of every file by its path, which must be there, and "" for those in ``but``."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")]
    files = [path for path in files if "cache" not in path.relative_to(out).parts]  # no result
    return {
        str(path.relative_to(out)): "" if path.name.endswith(but) else sha256(path)
        for path in files
    }


def dying(work: Work, root: Path, out: Path, change: int) -> Callable[[], object]:
    """``work`` in a process that is killed at its ``change``-th change of the disk."""
    left = iter(range(change))

    def counted(real: Callable) -> Callable:
        def done(*given: object, **more: object) -> object:
            last = next(left, None) is None
            if last and change % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*given, **more)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return done

    def run() -> object:
        for name in CHANGES:
            setattr(os, name, counted(getattr(os, name)))
        return work(root, out)

    return run


def kill(name: str, root: Path, out: Path, took: float, chance: Random) -> int:
    """Kill a program two to five times, by the disk or by the clock; how often it was."""
    times = chance.randint(2, 5)
    for time_of in range(times):
        by_clock = chance.random() < 0.4
        change = 10**9 if by_clock else chance.randrange(1, 60)
        child = begin(dying(PROGRAMS[name].work, root, out, change), out.with_name("said"))
        code, _ = end_of(child, chance.uniform(0, 1.2 * took) if by_clock else 60)
        if code not in (None, -signal.SIGKILL):
            return time_of  # it was done before
    return times


def fault_of(name: str, root: Path, out: Path, whole: dict[str, str]) -> str:
    """What is wrong when a program goes on that was killed; an empty text if nothing is."""
    said = out.with_name("said")
    finished = [p for p in out.glob(PROGRAMS[name].keeps) if not p.name.startswith(".partial-")]
    kept = {path: path.stat().st_mtime_ns for path in finished}
    code, _ = end_of(begin(partial(PROGRAMS[name].work, root, out), said), 120)
    if code != 0:
        return f"{name} went on with code {code}: {said.read_text()[-2000:]}"
    if differ := outcome(out, PROGRAMS[name].but).items() ^ whole.items():
        return f"{name} ended otherwise: {sorted({path for path, _ in differ})}"
    if again := [path.name for path, when in kept.items() if path.stat().st_mtime_ns != when]:
        return f"{name} did again what was done: {again}"
    return half_written(out, b"")


def main(count: int, seed: int, folder: Path) -> dict[str, object]:
    """Kill so often, the programs in turn, each until it ends by itself."""
    root, said, chance = folder / "corpus", folder / "said", Random(f"kills {seed}")
    if not root.exists() and end_of(begin(lambda: corpus.make(root), said), 300)[0] != 0:
        raise SystemExit(said.read_text())
    limit_memory()
    before, wrong, killed = state_of(root), list[str](), dict.fromkeys(PROGRAMS, 0)
    whole, took = {}, {}
    for name, program in PROGRAMS.items():
        began, out = time.monotonic(), folder / "undisturbed"
        if end_of(begin(partial(program.work, root, out), said), 120)[0] != 0:
            raise SystemExit(f"{name} alone: {said.read_text()}")
        took[name], whole[name] = time.monotonic() - began, outcome(out, program.but)
        shutil.rmtree(out)
    while sum(killed.values()) < count:
        name, out = min(killed, key=lambda each: killed[each]), folder / "killed"
        killed[name] += kill(name, root, out, took[name], chance)
        wrong += [fault] if (fault := fault_of(name, root, out, whole[name])) else []
        shutil.rmtree(out)
    if state_of(root) != before:
        wrong.append("an input was changed")
    return {"killed": killed, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
