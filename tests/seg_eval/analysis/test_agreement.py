"""Volumes against others: bias, limits of agreement and Lin's concordance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg_eval.analysis.agreement import concordance, limits_of_agreement, volume_agreement
from seg_eval.analysis.tables import Clusters
from seg_eval.arms.kinds import Arm
from seg_eval.scoring.scores import Score

ARMS = [Arm("full", "full"), Arm("zero", "zero"), Arm("label", "synthetic")]
VOLUMES = arrays(float, 7, elements=st.floats(0, 300))


def score(case, arm, predicted, reference, seed=0, patient=None):
    """A row of which only the volumes matter."""
    return Score(
        case, patient or case, arm, seed, "WT", 0.5, None, None, None, None, 1, 1, 0, None, None,
        reference, predicted, predicted - reference, round(1000 * reference),
        round(1000 * predicted), 1.0, "brats-2023", 1.0,
    )  # fmt: skip


def find(by_arm, reference):
    """The rows of the arms' volumes, by arm and what they are held against."""
    rows = [
        score(f"c{i}", arm, volume, reference[i])
        for arm, volumes in by_arm.items()
        for i, volume in enumerate(volumes)
    ]
    found = volume_agreement(rows, ARMS, ["WT"])
    return {(row["arm"], row["against"]): row for row in found}


def test_a_worked_example():
    """Differences 1, 2, 3 and 6 mL: mean 3, standard deviation sqrt(14 / 3)."""
    reference = [10.0, 20, 30, 40]
    made = {"full": [10, 20, 30, 40], "zero": [0, 0, 0, 0], "label": [11, 22, 33, 46]}
    found = find(made, reference)
    row = found["label", "label"]
    assert row["bias"]["value"] == pytest.approx(3)
    spread = np.sqrt(14 / 3)
    for side, value in (("low", 3 - 1.96 * spread), ("high", 3 + 1.96 * spread)):
        found_here = {"value": pytest.approx(value), "low": None, "high": None}  # four patients
        assert row["limits"][side] == found_here
    # s_xy 145, s_x² 125, s_y² 168.5, (28 - 25)² 9: an arm called "label" is held against the label
    assert row["concordance"]["value"] == pytest.approx(2 * 145 / (125 + 168.5 + 9))
    assert found["full", "label"]["concordance"] == {"value": 1, "low": None, "high": None}
    assert found["zero", "label"]["concordance"]["value"] == 0
    assert found["zero", "full"]["bias"]["value"] == -25
    assert ("full", "full") not in found
    assert row["bias"]["low"] < 3 < row["bias"]["high"]


@pytest.mark.parametrize(
    ("reference", "cases"), [([12.0], 1), ([0.0] * 5, 5), ([7.0] * 5, 5)],
    ids=["one patient", "no tumour", "equal volumes"],
)  # fmt: skip
def test_where_nothing_varies_there_is_no_concordance(reference, cases):
    made = {"full": reference, "zero": [0.0] * cases, "label": [v + 1 for v in reference]}
    found = find(made, reference)
    for row in found.values():
        assert row["concordance"] is None
        assert (row["limits"] is None) == (cases == 1)
    assert found["label", "label"]["bias"]["value"] == pytest.approx(1)
    assert found["full", "label"]["bias"] == pytest.approx(
        {"value": 0, "low": 0, "high": 0, "freedom": found["full", "label"]["bias"]["freedom"]}
    )


def test_seeds_are_averaged_and_scans_of_a_patient_are_no_further_patients():
    rows = [
        score(f"c{i}", arm, 10 + i + seed, 10.0 + i, seed, patient=f"p{i // 2}")
        for arm in ("full", "zero", "label") for i in range(6) for seed in (0, 2)
    ]  # fmt: skip
    row = volume_agreement(rows, ARMS, ["WT"])[0]
    assert (row["cases"], row["patients"]) == (6, 3)
    assert row["bias"]["value"] == pytest.approx(1)
    assert [row["limits"][side]["value"] for side in ("low", "high")] == pytest.approx([1, 1])
    assert row["concordance"]["low"] is None  # three patients


