"""What a framework is fed: sources, targets, and which of them count."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from synth3d.data.prepared import LEAST


def only(volumes: Tensor, which: Tensor) -> Tensor:
    """``volumes`` (B, C, *) with zeros, whatever stood there, but for ``which`` (B, C) bool."""
    mask = which.to(torch.bool).view(*which.shape, *[1] * (volumes.ndim - 2))
    return torch.where(mask, volumes, 0)


def head_of(volumes: Tensor) -> Tensor:
    """(B, 1, *) bool, where any of ``volumes`` (B, C, *) is not 0: in mode ``any`` their brain."""
    return (volumes != 0).any(1, keepdim=True)


def varied(sources: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """``sources`` (B, S, *) in the network's scale, each as another scanner might have shown it.

    Of each source of each sample: y = s · ½ |2x|^g · sign(x) + d, which keeps ½, the median, apart
    from s and d; g and s are e to a power within ± ``amount``, and d is within ± ``amount`` / 2,
    all three evenly. What is 0, background or absent, stays so, and nothing else becomes 0.
    """
    shape = (3, *sources.shape[:2], *[1] * (sources.ndim - 2))
    draws = (2 * torch.rand(shape, generator=generator) - 1) * amount
    gamma, factor, shift = draws[0].exp(), draws[1].exp(), draws[2] / 2
    changed = factor * 0.5 * (2 * sources).abs() ** gamma * sources.sign() + shift
    changed = torch.where(changed == 0, float(LEAST), changed)
    return torch.where(sources == 0, 0, changed)


@dataclass(frozen=True)
class Batch:
    """One training batch in the network's intensity scale; axes (B, C, D, H, W) or (B, C, H, W).

    Attributes:
        sources: (B, S, *); a source that is not ``present`` is exactly 0.
        targets: (B, T, *), the truth of all that the case has, ``wanted`` or not.
        present: (B, S) bool, which sources may be looked at.
        wanted: (B, T) bool, which targets count in the loss.
        brain: (B, 1, *) bool; in mode ``any`` that of the present sources (:func:`head_of`).
        label: (B, 1, *) int8, tumour classes as in BraTS 2023: 0 background, 1 necrosis,
            2 oedema, 3 enhancing; −1, unknown, everywhere if none is given. Necrosis is all
            of the non-enhancing core, a resection cavity is background.
        levels: (B, S + T, 3), what turns sources and targets into a segmenter's z-scores
            (:func:`synth3d.losses.standardised`): slope, offset, and the background's score. None
            where nothing is coupled.
        region: (B, 1, *) bool, where such z-scores are taken: the head with its holes filled, or
            the box around it. None where nothing is coupled.
        scanned: (B, S, *), the sources as they are, where ``data.vary`` changed them and something
            is coupled; None else.
        first: Of which sample of a larger batch the first one here is, if this is a share of it.
        weights: In a share, what stands before its mean over a mask, by name (:meth:`shares`).
    """

    sources: Tensor
    targets: Tensor
    present: Tensor
    wanted: Tensor
    brain: Tensor
    label: Tensor = None  # type: ignore[assignment]
    levels: Tensor | None = None
    region: Tensor | None = None
    scanned: Tensor | None = None
    first: int = 0
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.sources.shape[2:] != self.targets.shape[2:]:
            raise ValueError(
                f"sources have the grid {tuple(self.sources.shape[2:])} (z, y, x) "
                f"but targets {tuple(self.targets.shape[2:])}"
            )
        if self.label is None:
            unknown = torch.full_like(self.brain, -1, dtype=torch.int8)
            object.__setattr__(self, "label", unknown)

    @cached_property
    def known(self) -> Tensor:
        """(B, S + T) bool, ``present`` and ``wanted``, on the CPU wherever the batch is.

        What depends on their values asks here: reading a GPU's would wait for all its work.
        """
        return torch.cat([self.present, self.wanted], dim=1).cpu()

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on ``device``; from pinned memory a GPU copies while the host goes on."""
        on = torch.device(device).type == "cuda"  # towards the CPU it would not be there yet
        return self._each(lambda values: values.to(device, non_blocking=on))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; torch's DataLoader calls it by this name."""
        return self._each(Tensor.pin_memory)

    def share_memory(self) -> "Batch":
        """This batch, moved to where other processes see it; RuntimeError where there is no room.

        The queue between processes would find that out in a thread that can tell nobody, and
        whoever waits for the batch would wait for ever.
        """
        self._each(Tensor.share_memory_)
        return self

    def shares(self, count: int, masks: Mapping[str, Tensor]) -> list["Batch"]:
        """``count`` equal parts, in order, such that the mean over them is that of the whole.

        ``masks`` are bool, (B, ...) each, and say by name what means run over that are not over
        all samples alike. A part's mean over such a mask, times its :meth:`weight`, may be
        averaged over the parts: voxels count as much as in the whole batch, wherever they lie.

        Raises:
            ValueError: The samples cannot be shared evenly.
        """
        size, left = divmod(len(self.sources), count)
        if left or not size:
            raise ValueError(f"{len(self.sources)} samples cannot be shared evenly by {count}")
        held = {
            name: [int(part.sum()) for part in mask.split(size)] for name, mask in masks.items()
        }
        parts = []
        for at in range(count):
            mine = slice(at * size, (at + 1) * size)
            part = self._each(lambda values, mine=mine: values[mine], self.known[mine])
            weights = {name: count * n[at] / max(sum(n), 1) for name, n in held.items()}
            parts.append(replace(part, first=self.first + mine.start, weights=weights))
        return parts

    def weight(self, mask: str) -> float:
        """What stands before a mean over the mask of that name; 1 where this is a whole batch.

        Raises:
            KeyError: A share was not told of such a mask.
        """
        return 1.0 if self.weights is None else self.weights[mask]

    def _each(self, change: Callable[[Tensor], Tensor], known: Tensor | None = None) -> "Batch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: change(v) for name, v in values.items() if isinstance(v, Tensor)}
        changed = replace(self, **tensors)
        object.__setattr__(changed, "known", self.known if known is None else known)
        return changed
