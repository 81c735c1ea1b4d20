"""What completing a case costs beside the convolutions that it cannot do without.

A native volume with a head-sized ellipsoid in it is synthesised as ``synth3d complete`` does, tile
by tile where there is brain; the floor is what the convolutions of so many calls take.
"""

import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ops import cpu_calls
from cuda_ops.bench_rows import Result, Row, Setting, SkipRow
from synth3d.bench_networks import FORMATS, Case
from synth3d.inference import sliding_window

COMPLETE_BAR = 1.2
NATIVE = (155, 240, 240)
HEAD_MM = (130, 170, 136)
"""Diameters (z, y, x) of an ellipsoid of 1.57 litres, in voxels of 1 mm."""


def complete_rows(case: Case, native: Sequence[int] = NATIVE) -> list[Row]:
    """One row for the networks of the recipe in float32."""
    measure = partial(_complete, case=case, native=tuple(native))
    shape = f"{'x'.join(map(str, native))}, tiles of {case.side}^3 sharing {case.side // 2}"
    return [
        Row(
            "complete/native/fp32", f"{shape}, {case}", measure, "fp32", "channels_last",
            candidate="agi", baseline="its convolutions", bar=COMPLETE_BAR, cost=250,
        )
    ]  # fmt: skip


def ellipsoid(native: Sequence[int], diameters: Sequence[int] = HEAD_MM) -> Tensor:
    """(D, H, W) bool: what lies within the ellipsoid in the middle of a volume."""
    axes = [
        ((torch.arange(side) - (side - 1) / 2) / (diameter / 2)).square()
        for side, diameter in zip(native, diameters, strict=True)
    ]
    return axes[0][:, None, None] + axes[1][:, None] + axes[2] <= 1


def _complete(row: Row, setting: Setting, case: Case, native: tuple[int, ...]) -> list[Result]:
    if setting.device.type != "cpu":
        raise SkipRow("convolutions are timed one by one, on the CPU only")
    diameters = [min(pair) for pair in zip(native, HEAD_MM, strict=True)]
    active = ellipsoid(native, diameters)
    volume = torch.randn(3, *native, generator=torch.Generator().manual_seed(1))
    found = []
    for name in ("plain", "agi", "agi-stride2"):
        network = case.network(name).to(memory_format=FORMATS[case.dim]).eval()
        seconds, tiles = _synthesis(network, case, volume, active)
        floor = _convolutions(network, case, setting.rounds) * -(-tiles // case.batch)
        note = f"{tiles} tiles, {seconds:.1f} : {floor:.1f} s"
        found.append(row.result(candidate=name, value=seconds / floor, rounds=1, note=note))
    return found


def _synthesis(network: nn.Module, case: Case, volume: Tensor, active: Tensor) -> tuple[float, int]:
    """CPU seconds of a whole synthesis, and the number of its tiles."""
    tiles = [0]

    def count(done: int, total: int) -> None:
        tiles[0] = total

    patch, shared = [case.side] * 3, [case.side // 2] * 3
    with torch.inference_mode():
        network(volume[(slice(None), *map(slice, patch))].expand(case.batch, -1, *patch))
        start = time.process_time()
        sliding_window(network, volume, patch, shared, case.batch, active, on_tile=count)
        return time.process_time() - start, tiles[0]


def _convolutions(network: nn.Module, case: Case, rounds: int) -> float:
    """CPU seconds of the convolutions of one call of ``network``: the median of ``rounds``."""
    x = torch.randn(case.batch, 3, *[case.side] * 3)
    taken = []
    for _ in range(rounds):
        with torch.inference_mode(), _Stopwatch() as watch:
            network(x)
        taken.append(watch.seconds)
    return statistics.median(taken)


class _Stopwatch(TorchDispatchMode):
    """CPU seconds within convolutions, torch's and compiled ones."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __enter__(self) -> Any:
        self.called = cpu_calls.call_convolve

        def timed(*given: Any) -> None:
            start = time.process_time()
            self.called(*given)
            self.seconds += time.process_time() - start

        cpu_calls.call_convolve = timed
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        cpu_calls.call_convolve = self.called
        super().__exit__(*raised)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        start = time.process_time()
        result = func(*args, **(kwargs or {}))
        if "conv" in func.name():
            self.seconds += time.process_time() - start
        return result
