"""What steered a generator's kernels in a case: overheard while its volume is made, at no cost.

Maps that explain a volume are made as it is, see ``map`` of
:class:`synth3d.inference.SynthesisOptions`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from synth3d.frameworks import Framework
from synth3d.models import routed


@dataclass(frozen=True)
class RoutedGroup:
    """What steered one group of one convolution in a case: means over its tiles, and their sd.

    Attributes:
        place: The convolution's stage and block, as in ``down1.0``.
        group: Its number, from 0.
        offset: By how many taps its kernel was rolled, (z, y, x), or (y, x) in 2-D; and
        offset_sd: how that differs from tile to tile; empty without routing.
        scale: By what its kernel was multiplied, in (0, 1); None without routing.
        scale_sd: Of the same.
        gate: Its channels' mean attention, in (0, 1); None without attention.
        gate_sd: Of the same.
        tiles: How many there were.
    """

    place: str
    group: int
    offset: tuple[float, ...]
    offset_sd: tuple[float, ...]
    scale: float | None
    scale_sd: float | None
    gate: float | None
    gate_sd: float | None
    tiles: int


class RouteRecorder:
    """Overhears what steers a generator's kernels while a volume is made.

    Its :meth:`on_tile` has to be told of all tiles, so that those that only fill the last call do
    not count. A volume that is begun anew, for lack of memory, counts once.
    """

    def __init__(self, framework: Framework) -> None:
        """Nothing is heard yet; ``framework`` is left as it is."""
        self._steered = routed(framework.generator)
        self._done, self._tiles = 0, 0
        self._heard: dict[tuple[str, str], Tensor] = {}
        self._sums: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    @contextmanager
    def listening(self) -> Iterator["RouteRecorder"]:
        """In this block it hears what the generator does."""
        hooks = []
        for name, module in self._steered.items():
            if module.attention is not None:
                hear = partial(self._hear_gates, name, module.attention.groups)
                hooks.append(module.attention.register_forward_hook(hear))
            if module.routing is not None:
                hear = partial(self._hear_routing, name)
                hooks.append(module.routing.register_forward_hook(hear))
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _hear_gates(self, name: str, groups: int, module: Any, given: Any, gates: Tensor) -> None:
        self._heard[name, "gate"] = gates.flatten(1).unflatten(1, (groups, -1)).mean(2)

    def _hear_routing(self, name: str, module: Any, given: Any, steered: Any) -> None:
        self._heard[name, "offset"], self._heard[name, "scale"] = steered

    def on_tile(self, done: int, total: int) -> None:
        """After a call of the generator: so many tiles are done of so many."""
        if done <= self._done:
            self._sums, self._done, self._tiles = {}, 0, 0
        batch = min((len(values) for values in self._heard.values()), default=0)
        new, self._done = min(done - self._done, batch), done
        self._tiles += new
        for key, values in self._heard.items():
            found = values[:new].double().cpu()
            sums = found.sum(0), found.square().sum(0)
            known = self._sums.get(key)
            self._sums[key] = sums if known is None else (known[0] + sums[0], known[1] + sums[1])
        self._heard.clear()

    @property
    def groups(self) -> list[RoutedGroup]:
        """What was heard, by place in the network and by group."""
        return [
            self._group(name, group)
            for name, module in self._steered.items()
            for group in range(module.conv.groups)
            if self._tiles
        ]

    def _group(self, name: str, group: int) -> RoutedGroup:
        found: dict[str, tuple[list[float], list[float]]] = {}
        for kind in ("offset", "scale", "gate"):
            total, squares = self._sums.get((name, kind), (None, None))
            if total is None or squares is None:
                found[kind] = [], []
                continue
            mean = total[group] / self._tiles
            deviation = (squares[group] / self._tiles - mean.square()).clamp(min=0).sqrt()
            found[kind] = mean.reshape(-1).tolist(), deviation.reshape(-1).tolist()
        offset, scale, gate = (found[kind] for kind in ("offset", "scale", "gate"))
        return RoutedGroup(
            _place(name), group, tuple(offset[0]), tuple(offset[1]),
            *(values[0] if values else None for pair in (scale, gate) for values in pair),
            tiles=self._tiles,
        )  # fmt: skip


def _place(name: str) -> str:
    """``down1.0`` for the name of a module in a ResUNet, which may be part of something else."""
    parts = name.split(".")
    at = parts.index("stages") if "stages" in parts else -1
    return ".".join(parts[at + 1 : at + 3])
