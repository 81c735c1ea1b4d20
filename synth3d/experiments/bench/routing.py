"""The rows of the routing's grouped convolutions: is the merging that the code chooses the best?"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ops.bench import Result, Row, Setting, compare, summary, take
from synth3d.models import GroupedConv3d, merge_groups

GROUPS, ENOUGH = 8, 32
"""AGI-Net's groups; and channels a group from which a GPU's matrix units are thought to be fed."""
SIZES = {"cuda": ((32, 96), (64, 48)), "cpu": ((16, 16),)}
"""Channels and side of the samples, of which there are two: those of the recipe `gpu`."""
SLOWER = 1.10
"""How much slower than the best the code's own choice may be, on a GPU."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def routing_rows(device: str) -> Iterator[Row]:
    """Forward and backward of a grouped 3x3x3 convolution, channels-last, in every merging."""
    sizes = [(*size, dtype) for size in SIZES[device] for dtype in DTYPES]
    for channels, side, dtype in sizes:
        yield Row(
            f"routing/{channels}@{side}^3-b2/{dtype}",
            f"B 2, {channels}→{channels}, 3^3 in {GROUPS} groups, on {side}^3",
            partial(_mergings, channels=channels, side=side), dtype, "channels_last",
            candidate="chosen", bar=SLOWER if device == "cuda" else None, quick=True,
        )  # fmt: skip


def mergings(channels: int) -> list[int]:
    """Numbers of groups to try: as they are, merged to at least 32 channels a group, to one."""
    some = GROUPS
    while some > 1 and channels // some < ENOUGH:
        some //= 2
    return sorted({GROUPS, some, 1}, reverse=True)


def _mergings(row: Row, setting: Setting, channels: int, side: int) -> list[Result]:
    """What the layer does by itself over the fastest, which has the bar, and each over it."""
    device, kind = setting.device, DTYPES[row.dtype]
    last = torch.channels_last_3d
    layer = GroupedConv3d(channels, channels, 3, padding=1, groups=GROUPS)
    layer = layer.to(device).to(memory_format=last)
    x = torch.randn(2, channels, *[side] * 3, device=device).to(kind, memory_format=last)
    grad = torch.randn_like(x)
    leaves = (x.requires_grad_(), *layer.parameters())

    def step(merged: int) -> None:
        with torch.autocast(device.type, kind, enabled=row.dtype != "fp32"):
            y = layer(x) if merged == 0 else _merged(layer, x, merged)
        torch.autograd.grad(y, leaves, grad)

    names = {f"{merged} group{'s'[: merged > 1]}": merged for merged in mergings(channels)}
    calls: dict[str, Callable[[], object]] = {
        name: partial(step, merged) for name, merged in {"chosen": 0, **names}.items()
    }
    taken = take(setting, calls)
    seconds = summary(taken)
    best = min(names, key=lambda name: seconds[name])
    pairs = [("chosen", best), *((name, "chosen") for name in names)]
    results = []
    for candidate, baseline in pairs:
        ratio = compare(taken[candidate], taken[baseline])
        results.append(
            row.result(
                candidate=candidate,
                baseline=baseline,
                value=ratio.median,
                lowest=ratio.lowest,
                of_minima=ratio.of_minima,
                rounds=setting.rounds,
                bar=row.bar if candidate == "chosen" else None,
                seconds={name: seconds[name] for name in (candidate, baseline)},
            )
        )
    return results


def _merged(layer: GroupedConv3d, x: Tensor, merged: int) -> Tensor:
    weight = merge_groups(layer.weight, GROUPS, merged)
    return F.conv3d(x, weight, layer.bias, padding=1, groups=merged)
