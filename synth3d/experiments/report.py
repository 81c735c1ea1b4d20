"""A table's results as Markdown, CSV, JSON and, for a curve, a picture."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synth3d.experiments.results import curves
from synth3d.files import markdown_cell, markdown_page, write_csv, write_json, write_text
from synth3d.pictures import draw_levels
from synth3d.scoring import CONVENTIONS, Convention

NOTE = """\
*mean ± sd*: mean over cases, then mean and standard deviation (n − 1) over seeds. *Δ*: cell minus
its baseline, paired by seed and case, with a 95 % interval over patients
and seeds; (2/3) says in how many seeds it is above 0. Weights are the averaged ones, volumes whole,
each synthetic image at its real one's intensity scale. Seconds are wall time of a step on the
machine as it was, reading data included."""

DIGITS = {
    "paper-agi": {"psnr": 2, "ssim": 2, "mae": 2},
    "paper-tsf": {"above": 1, "below": 1, "psnr": 1, "ssim": 3, "lpips": 2},
}
"""A paper's convention → the scores that it prints, in order, and to how many decimals."""
WORDS = {"above": "TSEM > P99", "below": "TSEM ≤ P99"}
"""Regions whose name does not say it."""


def write_report(
    folder: Path, summary: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]
) -> str:
    """Write ``table.md``, ``table.csv``, ``table.json``, ``scores.csv`` and, for a curve, a PNG.

    ``summary`` is from :func:`synth3d.experiments.results.summarise`, with ``title``, ``axis``,
    ``about``, ``notes`` and ``conventions`` beside it. Returns the Markdown.
    """
    text = render(summary)
    write_text(folder / "table.md", text)
    write_text(folder / "table.csv", _csv(_flat(summary)))
    write_text(folder / "scores.csv", _csv(scores))
    write_json(folder / "table.json", summary)
    lines = curves(summary)
    if summary["axis"] and lines:
        label = f"{_heading(summary['primary'])}, {summary['conventions'][0]}"
        draw_levels(lines, summary["axis"], label, summary["title"], folder / "curve.png")
    return text


def render(summary: Mapping[str, Any]) -> str:
    """The whole report as Markdown that also reads well on a terminal."""
    leading, *others = summary["conventions"]
    parts = [f"# {summary['title']}", summary["about"]]
    if summary["cells"]:
        where = f"{_heading(summary['primary'])}, convention {leading}"
        parts.append(f"**{where}.** " + " ".join(summary["verdict"]))
        if len({row["level"] for row in summary["cells"] if row["series"]}) > 1:
            parts.append(_by_level(summary["cells"], summary["primary"]))
        parts.append(_table(summary, CONVENTIONS[leading], costs=True))
    for name in others if summary["cells"] else ():
        parts.append(f"The same under the convention {name}:")
        parts.append(_table(summary, CONVENTIONS[name], costs=False))
    parts += [NOTE, *summary["notes"]]
    parts += [f"warning: {warning}" for warning in summary["warnings"]]
    parts += [f"failed: {name}: {why}" for name, why in summary.get("failures", {}).items()]
    return markdown_page("\n\n".join(parts) + "\n")


def _table(summary: Mapping[str, Any], rule: Convention, costs: bool) -> str:
    """One convention's scores: levels and differences; with costs, and the paper's numbers."""
    cells, names = summary["cells"], _columns(summary, rule)
    printed = [cell["printed"] for cell in cells] if rule.name == summary["paper"] else []
    tasks = list(dict.fromkeys(task for each in printed for task in each))
    gains = any(each[task]["gain"] is not None for each in printed for task in each)
    head = ["cell", *(text for name in names for text in (_heading(name), "Δ"))]
    head += ["parameters", "s / step", "seeds"] if costs else []
    head += [text for task in tasks for text in (f"paper: {task}", "paper: Δ PSNR")[: 1 + gains]]
    rows = [head]
    for cell in cells:
        row = [cell["name"]]
        for name in names:
            row += _numbers(name, cell["scores"].get(name))
        if costs:
            seeds = str(len(cell["seeds"]))
            row += [f"{cell['parameters']:,}", f"{cell['seconds_per_step']:.3g}", seeds]
        for task in tasks:
            row += _printed(cell["printed"].get(task), rule.name)[: 1 + gains]
        rows.append(row)
    for name, numbers in summary["printed_alone"].items() if tasks else ():
        row = [name, *["–"] * (len(head) - 1 - len(tasks) * (1 + gains))]
        for task in tasks:
            row += _printed(numbers.get(task), rule.name)[: 1 + gains]
        rows.append(row)
    return _drawn(rows)


