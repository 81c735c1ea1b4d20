"""The row of a cohort's throughput: what a case costs two workers beside the network.

Looking at a case, reading it twice, copying and writing it, hashes, locks and receipts; and its
share of starting the workers. The cases are one small phantom under many names, by hard links.
"""

import contextlib
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from cuda_ops.bench import Result, Row, Setting
from synth3d.cohort import find_cases
from synth3d.completion import CompleteRequest, complete_cohort
from synth3d.data import prepare
from synth3d.inference import SynthesisOptions, synthesize_case
from synth3d.phantom import make_cohort
from synth3d.training import TrainRequest, load_run, train_run

CASES, WORKERS, SIDE = 1000, 2, 24
BAR = 0.15
"""Seconds of a worker for each case."""


def throughput_row(cases: int = CASES) -> Row:
    """A cohort of ``cases`` completed by two workers of one thread each."""
    return Row(
        f"cohort/{cases}-cases",
        f"{cases} cases of {SIDE}^3, {WORKERS} workers",
        partial(_overhead, cases=cases),
        candidate="complete",
        baseline="its network",
        bar=BAR,
    )


def _overhead(row: Row, setting: Setting, cases: int) -> list[Result]:
    """Seconds of a worker for each case, less those of the network."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        run, data = _trained(folder), _cohort(folder, cases)
        place = {"run": run, "data": data, "out": folder / "out", "device": "cpu"}
        begin = time.perf_counter()
        done = complete_cohort(CompleteRequest(**place, workers=WORKERS, threads=1))
        each = (time.perf_counter() - begin) * WORKERS / cases
        network = _network_seconds(run, data, max(3, setting.rounds))
    assert [one.state for one in done] == ["made"] * cases
    note = f"{each:.3f} s a case, of which {network:.3f} s are the network's"
    return [row.result(value=each - network, unit="s", rounds=1, note=note)]


def _trained(folder: Path) -> Path:
    """A small run that makes FLAIR, trained for a moment."""
    make_cohort(folder / "heads", cases=6, size=SIDE)
    settings = ("model.blocks=1", "data.validation_cases=1", "train.checkpoint_every=2")
    run = train_run(
        TrainRequest(
            data=folder / "heads",
            target="flair",
            recipe="phantom",
            model="resunet",
            framework="l1",
            widths=(4, 8),
            patch=(16, 16, 16),
            steps=2,
            threads=1,
            device="cpu",
            assign=settings,
            work=folder,
            name="run",
        )  # fmt: skip
    )
    assert run is not None
    return run


def _cohort(folder: Path, cases: int) -> Path:
    """The first head without FLAIR, under many names."""
    head = find_cases(folder / "heads")[0]
    for number in range(cases):
        name = f"Phantom-{number:05d}-001"
        (folder / "in" / name).mkdir(parents=True)
        for path in (*head.images.values(), head.label):
            if path is not None and path != head.images["t2f"]:
                os.link(path, folder / "in" / name / path.name.replace(head.name, name))
    return folder / "in"


def _network_seconds(run: Path, data: Path, rounds: int) -> float:
    """The median time of one case's tiles, by one thread."""
    trained = load_run(run)
    config = trained.config
    prepared = prepare(find_cases(data)[0], config.sources, (), config.data)
    how = SynthesisOptions(tuple(config.data.patch), tuple(config.data.overlap))
    torch.set_num_threads(1)
    trained.framework.eval()
    taken = []
    with torch.inference_mode():
        for _ in range(rounds):
            begin = time.perf_counter()
            synthesize_case(trained.framework, prepared, config.data, how)
            taken.append(time.perf_counter() - begin)
    return sorted(taken)[len(taken) // 2]
