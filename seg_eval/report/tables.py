"""What the report's tables say, as plain values for its template; any key may be missing.

Numbers become text here and nowhere else; :mod:`jinja2` escapes it.
"""

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from seg_eval.analysis import ABOUT_KINDS, spoken
from seg_eval.report.charts import interval_mark
from seg_eval.report.pictures import short_name
from seg_eval.scoring import IMAGE_SCORES, METRICS

Summary = Mapping[str, Any]
DASH = "–"
GROUPS = {
    "reference": "reference: all real, or left out",
    "naive": "naive fill",
    "voxel-wise": "voxel-wise regression",
    "synthesis": "synthesis",
    "rival": "segmenter of its own",
    "check": "check of the export path",
}
"""Groups of arms and what the legend calls them."""

VERDICTS = {
    "yes": ("yes", "✓", "Worth it"),
    "no": ("no", "✕", "Not worth it"),
    "unclear": ("unclear", "?", "Not clear yet"),
    "nothing to win": ("nothing", "=", "Nothing to win"),
}
"""``headline.worth`` to the class, sign and words of its marker."""


def number(value: Any, form: str = ".3f") -> str:
    """``value`` by ``form``, with a real minus; a dash for None and what is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return DASH
    text = format(value, form)
    return "0" + text[2:] if set(text[1:]) <= {"0", "."} and text[0] == "-" else _minus(text)


def _minus(text: str) -> str:
    return text.replace("-", "−")


def interval(estimate: Mapping[str, Any] | None, form: str = ".3f", times: float = 1) -> str:
    """The two ends of an estimate's interval, ``[a, b]``; "" where there is none.

    An end that is None, of a mean that is not, is unbounded.
    """
    found = estimate or {}
    if found.get("value", found.get("mean")) is None or not {"low", "high"} <= found.keys():
        return ""
    ends = [found["low"], found["high"]]
    shown = ["unbounded" if end is None else number(times * end, form) for end in ends]
    return f"[{shown[0]}, {shown[1]}]"


def missing_names(summary: Summary) -> list[str]:
    """The missing sequences, as the data name them; older summaries have one string."""
    missing = _get(summary, "config", "missing") or []
    return [missing] if isinstance(missing, str) else [str(name) for name in missing]


def list_arms(summary: Summary) -> list[dict[str, str]]:
    """Arms in order, each with name, label, kind, group, segmenter, what and note."""
    notes = summary.get("notes") or {}
    arms = []
    for arm in summary.get("arms") or []:
        name, kind = str(arm["name"]), str(arm.get("kind") or "")
        group = arm.get("group") or ABOUT_KINDS.get(kind, ("check", ""))[0]
        arms.append({
            "name": name,
            "label": short_name(name),
            "kind": kind,
            "group": group if group in GROUPS else "check",
            "segmenter": str(arm.get("segmenter") or "frozen"),
            "what": str(arm.get("what") or ""),
            "note": str(notes.get(name) or ""),
        })  # fmt: skip
    return arms


def headline(summary: Summary) -> dict[str, str]:
    """Sentence and marker; an older summary's verdict stands in for the sentence."""
    found = summary.get("headline") or {}
    sentence = found.get("sentence") or " ".join(summary.get("verdict") or [])
    css, sign, words = VERDICTS.get(found.get("worth") or "", ("", "", ""))
    frozen = found.get("worth_if_frozen")
    other = VERDICTS[frozen][2] if frozen in VERDICTS and frozen != found.get("worth") else ""
    return {"sentence": str(sentence), "css": css, "sign": sign, "words": words, "frozen": other}


def primary_arm(summary: Summary) -> str | None:
    """The arm that the headline is about, else the first synthesis, else None."""
    named = _get(summary, "headline", "primary")
    synthetic = [arm["name"] for arm in list_arms(summary) if arm["kind"] == "synthetic"]
    return named or (synthetic[0] if synthetic else None)


def dice_tables(summary: Summary) -> list[dict[str, Any]]:
    """Per region: its gap in one sentence and a row for every arm with marks."""
    arms = list_arms(summary)
    return [
        {
            "name": region,
            "cases": content.get("cases"),
            "gap": gap_sentence(summary, content),
            "rows": [_dice_row(arm, content["arms"][arm["name"]])
                     for arm in arms if arm["name"] in (content.get("arms") or {})],
        }
        for region, content in (summary.get("regions") or {}).items()
    ]  # fmt: skip


def gap_sentence(summary: Summary, region: Mapping[str, Any]) -> str:
    """What leaving the sequence out costs in a region."""
    if not region.get("gap_defined", True):
        reason = str(region.get("gap_reason") or "no measurable loss").rstrip(".")
        return f"{reason[:1].upper()}{reason[1:]}."
    gap = region.get("gap") or {}
    name = spoken(missing_names(summary)) or "the sequence"
    return (
        f"Leaving out {name} costs {number(gap.get('value'))} Dice {interval(gap)}"
        f" over {region.get('cases', DASH)} cases."
    )


