import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth3d.cohort import Case, Splits, make_splits, patient_of, read_splits, write_splits
from synth3d.errors import InputError


def cases(*names):
    return [Case(n, patient_of(n), Path(n), {}, None, "brats2023") for n in names]


COHORT = cases(*(f"BraTS-GLI-{p:05d}-{t:03d}" for p in range(8) for t in range(2)))
A0, A1, B0, B1, C0 = (case.name for case in COHORT[:5])


def save(path, **sides):
    path.write_text(json.dumps(sides))
    return path


def test_what_is_written_is_read(tmp_path):
    splits = Splits((A0, A1), (B0,), (C0,), (B1,))
    write_splits(tmp_path / "splits.json", splits)
    assert json.loads((tmp_path / "splits.json").read_text())["excluded_from_metrics"] == [B1]
    assert read_splits(tmp_path / "splits.json", COHORT) == splits
    # Only train is needed.
    assert read_splits(save(tmp_path / "s.json", train=[A1, A0]), COHORT) == Splits((A0, A1))


def test_patients_are_dealt_whole_and_the_same_way_each_time():
    splits = make_splits(COHORT, seed=3)
    assert splits == make_splits(COHORT[::-1], seed=3)
    assert splits != make_splits(COHORT, seed=4)
    with pytest.raises(InputError, match="at least 3 patients .* got 2"):
        make_splits(COHORT[:4])
    assert [len(side) for side in (splits.train, splits.val, splits.test)] == [10, 2, 4]


@given(st.integers(3, 40), st.integers(0, 5), st.floats(0, 0.4), st.floats(0, 0.4))
def test_sides_are_never_empty_and_never_share_a_patient(n, seed, val, test):
    cohort = cases(*(f"BraTS-GLI-{p:05d}-{t:03d}" for p in range(n) for t in range(1 + p % 2)))
    splits = make_splits(cohort, seed, val, test)
    sides = [
        {patient_of(name) for name in side} for side in (splits.train, splits.val, splits.test)
    ]
    assert all(sides)
    assert sum(map(len, sides)) == len(set().union(*sides)) == n
    assert sorted(splits.train + splits.val + splits.test) == [case.name for case in cohort]


@pytest.mark.parametrize(
    "text",
    [
        f'\ufeff{{"train": ["{A0}"], "val": ["{B0}"]}}',
        f'{{"Training": ["{A0}.nii.gz"], "validation": ["{B0}"]}}',
        f'[{{"train": ["{A0}"], "val": ["{B0}.NII"]}}]',
    ],
)
def test_the_splits_of_others_are_read(tmp_path, text):
    (tmp_path / "s.json").write_text(text, encoding="utf-8")
    assert read_splits(tmp_path / "s.json", COHORT) == Splits((A0,), (B0,))


@pytest.mark.parametrize(
    ("sides", "match"),
    [
        ({"train": [A0], "val": [], "validation": [B0]}, "two keys mean val"),
        ({"train": [A0[:-1]]}, f"not in the cohort .nearest: {A0[:-3]}"),
        ({"train": ["00000"]}, "it is a patient; name its cases"),
        ({"train": ["X"]}, "case X .train. is not in the cohort"),
        ({"train": [A0], "test": [A1]}, f"patient 00000 is in train .{A0}. and test .{A1}"),
        ({"train": [A0], "test": [A0]}, f"case {A0} is listed twice .train and test"),
        ({"train": [A0], "tset": [B0]}, "expected the keys train, val, test"),
        ({"train": "A"}, "train must be a list of case names"),
        ({"test": [A0]}, "expected the keys train"),
    ],
)
def test_unsound_splits_are_refused(tmp_path, sides, match):
    with pytest.raises(InputError, match=match):
        read_splits(save(tmp_path / "s.json", **sides), COHORT)
    (tmp_path / "s.json").write_text(json.dumps([{"train": [A0]}] * 5))
    with pytest.raises(InputError, match="5 folds, .*save one fold"):
        read_splits(tmp_path / "s.json", COHORT)
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(InputError, match=r"s\.json is not valid JSON"):
        read_splits(tmp_path / "s.json", COHORT)


def test_of_many_unknown_cases_the_number_and_the_first_are_told(tmp_path):
    """As with the split of another cohort: no clause for each of a hundred."""
    gone = [f"Other-{number:03d}" for number in range(100)]
    with pytest.raises(InputError) as raised:
        read_splits(save(tmp_path / "s.json", train=[A0, *gone[:90]], test=gone[90:]), COHORT)
    sentence = str(raised.value)
    assert "100 of 101" in sentence
    assert f"{gone[0]} (train)" in sentence
    assert sum(name in sentence for name in gone) == 3
    assert "97 more" in sentence


def test_an_excluded_case_may_belong_to_a_patient_of_a_side(tmp_path):
    path = save(tmp_path / "s.json", train=[A0], excluded_from_metrics=[A1])
    assert read_splits(path, COHORT).excluded == (A1,)
