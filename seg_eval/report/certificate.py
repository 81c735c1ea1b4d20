"""The first screen: the verdict, the regions beside it, whose brains these are, and what to do.

Everything is taken from ``summary.json``, so that the sentence, the table and the tables below
print one number for one thing.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

from seg_eval.analysis import USEFUL, WEAK_DICE, Verdict
from seg_eval.arms import floor_of, kinds_with
from seg_eval.report.page import say, table
from seg_eval.segmenter import STOCK_TOTAL, iterations_of
from synth3d.cohort import Case, are_simulated
from synth3d.scoring import FEW_CASES, FEWEST_TRAININGS


def main_region(regions: Mapping[str, Any]) -> str:
    """The judged region that loses most, of those with a measurable loss if there are any.

    One that no case has is none of them, unless there is no other. ``regions`` are those of
    ``summary.json``, one at least.
    """
    judged = [name for name, region in regions.items() if not region["exploratory"]]
    lost = [name for name in judged if regions[name]["gap_defined"]] or judged
    there = {n: r["cases"] - len(r["cases_without_region"]) for n, r in regions.items()}
    lost = [name for name in lost if there[name]] or lost
    return max(lost, key=lambda name: regions[name]["gap"]["value"])


def levels_told(regions: Mapping[str, Any], floor: str, verdict: Verdict) -> dict[str, Any]:
    """The mean Dice that the sentence gives: of the main region, or of all where that misleads.

    Of all ``region`` is "". The finding is on the mean of all regions, and the main one may point
    elsewhere: it gains where the finding is harm, or is even with a rival that does better.

    Args:
        regions: Those of ``summary.json``.
        floor: The arm that recovers nothing.
        verdict: What was found; with few patients, what these point to.

    Returns:
        ``region``; ``filled`` in, of the arm in question, or None; ``against``, of the arm that
        the finding is against, which is the floor where there is none; ``real``.
    """
    facts, rival = verdict.facts, verdict.against
    arms = regions[name := main_region(regions)]["arms"]
    told = {
        "region": name, "filled": arms[facts.arm]["dice"] if facts.arm else None,
        "against": arms[rival.name if rival else floor]["dice"], "real": arms["full"]["dice"],
    }  # fmt: skip
    if rival is None:
        return told
    for other in filter(None, (rival, facts.floor, facts.cheap)):
        here = told["filled"] - arms[other.name]["dice"]
        is_sure = other.suffices or other.ahead.low > 0
        is_told = other is rival and (here > 0) != (other.ahead.value > 0)
        if is_told or (is_sure and _leaning(here) != _leaning(other.ahead.value)):
            return {"region": "", "filled": facts.mean, "against": rival.mean, "real": None}
    return told


def _leaning(lead: float) -> int:
    """Whether a lead in Dice is a useful one, too small to matter, or a loss."""
    return (lead >= USEFUL) - (lead < 0)


def best_two(summary: Mapping[str, Any], synthetic: Collection[str]) -> Mapping[str, Any] | None:
    """The lead of the best synthetic arm over the second; None where there are no two."""
    (best, *_) = summary.get("leads") or [None]
    return best if best and best["against"] in synthetic else None


def headline_of(
    verdict: Verdict,
    summary: Mapping[str, Any],
    floor: str,
    labels: Mapping[str, str],
    synthetic: Collection[str],
) -> dict[str, Any]:
    """``headline`` of ``summary.json``: badge, sentence and advice, all from one verdict.

    Of several synthetic arms the sentence begins with the best one's lead over the second. Where
    the check of the export path failed, all of it says that alone.

    Args:
        verdict: Of the arm in question.
        summary: Its figures, ``regions``, ``plumbing`` and, of several synthetic arms, ``leads``.
        floor: The arm that recovers nothing.
        labels: How each arm is called.
        synthetic: Names of the synthetic arms.
    """
    facts, pointed = verdict.facts, verdict.in_enough or verdict
    cheap = pointed.facts.cheap or (pointed.advice.arm if pointed.advice else None)
    meant = pointed.advice.arm if pointed.advice else None
    head = {
        "worth": verdict.worth,
        "likely": verdict.likely,
        "worth_if_frozen": verdict.worth_if_frozen,
        "better": verdict.better.name if verdict.better else None,
        "likely_better": pointed.better.name if pointed.better else None,
        "rival": cheap.name if cheap and cheap.about.is_cheap else None,
        "primary": facts.arm,
        "hint": facts.is_hint,
    }
    check = summary["plumbing"]
    if check and not check["passed"]:
        told = {"badge": say("badge", head=head, failed=True), "sentence": say("export_failed")}
        unknown = dict.fromkeys(("worth", "likely", "worth_if_frozen"), "unclear")
        nobody = dict.fromkeys(("better", "likely_better"))
        return {**told, "advice": say("mend_export"), **head, **unknown, **nobody}
    dice, pair = levels_told(summary["regions"], floor, pointed), best_two(summary, synthetic)
    sentence = (
        say("several", v=verdict, pair=pair, labels=labels)
        if pair
        else say("headline", v=verdict, dice=dice)
    )
    return {
        "badge": say("badge", head=head),
        "sentence": sentence,
        "advice": say("advice", v=verdict, label=labels[meant.name] if meant else ""),
        **head,
    }


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
    synthetic = {arm["name"] for arm in arms if arm["group"] == "synthesis"}
    pair = best_two(summary, synthetic) or {}
    told = [pair[end] for end in ("arm", "against") if pair]
    rival = head["rival"]
    if head["primary"] is None:  # what was tried is shown, whatever it is worth
        rival = rival or summary["regions"][main_region(summary["regions"])]["best_cheap"]
    shown = [floor, head["primary"], *told, "full", rival, better]
    names = list(dict.fromkeys(name for name in shown if name))
    part = dict.fromkeys(told, "other")
    part |= {better: "likely" if head["hint"] else "better", rival: "rival"}
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
    check = summary["plumbing"]
    if head["worth"] != "unclear" or head["better"] or (check and not check["passed"]):
        return []
    found, kinds = [], {arm["kind"] for arm in summary["arms"]}
    regions = summary["regions"].values()
    if all(not r["gap_defined"] and r["arms"]["full"]["dice"] < WEAK_DICE for r in regions):
        return [say("need_segmenter")]
    patients = max(region["patients"] for region in summary["regions"].values())
    if patients < FEW_CASES:
        found.append(say("need_patients", enough=FEW_CASES, patients=patients))
    elif (count := _patients_for_a_lead(summary)) and count["rival"]:
        label = labels[count["rival"]]
        found.append(say("need_lead", count=count, here=patients, label=label))
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