def _dice_row(arm: Mapping[str, str], cell: Mapping[str, Any]) -> dict[str, Any]:
    group, mean = arm["group"], cell.get("dice")
    spread = _get(cell, "metrics", "dice") or {}
    low, high = spread.get("low", mean), spread.get("high", mean)
    recovered = cell.get("recovery")
    fixed = {"full": "ceiling", "zero": "floor"}.get(arm["kind"], "")
    if fixed:
        share, mark = fixed, Markup("")
    elif recovered is None:
        share, mark = DASH, Markup("")
    else:
        share = f"{number(100 * recovered['value'], '.0f')} %"
        mark = interval_mark(
            recovered["value"], recovered.get("low"), recovered.get("high"), group,
            -0.5, 1.5, (0.0, 1.0),
        )  # fmt: skip
    loss = cell.get("loss")
    return {
        "arm": arm,
        "dice": number(mean),
        "dice_interval": interval(spread),
        "dice_mark": interval_mark(mean, low, high, group, ticks=(0.5, 1.0)),
        "share": share,
        "share_interval": "" if fixed else interval(recovered, ".0f", 100),
        "share_mark": mark,
        "loss": DASH if arm["kind"] == "full" else number((loss or {}).get("value"), "+.3f"),
        "loss_interval": "" if arm["kind"] == "full" else interval(loss, "+.3f"),
    }


def metric_tables(summary: Summary) -> list[dict[str, Any]]:
    """Per region the other metrics, each mean with its interval; none for an older summary."""
    tables = []
    for region, content in (summary.get("regions") or {}).items():
        cells = content.get("arms") or {}
        have = {name for cell in cells.values() for name in cell.get("metrics") or {}}
        names = [name for name in METRICS if name in have and name != "dice"]
        rows = [
            {"arm": arm, "cells": [_metric_cell(cells[arm["name"]], name) for name in names]}
            for arm in list_arms(summary)
            if arm["name"] in cells
        ]
        if names and rows:
            tables.append({"name": region, "metrics": [_metric_head(n) for n in names],
                           "rows": rows})  # fmt: skip
    return tables


def _metric_head(name: str) -> dict[str, str]:
    metric = METRICS[name]
    better = {"higher": "higher is better", "lower": "lower is better", "zero": "0 is best"}
    unit = f", {metric.unit}" if metric.unit else ""
    return {"heading": metric.heading + unit, "better": better[metric.better],
            "definition": metric.definition}  # fmt: skip


def _metric_cell(cell: Mapping[str, Any], name: str) -> dict[str, str]:
    found, form = _get(cell, "metrics", name) or {}, METRICS[name].format
    shown = {"mean": number(found.get("mean"), form), "interval": interval(found, form)}
    has_outliers = METRICS[name].unit == "mm" and found.get("median") is not None
    return shown | {"median": number(found["median"], form) if has_outliers else ""}


def seed_table(summary: Summary) -> dict[str, Any] | None:
    """Dice of each training of the segmenter by arm, and what it recovers; None for one seed."""
    seeds = _get(summary, "bootstrap", "seeds") or []
    regions = summary.get("regions") or {}
    if len(seeds) < 2:
        return None
    rows = []
    for arm in list_arms(summary):
        cells = []
        for content in regions.values():
            cell = _get(content, "arms", arm["name"]) or {}
            dice = _get(cell, "metrics", "dice", "per_seed") or []
            shares = [DASH if v is None else f"{number(100 * v, '.0f')} %"
                      for v in cell.get("recovery_per_seed") or []]  # fmt: skip
            cells.append("  ".join(number(v) for v in dice) or DASH)
            cells.append("" if arm["kind"] in ("full", "zero") else "  ".join(shares) or DASH)
        rows.append([arm["label"], *cells])
    heads = ["Arm", *(head for name in regions for head in (f"{name} Dice", f"{name} recovered"))]
    caption = f"Each training of the segmenter alone (seeds {', '.join(map(str, seeds))})"
    return {"caption": caption, "heads": heads, "rows": rows}


def image_table(summary: Summary) -> dict[str, Any] | None:
    """Image scores of the filled-in channel by arm; None where there are none."""
    images = summary.get("images") or {}
    names = [name for name in IMAGE_SCORES if any(name in scores for scores in images.values())]
    arms = [arm for arm in list_arms(summary) if arm["name"] in images]
    if not names or not arms:
        return None
    rows = [
        {"arm": arm, "cells": [number(images[arm["name"]].get(n), IMAGE_SCORES[n][1])
                               for n in names]}
        for arm in arms
    ]  # fmt: skip
    heads = [{"heading": IMAGE_SCORES[n][0], "better": IMAGE_SCORES[n][2]} for n in names]
    return {"heads": heads, "rows": rows}


