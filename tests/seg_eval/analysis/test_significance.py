import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon

from seg_eval.analysis.significance import by_patient, holm, non_inferiority, signed_ranks
from synth3d.scoring.intervals import Crossed

TENTHS = st.lists(st.integers(-6, 6).map(lambda i: i / 10), min_size=1, max_size=9)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def by_enumeration(differences, alternative):
    """Every assignment of signs, one by one; Pratt's ranks."""
    rounded = np.round(differences, 12)
    ranks = rankdata(np.abs(rounded))[rounded != 0]
    above = ranks[rounded[rounded != 0] > 0].sum()
    sums = [np.dot(ranks, signs) for signs in itertools.product([0, 1], repeat=len(ranks))]
    at_least = np.mean(np.array(sums) >= above - 1e-9)
    at_most = np.mean(np.array(sums) <= above + 1e-9)
    return at_least if alternative == "greater" else min(1, 2 * min(at_least, at_most))


def test_zeros_are_ranked_and_then_left_out():
    # Pratt: the zero takes rank 1, so 0.1 has 2, -0.2 has 3 and 0.3 has 4
    found = signed_ranks(np.array([0.0, 0.1, -0.2, 0.3]), "greater")
    assert (found.statistic, found.n, found.ties) == (6, 4, 1)
    assert found.p == pytest.approx(3 / 8)  # sums of at least 6: {2,4}, {3,4}, {2,3,4}
    assert signed_ranks(np.array([1e-16, -2e-16, 0.3]), "greater").ties == 2  # rounding
    assert signed_ranks(np.zeros(5), "greater").p == signed_ranks(np.zeros(0), "two-sided").p == 1


@given(TENTHS, st.sampled_from(["greater", "two-sided"]))
def test_equals_the_count_over_all_signs_with_ties_and_zeros(differences, alternative):
    found = signed_ranks(np.array(differences), alternative)
    assert found.p == pytest.approx(by_enumeration(np.array(differences), alternative))


def test_patients_of_a_cluster_flip_together():
    # ranks 1, -2, 3 and 4: a has 1 - 2 = -1, b has 3, c has 4; of 8 flips {b,c} and {a,b,c} reach 7
    differences = np.array([0.1, -0.2, 0.3, 0.4])
    found = signed_ranks(differences, "greater", ["a", "a", "b", "c"])
    assert (found.n, found.clusters, found.statistic) == (4, 3, 8)
    assert found.p == pytest.approx(2 / 8)


@given(TENTHS, st.sampled_from(["greater", "two-sided"]), st.randoms())
def test_each_patient_its_own_cluster_is_no_cluster(differences, alternative, random):
    names = [f"fold {number}" for number in range(len(differences))]
    random.shuffle(names)
    alone = signed_ranks(np.array(differences), alternative)
    assert signed_ranks(np.array(differences), alternative, names) == alone


@given(st.lists(st.sampled_from("abcd"), min_size=12, max_size=12))
def test_no_p_value_is_below_what_the_flips_of_the_clusters_allow(clusters):
    found = signed_ranks(np.linspace(0.1, 1, 12), "greater", clusters)
    assert found.p == pytest.approx(2.0 ** -len({*clusters}))


def test_where_folds_are_far_apart_a_test_by_patients_would_find_what_is_not_there():
    """2 000 cohorts of six folds of five without any effect: 5 % found, not a quarter of them."""
    rng = np.random.default_rng(0)
    folds = np.repeat([*"abcdef"], 5)
    cohorts = rng.normal(size=(2000, 6)).repeat(5, 1) + rng.normal(size=(2000, 30))
    found = [[signed_ranks(row, "greater", own).p < 0.05 for own in (folds, ())] for row in cohorts]
    clustered, alone = np.mean(found, axis=0)
    assert 0.02 < clustered < 0.065
    assert alone > 0.15


def test_holm_by_hand():
    # sorted 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.6 x 1, never falling
    assert holm([0.03, 0.01, 0.6, 0.02]) == pytest.approx([0.06, 0.04, 0.6, 0.06])
    assert holm([0.4, 0.5]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
@pytest.mark.parametrize(("count", "method"), [(5, "exact"), (40, "exact"), (300, "approx")])
def test_equals_scipys_test_exact_without_ties_or_of_many_patients(count, method, alternative):
    differences = np.random.default_rng(count).normal(0.1, 1, count)
    if method == "approx":
        differences = differences.round(1)  # ties and zeros
    expected = wilcoxon(
        differences, alternative=alternative, zero_method="pratt", correction=True, method=method
    )
    found = signed_ranks(differences, alternative)
    assert found.p == pytest.approx(float(expected.pvalue), rel=1e-6)


@given(P_VALUES)
def test_holm_lies_between_the_raw_value_and_bonferronis(p_values):
    raw, adjusted = np.array(p_values), np.array(holm(p_values))
    assert (adjusted >= raw - 1e-12).all()
    assert (adjusted <= np.minimum(1, raw * len(raw)) + 1e-12).all()
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    assert holm(raw[order]) == pytest.approx(adjusted[order])  # whatever the order


def test_a_patient_enters_once_and_what_is_not_known_is_left_out():
    values = np.array([[1, 3], [5, np.nan], [np.nan, 4], [np.nan, np.nan], [0, 0]])
    found = by_patient(values, ["b", "b", "a", "c", "d"])
    np.testing.assert_array_equal(found, [4, 3.5, np.nan, 0])


def patients(count, trainings=3):
    return Crossed([f"{i:02d}" for i in range(count)], trainings)


def test_an_arm_that_loses_nothing_is_not_inferior():
    full = np.tile(np.linspace(0.7, 0.95, 20)[:, None], 3)
    loss, passed = non_inferiority(full, full - 0.01, patients(20), margin=0.02)
    assert passed
    assert (loss.value, loss.high) == (pytest.approx(0.01), pytest.approx(0.01))
    assert not non_inferiority(full, full - 0.03, patients(20), margin=0.02)[1]
    assert non_inferiority(full, full - 0.03, patients(20), margin=0.04)[1]
    assert not non_inferiority(full[:1], full[:1], patients(1), margin=0.02)[1]  # has no bound
    assert not non_inferiority(full, full, patients(20), margin=0)[1]  # not surely better


@pytest.mark.parametrize("trainings", [1, 2])
def test_nobody_is_called_not_inferior_for_trainings_that_happen_to_be_there(trainings):
    full = np.full((20, trainings), 0.9)
    loss, passed = non_inferiority(full, full - 0.01, patients(20, trainings), margin=0.02)
    assert (loss.value, passed) == (pytest.approx(0.01), None)


def test_the_bound_is_one_sided_at_95_percent_for_all_regions_together():
    values = np.linspace(-1, 1, 21)[:, None] / 50
    error = values.std(ddof=1) / np.sqrt(21)
    # Student's quantiles of 20 degrees, at 95 % and at 1 - 0.05 / 3
    for regions, quantile in ((1, 1.724718), (3, 2.285497)):
        loss, _ = non_inferiority(values, 0 * values, patients(21, 1), 0.02, regions)
        assert loss.high == pytest.approx(quantile * error, rel=1e-4)
