"""What a report says, computed once: plain values for every template in ``words/``.

``summary.json`` holds all figures; the rows of the two CSV files add what single cases did.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seg_eval.analysis import SMALLEST_GAP, Findings, Question, remarks_on
from seg_eval.arms import ARM_KINDS, floor_of
from seg_eval.report.agreement import volume_panels
from seg_eval.report.certificate import certify, headline_of
from seg_eval.report.charts import bland_altman, paired_dots, range_mark, risk_coverage, scatter
from seg_eval.report.page import (
    DASH,
    WORDS,
    interval,
    number,
    percent,
    power_table,
    say,
    spoken,
    table,
)
from seg_eval.report.pictures import dice_by_case, error_and_loss, labels_of
from seg_eval.report.transfer import tell_transfers
from seg_eval.scoring import EMPTY_RULES, IMAGE_SCORES, METRICS, OFFICIAL, Metric, Score, counted

OF_LESIONS, OTHER_RULE = ("lesion_dice", "lesion_hd95_mm"), " (ours)"
"""Scores whose official rule counts in voxels of 1 mm, and what their name has at other sizes."""

Summary = Mapping[str, Any]
"""As in ``summary.json``, see ``docs/summary-schema.md``."""


def put_into_words(findings: Findings, question: Question) -> dict[str, Any]:
    """The keys of ``summary.json`` that the analysis fills, its decisions put into sentences."""
    summary, named = findings.figures, spoken(question.missing)
    verdict, labels = findings.verdicts[0], labels_of(question.arms)
    beside = findings.exploratory
    synthetic = {arm.name for arm in question.arms if arm.about.group == "synthesis"}
    compared = verdict.reason == "compared"
    remarks = remarks_on(verdict.facts) | remarks_on(beside) if compared else {}
    for name, region in {**verdict.facts.regions, **beside.regions}.items():
        reason = say("no_gap", reason=region.no_ratio, gap=region.gap, smallest=SMALLEST_GAP)
        aside = name in beside.regions
        note = say("remark", code=remarks.get(name, ""), exploratory=aside)
        summary["regions"][name] |= {"gap_reason": reason, "note": note, "exploratory": aside}
    summary["intervals"]["method"] = say("interval_method", found=summary["intervals"])
    return summary | {
        "title": say("title", q=question),
        "headline": headline_of(verdict, summary, question.floor, labels, synthetic),
        "arms": [
            {
                "name": arm.name,
                "label": labels[arm.name],
                "kind": arm.kind,
                "segmenter": arm.segmenter,
                "group": arm.about.group,
                "what": arm.about.what.format(missing=named)
                + (": the floor" if arm.kind == question.floor else "")
                + _trainings_of(summary, arm.name),
            }
            for arm in question.arms
        ],
        "verdict": list(
            dict.fromkeys(say("standing", v=each, labels=labels) for each in findings.verdicts)
        ),
        "empty_rule": EMPTY_RULES[question.empty],
        "warnings": [say(caveat.code, **caveat.figures) for caveat in findings.caveats],
    }


def _trainings_of(summary: Summary, arm: str) -> str:
    """Which runs an arm is that merges several; empty for any other."""
    merged = summary["intervals"].get("replicates", {}).get(arm)
    return f"; {say('trainings_of', names=merged['names'])}" if merged else ""


def describe(
    summary: Summary, scores: Sequence[Score], images: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """All values of a report but its slices, from ``summary.json`` and the rows of both CSV files.

    They are the summary, with tables, charts and sentences in the place of figures. Rows that the
    rule for empty regions leaves out are not drawn.
    """
    used = counted(scores, summary["config"]["empty"])
    arms = list_arms(summary)
    regions, several = describe_regions(summary, arms), len(summary["intervals"]["seeds"]) > 1
    of_seeds = ("seeds_dice", "seeds_recovered") if several else ()
    q, labels = asked(summary), {arm["name"]: arm["label"] for arm in arms}
    charts = [_dots(arms, name, region, used) for name, region in summary["regions"].items()]
    return {
        **summary,
        "asked": q,
        "found": summary["regions"],
        "certificate": certify(summary, arms, q),
        "patients": _patients(summary),
        "plumbing_failed": bool(summary["plumbing"]) and not summary["plumbing"]["passed"],
        "arms": arms,
        "labels": labels,
        "in_question": labels.get(summary["primary"]["arm"], ""),
        "groups": list(dict.fromkeys(arm["group"] for arm in arms)),
        "regions": regions,
        "dice": table("dice", regions=regions),
        "losses": table("losses", s=summary, arms=arms),
        "spread": table("spread", s=summary, arms=arms),
        "much_lost": table("much_lost", s=summary, arms=arms),
        "beyond": table("beyond", s=summary, arms=arms) if _tells_beyond(summary) else None,
        "seeds": [found for name in of_seeds if (found := table(name, s=summary, arms=arms))],
        "replicates": table("replicates", s=summary)
        if "replicates" in summary["intervals"]
        else None,
        "leads": table("leads", s=summary, labels=labels) if "leads" in summary else None,
        "transfers": tell_transfers(summary, arms),
        "absent": _absent(summary, arms),
        "volumes": _volumes(summary, arms, used),
        "by_size": _groups(summary, arms, "loss_by_size", _size_head),
        "by_centre": _groups(summary, arms, "loss_by_centre", _centre_head),
        "metrics": _metrics(summary, arms),
        "images": table("images", means=summary["images"], scores=IMAGE_SCORES, labels=labels),
        "benefit": table(
            "benefit", rows=summary["image_benefit"], scores=IMAGE_SCORES, labels=labels
        ),
        "tests": table("tests", rows=summary["tests"], labels=labels),
        "noninferiority": table("noninferiority", rows=summary["noninferiority"], labels=labels),
        "power": power_table(summary),
        "plumbing": say("plumbing", check=check) if (check := summary["plumbing"]) else "",
        "charts": [chart for chart in charts if chart["dots"]],
        "scatter": _scatter(summary, arms, used, images),
        "reliance": _reliance(summary, labels),
        "methods": say("methods", s=summary, patients=_patients(summary), q=q),
        "bibtex": citations(summary),
    }


def asked(summary: Summary) -> dict[str, Any]:
    """What sentences ask of an experiment: ``missing``, and ``degraded`` where that is there."""
    config = summary["config"]
    return {"missing": config["missing"], "degraded": config.get("degraded")}


def _tells_beyond(summary: Summary) -> bool:
    """Whether there is anything to say of what cheap arms leave lost."""
    found = [arm["beyond_cheap"] for r in summary["regions"].values() for arm in r["arms"].values()]
    return all(found) and any(each["recovery"] for each in found)


def list_arms(summary: Summary) -> list[dict[str, str]]:
    """The arms in order, each with how it was made.

    ``fixed`` is what stands in the place of a share of those that recover nothing by definition.
    """
    fixed = {"full": "ceiling", floor_of(bool(asked(summary)["degraded"])): "floor"}
    return [
        arm | {"note": summary["notes"][arm["name"]]} | {"fixed": fixed.get(arm["kind"], "")}
        for arm in summary["arms"]
    ]


def describe_regions(summary: Summary, arms: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Per region its gap in a sentence, and a row of Dice for every arm."""
    q, found, labels = asked(summary), [], {arm["name"]: arm["label"] for arm in arms}
    for name, region in summary["regions"].items():
        synthesis = [arm["name"] for arm in arms if arm["group"] == "synthesis"]
        gains = {labels[arm]: region["arms"][arm]["gain"] for arm in synthesis}
        is_told = region["gap_defined"] or not gains
        found.append({
            "name": name,
            "gap": say("gap", region=region, q=q),
            "gains": "" if is_told else say("gains", gains=gains, q=q),
            "rows": [_dice_row(arm, region["arms"][arm["name"]]) for arm in arms],
        })  # fmt: skip
    return found


