import json
from dataclasses import asdict, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg_eval.scoring.regions import region_masks
from seg_eval.scoring.scores import EMPTY_RULES, METRICS, Score, conditions, counted, score_case
from synth3d.cohort.labels.schemes import SCHEMES

MASKS = arrays(bool, (3, 4, 2))
SPACING = (2.0, 1.0, 0.5)


def score(reference, prediction, spacing=SPACING):
    """The only row of a case with one region."""
    (row,) = score_case(("c", "p", "arm", 7), {"WT": reference}, {"WT": prediction}, spacing)
    return row


def test_a_worked_example():
    """Rods of 100 voxels along x, the prediction 20 voxels of 0.5 mm further on.

    Each way 80 distances are 0 and the others 0.5, 1, ..., 10 mm; the 95th percentile of 100 values
    is a twentieth of the way from the 95th to the 96th, which are 7.5 and 8 mm.
    """
    a, b = np.zeros((1, 1, 160), bool), np.zeros((1, 1, 160), bool)
    a[0, 0, :100], b[0, 0, 20:120] = True, True
    assert score(a, b) == Score(
        case="c", patient="p", arm="arm", seed=7, region="WT",
        dice=0.8,
        hd95_mm=pytest.approx(7.525),
        nsd=pytest.approx(2 * 82 / 200),
        lesion_dice=0.8,
        lesion_hd95_mm=pytest.approx(7.525),
        lesions=1, found_lesions=1, false_lesions=0,
        sensitivity=0.8, precision=0.8,
        reference_ml=pytest.approx(0.1), predicted_ml=pytest.approx(0.1), volume_error_ml=0,
        reference_voxels=100, predicted_voxels=100,
        nsd_tolerance_mm=1.0, lesion_rule="ours", longest_side_mm=2.0,
    )  # fmt: skip


def test_volumes_and_shares_follow_the_spacing():
    a, b = np.zeros((4, 5, 6), bool), np.zeros((4, 5, 6), bool)
    a[0, 0, :4], b[0, 0, 3:5] = True, True
    row = score(a, b, (2.0, 3.0, 10.0))
    assert (row.reference_ml, row.predicted_ml, row.volume_error_ml) == (0.24, 0.12, -0.12)
    assert (row.sensitivity, row.precision) == (1 / 4, 1 / 2)


@pytest.mark.parametrize(
    ("spacing", "rule"),
    [((1.0, 1.0, 1.0), "brats-2023"), ((1.000001, 1, 1), "brats-2023"), ((2, 2, 2), "ours"),
     ((0.5, 1.0, 2.0), "ours"), ((0.9375, 0.9375, 1.2), "ours")],
)  # fmt: skip
def test_the_lesion_rule_has_its_official_name_at_voxels_of_1_mm_alone(spacing, rule):
    """Voxels of 1 mm³ that are no cubes are none."""
    row = score(FULL, FULL, spacing)
    assert (row.lesion_rule, row.longest_side_mm) == (rule, max(spacing))


def test_rows_know_their_tolerance_and_of_different_ones_there_is_no_mean():
    a, b = np.zeros((1, 1, 30), bool), np.zeros((1, 1, 30), bool)
    a[0, 0, :10], b[0, 0, 4:14] = True, True
    rows = [
        score_case(("c", "p", "arm", 0), {"WT": a}, {"WT": b}, SPACING, tolerance)[0]
        for tolerance in (0.5, 2.0)
    ]
    assert [row.nsd for row in rows] == pytest.approx([14 / 20, 1])
    assert [conditions([row]).exceeds_tolerance for row in rows] == [True, False]
    with pytest.raises(ValueError, match="one NSD tolerance"):
        conditions(rows)


NOTHING, VOXEL = np.zeros((2, 1, 3), bool), np.zeros((2, 1, 3), bool)
VOXEL[1, 0, 2] = True
FULL = ~NOTHING


@pytest.mark.parametrize("some", [VOXEL, FULL], ids=["voxel", "full"])
def test_empty_regions_follow_the_rule(some):
    big = (5.0, 5.0, 5.0)  # so that one voxel is a lesion that counts
    both, missed, false, same = (
        score(a, b, big)
        for a, b in ((NOTHING, NOTHING), (some, NOTHING), (NOTHING, some), (some, some))
    )
    for row in (both, same):
        assert (row.dice, row.hd95_mm, row.nsd) == (1, 0, 1)
        assert (row.lesion_dice, row.lesion_hd95_mm) == (1, 0)
    for row in (missed, false):
        assert (row.dice, row.hd95_mm, row.nsd) == (0, 374, 0)
        assert (row.lesion_dice, row.lesion_hd95_mm) == (0, 374)
    assert [row.sensitivity for row in (both, missed, false, same)] == [None, 0, None, 1]
    assert [row.precision for row in (both, missed, false, same)] == [None, None, 0, 1]
    assert [row.lesions for row in (both, missed, false, same)] == [0, 1, 0, 1]
    assert (false.false_lesions, missed.found_lesions, same.found_lesions) == (1, 0, 1)


