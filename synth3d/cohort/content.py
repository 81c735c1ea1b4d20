"""What the voxels of one case say against it: no image, a copy, flipped, moved, T1ce without agent.

Contradictions are what cannot be right; suspicions may be. Limits were set on real cases, of
which none may be named: edges agree better turned than as they are by a factor of 0.68 at most,
and of 1.48 at least where one sequence was flipped on purpose.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from synth3d.images import (
    Sketch,
    agreements,
    background_of,
    enhancement,
    foreground,
    shift_of,
    sketch,
    smoothness,
    turned_in_words,
    turned_sketch,
)

FEWEST_VALUES = 16
"""An image with no more different values inside the head is a mask."""

FEWEST_VOXELS = 1000
"""A head of fewer is none, and of a case without one nothing is told."""

LEAST_SMOOTHNESS = 0.3
"""Neighbours in noise correlate less; real sequences were never under 0.79."""

SAME = 0.9995
"""Ranks of two different sequences never correlate so much (0.89 at most), copies always."""

BETTER_TURNED = 1.2, 0.03
"""A sequence is flipped when its edges fit so many times better turned, and by so much more."""

MOVED_MM, MOVED_VOXELS, BETTER_MOVED = 5.0, 1.5, 0.05
"""Sequences are not registered when they fit better by so much, moved by so far (the greater).

Registered real cases lie 2.7 mm apart at most. Where voxels are coarse, two scans of a head that
are each off by less than one are no further apart than this.
"""

REVERSED = -0.25
"""T1 or T1ce is another sequence where agent is under this (:func:`synth3d.images.enhancement`).