def _dice_row(arm: Mapping[str, str], cell: Mapping[str, Any]) -> dict[str, Any]:
    dice, recovery = cell["metrics"]["dice"], cell["recovery"]
    fixed, is_full = arm["fixed"], arm["kind"] == "full"
    shows_share = recovery and not fixed
    share = [recovery[end] for end in ("value", "low", "high")] if shows_share else []
    return {
        "arm": arm,
        "dice": number(cell["dice"]),
        "dice_interval": interval(dice),
        "dice_mark": range_mark(cell["dice"], dice["low"], dice["high"], (0.0, 1.0), (0.5, 1.0)),
        "share": fixed or percent(recovery and recovery["value"]),
        "share_interval": interval(recovery, ".0f", 100) if shows_share else "",
        "share_mark": range_mark(*share, axis=(-0.5, 1.5), ticks=(0.0, 1.0))
        if shows_share
        else None,
        "loss": DASH if is_full else number(cell["loss"]["value"], "+.3f"),
        "loss_interval": "" if is_full else interval(cell["loss"], "+.3f"),
    }


def _metrics(summary: Summary, arms: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Per region every other score, each mean with its interval, distances with their median.

    ``terminal`` is a table of those that fit one.
    """
    others = {name: metric for name, metric in METRICS.items() if name != "dice"}
    rule = "" if summary["lesion_rule"] == OFFICIAL else OTHER_RULE
    tolerance = f"{summary['nsd_tolerance_mm']:g}"

    def head(name: str, m: Metric) -> dict[str, str]:
        heading, definition = (
            text.format(tolerance=tolerance) for text in (m.heading, m.definition)
        )
        if rule and name in OF_LESIONS:
            heading, definition = heading + rule, f"{definition} {say('lesions_of_ours')}"
        heading = f"{heading}, {m.unit}".removesuffix(", ")
        return {"name": name, "better": m.better, "heading": heading, "definition": definition}

    heads = [head(name, metric) for name, metric in others.items()]

    def cells(found: Mapping[str, Any]) -> list[dict[str, str]]:
        each = [(found["metrics"][name], metric) for name, metric in others.items()]
        return [
            {"mean": number(score["mean"], m.format), "interval": interval(score, m.format),
             "median": number(score["median"], m.format) if m.unit == "mm" and score["n"] else ""}
            for score, m in each
        ]  # fmt: skip

    return [
        {"name": name, "metrics": heads,
         "rows": [{"arm": arm, "cells": cells(region["arms"][arm["name"]])} for arm in arms],
         "terminal": table("scores", region=name, found=region, arms=arms, rule=rule,
                           tolerance=tolerance)}
        for name, region in summary["regions"].items()
    ]  # fmt: skip


def _absent(summary: Summary, arms: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Of each region that some case lacks, a table of both rules and of false alarms."""
    return [
        {"region": about["region"], "said": say("absent", about=about),
         "table": table("absent", about=about, arms=arms)}
        for about in summary["absent"]
    ]  # fmt: skip


def _volumes(
    summary: Summary, arms: Sequence[Mapping[str, str]], scores: Sequence[Score]
) -> list[dict[str, Any]]:
    """Of each region a table of how well volumes agree, and a plot for each arm that has rows."""
    groups, labels = ({arm["name"]: arm[key] for arm in arms} for key in ("group", "label"))
    judged = [name for name, group in groups.items() if group != "check"]
    panels, told = volume_panels(scores, summary["volumes"], judged), []
    for region in summary["regions"]:
        rows = [row for row in summary["volumes"] if row["region"] == region]
        own = [panel for panel in panels if panel.region == region]
        told.append({
            "region": region,
            "tables": [
                found for against in ("label", "full")
                if (found := table("agreement", region=region, rows=rows, arms=arms,
                                   against=against))
            ],
            "panels": bland_altman(own, groups, labels) if own else [],
        })  # fmt: skip
    return told


def _groups(
    summary: Summary,
    arms: Sequence[Mapping[str, str]],
    key: str,
    head: Callable[[Mapping[str, Any]], str],
) -> list[dict[str, Any] | None]:
    """A table for each region of the loss in groups of cases, whose heads ``head`` writes."""
    found = []
    for region in summary["regions"]:
        rows = [row for row in summary[key] if row["region"] == region]
        # Groups may read alike, as thirds of tumours under 0.05 mL do.
        if heads := [head(row) for row in rows if row["arm"] == rows[0]["arm"]]:
            found.append(table("groups", region=region, heads=heads, rows=rows, arms=arms))
    return found


def _size_head(row: Mapping[str, Any]) -> str:
    return say("size_head", low=row["low_ml"], high=row["high_ml"], cases=row["cases"])


def _centre_head(row: Mapping[str, Any]) -> str:
    return say("centre_head", centre=row["centre"], cases=row["cases"])


def _patients(summary: Summary) -> int:
    """How many patients the cases come from; a region may leave some out."""
    return max(region["patients"] for region in summary["regions"].values())


def _dots(
    arms: Sequence[Mapping[str, str]], name: str, region: Mapping[str, Any], scores: Sequence[Score]
) -> dict[str, Any]:
    """The chart of paired cases of a region and the same as a table; seeds are averaged."""
    columns = []
    for arm in arms:
        if dice := dice_by_case(scores, arm["name"], name):
            columns.append(region["arms"][arm["name"]]["metrics"]["dice"] | arm | {"dice": dice})
    cases = sorted({case for column in columns for case in column["dice"]})
    rows = [[case, *(number(column["dice"].get(case)) for column in columns)] for case in cases]
    heads = ["Case", *(column["label"] for column in columns)]
    return {"name": name, "dots": paired_dots(columns), "heads": heads, "rows": rows}


def _scatter(
    summary: Summary,
    arms: Sequence[Mapping[str, str]],
    scores: Sequence[Score],
    images: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """Error of the synthetic sequence in the tumour against the Dice lost; None without images."""
    groups = {arm["name"]: arm["group"] for arm in arms if ARM_KINDS[arm["kind"]].compared}
    regions = summary["regions"]
    defined = [name for name, region in regions.items() if region["gap_defined"]]
    rows = [row for row in scores if row.region in (defined or regions)]
    points = error_and_loss(rows, images, list(groups))
    return scatter(points, groups)


def _reliance(summary: Summary, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Of each arm with maps of uncertainty volumes with intervals, and whom not to trust."""
    return [
        {
            "arm": told["arm"],
            "lead": say("reliance", told=told),
            "covered": say("covered_volumes", told=told),
            "volumes": table("volumes", told=told),
            "curve": risk_coverage(told["curve"]),
            "said": say("risk_coverage", told=told),
        }
        for about in summary.get("uncertainty", [])
        for told in [{**about, "arm": labels[about["arm"]]}]
    ]


def citations(summary: Summary) -> str:
    """BibTeX of what was used: nnU-Net and the regions' source, others where the summary shows."""
    config = summary["config"]
    keys = {"isensee2021nnunet", "menze2015brats"}
    if "brats" in f"{config['data']} {config['train']}".lower():
        keys.add("bakas2017tcga")
    if any("@brasyn" in name for means in summary["images"].values() for name in means):
        keys.add("li2023brasyn")
    told = " ".join(f"{arm['name']} {summary['notes'][arm['name']]}" for arm in summary["arms"])
    if "agi-net" in told.lower() or "aginet" in told.lower():
        keys.add("song2024aginet")
    entries = (WORDS / "references.bib").read_text("utf-8").strip().split("\n\n")
    return "\n\n".join(e for e in entries if e[e.index("{") + 1 : e.index(",")] in keys)


def overview(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Several experiments beside each other, one row for each missing sequence."""
    rows = []
    for summary in summaries:
        lost = {n: r for n, r in summary["regions"].items() if r["gap_defined"]}
        region = max(lost, key=lambda name: lost[name]["gap"]["value"], default="")
        others = [
            arm["name"] for arm in summary["arms"]
            if ARM_KINDS[arm["kind"]].compared and arm["group"] != "synthesis"
        ]  # fmt: skip
        dice = {arm: lost[region]["arms"][arm]["dice"] for arm in others if region}
        rows.append({
            "missing": "+".join(spoken([name]) for name in summary["config"]["missing"]),
            "region": region,
            "found": lost.get(region),
            "primary": summary["headline"]["primary"],
            "best": max(dice, key=lambda arm: dice[arm], default=None),
            "badge": summary["headline"]["badge"],
            "labels": {arm["name"]: arm["label"] for arm in summary["arms"]},
        })  # fmt: skip
    headlines = [summary["headline"] for summary in summaries]
    return {"headlines": headlines, "table": table("overview", rows=rows)}
