"""For whom Dice stays lost: cases that lack a region, small and large tumours, centres."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_eval.analysis.absent import tell_absent
from seg_eval.analysis.strata import loss_by_centre, loss_by_size
from seg_eval.analysis.summary import Question, summarise
from seg_eval.arms.kinds import Arm
from seg_eval.scoring.scores import Score

ARMS = [Arm("full", "full"), Arm("zero", "zero"), Arm("agi", "synthetic")]
MEANS = {"full": 0.9, "zero": 0.3, "agi": 0.75}


def rows_of(sizes, seeds=1, means=MEANS, region="ET"):
    """A case for each of ``sizes`` in mL, whose Dice differs a little from case to case."""
    return [
        Score(
            f"c{i:02d}", f"p{i:02d}", arm, seed, region, mean + 0.01 * (i % 3 - 1), None, None,
            None, None, 1, 1, 0, None, None, ml, ml, 0.0, round(1000 * ml), round(1000 * ml), 1.0,
            "brats-2023", 1.0,
        )
        for arm, mean in means.items() for i, ml in enumerate(sizes) for seed in range(seeds)
    ]  # fmt: skip


def painted(rows, case, ml):
    """The rows, with ``case`` lacking the region and painted by arm in ``ml``, by seed."""
    found = []
    for row in rows:
        if row.case == case:
            each = ml.get(row.arm, [0.0])
            volume = each[row.seed % len(each)]
            row = replace(
                row, reference_ml=0.0, reference_voxels=0, predicted_ml=volume,
                predicted_voxels=round(1000 * volume), dice=float(not volume),
            )  # fmt: skip
        found.append(row)
    return found


def test_a_false_alarm_moves_one_rule_and_not_the_other():
    rows = painted(rows_of([5.0] * 12, seeds=2), "c04", {"agi": [0.0, 3.0]})
    (told,) = tell_absent(rows, ARMS, "zero")
    assert (told["region"], told["cases"]) == ("ET", ["c04"])
    agi = told["arms"]["agi"]
    assert (agi["brats"]["cases"], agi["skip"]["cases"]) == (12, 11)
    assert agi["skip"]["dice"] == pytest.approx(0.75, abs=0.002)
    assert agi["brats"]["dice"] == pytest.approx((11 * agi["skip"]["dice"] + 0.5) / 12)
    assert agi["skip"]["recovery"]["value"] == pytest.approx(0.75)
    assert agi["brats"]["recovery"]["value"] < 0.7
    assert agi["false_alarms"] == {"cases": 1, "ml": 1.5, "most_ml": 1.5}
    assert told["arms"]["full"]["false_alarms"] == {"cases": 0, "ml": 0.0, "most_ml": 0.0}


@pytest.mark.parametrize("empty", ["brats", "skip"])
def test_both_rules_are_told_whichever_the_experiment_has(empty):
    rows = painted(rows_of([5.0] * 12), "c04", {"zero": [2.0]})
    told = summarise(rows, (), Question(ARMS, empty=empty)).figures["absent"]
    assert told == tell_absent(rows, ARMS, "zero")
    assert summarise(rows_of([5.0] * 12), (), Question(ARMS, empty=empty)).figures["absent"] == []


def test_where_no_case_has_the_region_there_is_no_second_rule():
    rows = painted(rows_of([5.0]), "c00", {})
    (told,) = tell_absent(rows, ARMS, "zero")
    assert told["arms"]["agi"]["skip"] is None
    assert told["arms"]["agi"]["brats"]["dice"] == 1


def test_small_tumours_may_lose_more_than_large_ones():
    rows = [
        replace(row, dice=0.2) if row.arm == "agi" and row.reference_ml < 3 else row
        for row in rows_of([float(ml) for ml in range(1, 10)])
    ]
    found = [row for row in loss_by_size(rows, ARMS, ["ET"]) if row["arm"] == "agi"]
    assert [row["third"] for row in found] == ["smallest", "middle", "largest"]
    assert [(row["low_ml"], row["high_ml"]) for row in found] == [(1, 3), (4, 6), (7, 9)]
    assert found[0]["loss"]["value"] > 0.4
    assert [row["loss"]["value"] for row in found[1:]] == pytest.approx([0.15, 0.15])
    assert {row["arm"] for row in loss_by_size(rows, ARMS, ["ET"])} == {"zero", "agi"}


def test_a_case_without_the_region_has_no_size():
    rows = painted(rows_of([4.0, 0.0, 1, 2, 3, 5, 6]), "c01", {})
    found = loss_by_size(rows, ARMS, ["ET"])
    assert sum(row["cases"] for row in found if row["arm"] == "agi") == 6
    assert min(row["low_ml"] for row in found) == 1


@pytest.mark.parametrize("sizes", [[5.0], [5.0] * 12, [1.0, 2, 3, 4, 5]], ids=str)
def test_too_few_patients_or_one_size_make_no_thirds(sizes):
    assert loss_by_size(rows_of(sizes), ARMS, ["ET"]) == []


@given(st.lists(st.integers(1, 4), min_size=6, max_size=20))
def test_every_case_is_in_one_third_and_equal_sizes_are_together(sizes):
    found = [r for r in loss_by_size(rows_of(sizes), ARMS, ["ET"]) if r["arm"] == "agi"]
    if len(set(sizes)) == 1:
        assert not found
    if found:
        assert sum(row["cases"] for row in found) == len(sizes)
        ends = [end for row in found for end in (row["low_ml"], row["high_ml"])]
        assert ends == sorted(ends)
        assert all(a["high_ml"] < b["low_ml"] for a, b in zip(found, found[1:], strict=False))


def test_centres_stand_apart_and_who_has_none_is_a_group():
    rows = rows_of([5.0] * 5)
    rows = [replace(r, dice=0.4) if (r.arm, r.case) == ("agi", "c04") else r for r in rows]
    centres = {"c00": "North", "c01": "South", "c02": "South"}
    found = [r for r in loss_by_centre(rows, ARMS, ["ET"], centres) if r["arm"] == "agi"]
    assert [(r["centre"], r["cases"]) for r in found] == [("North", 1), ("South", 2), (None, 2)]
    assert found[2]["loss"]["value"] > found[1]["loss"]["value"] == pytest.approx(0.15)


@pytest.mark.parametrize("centres", [{}, {f"c{i:02d}": "North" for i in range(5)}])
def test_without_two_centres_there_is_nothing_to_compare(centres):
    assert loss_by_centre(rows_of([5.0] * 5), ARMS, ["ET"], centres) == []


@pytest.mark.parametrize("backwards", [False, True])
def test_a_patient_of_two_centres_is_of_one_cluster_of_both_everywhere(backwards):
    """In sizes, signed ranks and intervals, in whatever order the files come."""
    rows = [replace(row, patient="p00") if row.case == "c01" else row for row in rows_of([5.0] * 8)]
    order = ["north", "south"][:: -1 if backwards else 1]
    others = ["north", "north", "south", "south", "east", "east"]
    centres = {f"c{number:02d}": name for number, name in enumerate([*order, *others])}
    figures = summarise(rows, (), Question(ARMS, centres=centres)).figures
    expected = {"east": 2, "north": 2, "north+south": 1, "south": 2}
    assert figures["intervals"]["centres"] == expected
    assert {test["clusters"] for test in figures["tests"]} == {4}
