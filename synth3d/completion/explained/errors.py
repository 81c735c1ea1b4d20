"""Whether what explains a completed cohort finds its errors, where the truth is known."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synth3d.cohort import Case, Modality, find_cases, read_classes
from synth3d.completion.receipts import maps_of
from synth3d.errors import InputError
from synth3d.files import progress, write_csv, write_text
from synth3d.images import Scale, check_same_grid, foreground, read
from synth3d.scoring import CHANCE, find_errors

Maps = dict[Modality, dict[str, Path]]

FIGURES = tuple(f"{name}_{region}" for region in ("brain", "tumour") for name in CHANCE)


def rate_explanations(real: Path, completed: Path) -> list[dict[str, Any]]:
    """A row for each map of each case: ``case``, ``target``, ``map`` and its figures.

    ``real`` is the cohort with the truth, ``completed`` what ``synth3d complete`` wrote of it with
    what it hid. ``map`` is its name, or ``gradient`` of the picture; the figures are those of
    :func:`synth3d.scoring.find_errors`, of which a case without a label has none in the tumour.
    Both pictures are brought into the network's scale by the real one's; the brain is that of the
    other sequences.

    Raises:
        InputError: No completed case has both a map and the truth, or a file cannot be used.
    """
    rows: list[dict[str, Any]] = []
    made = {case.name: case for case in find_cases(completed)}
    for case in progress(find_cases(real), "what finds the errors", unit="case"):
        if case.name not in made:
            continue
        found: Maps = {m: maps_of(completed, case.name, m) for m in case.images}
        told: Maps = {target: maps for target, maps in found.items() if maps}
        for target, maps in told.items():
            picture = made[case.name].images[target]
            figures = _figures(case, target, picture, maps, list(told))
            for name in dict.fromkeys(key.split("@")[1] for key in figures):
                row = {"case": case.name, "target": target, "map": name}
                own = (key for key in figures if key.endswith(f"@{name}"))
                rows.append(row | {key.split("@")[0]: figures[key] for key in own})
    if not rows:
        raise InputError(
            f"no case of {completed} has a map that explains it and its truth in {real}; complete "
            "cases that have all sequences with --missing and --explain"
        )
    return rows


def _figures(
    case: Case,
    target: Modality,
    picture: Path,
    maps: Mapping[str, Path],
    made: Sequence[Modality],
) -> dict[str, float]:
    check_same_grid([case.images[target], picture, *maps.values()], whole=False)
    others = [path for name, path in case.images.items() if name not in made]
    brain = np.logical_or.reduce([foreground(read(p).data) for p in others or [picture]])
    truth = read(case.images[target])
    scale = Scale.fit(truth.data, brain & foreground(truth.data))
    acquired, made_up = (scale.apply(v, brain) for v in (truth.data, read(picture).data))
    tumour = (read_classes(case)[0] > 0) & brain if case.label else None
    told = {name: read(path).data for name, path in maps.items()}
    return find_errors(told, acquired, made_up, brain, tumour, truth.spacing_mm)


def tell_errors(real: Path, completed: Path, out: Path | None = None) -> int:
    """Print the means of :func:`rate_explanations` over cases, and write its rows to ``out``; 0.

    Raises:
        InputError: As there.
    """
    rows = rate_explanations(real, completed)
    if out is not None:
        stream = io.StringIO()
        plain = ({k: None if v != v else v for k, v in row.items()} for row in rows)
        write_csv(stream, plain, ("case", "target", "map", *FIGURES))
        write_text(out, stream.getvalue())
    print("| target | map | cases | " + " | ".join(FIGURES) + " |")
    print("|---" * (3 + len(FIGURES)) + "|")
    for target, name in dict.fromkeys((row["target"], row["map"]) for row in rows):
        some = [row for row in rows if (row["target"], row["map"]) == (target, name)]
        cells = [_mean([row.get(figure, math.nan) for row in some]) for figure in FIGURES]
        print(f"| {target} | {name} | {len(some)} | " + " | ".join(cells) + " |")
    chance = " | ".join(f"{CHANCE[figure.split('_')[0]]:.3f}" for figure in FIGURES)
    print(f"| all | chance |  | {chance} |")
    return 0


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"{np.mean(known):.3f}" if known else "–"
