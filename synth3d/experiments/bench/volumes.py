"""The rows of whole cases: what stands between a cohort and the time of its convolutions alone."""

import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from cuda_ops.bench import Result, Row, Setting, compare, summary

SHAPE = (155, 240, 240)
"""A native case of BraTS, (z, y, x), voxels of 1 mm."""
HEAD = 192
"""Side of the phantom that fills it, 1 mm."""
CASES, ROUNDS, THREADS = 3, 3, 2
"""Cases of the cohort, rounds at the most, and threads of the network."""
NETWORKS = ("resunet", "agi-net", "tsf")
RECIPES = {"tsf": "tsf-cpu"}
"""Where it is not `cpu`."""
FLOOR_BARS, FORMER_BAR = {"resunet": 1.15, "agi-net": 1.15, "tsf": 1.25}, 0.50
"""Of a case's wall time: over its convolutions, and over half overlap case after case."""
MISSING = ("t2f",)
DTYPES = ("fp32", "bf16")


def volume_rows() -> Iterator[Row]:
    """A cohort of native cases completed by an untrained network of its recipe, wall time."""
    for network in NETWORKS:
        for dtype in DTYPES:
            yield Row(
                f"cohort/{network}/{dtype}", f"{CASES} cases of 155×240×240, {THREADS} threads",
                partial(_cohort, network=network), dtype, "channels_last", candidate="now",
            )  # fmt: skip


def _cohort(row: Row, setting: Setting, network: str) -> list[Result]:
    """The cohort as it is completed now, and with half overlap and one case after the other."""
    rounds = min(ROUNDS, setting.rounds)
    turns: dict[str, Callable[[], float]] = {}
    quiet = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
        run, data = _run(Path(folder), network), _native_cohort(Path(folder) / "native")
        complete = partial(_complete, run=run, data=data, precision=row.dtype)
        turns["now"] = complete
        turns["half"] = partial(complete, overlap=0.5, executor=_OneAfterAnother())
        turns["floor"] = partial(_convolutions, run, data, row.dtype)
        turns["floor"]()  # libraries load and settle
        taken: dict[str, list[float]] = {name: [] for name in turns}
        for number in range(rounds):
            for name in list(turns)[:: (-1) ** number]:
                taken[name].append(turns[name]())
    found = []
    for baseline, bar in (("half", FORMER_BAR), ("floor", FLOOR_BARS[network])):
        ratio = compare(taken["now"], taken[baseline])
        said: dict[str, Any] = {"value": ratio.median, "lowest": ratio.lowest, "rounds": rounds}
        said |= {"of_minima": ratio.of_minima, "baseline": baseline, "bar": bar}
        found.append(row.result(**said, seconds=summary(taken), note=_note(taken)))
    return found


def _note(taken: dict[str, list[float]]) -> str:
    now, half, floor = (summary(taken)[name] for name in ("now", "half", "floor"))
    return f"{now:.3g} s a case, half overlap {half:.3g}, convolutions {floor:.3g}; wall"


class _OneAfterAnother(Executor):
    """Does what it is given at once, in this thread: nothing overlaps."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _complete(run: Path, data: Path, executor: Executor | None = None, **how: Any) -> float:
    """Wall seconds a case of completing ``data``, all that is looked at, read and written."""
    from synth3d.completion import complete

    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        complete(
            executor=executor, run=run, data=data, out=Path(out) / "out", missing=MISSING,
            device="cpu", threads=_threads(), **how,
        )  # fmt: skip
        return (time.perf_counter() - started) / CASES


def _convolutions(run: Path, data: Path, precision: str) -> float:
    """Wall seconds in convolutions, the network's own, while it has the tiles of one case."""
    from synth3d.cohort import find_cases
    from synth3d.data import prepare, shown
    from synth3d.inference import memory_format, synthesize_case
    from synth3d.training import load_run

    torch.set_num_threads(_threads())
    loaded = load_run(run)
    config, framework = loaded.config, loaded.framework
    framework.to(memory_format=memory_format(config.dim))
    prepared = prepare(find_cases(data)[0], config.sources, (), config.data, config.mode)
    if config.mode == "any":
        prepared = shown(prepared, [name for name in config.sources if name not in MISSING])
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.inference_mode(), cast, profile(activities=[ProfilerActivity.CPU]) as seen:
        synthesize_case(framework, prepared, config.data)
    events = [event for event in seen.key_averages() if "conv" in event.key]
    return sum(event.self_cpu_time_total for event in events) / 1e6


def _threads() -> int:
    return min(THREADS, os.cpu_count() or 1)


def _run(folder: Path, network: str) -> Path:
    """A run of the network's recipe that took two steps, on small phantoms."""
    from synth3d.phantom import make_cohort
    from synth3d.training import TrainRequest, train_run

    make_cohort(folder / "small", cases=4, size=64)
    request = TrainRequest(
        data=folder / "small", work=folder / "work", recipe=RECIPES.get(network, "cpu"),
        model=network, steps=2,
        threads=_threads(), device="cpu",
    )  # fmt: skip
    run = train_run(request)
    assert run is not None
    return run


def _native_cohort(folder: Path) -> Path:
    """``CASES`` cases of ``SHAPE`` that hold one phantom."""
    from synth3d.images import read, write_new
    from synth3d.phantom import make_cohort

    make_cohort(folder.with_name("head"), cases=1, size=HEAD)
    (head,) = folder.with_name("head").glob("Phantom-*")
    for path in head.glob("*.nii.gz"):
        volume = read(path)
        first = (HEAD - SHAPE[0]) // 2
        sides = [(side - HEAD) // 2 for side in SHAPE[1:]]
        data = np.pad(volume.data[first : first + SHAPE[0]], [(0, 0), *[(n, n) for n in sides]])
        for number in range(CASES):
            name = head.name.replace("00000", f"{number:05d}", 1)
            target = folder / name / path.name.replace(head.name, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if number:
                shutil.copy(folder / head.name / path.name, target)
            else:
                write_new(target, data, volume.affine, np.int16)
    return folder
