"""The first screen: the verdict, the regions beside it, whose brains these are, and what to do.

Everything is taken from ``summary.json``, so that the sentence, the table and the tables below
print one number for one thing.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from seg_eval.arms import floor_of, kinds_with
from seg_eval.report.page import say, table
from seg_eval.segmenter import STOCK_TOTAL, iterations_of
from synth3d.cohort import Case, are_simulated
from synth3d.scoring import FEW_CASES, FEWEST_TRAININGS


def main_region(regions: Mapping[str, Any]) -> str:
    """The region that loses most, of those with a measurable loss if there are any.

    ``regions`` are those of ``summary.json``, one at least.
    """
    lost = [name for name, region in regions.items() if region["gap_defined"]] or list(regions)
    return max(lost, key=lambda name: regions[name]["gap"]["value"])


def levels(regions: Mapping[str, Any], floor: str, arm: str | None) -> dict[str, Any]:
    """Mean Dice of the main region: ``without`` the sequence, ``filled`` in (or None), ``real``."""
    arms = regions[name := main_region(regions)]["arms"]
    filled = arms[arm]["dice"] if arm else None
    return {
        "region": name, "without": arms[floor]["dice"], "filled": filled,
        "real": arms["full"]["dice"],
    }  # fmt: skip


def certify(
    summary: Mapping[str, Any], arms: Sequence[Mapping[str, str]], q: Mapping[str, Any]
) -> dict[str, Any]:
    """What a page shows first.

    Args:
        summary: As in ``summary.json``.
        arms: Those of :func:`seg_eval.report.context.list_arms`.
        q: What was asked: ``missing`` and ``degraded``.

    Returns:
        ``regions``, a table of Dice with a row for each region, and the same for a terminal,
        ``narrow``, with ``who`` is who; ``setting``, whose brains and which segmenter;
        ``settle``, what would settle the question, "" where it is settled.
    """
    head, labels = summary["headline"], {arm["name"]: arm["label"] for arm in arms}
    floor, better = floor_of(bool(q["degraded"])), head["likely_better"]
    shown = [floor, head["primary"], "full", head["rival"], better]
    names = list(dict.fromkeys(name for name in shown if name))
    part = {better: "likely" if head["hint"] else "better", head["rival"]: "rival"}
    part |= {head["primary"]: "filled", "full": "full", floor: floor}
    roles = {name: part[name] for name in names}
    wide, narrow = (
        [say(column, q=q, role=role, label=labels[name]) for name, role in roles.items()]
        for column in ("column", "narrow_column")
    )
    return {
        "regions": table("certificate", s=summary, arms=names, heads=wide),
        "narrow": table("certificate", s=summary, arms=names, heads=narrow),
        "who": say("who_is_who", q=q, roles=roles, labels=labels),
        "setting": say("setting", s=summary, config=summary["config"], whole=STOCK_TOTAL),
        "settle": say("settle", needs=needs) if (needs := _needed(summary, labels)) else "",
    }


def _needed(summary: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """What would settle an open question, most wanted first; nothing where it is settled."""
    head, config = summary["headline"], summary["config"]
    if head["worth"] != "unclear":
        return []
    found, kinds = [], {arm["kind"] for arm in summary["arms"]}
    patients = max(region["patients"] for region in summary["regions"].values())
    if patients < FEW_CASES:
        found.append(say("need_patients", enough=FEW_CASES, patients=patients))
    elif (count := _patients_for_a_lead(summary)) and count["rival"]:
        found.append(say("need_lead", count=count, label=labels[count["rival"]]))
    few_seeds = len(config["seeds"]) < FEWEST_TRAININGS
    if not config["segmenter"] and few_seeds and "folds" not in summary["intervals"]:
        found.append(say("need_trainings", least=FEWEST_TRAININGS, seeds=len(config["seeds"])))
    if head["primary"] is None:
        return [*found, say("need_synthesis")]
    degraded = bool(config.get("degraded"))
    if not kinds & {*kinds_with("is_cheap", degraded)}:
        found.append(say("need_cheap"))
    if not config["segmenter"] and not kinds & {*kinds_with("without_missing")}:
        found.append(say("need_rivals"))
    return found


def _patients_for_a_lead(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """How many patients would tell a lead in the main region; None where nothing tells."""
    name = main_region(summary["regions"])
    rows = [row for row in summary["power"] if (row["region"], row["goal"]) == (name, "lead")]
    rival = summary["regions"][name]["best_cheap"]
    return {"patients": rows[0]["patients"]["these"], "rival": rival} if rows else None


def setting_of(preset: str | None, test: Sequence[Case]) -> dict[str, Any]:
    """``setting`` of ``summary.json``, of today.

    Args:
        preset: Of the segmenter that is trained here; None of a given one, whose training is
            not known.
        test: The test cases.
    """
    return {
        "date": date.today().isoformat(),
        "simulated": are_simulated(case.name for case in test),
        "iterations": None if preset is None else iterations_of(preset),
    }
