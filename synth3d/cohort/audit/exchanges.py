"""Exchanged sequences of a case, T2 that is called FLAIR, say, told by the cohort's other cases.

A case is held against what the others teach (:mod:`synth3d.cohort.roles`), never against itself.
Whoever looks exchanged teaches no more, the worst first, until nobody else does: a few wrong cases
then neither hide themselves nor accuse others. Where most of a cohort is exchanged in one way that
cannot be told, and the rest would be named instead: the others are all that there is to go by.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from synth3d.cohort.naming import ALL_MODALITIES
from synth3d.cohort.roles import (
    BY_AGENT,
    CLEARLY_EXCHANGED,
    FEWEST_CASES,
    discriminant,
    exchanges,
    looks,
    parts,
)
from synth3d.images import Scale, foreground

FEWEST_SEQUENCES = 3
"""With two alone, T1 or T1ce and FLAIR are told too badly."""

MOST_FOLDS = 32
"""A larger cohort is taught in so many folds, so that the work grows with its cases only."""

DROPPED = 1 / 16
"""The share of the cases that stops teaching at once; at least one does."""


@dataclass(frozen=True)
class Look:
    """How a case looks: its sequences, in order, and their features (F,)."""

    names: tuple[str, ...]
    features: np.ndarray


@dataclass(frozen=True)
class Exchanges:
    """A sentence for each case that looks exchanged, and the cases that could be judged."""

    told: Mapping[str, str]
    judged: frozenset[str]


def look_of(volumes: Mapping[str, np.ndarray]) -> Look | None:
    """How a case looks where all of its sequences show something, each (D, H, W) in any unit.

    None of fewer than ``FEWEST_SEQUENCES``, or where hardly anything is shown by all.
    """
    names = tuple(name for name in ALL_MODALITIES if name in volumes)
    if len(names) < FEWEST_SEQUENCES:
        return None
    shown = np.logical_and.reduce([foreground(volumes[name]) for name in names])
    scaled = {n: Scale.fit(volumes[n], shown).apply(volumes[n], shown) for n in names}
    rows = looks(scaled, shown, names)
    return None if rows is None else Look(names, rows[0])


def exchanged(found: Mapping[str, Look]) -> Exchanges:
    """Which cases look as if two of their sequences were exchanged, by how the others look.

    A case is judged by those that have all of its sequences, if ``FEWEST_CASES`` do.
    """
    told: dict[str, str] = {}
    judged: set[str] = set()
    for names in sorted({look.names for look in found.values()}):
        rows = {
            case: look.features[parts(look.names, names)]
            for case, look in found.items()
            if {*names} <= {*look.names}
        }
        if len(rows) <= FEWEST_CASES:
            continue
        sentences = _sentences(np.stack(list(rows.values())), names)
        own = [case for case in rows if found[case].names == names]
        judged |= {*own}
        texts = dict(zip(rows, sentences, strict=True))
        told |= {case: texts[case] for case in own if texts[case]}
    return Exchanges(told, frozenset(judged))


def _sentences(features: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """What is wrong with each case (N, F), mostly nothing."""
    pairs, orders = list(combinations(names, 2)), exchanges(len(names))
    rows = np.stack([features, *(features[:, where] for where in orders)], axis=1)
    judged = [number for number, pair in enumerate(pairs) if {*pair} != BY_AGENT]
    teaches = np.ones(len(rows), bool)
    while True:
        scores = _scores(rows, judged, teaches)
        named = scores[:, 0].min(1) < CLEARLY_EXCHANGED  # never where a score is NaN
        wrong = np.flatnonzero(named & teaches)
        if not len(wrong):
            break
        worst = scores[wrong, 0].min(1).argsort()
        teaches[wrong[worst[: max(1, int(DROPPED * len(rows)))]]] = False
    sentences = [""] * len(rows)
    for case in np.flatnonzero(named):
        after = scores[case, 1:].min(1)
        if after.max() >= CLEARLY_EXCHANGED:
            one, other = pairs[int(after.argmax())]
            sentences[case] = (
                f"{one} and {other} look exchanged: each looks as the other does in other cases of "
                "the cohort; look at both, and rename them if so"
            )
            continue
        odd = {name for c, n in enumerate(judged) if scores[case, 0, c] < 0 for name in pairs[n]}
        sentences[case] = (
            f"some of {', '.join(name for name in names if name in odd)} are not what their names "
            "say: in the cohort's other cases these look otherwise; look at all sequences of the "
            "case before you rename any"
        )
    return sentences


def _scores(rows: np.ndarray, judged: list[int], teaches: np.ndarray) -> np.ndarray:
    """(N, 1 + pairs, judged): 1/2 in the right order, -1/2 in the wrong one, on average.

    Of each case (N, 1 + pairs, F) as it is named and with each pair exchanged, by what those teach
    that are not in its fold, about each pair that is judged. NaN where they are too few.
    """
    scores = np.full((*rows.shape[:2], len(judged)), np.nan)
    folds = np.arange(len(rows)) % min(len(rows), MOST_FOLDS)
    for fold in range(folds.max() + 1):
        taught = rows[teaches & (folds != fold)]
        if len(taught) < FEWEST_CASES:
            continue
        for column, number in enumerate(judged):
            weights, offset = discriminant(taught[:, 0], taught[:, 1 + number])
            scores[folds == fold, :, column] = rows[folds == fold] @ weights - offset
    return scores