def _by_level(cells: Sequence[Mapping[str, Any]], name: str) -> str:
    """One score with a row for each series, and a column for each of its levels."""
    found: dict[str, dict[str, str]] = {}
    for cell in [cell for cell in cells if cell["series"]]:
        column = cell["name"].removeprefix(f"{cell['series']}-")
        level, gap = _numbers(name, cell["scores"].get(name))
        found.setdefault(cell["series"], {})[column] = f"{level}; {gap}" if gap else level
    levels = list(dict.fromkeys(column for row in found.values() for column in row))
    rows = [[series, *[row.get(level, "–") for level in levels]] for series, row in found.items()]
    return _drawn([[f"{_heading(name)}; Δ", *levels], *rows])


def _drawn(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first row is the head."""
    rows = [list(map(markdown_cell, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _columns(summary: Mapping[str, Any], rule: Convention) -> list[str]:
    """The scores that are shown; of a tumour, and where TSEM is told apart, the first kind alone.

    That is PSNR, or what there is.
    """
    known = {name for cell in summary["cells"] for name in cell["scores"]}
    first = [(rule.scores[0], region) for region in ("above", "below") if summary["apart"]]
    kinds = [kind for kind in (*rule.scores, "lpips") if kind != "nmse"]
    rest = [
        (kind, region)
        for region in rule.regions
        for kind in (kinds[:1] if region == "tumour" else kinds)
    ]
    names = [f"{kind}_{region}@{rule.name}" for kind, region in (*first, *rest)]
    return [name for name in names if name in known]


def _scale(name: str) -> tuple[float, int]:
    """The factor and the decimals with which a score is shown."""
    kind = name.split("_")[0]
    factor = CONVENTIONS[name.split("@")[1]].printed.get(kind, 1.0)
    return factor, 2 if kind == "psnr" or factor > 1 else 4


def _heading(name: str) -> str:
    kind, region = name.split("@")[0].split("_", 1)
    factor, _ = _scale(name)
    unit = " (dB)" if kind == "psnr" else ""
    if factor > 1:
        unit = " (%)" if kind == "ssim" else f" × {factor:g}"
    return f"{kind.upper()} {WORDS.get(region, region)}{unit}"


def _numbers(name: str, score: Mapping[str, Any] | None) -> list[str]:
    """Level and difference as text."""
    if not score or score["mean"] is None:
        return ["–", "–"]
    factor, digits = _scale(name)
    level = f"{factor * score['mean']:.{digits}f}"
    if score["sd"] is not None:
        level += f" ± {factor * score['sd']:.{digits}f}"
    gap = score["difference"]
    if gap is None:
        return [level, ""]
    mean, low, high = (f"{factor * gap[key]:+.{digits}f}" for key in ("mean", "low", "high"))
    return [level, f"{mean} [{low}, {high}] ({gap['positive']}/{gap['seeds']})"]


def _printed(printed: Mapping[str, Any] | None, paper: str) -> list[str]:
    """The scores and the gain, as the paper of the convention ``paper`` prints them."""
    if printed is None:
        return ["–", "–"]
    order = DIGITS[paper].items()
    known = [f"{printed[k]:.{digits}f}" for k, digits in order if printed[k] is not None]
    level = f"{printed['mark']}{' / '.join(known)}" if known else "–"
    return [level, "–" if printed["gain"] is None else f"{printed['gain']:+.2f}"]


def _flat(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One plain row per cell and score."""
    rows = []
    for cell in summary["cells"]:
        for name, score in cell["scores"].items():
            gap = score["difference"] or {}
            row = {key: cell[key] for key in ("name", "against", "series", "level")}
            row |= {"score": name, "mean": score["mean"], "sd_over_seeds": score["sd"]}
            row |= {"seeds": len(cell["seeds"]), "rows": score["rows"]}
            row |= {"patients": score.get("patients", 0), "difference": gap.get("mean")}
            row |= {"low": gap.get("low"), "high": gap.get("high")}
            row |= {"seeds_above_0": gap.get("positive"), "seeds_compared": gap.get("seeds")}
            row |= {key: cell[key] for key in ("parameters", "steps", "seconds_per_step")}
            rows.append(row)
    return rows


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    write_csv(stream, rows, list(names))  # None and what a row lacks are empty
    return stream.getvalue()