def score_name(name: str) -> str:
    """What an image score is called in a table."""
    return IMAGE_SCORES[name][0] if name in IMAGE_SCORES else name


def rows_of_tests(summary: Summary) -> list[list[str]]:
    """Region, arm, against, alternative, n, difference, p, p after Holm, outcome."""
    return [
        [str(t.get("region", "")), str(t.get("arm", "")), str(t.get("against", "")),
         {"greater": "better", "two-sided": "different"}.get(t.get("alternative"), DASH),
         number(t.get("n"), "d"), number(t.get("mean_difference"), "+.3f"),
         p_value(t.get("p")), p_value(t.get("p_holm")),
         "significant" if t.get("significant") else "not significant"]
        for t in summary.get("tests") or []
    ]  # fmt: skip


def rows_of_noninferiority(summary: Summary) -> list[list[str]]:
    """Region, arm, mean loss, its upper bound, the margin, outcome."""
    return [
        [str(t.get("region", "")), str(t.get("arm", "")), number(t.get("mean_loss"), "+.3f"),
         number(t.get("upper_bound"), "+.4f"), number(t.get("margin"), ".4f"),
         "not inferior" if t.get("passed") else "not shown"]
        for t in summary.get("noninferiority") or []
    ]  # fmt: skip


def p_value(value: Any) -> str:
    """Three decimals, or ``< 0.001``."""
    shown = number(value)
    return "< 0.001" if shown != DASH and value < 0.001 else shown


def key_figures(summary: Summary) -> list[dict[str, str]]:
    """The strip under the headline: value, unit of what, and a line below."""
    tiles = []
    regions = summary.get("regions") or {}
    tests = _get(summary, "config", "test") or []
    if counts := [len(tests)] if tests else [r.get("cases") for r in regions.values()][:1]:
        seeds = len(_get(summary, "config", "seeds") or [])
        below = f"{seeds} trainings of the segmenter" if seeds > 1 else "one segmenter"
        patients = max((r.get("patients") or 0 for r in regions.values()), default=0)
        if patients and patients != counts[0]:
            below = f"of {patients} patient{'s'[: patients != 1]}; {below}"
        what = "test case" + "s"[: counts[0] != 1]
        tiles.append({"value": str(counts[0]), "what": what, "below": below})
    name, primary = spoken(missing_names(summary)) or "the sequence", primary_arm(summary)
    for region, content in regions.items():
        gap = content.get("gap") or {}
        defined = content.get("gap_defined", True)
        below = interval(gap) if defined else f"{interval(gap)}: no measurable loss".lstrip(": ")
        recovered = _get(content, "arms", primary or "", "recovery")
        if recovered:
            share = f"{number(100 * recovered['value'], '.0f')} %"
            below += f"; {share} {interval(recovered, '.0f', 100)} of it recovered"
            below += f" by {short_name(primary)}"
        tiles.append({"value": number(gap.get("value")), "below": below,
                      "what": f"Dice lost in {region} without {name}"})  # fmt: skip
    return tiles


def bootstrap_sentence(summary: Summary) -> str:
    """How the intervals were made; "" where the summary does not say."""
    found = summary.get("bootstrap")
    if not found:
        return ""
    how = f" ({found['interval']})" if found.get("interval") else ""
    return (
        f"Intervals: 95 % of a paired bootstrap over {found.get('unit', 'patient')}s, "
        f"{found.get('resamples', '?')} resamples, seed {found.get('seed', '?')}{how}."
    )


def warnings_first(summary: Summary) -> list[str]:
    """The warnings; a failed check of the export path is the first of them."""
    failed = not (summary.get("plumbing") or {}).get("passed", True)
    told = [str(text) for text in summary.get("warnings") or []]
    return [*([plumbing_sentence(summary)] if failed else []), *told]


def plumbing_sentence(summary: Summary) -> str:
    """Whether the real image survived the export path; "" without that check."""
    found = summary.get("plumbing")
    if not found:
        return ""
    changes = ", ".join(f"{k} {number(v, '+.4f')}" for k, v in found["dice_change"].items())
    outcome = "passed" if found.get("passed") else "FAILED"
    return (
        f"Check of the export path {outcome}: the real sequence sent through it changes Dice by "
        f"{changes} (allowed ±{found.get('tolerance')})."
    )


def _get(value: Any, *keys: str) -> Any:
    """``value[a][b]…``, or None where anything on the way is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
