"""What is to be learnt: from which sequences to which, fixed or drawn anew for every batch."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from synth3d.cohort import FEWEST, Modality, parse_modality
from synth3d.settings import require


@dataclass(frozen=True)
class Task:
    """From which sequences a network makes which.

    Attributes:
        dim: 3 for volumes, 2 for slices.
        sources: Where the network looks, in channel order.
        targets: What it makes, in channel order.
        mode: ``fixed``: always the targets, from the sources. ``any``: sources and targets are the
            same list, and every batch draws which are present and which are wanted.
        poor: Sequences that are there with thick slices and are to be restored, in mode ``fixed``:
            the last of the sources, and targets as well. What stands in their channels is coarse,
            interpolated to the grid of all else.
        ratio: How much larger the voxels of the poor ones are, ([z,] y, x); empty without any.

    Raises:
        InputError: Another ``dim`` or ``mode``, an unknown or repeated name, ``fixed`` lists that
            overlap in others than the poor ones, ``any`` lists that differ, or a ratio of other
            axes.
    """

    dim: int
    sources: tuple[Modality, ...]
    targets: tuple[Modality, ...]
    mode: str = "fixed"
    poor: tuple[Modality, ...] = ()
    ratio: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(self.dim in (2, 3), "dim", "2 or 3", self.dim)
        require(self.mode in ("fixed", "any"), "mode", "fixed or any", self.mode)
        for key in ("sources", "targets", "poor"):
            names = tuple(parse_modality(name) for name in getattr(self, key))
            some = bool(names) or key == "poor"
            require(some and len(names) == len(set(names)), key, "distinct names", names)
            object.__setattr__(self, key, names)
        if self.mode == "any":
            same = self.sources == self.targets and len(self.sources) > 1
            rule = "the same list of at least two where mode is any"
            require(same, "sources and targets", rule, (self.sources, self.targets))
            require(not self.poor, "poor", "empty where mode is any", self.poor)
        else:
            both = sorted(set(self.sources) & set(self.targets))
            rule = "disjoint, but for one that [degrade] makes poor"
            require(both == sorted(self.poor), "sources and targets", rule, both)
            last = self.sources[len(self.sources) - len(self.poor) :]
            require(last == self.poor, "poor", f"the last of {self.sources}", self.poor)
        rule = f"{self.dim if self.poor else 0} whole numbers from 1"
        fits = len(self.ratio) == (self.dim if self.poor else 0) and min(self.ratio, default=1) > 0
        require(fits, "ratio", rule, self.ratio)

    @property
    def guides(self) -> tuple[Modality, ...]:
        """The sources that are as they should be: all but the poor ones."""
        return tuple(name for name in self.sources if name not in self.poor)

    def is_taught_by(self, has: Collection[Modality]) -> bool:
        """Whether a case that has these sequences shows how targets are made.

        It has all targets and a source that is none of them, if there is such a one; in mode
        ``any`` two sequences of the list.
        """
        if self.mode == "any":
            return len({*has} & {*self.targets}) >= FEWEST
        return {*self.targets} <= {*has} and (not self.guides or bool({*self.guides} & {*has}))

    @property
    def lesson(self) -> str:
        """What a case has by which it is taught, in words."""
        if self.mode == "any":
            return f"two of {'+'.join(self.targets)}"
        guides = f" and one of {'+'.join(self.guides)}" if self.guides else ""
        return f"{'+'.join(self.targets)}{guides}"

    def outlined_by(self, has: Collection[Modality]) -> tuple[Modality, ...]:
        """The sources that say where the brain is, in a case that has these sequences.

        All of them; a poor one only where there is no other, for its slices blur the outline.
        """
        return self.guides if set(self.guides) & set(has) else self.sources


def seed_of(text: str) -> int:
    """A 63-bit seed that follows from ``text`` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def shown_of(names: Sequence[Modality], number: int) -> tuple[Modality, ...]:
    """Which of ``names``, two or more, are shown of validation case ``number`` in mode ``any``.

    All subsets but the whole and the empty one take turns, in one order for all runs.
    """
    subsets: list[tuple[Modality, ...]] = [
        tuple(name for place, name in enumerate(names) if bits >> place & 1)
        for bits in range(1, 2 ** len(names) - 1)
    ]
    order = torch.randperm(len(subsets), generator=torch.Generator().manual_seed(seed_of("gaps")))
    return subsets[int(order[number % len(subsets)])]


def drop_sources(present: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Hide each present source with probability ``chance``, never the last one of a sample.

    Returns (B, S) bool, a subset of ``present`` that is non-empty wherever ``present`` is.
    """
    draw = torch.rand(present.shape, generator=generator)
    kept = present & (draw >= chance)
    last = torch.where(present, draw, -1.0).argmax(1, keepdim=True)
    rescue = torch.zeros_like(present).scatter(1, last, True) & present
    return torch.where(kept.any(1, keepdim=True), kept, rescue)


def draw_any(has: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For mode ``any``: which sequences are shown and which are to be made, never both.

    How many are shown is even among 1 … n − 1 of the n that a case has, how many of the rest are
    wanted is even among 1 … all, and which ones is even too.

    Returns ``present`` and ``wanted``, (B, C) bool each: disjoint, non-empty, both within ``has``.

    Raises:
        ValueError: A case has fewer than two.
    """
    count = has.sum(1, keepdim=True)
    if (count < 2).any():
        raise ValueError(f"every case must have two sequences or more, got {count.flatten()}")
    order = torch.rand(has.shape, generator=generator).masked_fill(~has, 2).argsort(1).argsort(1)
    share = torch.rand((len(has), 2), generator=generator)
    shown = 1 + (share[:, :1] * (count - 1)).long().clamp(max=count - 2)
    rest = count - shown
    made = 1 + (share[:, 1:] * rest).long().clamp(max=rest - 1)
    return order < shown, (order >= shown) & (order < shown + made)