def test_intervals_of_limits_of_agreement_by_hand():
    """17 differences of standard deviation 21.83, bias -3.1: Student's 2.120 of 16, error 9.2.

    s² / 17 + 1.96² s² / 32 = s² · 0.1789; the paper rounds that to 3 s² / 17.
    """
    shape = np.linspace(-1, 1, 17)
    differences = -3.1 + 21.83 * shape / shape.std(ddof=1)
    found = limits_of_agreement(differences, 17)
    for side, value in (("low", -3.1 - 42.79), ("high", -3.1 + 42.79)):
        half = 2.1199 * 21.83 * np.sqrt(0.17887)
        want = {"value": value, "low": value - half, "high": value + half}
        assert found[side] == pytest.approx(want, abs=0.01)
    fewer = limits_of_agreement(differences, 9)
    assert fewer["low"] == {"value": found["low"]["value"], "low": None, "high": None}


@given(arrays(float, 12, elements=st.floats(-300, 300)), st.floats(0.01, 100), st.floats(-50, 50))
def test_limits_go_with_units_and_shifts_and_are_mirrored(differences, unit, shift):
    found = limits_of_agreement(differences, 12)
    moved = limits_of_agreement(unit * differences + shift, 12)
    mirrored = limits_of_agreement(-differences, 12)
    spread = differences.std(ddof=1)
    for side, other in (("low", "high"), ("high", "low")):
        here, size = found[side], 1 + unit * 300 + abs(shift)
        for end, opposite in (("value", "value"), ("low", "high"), ("high", "low")):
            assert moved[side][end] == pytest.approx(unit * here[end] + shift, abs=1e-9 * size)
            assert mirrored[other][opposite] == pytest.approx(-here[end], abs=1e-9 * size)
        # About Student's (2.2 of 11) times sqrt(3 / n) standard deviations.
        assert here["high"] - here["value"] == pytest.approx(
            2.2 * spread * np.sqrt(3 / 12), rel=0.03, abs=1e-9
        )
        assert here["low"] <= here["value"] <= here["high"]


def test_patients_of_one_centre_are_alike_in_volumes_too():
    errors = np.repeat([0.0, 8.0, 20.0], 4) + np.tile([0.0, 1.0], 6)
    rows = [
        score(f"c{i:02d}", arm, 30 + error, 30.0)
        for arm in ("full", "zero", "label") for i, error in enumerate(errors)
    ]  # fmt: skip
    where = {f"c{i:02d}": "uvw"[i // 4] for i in range(12)}
    told, untold = (
        volume_agreement(rows, ARMS, ["WT"], Clusters(centres))[0]["bias"]
        for centres in (where, {})
    )
    assert told["value"] == untold["value"]
    assert told["high"] - told["low"] > 2 * (untold["high"] - untold["low"])


@given(VOLUMES, VOLUMES, st.floats(0.01, 100))
def test_concordance_is_symmetric_without_unit_and_never_above_correlation(x, y, unit):
    if min(np.ptp(x), np.ptp(y)) < 1e-3:
        return
    value = concordance(x, y)
    assert value is not None
    assert value == pytest.approx(concordance(y, x))
    assert value == pytest.approx(concordance(unit * x, unit * y))
    assert abs(value) <= abs(np.corrcoef(x, y)[0, 1]) + 1e-9


@given(st.integers(0, 99))
def test_a_concordance_lies_in_its_interval(seed):
    draws = np.random.default_rng(seed)
    reference = draws.gamma(2, 20, 9)
    made = {arm: np.abs(reference + draws.normal(2, 9, 9)) for arm in ("full", "zero", "label")}
    for row in find(made, reference).values():
        found = row["concordance"]
        assert -1 <= found["low"] <= found["value"] <= found["high"] <= 1
