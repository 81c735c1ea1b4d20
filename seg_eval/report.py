"""The report as text and tables: rendered from ``summary.json``, written beside it."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seg_eval.scores import Score
from synth3d.files import atomic_path

IMAGE_COLUMNS = {
    "psnr_brain": ("PSNR brain dB", ".2f"),
    "ssim_brain": ("SSIM brain", ".3f"),
    "mae_brain": ("MAE brain", ".4f"),
    "psnr_tumour": ("PSNR tumour dB", ".2f"),
    "ssim_tumour": ("SSIM tumour", ".3f"),
    "mae_tumour": ("MAE tumour", ".4f"),
}
"""Score, its heading, its format."""

COMMON_NAMES = {"t1n": "T1", "t1c": "contrast-enhanced T1", "t2w": "T2", "t2f": "FLAIR"}

NOTE = """\
Recovered = (arm - zero) / (full - zero), a ratio of mean Dice over the same cases and the same
frozen segmenter, with a 95 % interval from a bootstrap over patients (not over training seeds);
it may leave 0-100 %.
`full` is the ceiling (all sequences real), `zero` the floor (the sequence blanked); `-` means
that the floor loses nothing measurable, so there is nothing to recover."""


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """``results.csv``: one row per case, arm and region."""
    _write_rows(path, [asdict(row) for row in scores], list(Score.__dataclass_fields__))


def write_image_scores(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """``image_scores.csv``: one row per case and arm; a score that is not finite is empty."""
    _write_rows(path, rows, ["case", "patient", "arm", *IMAGE_COLUMNS])


def _write_rows(path: Path, rows: Sequence[dict[str, Any]], columns: list[str]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def render(summary: dict[str, Any]) -> str:
    """The whole report as Markdown that also reads well on a terminal."""
    regions = summary["regions"]
    config = summary["config"]
    parts = [
        f"# Dice recovery without {COMMON_NAMES[config['missing']]} ({config['missing']})",
        f"{len(config['test'])} test cases of {config['data']}, segmenter {config['preset']} "
        f"trained once on {len(config['train'])} real cases (seed {config['seed']}).",
        "\n".join(summary["verdict"]),
        _table(*_dice_rows(summary["arms"], regions)),
        "\n".join(f"- {_gap_line(name, region)}" for name, region in regions.items()),
        NOTE + f"\nRegions that a case does not have: {summary['empty_rule']}.",
        _table(*_image_rows(summary["images"])),
        "Image scores are of the synthetic channel against the real one, each on its own in-brain "
        "scale (range 1), over the whole brain and inside the whole tumour.",
        _plumbing_line(summary["plumbing"]),
        "\n".join(f"- arm {name}: {note}" for name, note in summary["notes"].items() if note),
        "\n".join(f"Warning: {text}" for text in summary["warnings"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _dice_rows(
    arms: Sequence[dict[str, str]], regions: dict[str, Any]
) -> tuple[list[str], list[list[str]]]:
    heads = ["arm", *(f"{r} Dice" for r in regions), *(f"{r} recovered" for r in regions)]
    rows = []
    for arm in arms:
        cells = [region["arms"][arm["name"]] for region in regions.values()]
        dice = [f"{cell['dice']:.3f}" for cell in cells]
        rows.append([arm["name"], *dice, *(_recovered(arm["kind"], cell) for cell in cells)])
    return heads, rows


def _recovered(kind: str, cell: dict[str, Any]) -> str:
    fixed = {"full": "ceiling", "zero": "floor"}
    if kind in fixed:
        return fixed[kind]
    if cell["recovery"] is None:
        return "-"
    value, low, high = (_percent(cell["recovery"][key]) for key in ("value", "low", "high"))
    return f"{value} % [{low}, {high}]"


def _percent(share: float | None) -> str:
    return "unbounded" if share is None else f"{100 * share:.0f}"


def _gap_line(name: str, region: dict[str, Any]) -> str:
    if not region["gap_defined"]:
        return f"{name}: {region['gap_reason']}."
    gap = region["gap"]
    return (
        f"{name}: blanking it costs {gap['value']:.3f} Dice "
        f"[{gap['low']:.3f}, {gap['high']:.3f}] over {region['cases']} cases."
    )


def _image_rows(images: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    heads = ["arm", *(head for head, _ in IMAGE_COLUMNS.values())]
    rows = []
    for arm, means in images.items():
        cells = [(means.get(name), form) for name, (_, form) in IMAGE_COLUMNS.items()]
        rows.append([arm, *("-" if v is None else format(v, form) for v, form in cells)])
    return heads, rows


def _plumbing_line(plumbing: dict[str, Any] | None) -> str:
    if plumbing is None:
        return ""
    changes = ", ".join(f"{name} {change:+.4f}" for name, change in plumbing["dice_change"].items())
    outcome = "passed" if plumbing["passed"] else "FAILED"
    return (
        f"Plumbing check {outcome}: the real image through the export path changes Dice by "
        f"{changes} (allowed ±{plumbing['tolerance']})."
    )


def _table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with aligned columns; "" without rows."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]

    def line(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(heads), line(rule), *map(line, rows)])
