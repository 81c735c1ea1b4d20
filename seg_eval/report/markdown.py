"""The report as text and tables: rendered from ``summary.json`` alone, and the CSV files."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seg_eval.analysis import COMMON_NAMES, percent
from seg_eval.scoring import IMAGE_SCORES, METRICS, Score
from synth3d.files import atomic_path

__all__ = ["render", "render_overview", "write_image_scores", "write_scores"]

Summary = Mapping[str, Any]

SHOWN = ("hd95_mm", "nsd", "lesion_dice", "volume_error_ml")
"""Scores of the second table; the others are in ``summary.json``."""

NOTE = """\
Recovered = (arm - zero) / (full - zero), a ratio of mean Dice over the same cases and segmenter
seeds, with a 95 % interval from a bootstrap over patients (and seeds); it may leave 0-100 %.
`full` is the ceiling (all sequences real), `zero` the floor (the sequence blanked); `-` means
that the floor loses nothing measurable, so there is nothing to recover. An `unbounded` end: in so
many of the draws the floor loses nothing that the ratio has no limit there."""


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """``results.csv``: one row per case, arm, seed and region; an undefined score is empty."""
    _write_rows(path, [asdict(row) for row in scores], list(Score.__dataclass_fields__))


def write_image_scores(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """``image_scores.csv``: one row per case, arm and sequence; an undefined score is empty."""
    _write_rows(path, rows, ["case", "patient", "arm", "modality", *IMAGE_SCORES])


def _write_rows(path: Path, rows: Sequence[dict[str, Any]], columns: list[str]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def render(summary: Summary) -> str:
    """The whole report as Markdown that also reads well on a terminal."""
    arms, regions = summary["arms"], summary["regions"]
    parts = [
        f"# {summary['title']}",
        f"**{summary['headline']['sentence']}**",
        _setting(summary["config"]),
        "\n".join(_warnings(summary)),
        "## Dice",
        _table(*_dice_rows(arms, regions)),
        "\n".join(f"- {_gap_line(name, region, arms)}" for name, region in regions.items()),
        NOTE + f"\nRegions that a case does not have: {summary['empty_rule']}.",
        "\n".join(f"- {sentence}" for sentence in summary["verdict"]),
        *_seeds(summary),
        *_other_scores(arms, regions),
        *_tests(summary["tests"]),
        *_non_inferiority(summary["noninferiority"]),
        *_images(summary),
        _plumbing_line(summary["plumbing"]),
        "## What each arm is",
        "\n".join(_arm_line(arm, summary.get("notes", {})) for arm in arms),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _warnings(summary: Summary) -> list[str]:
    """A failed check of the export path first: it may have spoilt every filled-in channel."""
    plumbing = summary["plumbing"]
    failed = [] if plumbing is None or plumbing["passed"] else [_plumbing_line(plumbing)]
    return [f"Warning: {text.rstrip('.')}." for text in [*failed, *summary["warnings"]]]


def render_overview(summaries: Sequence[Summary]) -> str:
    """Several experiments beside each other, one row for each missing sequence.

    Figures are of the region that blanking costs most, among those with a measurable loss.
    """
    heads = ["missing", "region", "blanking costs", "synthesis", "recovered"]
    heads += ["best other", "recovered", "worth it"]
    rows = []
    for summary in summaries:
        names = [COMMON_NAMES.get(name, name) for name in summary["config"]["missing"]]
        region = _worst_region(summary["regions"])
        cells = ["-"] * 6 if region is None else _overview_cells(summary, region)
        rows.append(["+".join(names), *cells, summary["headline"]["worth"]])
    sentences = "\n".join(f"- {summary['headline']['sentence']}" for summary in summaries)
    title = "# Dice recovery, one missing sequence after the other"
    return "\n\n".join(part for part in (title, sentences, _table(heads, rows)) if part) + "\n"


def _worst_region(regions: Mapping[str, Any]) -> str | None:
    lost = {n: r["gap"]["value"] for n, r in regions.items() if r["gap_defined"]}
    return max(lost, key=lambda name: lost[name]) if lost else None


def _overview_cells(summary: Summary, region: str) -> list[str]:
    found = summary["regions"][region]

    def strongest(groups: Sequence[str]) -> list[str]:
        names = [arm["name"] for arm in summary["arms"] if arm["group"] in groups]
        if not names:
            return ["none", "-"]
        best = max(names, key=lambda name: found["arms"][name]["dice"])
        return [best, _share(found["arms"][best]["recovery"])]

    others = strongest(("naive", "voxel-wise", "rival"))
    primary = summary["headline"]["primary"]
    synthesis = [primary, _share(found["arms"][primary]["recovery"])] if primary else ["none", "-"]
    return [region, _interval(found["gap"]), *synthesis, *others]


def _setting(config: Mapping[str, Any]) -> str:
    count, seeds = len(config["test"]), config["seeds"]
    segmenter = config.get("segmenter")
    if segmenter:
        trained = f"the given segmenter {segmenter}"
    else:
        trained = f"segmenter {config['preset']} trained on {len(config['train'])} real cases"
        trained += f", seed{'s'[: len(seeds) != 1]} {', '.join(map(str, seeds))}"
    return f"{count} test case{'s'[: count != 1]} of {config['data']}; {trained}."


def _dice_rows(
    arms: Sequence[Mapping[str, str]], regions: Mapping[str, Any]
) -> tuple[list[str], list[list[str]]]:
    heads = ["arm", *(f"{r} Dice" for r in regions), *(f"{r} recovered" for r in regions)]
    rows = []
    for arm in arms:
        cells = [region["arms"][arm["name"]] for region in regions.values()]
        dice = [f"{cell['dice']:.3f}" for cell in cells]
        rows.append([arm["name"], *dice, *(_recovered(arm["kind"], cell) for cell in cells)])
    return heads, rows


def _recovered(kind: str, cell: Mapping[str, Any]) -> str:
    fixed = {"full": "ceiling", "zero": "floor"}
    return fixed[kind] if kind in fixed else _share(cell["recovery"])


def _share(recovery: Mapping[str, Any] | None) -> str:
    if recovery is None:
        return "-"
    value, low, high = (percent(recovery[key]) for key in ("value", "low", "high"))
    return f"{value} % [{low}, {high}]"


def _interval(estimate: Mapping[str, Any], form: str = ".3f") -> str:
    value, low, high = (format(estimate[key], form) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _gap_line(name: str, region: Mapping[str, Any], arms: Sequence[Mapping[str, str]]) -> str:
    if not region["gap_defined"]:
        gains = [
            f"{arm['name']} {_interval(region['arms'][arm['name']]['gain'], '+.3f')}"
            for arm in arms
            if arm["group"] == "synthesis"
        ]
        text = f"{name}: {region['gap_reason']}."
        return text + (f" Dice above the floor: {'; '.join(gains)}." if gains else "")
    return (
        f"{name}: blanking it costs {_interval(region['gap'])} Dice over {region['cases']} cases "
        f"of {region['patients']} patients."
    )


def _seeds(summary: Summary) -> list[str]:
    """Dice, and what is recovered, of each training of the segmenter; nothing with one seed."""
    seeds, regions = summary["bootstrap"]["seeds"], summary["regions"]
    if len(seeds) < 2:
        return []
    rows = [
        [arm["name"]]
        + [
            " ".join(_cell(v, ".3f") for v in r["arms"][arm["name"]]["metrics"]["dice"]["per_seed"])
            for r in regions.values()
        ]
        for arm in summary["arms"]
    ]
    shares = []
    for arm in summary["arms"]:
        found = [r["arms"][arm["name"]]["recovery_per_seed"] for r in regions.values()]
        cells = [" ".join(_cell(v and 100 * v, ".0f") for v in values) for values in found]
        if arm["kind"] not in ("full", "zero"):
            shares.append([arm["name"], *cells])
    title = f"## Dice of each segmenter seed ({', '.join(map(str, seeds))})"
    recovered = _table(["recovered, %", *regions], shares)
    return [title, _table(["arm", *regions], rows), *([recovered] if recovered else [])]


def _other_scores(arms: Sequence[Mapping[str, str]], regions: Mapping[str, Any]) -> list[str]:
    """One table per region; distances with their median, since means are ruled by outliers."""
    parts = ["## Surface distance, lesions and volume"]
    heads = [f"{METRICS[m].heading} {METRICS[m].unit}".strip() for m in SHOWN]
    heads = [f"{head} (median)" if m == "hd95_mm" else head
             for m, head in zip(SHOWN, heads, strict=True)]  # fmt: skip
    for name, region in regions.items():
        rows = []
        for arm in arms:
            cell = region["arms"][arm["name"]]
            shown = [_score(metric, cell["metrics"][metric]) for metric in SHOWN]
            reference = arm["kind"] in ("full", "zero")
            rows.append([arm["name"], *shown, "" if reference else _share(cell["hd95_recovery"])])
        parts.append(_table([name, *heads, "HD95 recovered"], rows))
    parts.append("\n".join(f"- {METRICS[m].heading}: {METRICS[m].definition}" for m in SHOWN))
    return parts


def _score(metric: str, found: Mapping[str, Any]) -> str:
    form = METRICS[metric].format
    mean = _cell(found["mean"], form)
    return f"{mean} ({_cell(found['median'], form)})" if metric == "hd95_mm" else mean


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _tests(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    if not tests:
        return []
    rows = [
        [t["region"], t["arm"], t["against"], t["alternative"], f"{t['mean_difference']:+.3f}",
         _p(t["p"]), _p(t["p_holm"]), "yes" if t["significant"] else "no"]
        for t in tests
    ]  # fmt: skip
    heads = ["region", "arm", "against", "tested", "Dice", "p", "p (Holm)", "significant"]
    note = (
        "Wilcoxon's signed ranks over patients (means over their cases and seeds), exact, zeros "
        "after Pratt;\nHolm's correction over the regions and comparisons of one synthetic arm."
    )
    return ["## Tests", _table(heads, rows), note]


def _p(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _non_inferiority(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    regions = list(dict.fromkeys(row["region"] for row in rows))
    found = {
        (r["arm"], r["region"]): f"{r['mean_loss']:+.3f} (< {r['upper_bound']:+.4f}) "
        + ("yes" if r["passed"] else "no")
        for r in rows
    }
    cells = [
        [arm, *(found[arm, region] for region in regions)]
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]
    margin = rows[0]["margin"]
    heads = ["Dice lost against full", *regions]
    note = (
        "In brackets the one-sided 95 % bound; `yes`: not inferior to `full`, the bound is below "
        f"{margin:g}."
    )
    return ["## As good as the real sequence?", _table(heads, cells), note]


def _images(summary: Summary) -> list[str]:
    """Image scores, one row each, and whether they foretell the Dice."""
    images = summary["images"]
    if not images:
        return []
    names = [name for name in IMAGE_SCORES if any(name in means for means in images.values())]
    rows = [
        [IMAGE_SCORES[n][0], *(_cell(m.get(n), IMAGE_SCORES[n][1]) for m in images.values())]
        for n in names
    ]
    lines = [
        f"- {b['arm']}: {IMAGE_SCORES[b['score']][0]} against the Dice lost: Spearman "
        f"{b['spearman']:+.2f} (p {_p(b['p'])}, {b['n']} patients)."
        for b in summary["image_benefit"]
        if b["spearman"] is not None and b["score"] == "mae_tumour"
    ]
    note = (
        "Of the filled-in channel against the real one; ours each on its own in-brain scale "
        "(range 1),\nBraSyn's as that challenge takes them; the blanked one is the control."
    )
    return ["## Image scores", _table(["score", *images], rows), note, "\n".join(lines)]


def _plumbing_line(plumbing: Mapping[str, Any] | None) -> str:
    if plumbing is None:
        return ""
    changes = ", ".join(f"{name} {change:+.4f}" for name, change in plumbing["dice_change"].items())
    outcome = "passed" if plumbing["passed"] else "FAILED"
    return (
        f"Plumbing check {outcome}: the real image through the export path changes Dice by "
        f"{changes} (allowed ±{plumbing['tolerance']})."
    )


def _arm_line(arm: Mapping[str, str], notes: Mapping[str, str]) -> str:
    note = notes.get(arm["name"])
    return f"- {arm['name']}: {arm['what']}{f' ({note})' if note else ''}"


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
