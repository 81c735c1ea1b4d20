"""What cases that lack sequences can teach together: which sequences are seen with which."""

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations

from synth3d.cohort.naming import ALL_MODALITIES, Modality

FEWEST = 2
"""Sequences that a case must have for one to be made from another."""


def seen_together(
    holdings: Iterable[Collection[Modality]], names: Sequence[Modality] | None = None
) -> dict[tuple[Modality, Modality], int]:
    """How many cases have both, for each pair of ``names``; None is all that any case has.

    ``holdings`` are the sequences of each case.
    """
    held = [set(one) for one in holdings]
    if names is None:
        names = [name for name in ALL_MODALITIES if any(name in one for one in held)]
    return {(a, b): sum(a in one and b in one for one in held) for a, b in combinations(names, 2)}


def never_together(
    holdings: Iterable[Collection[Modality]], names: Sequence[Modality] | None = None
) -> list[str]:
    """A sentence that names the pairs that no case has; none if there are no such pairs."""
    counts = seen_together(holdings, names)
    if not (apart := [f"{a} and {b}" for (a, b), count in counts.items() if not count]):
        return []
    told = ", nor ".join(apart)
    return [f"no case has both {told}: how they go together cannot be learnt, nor be checked"]


def never_beside(
    holdings: Iterable[Collection[str]], have: Sequence[Modality], gap: Sequence[Modality]
) -> list[str]:
    """A sentence about what of ``gap`` none of ``holdings`` has beside anything of ``have``."""
    beside = [one for one in holdings if any(name in one for name in have)]
    if not (unseen := [name for name in gap if not any(name in one for one in beside)]):
        return []
    return [
        f"has nothing that any training case had beside {' or '.join(unseen)}: how to make that "
        f"from {' and '.join(have)} was never learnt, so do not trust it"
    ]
