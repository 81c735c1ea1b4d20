"""Which tests an experiment makes: fixed by its arms, not by what came out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from seg_eval.analysis.significance import (
    SIGNIFICANT,
    Alternative,
    by_patient,
    holm,
    non_inferiority,
    signed_ranks,
)
from seg_eval.analysis.tables import ArmLike, ScoreTable
from synth3d.scoring import PairedBootstrap

AGAINST: dict[str, Alternative] = {
    "zero": "greater",
    "copy": "greater",
    "full": "two-sided",
    "specialist": "two-sided",
    "dropout": "two-sided",
    "retrained": "two-sided",
}
"""Kind of arm that each synthetic arm is tested against, and how."""


def compare_arms(tables: Mapping[str, ScoreTable], arms: Sequence[ArmLike]) -> list[dict[str, Any]]:
    """Signed-rank tests of Dice of each synthetic arm against the arms of :data:`AGAINST`.

    Regions and comparisons of one synthetic arm are one family for Holm's correction. The first
    synthetic arm is the experiment's question; the others are families of their own.

    Args:
        tables: Dice by region.
        arms: The arms, in order.
    """
    rows = []
    for arm in [arm for arm in arms if arm.kind == "synthetic"]:
        others = [other for kind in AGAINST for other in arms if other.kind == kind]
        family = [
            _compare(region, table, arm, other) for region, table in tables.items()
            for other in others
        ]  # fmt: skip
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            row |= {"p_holm": adjusted, "significant": adjusted < SIGNIFICANT}
            row["family"] = arm.name
        rows += family
    return rows


def _compare(region: str, table: ScoreTable, arm: ArmLike, other: ArmLike) -> dict[str, Any]:
    differences = by_patient(table.values[arm.name] - table.values[other.name], table.patients)
    found = signed_ranks(differences, AGAINST[other.kind])
    return {
        "region": region,
        "arm": arm.name,
        "against": other.name,
        "alternative": AGAINST[other.kind],
        "n": found.patients,
        "ties": found.ties,
        "statistic": found.statistic,
        "p": found.p,
        "mean_difference": float(differences.mean()),
    }


def compare_with_full(
    tables: Mapping[str, ScoreTable],
    arms: Sequence[ArmLike],
    draws: Mapping[str, PairedBootstrap],
    margin: float,
) -> list[dict[str, Any]]:
    """Non-inferiority of every arm but the references and checks against ``full``, by region.

    No correction for several arms: each bound is a statement about its arm alone.
    """
    rows = []
    for region, table in tables.items():
        for arm in [arm for arm in arms if arm.kind not in ("full", "zero", "plumbing")]:
            values = table.values["full"], table.values[arm.name]
            found = non_inferiority(*values, draws[region], margin)
            rows.append({
                "region": region,
                "arm": arm.name,
                "against": "full",
                "margin": margin,
                "mean_loss": found.mean_loss,
                "upper_bound": found.upper_bound,
                "passed": found.passed,
            })  # fmt: skip
    return rows


def hopeless(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning where no test can come out significant, however large the differences.

    The smallest p of one-sided signed ranks over n patients is 2^-n, and Holm multiplies the
    smallest of a family by the family's size.
    """
    sizes = Counter(row["family"] for row in tests)
    smallest = [2.0 ** -row["n"] * sizes[row["family"]] for row in tests]
    if min(smallest, default=0) < SIGNIFICANT:
        return []
    return [
        f"no test can come out significant with so few patients: over {max(sizes.values())} tests "
        "Holm's correction asks for more than signed ranks can give; read the intervals"
    ]