def test_a_row_survives_json():
    row = score(VOXEL, NOTHING)
    assert Score(**json.loads(json.dumps(asdict(row), allow_nan=False))) == row


def test_every_region_of_the_reference_has_a_row():
    masks = {"WT": FULL, "TC": VOXEL, "ET": NOTHING}
    rows = score_case(("c", "p", "full", 0), masks, masks, SPACING)
    assert [(row.region, row.reference_voxels) for row in rows] == [("WT", 6), ("TC", 1), ("ET", 0)]


@given(MASKS, MASKS)
def test_scores_agree_with_one_another(a, b):
    row = score(a, b)
    assert row.volume_error_ml == pytest.approx(row.predicted_ml - row.reference_ml)
    if row.sensitivity and row.precision:
        harmonic = 2 / (1 / row.sensitivity + 1 / row.precision)
        assert row.dice == pytest.approx(harmonic)
    assert (row.dice == 1) == (row.hd95_mm == 0 and np.array_equal(a, b))
    assert row.found_lesions <= row.lesions


@given(MASKS, MASKS)
def test_reference_and_prediction_change_places(a, b):
    one, other = score(a, b), score(b, a)
    assert (one.dice, one.hd95_mm) == (other.dice, other.hd95_mm)
    assert one.nsd == pytest.approx(other.nsd)
    assert (one.sensitivity, one.precision) == (other.precision, other.sensitivity)
    assert one.volume_error_ml == -other.volume_error_ml


LABELS = arrays(np.uint8, (3, 4, 2), elements=st.integers(0, 3))


@given(LABELS, LABELS)
def test_nnunet_counts_the_same_voxels(real, found):
    """Its Dice is ours but for regions that both lack, where it has none."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics

    class Reader:
        def read_seg(self, name):
            return {"real": real, "found": found}[name][None], {}

    regions = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    theirs = compute_metrics("real", "found", Reader(), list(regions.values()))["metrics"]
    masks = [region_masks(labels, SCHEMES["brats2023"]) for labels in (real, found)]
    for row in score_case(("c", "p", "full", 0), *masks, SPACING):
        their = theirs[regions[row.region]]
        assert row.dice == pytest.approx(1 if np.isnan(their["Dice"]) else their["Dice"])
        assert (row.reference_voxels, row.predicted_voxels) == (their["n_ref"], their["n_pred"])
        if row.sensitivity is not None:
            assert row.sensitivity == pytest.approx(their["TP"] / their["n_ref"])


def test_every_metric_is_a_column_that_can_be_printed():
    names = [field.name for field in fields(Score)]
    row = score(FULL, VOXEL)
    assert [name for name in names if name in METRICS] == list(METRICS)
    for name, metric in METRICS.items():
        assert format(float(getattr(row, name)), metric.format)
        assert metric.better in ("higher", "lower", "zero")
        assert metric.definition.endswith(".")


@pytest.mark.parametrize("rule", EMPTY_RULES)
def test_skipping_leaves_a_case_out_of_every_arm_alike(rule):
    rows = []
    for arm, found in {"full": VOXEL, "zero": NOTHING}.items():
        rows += score_case(("A", "a", arm, 0), {"ET": NOTHING}, {"ET": found}, SPACING)
        rows += score_case(("B", "b", arm, 0), {"ET": VOXEL}, {"ET": found}, SPACING)
    assert [row.dice for row in rows] == [0, 1, 1, 0]
    kept = {(row.case, row.arm) for row in counted(rows, rule)}
    cases = {"brats": "AB", "skip": "B"}[rule]
    assert kept == {(case, arm) for case in cases for arm in ("full", "zero")}


@pytest.mark.parametrize(
    ("prediction", "spacing", "told"),
    [({}, SPACING, "the prediction of c has no region WT"),
     ({"WT": FULL[..., :1]}, SPACING, r"reference is \(2, 1, 3\), prediction \(2, 1, 1\)"),
     ({"WT": FULL.astype(np.uint8)}, SPACING, r"a bool mask \(D, H, W\), got uint8"),
     *(({"WT": FULL}, bad, "three positive mm")
       for bad in ((1, 1), (1, 0, 1), (1, np.nan, 1), (-1, 1, 1)))],
)  # fmt: skip
def test_refuses_what_cannot_be_compared(prediction, spacing, told):
    with pytest.raises(ValueError, match=told):
        score_case(("c", "p", "full", 0), {"WT": FULL}, prediction, spacing)
