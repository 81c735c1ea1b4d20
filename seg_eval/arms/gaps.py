"""What each test case lacks: the same of all, or of each case another sequence, as in BraSyn."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from synth3d.cohort import MODALITIES, Case, Modality

RANDOM = "random"
"""``--missing random``: one sequence of each case, drawn."""


@dataclass(frozen=True)
class Gaps:
    """The missing sequences of an experiment.

    Attributes:
        names: All that are missing somewhere, in their usual order.
        drawn: Case → the one sequence that it lacks; empty where all cases lack all of ``names``.
    """

    names: tuple[Modality, ...]
    drawn: Mapping[str, Modality] = field(default_factory=dict, hash=False)

    def of(self, case: Case) -> tuple[Modality, ...]:
        """What ``case`` lacks."""
        return (self.drawn[case.name],) if case.name in self.drawn else self.names

    def sets(self, cases: Iterable[Case]) -> dict[tuple[Modality, ...], list[Case]]:
        """What is missing together → those of ``cases`` that lack it, in their order."""
        found: dict[tuple[Modality, ...], list[Case]] = {}
        for case in cases:
            found.setdefault(self.of(case), []).append(case)
        return {names: found[names] for names in sorted(found)}

    def others(self, modality: Modality) -> tuple[Modality, ...]:
        """The sequences that are there where ``modality`` is missing."""
        gone = (modality,) if self.drawn else self.names
        return tuple(name for name in MODALITIES if name not in gone)


def draw_gaps(cases: Iterable[Case], seed: int) -> Gaps:
    """One missing sequence for each of ``cases``; each of the four about as often.

    The same seed draws the same for the same names, in whatever order they come.
    """
    draw = random.Random(f"missing/{seed}")
    names = sorted(case.name for case in cases)
    draw.shuffle(names)
    turns = list(MODALITIES)
    draw.shuffle(turns)
    drawn: dict[str, Modality] = {}
    for number, name in sorted(enumerate(names), key=lambda pair: pair[1]):
        drawn[name] = turns[number % len(turns)]
    return Gaps(tuple(name for name in MODALITIES if name in drawn.values()), drawn)
