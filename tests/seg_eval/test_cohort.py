"""Who takes part in an experiment: gaps are the normal case, and nobody is left out in silence."""

import json

import pytest

from seg_eval.cohort import choose_splits, load_cohort
from synth3d.cohort import Splits, find_cases
from synth3d.errors import InputError


def lacking(cohort, **what):
    """Removes a file of cases, by letter."""
    for letter, suffix in what.items():
        name = f"Brats18_TOY_{letter}_1"
        (cohort / name / f"{name}_{suffix}.nii.gz").unlink()


def letters(cases):
    return "".join(case.name[-3] for case in cases)


def test_cases_that_lack_files_take_no_part_and_are_named(own_cohort, toy_splits, capsys):
    lacking(own_cohort, A="t1", H="seg", E="flair")  # E is only validated on, which nobody does
    cohort = load_cohort(own_cohort, toy_splits)
    assert (letters(cohort.train), letters(cohort.test)) == ("BCD", "FG")
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "complete" in line]
    assert "5 of 7 cases are complete" in note
    assert "Brats18_TOY_A_1 lacks t1n; Brats18_TOY_H_1 lacks the label" in note
    assert any("Brats18_TOY_A_1 lacks t1n" in text for text in cohort.notes)  # and in the report


def test_where_nobody_is_left_out_nothing_is_said(toy_cohort, toy_splits, capsys):
    assert load_cohort(toy_cohort, toy_splits).notes == []
    assert "left out" not in capsys.readouterr().err


def test_without_a_whole_test_case_there_is_no_experiment(own_cohort, toy_splits):
    lacking(own_cohort, F="t1", G="t2", H="seg")
    with pytest.raises(InputError, match="no test case of the split is left: 4 of 7.*H_1 lacks"):
        load_cohort(own_cohort, toy_splits)


def test_a_split_is_drawn_among_cases_that_can_be_judged(own_cohort):
    lacking(own_cohort, A="t1", H="seg")
    splits = choose_splits(find_cases(own_cohort), None, None)
    drawn = sorted(name[-3] for side in (splits.train, splits.val, splits.test) for name in side)
    assert "".join(drawn) == "BCDEFG"
    lacking(own_cohort, B="t1", C="t1", D="t1", E="t1")
    with pytest.raises(InputError, match="at least 3 patients.*got 2; 2 of 8 cases have all four"):
        choose_splits(find_cases(own_cohort), None, None)


def test_the_runs_split_may_name_cases_that_lack_something(own_cohort, toy_splits):
    lacking(own_cohort, A="flair", F="t1ce")
    of_run = Splits(
        *(tuple(json.loads(toy_splits.read_text())[s]) for s in ("train", "val", "test"))
    )
    cohort = load_cohort(own_cohort, None, of_run)
    assert (letters(cohort.train), letters(cohort.test)) == ("BCD", "GH")
