"""``python -m synth3d.experiments.bench.footprint``: what a training needs as its cohort grows.

A cohort is multiplied by links under other names, and trained on with and without prepared cases in
the cache. The folder is named by ``BENCH_DATA``; without it phantoms of a native size are made.
Memory is what all processes of the training hold together at their peak, shared pages counted once.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cuda_ops.bench import Result, Row, Setting, serve
from synth3d.cohort import Case, find_cases
from synth3d.files import make_folder, read_json, write_json
from synth3d.phantom import make_cohort
from synth3d.training import Trainer, TrainRequest, read_log, train_run

DESCRIPTION = """Measure what a training needs as its cohort grows: memory, seconds to the first
step, and the share of its time that it waits for data, on links to eight cases of the folder
BENCH_DATA or to phantoms. Exit code: 0; 1 if --check is given and a bar was missed or a row failed;
2 if an argument cannot be used; 130 if interrupted."""
EXAMPLES = """examples:
  BENCH_DATA=cohort python -m synth3d.experiments.bench.footprint   the table (half an hour)
  python -m synth3d.experiments.bench.footprint --quick             phantoms of 64 voxels"""

MODULE = "synth3d.experiments.bench.footprint"
COUNTS = (8, 64)
STEPS, QUICK_STEPS = 100, 20
SIDE, QUICK_SIDE = 160, 64
"""Of phantoms: the box around a brain at 1 mm."""
MOST_OWN = 8
"""Cases that are linked to."""
GROWTH_BAR, MEMORY_BAR, FIRST_BAR, WAIT_BAR = 1.05, 3.0, 60.0, 5.0
"""Times, GB, seconds and per cent."""


@dataclass(frozen=True)
class Training:
    """What one training took: peak bytes, seconds to the first step, per cent of waiting."""

    peak: int
    first: float
    waiting: float


def rows(device: torch.device) -> list[Row]:
    """One row each for ``COUNTS`` cases, of which the last compares and judges, and a quick one."""
    what = "recipe cpu, one worker"
    whole = partial(_growth, counts=COUNTS, side=SIDE, steps=STEPS)
    few = partial(_growth, counts=(4, 8), side=QUICK_SIDE, steps=QUICK_STEPS)
    return [
        Row("cohort/8-64", what, whole, candidate="64 cases", baseline="8 cases"),
        Row("cohort/4-8", what, few, candidate="8 cases", baseline="4 cases", quick=True),
    ]


def _growth(row: Row, _: Setting, counts: Sequence[int], side: int, steps: int) -> list[Result]:
    """Trainings on so many cases, none of them in the cache, and again on the last, all there."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        own = _cohort(root / "phantom", side)
        made = []
        for count in counts:
            work = make_folder(root / f"{count}")
            data, splits = multiply(own[: min(MOST_OWN, count)], count, work)
            made.append(_train(data, splits, work, "uncached", steps))
        again = _train(data, splits, work, "cached", steps)
    few, many = made
    in_gb = f"{few.peak / 1e9:.2f} : {many.peak / 1e9:.2f} GB"

    def told(what: str, value: float, unit: str, bar: float, note: str = "") -> Result:
        limit = None if row.quick else bar  # which is of native cases
        return row.result(candidate=what, value=value, unit=unit, rounds=1, bar=limit, note=note)

    return [
        told("memory", many.peak / few.peak, "×", GROWTH_BAR, in_gb),
        told("peak", many.peak / 1e9, "GB", MEMORY_BAR),
        told("first step", many.first, "s", FIRST_BAR, f"{counts[-1]} cases, none prepared"),
        told("waiting", again.waiting, "%", WAIT_BAR, "for data, all cases prepared"),
        told("waiting at first", many.waiting, "%", 100.0, "while cases are prepared"),
    ]


def _cohort(folder: Path, side: int) -> list[Case]:
    """The cases of the folder ``BENCH_DATA``, or phantoms."""
    if given := os.environ.get("BENCH_DATA"):
        return find_cases(Path(given))
    make_cohort(folder, MOST_OWN, side, 0)
    return find_cases(folder)


def multiply(cases: Sequence[Case], count: int, work: Path) -> tuple[Path, Path]:
    """A cohort of ``count`` links to ``cases`` in ``work``, and its split.

    Links to one case are all on one side: those to the last are validated on.
    """
    data, sides = work / "cohort", {"train": [], "val": [], "test": []}
    for number in range(count):
        case = cases[number % len(cases)]
        name = f"Copy-{number:05d}-000"
        folder = make_folder(data / name)
        files = {**case.images, "seg": case.label} if case.label else {**case.images}
        for role, path in files.items():
            ending = ".nii.gz" if path.name.endswith(".gz") else ".nii"
            (folder / f"{name}-{role}{ending}").symlink_to(path.resolve())
        sides["val" if case is cases[-1] else "train"].append(name)
    write_json(work / "splits.json", sides)
    return data, work / "splits.json"


def _train(data: Path, splits: Path, work: Path, name: str, steps: int) -> Training:
    """Train in a process of its own, watched."""
    task = {"data": data, "splits": splits, "work": work, "name": name, "steps": steps}
    code = f"import sys; from {MODULE} import child; child(sys.argv[1])"
    began, peak = time.time(), 0
    output = (work / "output").open("w+")  # no pipe, which nobody would empty
    program = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(task | {"began": began}, default=str)],
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while program.poll() is None:
        peak = max(peak, memory_of(program.pid))
        time.sleep(0.25)
    if program.returncode:
        said = (work / "output").read_text().splitlines()
        raise RuntimeError(f"the training failed: {said[-1] if said else 'in silence'}")
    lines = read_log(work / "runs" / name / "log.jsonl")
    log = [line["seconds"] for line in lines if "loss" in line]
    waited, worked = (sum(line[part] for line in log) for part in ("data", "step"))
    return Training(peak, float(read_json(work / "first.json")), 100 * waited / (waited + worked))


def child(task: str) -> None:
    """Train as ``task`` says, JSON, and write the seconds to the first step to ``first.json``."""
    what: dict[str, Any] = json.loads(task)
    first: list[float] = []
    advance = Trainer.advance

    def noted(trainer: Trainer, batch: Any) -> dict[str, float]:
        found = advance(trainer, batch)
        first.append(time.time() - what["began"]) if not first else None
        return found

    Trainer.advance = noted  # type: ignore[method-assign]
    keys = ("data.workers=1", "data.validation_cases=1", f"train.checkpoint_every={what['steps']}")
    paths: dict[str, Any] = {key: Path(what[key]) for key in ("data", "splits", "work")}
    train_run(
        TrainRequest(
            **paths, recipe="cpu", steps=what["steps"], name=what["name"], device="cpu", assign=keys
        )
    )
    write_json(paths["work"] / "first.json", first[0])


def memory_of(process: int) -> int:
    """Bytes that a process and all that it started hold now, shared pages counted once."""
    whole, parents = 0, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            parents[int(folder.name)] = int(words[1])
        except (OSError, ValueError):
            continue
    family = [process]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        whole += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return whole * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return serve(arguments, f"python -m {MODULE}", DESCRIPTION, EXAMPLES, rows)


if __name__ == "__main__":
    sys.exit(main())