31 patients, who also chose this limit, had 1.7 or more.
"""

LARGEST_BRAIN_ML = 2300.0
"""Stripped brains had 1150 to 1750 mL."""

MOST_CONTACT = 0.2
"""The share of a face of the box that a stripped brain may touch; 0.07 at most was seen."""

NOT_STRIPPED = "is not skull-stripped, it seems"
"""Begins what is said of a head with more than its brain."""


@dataclass(frozen=True)
class Finding:
    """One sentence about a case; a contradiction cannot be right, anything else is suspected.

    ``of`` names sequences that are copies, or lie elsewhere than the others.
    """

    contradiction: bool
    text: str
    of: tuple[str, ...] = ()


def findings(
    volumes: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    stripped: bool = True,
    poor: Collection[str] = (),
) -> list[Finding]:
    """What is found in the sequences of one case.

    Args:
        volumes: Per sequence (D, H, W) on one grid, finite, in any unit.
        spacing_mm: Voxel edges (z, y, x).
        stripped: Whether only the brain should be there.
        poor: Sequences of thick slices, whose edges fit no place exactly: that one is flipped is
            no more than suspected.

    Returns:
        Nothing for a sound case and for one too small to tell, at most one sentence of a kind and
        sequence.
    """
    if not volumes:
        return []
    heads = {name: foreground(volume) for name, volume in volumes.items()}
    anywhere = np.logical_or.reduce(list(heads.values()))
    found = [
        one
        for name, head in heads.items()
        for one in _alone(name, volumes[name], head if head.sum() >= FEWEST_VOXELS else anywhere)
    ]
    sketches: dict[str, Sketch] = {}
    for name, volume in volumes.items():
        if any(one.contradiction and name in one.text.split() for one in found):
            continue
        own = sketch(volume, heads[name], spacing_mm)
        # Noise all over has no head of its own: the others' is where an image would be.
        drawn = own or sketch(volume, anywhere, spacing_mm)
        if drawn is None:
            continue
        if smoothness(drawn) < LEAST_SMOOTHNESS:
            found.append(Finding(True, f"{name} is noise: its neighbouring voxels are unrelated"))
        elif own is not None:
            sketches[name] = own
    copies = list(_copies(sketches))
    displaced: list[Finding] = []
    if not copies:
        turned = list(_flips({name: one for name, one in sketches.items() if name not in poor}))
        if poor and not turned:
            turned = [replace(one, contradiction=False) for one in _flips(sketches)]
        displaced = turned or list(_moved(sketches))
    if not {"t1n", "t1c"} & {name for one in (*copies, *displaced) for name in one.of}:
        found += _without_agent(volumes, sketches, heads, spacing_mm)
    found += [*displaced, *copies, *_backgrounds(volumes)]
    why = skull_left(anywhere, spacing_mm) if stripped else ""
    return found + ([Finding(False, f"{NOT_STRIPPED}: {why}; strip it first")] if why else [])


def skull_left(head: np.ndarray, spacing_mm: Sequence[float]) -> str:
    """Why ``head``, (D, H, W) bool, is no brain alone, a clause; empty where it may be one.

    Of a head in a box of fewer than 16 voxels along a side (z, y, x) nothing is told.
    """
    if min(head.shape) < 16:
        return ""
    millilitres = float(head.sum()) * float(np.prod(spacing_mm)) / 1000
    faces = [head.take(end, axis).mean() for axis in range(3) for end in (0, -1)]
    if millilitres > LARGEST_BRAIN_ML:
        most = f"no brain has more than {LARGEST_BRAIN_ML:g}"
        return f"what is shown has {millilitres:.0f} mL, and {most}"
    if max(faces) > MOST_CONTACT:
        return f"what is shown fills {max(faces):.0%} of a face of its box"
    return ""


def _alone(name: str, volume: np.ndarray, head: np.ndarray) -> Iterator[Finding]:
    inside = volume[head]
    if inside.size < FEWEST_VOXELS:
        return
    values = len(np.unique(inside[:: max(1, inside.size // 50_000)]))
    if values <= FEWEST_VALUES:
        what = "one value" if values == 1 else f"{values} different values"
        yield Finding(True, f"{name} is no image but a mask: it has {what}")
    elif float((inside < background_of(volume)).mean()) > 0.95:
        yield Finding(True, f"{name} is darker than its background, as a negative is")


def _copies(sketches: Mapping[str, Sketch]) -> Iterator[Finding]:
    for (name, one), (other, two) in combinations(sketches.items(), 2):
        both = one.head & two.head
        if both.sum() < 500:
            continue
        alike = float(np.corrcoef(one.levels[both], two.levels[both])[0, 1])
        if abs(alike) > SAME:
            how = "the same picture" if alike > 0 else "one picture and its negative"
            told = f"{name} and {other} are {how}, so one of them is missing"
            yield Finding(True, told, (name, other))


def _flips(sketches: Mapping[str, Sketch]) -> Iterator[Finding]:
    """The sequence whose turning makes the others fit best, if any."""
    factor, more = BETTER_TURNED
    best: tuple[float, str, int] | None = None
    for name, one in sketches.items():
        others = [other for key, other in sketches.items() if key != name]
        if not others:
            return
        fits = agreements(one, others)
        turn = int(fits.argmax())
        gain = float(fits[turn] - fits[0])
        if gain > more and fits[turn] > factor * fits[0] and (best is None or gain > best[0]):
            best = gain, name, turn
    if best is not None:
        _, name, turn = best
        if _fits_moved(sketches, name, turn):
            return
        words = turned_in_words(sketches[name].edges.shape, turn)
        meant = (name,) if len(sketches) > 2 else tuple(sketches)
        who = " or ".join(meant)
        yield Finding(
            True,
            f"{who} is flipped against the others: it fits {words}, under the same affine",
            meant,
        )


def _fits_moved(sketches: Mapping[str, Sketch], name: str, turn: int) -> bool:
    """Whether ``name``, moved as far as you like, fits another better as it is than turned."""
    one = sketches[name]
    other = next(each for key, each in sketches.items() if key != name)
    return shift_of(other, one)[1] > shift_of(other, turned_sketch(one, turn))[1]


def _moved(sketches: Mapping[str, Sketch]) -> Iterator[Finding]:
    names = list(sketches)
    for other in names[1:]:
        way, there, here = shift_of(sketches[names[0]], sketches[other])
        limits = np.maximum(MOVED_MM, np.multiply(MOVED_VOXELS, sketches[other].spacing_mm))
        if np.linalg.norm(way / limits) >= 1 and there - here > BETTER_MOVED:
            mm = float(np.linalg.norm(way))
            yield Finding(
                False,
                f"{other} is not registered to {names[0]}: it fits better moved by {mm:.0f} mm; "
                "register the case first",
                (other,),
            )


def _without_agent(
    volumes: Mapping[str, np.ndarray],
    sketches: Mapping[str, Sketch],
    heads: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
) -> Iterator[Finding]:
    """T1 and T1ce that lie alike and are sound, but of which the second is not the first and agent.

    Which two are exchanged that does not tell: with T2 in T1's place it is the same.
    """
    if not {"t1n", "t1c"} <= sketches.keys():
        return
    both = heads["t1n"] & heads["t1c"]
    agent = enhancement(volumes["t1n"], volumes["t1c"], both, spacing_mm)
    if agent is not None and agent < REVERSED:
        yield Finding(
            False,
            "t1n or t1c is not what its name says, since t1c does not look like t1n plus contrast "
            "agent: they are exchanged with each other, or one of them is with another sequence; "
            "look at all sequences of the case before you rename any",
        )


def _backgrounds(volumes: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    values = {name: background_of(volume) for name, volume in volumes.items()}
    zero = [name for name, value in values.items() if value == 0]
    if zero and len(zero) < len(values):
        told = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        yield Finding(False, f"the sequences differ in what their background is: {told}")
