"""Scores of a cohort as a table for readers, CSV and JSON for programs, and a picture."""

import importlib.metadata
import io
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synth3d import __version__
from synth3d.errors import visible
from synth3d.files import markdown_cell, markdown_page, write_csv, write_json, write_text
from synth3d.scoring.cohort import MATCHED, Scored, ScoreRequest, pair_up, score_cohort
from synth3d.scoring.conventions import CONVENTIONS
from synth3d.scoring.intervals import FEW_CASES, Crossed

FACTS = ("case", "patient", "modality")
"""Columns that are no scores."""


@dataclass(frozen=True)
class Summary:
    """One score, by its full name, over all cases that have it.

    Attributes:
        cases: How many have it.
        patients: How many patients they come from.
        mean: Over cases; infinite if one is, NaN without cases.
        sd: Standard deviation over cases (n - 1); None for fewer than two, or infinite ones.
        low: Lower end of the 95 % interval of the mean over patients, or None.
        high: Upper end.
        infinite: How many cases are infinite (PSNR of equal volumes).
    """

    score: str
    cases: int
    patients: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    infinite: int


def summarise(rows: Sequence[dict[str, Any]]) -> list[Summary]:
    """A summary of each score in ``rows``, in their order; undefined (NaN) values are left out."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in FACTS))
    return [_summary(name, rows) for name in names]


def _summary(name: str, rows: Sequence[dict[str, Any]]) -> Summary:
    held = [row for row in rows if not math.isnan(row.get(name, math.nan))]
    values = np.array([row[name] for row in held], float)
    patients = [row["patient"] for row in held]
    count, infinite = len(set(patients)), int(np.count_nonzero(np.isinf(values)))
    mean = float(values.mean()) if len(values) else math.nan
    sd = float(values.std(ddof=1)) if len(values) >= 2 and not infinite else None
    low = high = None
    if count >= 2 and not infinite:
        found = Crossed(patients).mean(values)
        low, high = found.low, found.high
    return Summary(name, len(held), count, mean, sd, low, high, infinite)


def score(request: ScoreRequest) -> int:
    """``synth3d score``: print the table or the JSON, and write the files; 0."""
    print(_plan(request) if request.dry_run else _present(score_cohort(request)))
    return 0


def _present(scored: Scored) -> str:
    """The text to print; the files that were asked for are written first."""
    summaries, out = summarise(scored.rows), scored.request.out
    value = _json(scored, summaries)
    text = _markdown(scored, summaries)
    if out is not None:
        from synth3d.pictures import draw_scores

        write_text(out, _csv(scored.rows))
        write_text(out.with_suffix(".md"), text + "\n")
        write_json(out.with_suffix(".json"), value)
        draw_scores(_panels(scored.rows, summaries), out.with_suffix(".png"))
        text += f"\n\nwritten: {out}, and .md, .json, .png beside it"
    return json.dumps(value, indent=2, allow_nan=False) if scored.request.json else text


def _plan(request: ScoreRequest) -> str:
    """What would be scored, as text."""
    pairing = pair_up(request)
    lines = [
        f"{pair.case}: {pair.real} against {pair.synthetic}, "
        + (f"tumour from {pair.label}" if pair.label else "no label")
        for pair in pairing.pairs
    ]
    notes = [f"note: {note}" for note in pairing.notes]
    return "\n".join([json.dumps(_settings(request), indent=2), *lines, *notes])


def _settings(request: ScoreRequest) -> dict[str, Any]:
    """What decides the figures, as plain values."""
    values = asdict(request)
    return _plain({k: v for k, v in values.items() if k not in ("out", "json", "dry_run")})


Panel = tuple[str, list[float], list[float], Summary]
"""Of the picture, one score: label, values, those of the control, summary."""


def _panels(rows: Sequence[dict[str, Any]], summaries: Sequence[Summary]) -> dict[str, list[Panel]]:
    """Per kind of score."""
    found: dict[str, list[Panel]] = {}
    for summary in summaries:
        if "_blanked@" not in summary.score:
            kind, label = summary.score.split("_", 1)
            heading = {"psnr": "PSNR (dB)"}.get(kind, kind.upper())
            values, control = (
                [row.get(name, math.nan) for row in rows]
                for name in (summary.score, summary.score.replace("@", "_blanked@"))
            )
            found.setdefault(heading, []).append((label, values, control, summary))
    return found


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    write_csv(stream, ({n: "" if v != v else v for n, v in row.items()} for row in rows), names)
    return stream.getvalue()


def _markdown(scored: Scored, summaries: Sequence[Summary]) -> str:
    """Head, table and warnings."""
    request, rows = scored.request, scored.rows
    patients = len({row["patient"] for row in rows})
    sequences = sorted({row["modality"] for row in rows} - {""})
    by_name = {summary.score: summary for summary in summaries}
    table: list[tuple[str, ...]] = [
        ("convention", "score", "mean ± sd", "95 % interval", "cases", "tumour blanked")
    ]
    for summary in summaries:
        if "_blanked@" not in summary.score:
            control = by_name.get(summary.score.replace("@", "_blanked@"))
            table.append(_table_row(summary, control))
    few = f"fewer than {FEW_CASES} patients: the intervals are too narrow"
    warnings = [*([few] if patients < FEW_CASES else []), *scored.warnings]
    table = [tuple(map(markdown_cell, row)) for row in table]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    rescale = "each at its own brightness" if request.rescale == "match" else "as they are"
    return markdown_page("\n".join(
        [
            f"{len(rows)} cases of {patients} patients, {' '.join(sequences) or 'one sequence'}: "
            f"{request.synthetic} against {request.real}, volumes {rescale}",
            "",
            *lines,
            "",
            "*tumour blanked*: the mean of the same score when the synthetic tumour is set to 0; a "
            "score that hardly changes does not see the tumour.",
            *(f"\nwarning: {visible(warning)}" for warning in warnings),
        ]
    ))  # fmt: skip


def _table_row(summary: Summary, control: Summary | None) -> tuple[str, ...]:
    name, convention = summary.score.split("@")
    kind, region = name.split("_", 1)
    rule = CONVENTIONS[convention.removesuffix(MATCHED)]
    factor = rule.printed.get(kind, 1.0)
    unit = {"psnr": " (dB)", "lpips": f" ({rule.lpips} of slices)"}.get(kind, "")
    unit = unit or {1.0: ""}.get(factor, " (%)" if kind == "ssim" else f" (x {factor:g})")
    digits = 2 if kind == "psnr" or factor > 1 else 4

    def number(value: float | None) -> str:
        return "-" if value is None or math.isnan(value) else f"{value * factor:.{digits}f}"

    spread = f" ± {number(summary.sd)}" if summary.sd is not None else ""
    between = f"{number(summary.low)} to {number(summary.high)}" if summary.low is not None else "-"
    of = f" ({control.cases})" if control and 0 < control.cases < summary.cases else ""
    return (
        convention,
        f"{kind.upper()} {region.replace('_', ', ')}{unit}",
        number(summary.mean) + spread,
        between,
        str(summary.cases),
        number(control.mean) + of if control else "-",
    )


def _json(scored: Scored, summaries: Sequence[Summary]) -> dict[str, Any]:
    """Everything, in plain values: undefined numbers are null, infinite ones ``"inf"``."""
    names = scored.request.conventions
    packages = ["numpy", "scipy", *(["torch", "lpips"] if scored.lpips_weights else [])]
    return _plain(
        {
            "settings": _settings(scored.request),
            "versions": {
                "synth3d": __version__,
                **{name: importlib.metadata.version(name) for name in packages},
                "python": platform.python_version(),
            },
            "lpips_weights": scored.lpips_weights,
            "conventions": {name: asdict(CONVENTIONS[name]) for name in names},
            "warnings": scored.warnings,
            "summary": [asdict(summary) for summary in summaries],
            "cases": scored.rows,
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return str(value) if isinstance(value, Path) else value
