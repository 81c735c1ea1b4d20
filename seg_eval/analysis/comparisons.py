"""Which tests an experiment makes: fixed by its arms, not by what came out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from seg_eval.analysis.region import over_patients, plain
from seg_eval.analysis.significance import (
    SIGNIFICANT,
    by_patient,
    holm,
    non_inferiority,
    signed_ranks,
)
from seg_eval.analysis.tables import ScoreTable
from seg_eval.arms import Arm
from synth3d.scoring import FEW_CASES, Crossed


def compare_arms(tables: Mapping[str, ScoreTable], arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Signed-rank tests of Dice of each synthetic arm against the kinds with a ``tested``.

    All comparisons, synthetic arms and regions of ``tables``, those that the experiment is about,
    are one family for Holm's correction.
    """
    others = [arm for arm in arms if arm.about.tested]
    others.sort(key=lambda arm: arm.about.tested == "two-sided")  # one-sided first
    rows = [
        _compare(region, table, arm, other)
        for arm in of_synthesis(arms)
        for region, table in tables.items()
        for other in others
    ]  # fmt: skip
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": adjusted, "significant": adjusted < SIGNIFICANT}
    return rows


def _compare(region: str, table: ScoreTable, arm: Arm, other: Arm) -> dict[str, Any]:
    differences = by_patient(table.values[arm.name] - table.values[other.name], table.patients)
    alternative = other.about.tested or "two-sided"
    return {
        "region": region,
        "arm": arm.name,
        "against": other.name,
        "alternative": alternative,
        **asdict(signed_ranks(differences, alternative, table.alike)),
        "mean_difference": float(differences.mean()),
    }


def leads(
    tables: Mapping[str, ScoreTable], arms: Sequence[Arm], confidence: float
) -> list[dict[str, Any]]:
    """How far each synthetic arm is ahead of every other compared arm, by what is tabulated.

    Best synthetic arm first, by ``mean``; it is held against those below it, then against the
    others. Several trainings of a synthesiser are drawn at random, those of one arm independently
    of another's: two arms of one seed are two trainings. Of ``mean`` a lead is proven where its
    interval, of ``confidence``, lies above 0 in ``FEW_CASES`` patients or more; of what else is
    tabulated nothing is.
    """
    level = {arm.name: tables["mean"].apart[arm.name].mean() for arm in of_synthesis(arms)}
    order = sorted(level, key=lambda name: -level[name])
    others = [arm.name for arm in arms if arm.about.compared and arm.name not in level]
    pairs = [(a, b) for place, a in enumerate(order) for b in [*order[place + 1 :], *others]]
    rows = []
    for arm, other in pairs:
        for name, table in tables.items():
            crossed = table.crossed()
            found = crossed.mean(table.apart[arm], confidence, less=table.apart[other])
            differences = by_patient(table.values[arm] - table.values[other], table.patients)
            is_proven = bool(found.low > 0) and crossed.patients >= FEW_CASES
            rows.append({
                "region": name,
                "arm": arm,
                "against": other,
                "lead": plain(found) | over_patients(differences),
                "proven": is_proven if name == "mean" else None,
            })  # fmt: skip
    return rows


def of_synthesis(arms: Sequence[Arm]) -> list[Arm]:
    """The synthetic arms, in their order."""
    return [arm for arm in arms if arm.about.group == "synthesis"]


def compare_with_full(
    tables: Mapping[str, ScoreTable],
    arms: Sequence[Arm],
    crossed: Mapping[str, Crossed],
    margin: float,
    judged: Sequence[str],
) -> list[dict[str, Any]]:
    """Non-inferiority of every compared arm against ``full``, by region.

    The bounds of an arm hold for all regions that are ``judged`` together; in the others, whose
    bounds hold for all regions, nothing is decided. There is no correction for several arms, of
    which each is a statement of its own.
    """
    rows = []
    for region, table in tables.items():
        for arm in [arm for arm in arms if arm.about.compared]:
            values = table.values["full"], table.apart[arm.name]
            count = len(judged if region in judged else tables)
            loss, passed = non_inferiority(*values, crossed[region], margin, count)
            rows.append({
                "region": region,
                "arm": arm.name,
                "against": "full",
                "margin": margin,
                "mean_loss": loss.value,
                "upper_bound": loss.high if math.isfinite(loss.high) else None,
                "passed": passed if region in judged else None,
            })  # fmt: skip
    return rows


def hopeless(tests: Sequence[Mapping[str, Any]]) -> int:
    """How many tests there are, if none of them can come out significant, else 0.

    The smallest p of one-sided signed ranks over n patients, or clusters of these, is 2^-n, and
    Holm multiplies the smallest of a family by the family's size.
    """
    smallest = min((2.0 ** -row["clusters"] * len(tests) for row in tests), default=0)
    return 0 if smallest < SIGNIFICANT else len(tests)
