import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import t as student

from synth3d.scoring.intervals import (
    Crossed,
    centre_squares,
    replicate_squares,
    skewness_of_mean,
    standard_error,
    transformed,
    untransformed,
)

NAMES = ["a", "b", "c", "d"]
FOUR, THREE = Crossed(NAMES), Crossed(NAMES, 3)
SCORES = arrays(float, (4, 3), elements=st.floats(-1, 1, width=32))


def crossed(count, trainings=1, **more):
    return Crossed([f"{i:03d}" for i in range(count)], trainings, **more)


def test_it_is_a_ratio_of_means_not_a_mean_of_ratios():
    full, zero, arm = [0.9, 0.5], [0.1, 0.4], [0.5, 0.6]  # ratios 0.5 and 2
    ratio = FOUR.ratio(np.tile(np.subtract(arm, zero), 2), np.tile(np.subtract(full, zero), 2))
    assert ratio.value == pytest.approx(0.6 / 0.9)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_of_symmetric_values_of_one_training_it_is_students(confidence):
    values = np.linspace(-1, 1, 12)
    found = crossed(12).mean(values, confidence)
    half = student.ppf((1 + confidence) / 2, 11) * values.std(ddof=1) / np.sqrt(12)
    assert (found.low, found.high) == (pytest.approx(-half), pytest.approx(half))
    assert found.freedom == 11


def test_a_ratio_of_symmetric_values_is_fiellers():
    """Where nothing is skewed: the roots of (A − θB)² = t² · var(A − θB)."""
    above = np.array([1.0, 3, 2, 2, 1, 3, 1, 3])
    below = np.array([4.0, 4, 3, 5, 5, 3, 3, 5])  # each residual's mirror image is there, too
    found = crossed(8).ratio(above, below)
    square = student.ppf(0.975, 7) ** 2 / 8
    (aa, ab), (_, bb) = np.cov(above, below)
    roots = np.roots([4 * 4 - square * bb, -2 * (2 * 4 - square * ab), 2 * 2 - square * aa])
    assert (found.low, found.high) == pytest.approx(sorted(roots), rel=1e-4)


def test_a_long_tail_draws_the_interval_after_it():
    values = np.random.default_rng(0).exponential(size=40)
    found = crossed(40).mean(values)
    assert found.high - found.value > 1.2 * (found.value - found.low)


def test_skewness_by_hand():
    # 0, 0, 0, 3 around 0.75: third moments (-27 - 27 - 27 + 729) / 64 = 10.125, of the mean / 64;
    # standard error 0.75, cubed 0.421875
    values = np.array([0.0, 0, 0, 3])[:, None]
    skewness = skewness_of_mean(values, 0.75)
    assert skewness == pytest.approx(10.125 / 64 / 0.421875)
    # 1 + 0.375 / 3 = 1.125 cubed is 1.423828, less 1 and over 0.375: 1.130208; + 0.0625
    assert transformed(1.0, 0.375) == pytest.approx(1.192708, abs=1e-6)
    low = 0.75 - 0.75 * untransformed(student.ppf(0.975, 3), skewness)
    assert FOUR.mean(values[:, 0]).low == pytest.approx(low)


def test_skewness_moves_no_end_farther_than_half_as_much_again():
    """Five patients alike and one apart: the transformation alone would go 3.4 times as far."""
    values = np.array([0.8, 0.8, 0.75, 0.7, 0.65, 0.0])
    found = crossed(6).mean(values)
    half = student.ppf(0.975, 5) * values.std(ddof=1) / np.sqrt(6)
    assert found.value - found.low == pytest.approx(1.5 * half)
    assert found.low > 0
    ratio = crossed(6).ratio(values, np.full(6, 2.0) + [0, 1e-6, 0, 0, 0, 0])
    assert ratio.low == pytest.approx(found.low / 2, abs=1e-4)


@given(st.floats(-30, 30), st.floats(-1, 1))
def test_the_transformation_is_monotone_and_undone(t, skewness):
    assert untransformed(transformed(t, skewness), skewness) == pytest.approx(t, abs=1e-3)
    assert transformed(t + 0.1, skewness) > transformed(t, skewness)


def test_trainings_that_differ_widen_the_interval_over_trainings_alone():
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(size=(40, 1)), 3, axis=1)
    alike, apart = (crossed(40, 3).mean(values + shift) for shift in (0, np.array([-1, 0, 1])))
    assert apart.value == pytest.approx(alike.value)
    assert apart.high - apart.low > 2 * (alike.high - alike.low)
    assert apart.freedom < 10 < alike.freedom
    these = crossed(40, 3, over="patients").mean(values + [-1, 0, 1])
    assert (these.low, these.high) == (pytest.approx(alike.low), pytest.approx(alike.high))


@pytest.mark.parametrize("trainings", [1, 2])
def test_below_three_trainings_it_speaks_of_these(trainings):
    values = np.random.default_rng(0).normal(size=(12, trainings)) + 5 * np.arange(trainings)
    design = crossed(12, trainings)
    assert design.over == "patients"
    found, averaged = design.mean(values), crossed(12).mean(values.mean(1))
    assert (found.low, found.high) == pytest.approx((averaged.low, averaged.high))


@given(SCORES)
def test_the_value_lies_in_its_interval_and_a_narrower_one_within(values):
    found, narrow = THREE.mean(values), THREE.mean(values, confidence=0.5)
    assert found.low <= narrow.low + 1e-9
    assert narrow.low <= found.value + 1e-9
    assert found.value <= narrow.high + 1e-9
    assert narrow.high <= found.high + 1e-9


@settings(max_examples=30)
@given(SCORES, SCORES, st.floats(-1, 1), st.floats(0.1, 10))
def test_it_moves_and_grows_with_the_scores(values, other, shift, factor):
    bottom = 2 + other
    assume(np.ptp(values) > 1e-3)
    mean, moved = THREE.mean(values), THREE.mean(factor * values + shift)
    assert moved.low == pytest.approx(factor * mean.low + shift, abs=1e-5)
    assert moved.high == pytest.approx(factor * mean.high + shift, abs=1e-5)
    ratio, grown = THREE.ratio(values, bottom), THREE.ratio(factor * values, factor * bottom)
    assert (grown.low, grown.high) == pytest.approx((ratio.low, ratio.high), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("values", "squared", "freedom"),
    [
        # Patients apart by 2, trainings by 1, nothing else: mean squares 4, 1, 0
        ([[0, 1], [2, 3]], (4 + 1 - 0) / 4, 25 / (16 + 1 * 1)),
        # means of patients 0.5 and 3.5, of trainings 1 and 3, rests of +-0.5: mean squares 9, 4, 1
        ([[0, 1], [2, 5]], (9 + 4 - 1) / 4, 144 / (81 + 3 * 4)),
        ([[1], [2], [4]], np.var([1, 2, 4], ddof=1) / 3, 2),  # one training: the usual one
        ([[0, 1], [3, 2]], 4 / 4, 1),  # trainings no further apart than chance do not count
        ([[0, 1], [1, 0]], 1 / 4, 1),  # patients that agree while their trainings do not
    ],
)
def test_standard_error_by_hand(values, squared, freedom):
    found = standard_error(np.array(values, float))
    assert found == (pytest.approx(np.sqrt(squared)), pytest.approx(freedom))


def test_cases_of_one_patient_are_one_unit():
    """Three scans of one of two patients: their sums, less the mean's, are -0.6 and 0.6."""
    values = np.array([0.0, 0.1, 0.2, 0.9])
    found = Crossed(["a", "a", "a", "b"]).mean(values)
    assert found.value == pytest.approx(0.3)
    assert found.freedom == 1
    half = student.ppf(0.975, 1) * 0.6 / 2  # a standard error of 0.6 over two cases a patient
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half))


def test_where_nothing_may_be_lost_a_share_of_it_is_unbounded():
    found = FOUR.ratio(np.array([1.0, 1.0, 1.0, 1.0]), np.array([5.0, -1.0, -1.0, -1.0]))
    assert found.high == np.inf


def test_what_is_all_alike_has_no_width_and_one_patient_no_interval():
    alike = THREE.ratio(np.arange(12.0).reshape(4, 3), 2 * np.arange(12.0).reshape(4, 3))
    assert (alike.low, alike.value, alike.high) == (0.5, 0.5, 0.5)
    one = Crossed(["a", "a"], 3).mean(np.arange(6.0).reshape(2, 3))
    assert (one.low, one.high, one.freedom) == (2.5, 2.5, None)


def test_refuses_to_average_nothing():
    with pytest.raises(ValueError, match="expected cases and trainings, got 0 and 1"):
        Crossed([])


@given(arrays(float, (2, 3), elements=st.sampled_from([0.0, 0.5, 1.0])))
def test_any_few_values_have_an_interval_around_their_mean(values):
    found = crossed(2, 3).mean(values)
    assert found.low <= values.mean() + 1e-9
    assert values.mean() <= found.high + 1e-9


def test_uneven_numbers_of_scans_leave_a_mean_bounded():
    found = Crossed([*"aab"]).mean(np.array([0.5, 0.6, 0.5]))
    assert np.isfinite([found.low, found.high]).all()
    many = Crossed([*"abcde", *"f" * 8]).mean(np.linspace(0.4, 0.6, 13))
    assert 0 < many.low < many.high < 1


def test_who_has_no_value_is_no_patient_and_no_training():
    values = np.full((6, 3), np.nan)
    values[:4, :2] = np.arange(8.0).reshape(4, 2)
    found = Crossed([*"abcdef"], 3).mean(values)
    fewer = Crossed([*"abcd"], 2).mean(values[:4, :2])
    assert found == fewer
    values[:] = np.nan
    values[0, 0] = 11.3
    assert Crossed([*"abcdef"], 3).mean(values).freedom is None


@pytest.mark.parametrize("seed", range(20))
def test_no_value_beyond_an_end_is_let_through(seed):
    """Though with a value the degrees of freedom and the bound on skewness change, too."""
    draw = np.random.default_rng(seed)
    below = draw.normal(0.4, 0.1, (6, 3))
    above = below * np.where(draw.random((6, 1)) < 0.3, 0.1, 0.9)
    found = crossed(6, 3).ratio(above, below)
    for beyond in np.linspace(0.01, 1, 40):
        for end, sign in ((found.low, -1), (found.high, 1)):
            rest = above - (end + sign * beyond) * below
            error, freedom = standard_error(rest)
            t = rest.mean() / error
            limit = student.ppf(0.975, freedom)
            assert (
                abs(transformed(t, skewness_of_mean(rest, error))) > limit - 1e-3
                or abs(t) > 1.5 * limit - 1e-3
            )


REPLICATES = arrays(float, (5, 3, 4), elements=st.floats(-1, 1, width=32))
FIVE, THIRTY = Crossed([*"abcde"], 3), crossed(30, 3)


def ends(estimate):
    return (estimate.value, estimate.low, estimate.high)


@settings(max_examples=30)
@given(REPLICATES, st.integers(0, 3))
def test_one_replicate_gives_the_interval_without_any(values, which):
    one = values[..., which]
    assert FIVE.mean(one[..., None]) == FIVE.mean(one)
    assert FIVE.mean(one, less=0.3 * values[..., :1]) == FIVE.mean(one - 0.3 * values[..., 0])
    assert FIVE.ratio(one[..., None], 3 + one) == FIVE.ratio(one, 3 + one)


@settings(max_examples=30)
@given(REPLICATES, st.permutations(range(4)), st.permutations(range(5)))
def test_the_order_of_replicates_and_patients_is_nothing(values, replicates, patients):
    moved = values[patients][:, ::-1][..., replicates]
    assert ends(FIVE.mean(moved)) == pytest.approx(ends(FIVE.mean(values)), abs=1e-7)
    other = np.sin(3 * values)  # replicates of another arm, in an order of their own
    apart, again = FIVE.mean(values, less=other), FIVE.mean(values, less=other[..., replicates])
    assert ends(again) == pytest.approx(ends(apart), abs=1e-7)


@settings(max_examples=30)
@given(REPLICATES)
def test_replicates_drawn_at_random_make_no_interval_surer(values):
    averaged = FIVE.mean(values.mean(2))
    assert FIVE.mean(values).value == pytest.approx(averaged.value)
    errors = [standard_error(values.mean(2), more)[0] for more in ((), (values,))]
    assert errors[0] <= errors[1]
    same = np.repeat(values[..., :1], 4, axis=2)  # the same training four times
    assert ends(FIVE.mean(same)) == pytest.approx(ends(FIVE.mean(values[..., 0])), abs=1e-7)


def test_replicates_that_differ_widen_the_interval_unless_they_are_as_given():
    values = np.random.default_rng(0).normal(size=(30, 3, 1))
    alike, apart = values + np.zeros(3), values + np.array([-1.0, 0, 1])
    assert THIRTY.mean(apart).freedom < 3 < THIRTY.mean(alike).freedom
    wide, narrow = THIRTY.mean(apart), THIRTY.mean(alike)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    these = crossed(30, 3, over="patients")
    assert ends(these.mean(apart)) == pytest.approx(ends(these.mean(alike)))
    two = THIRTY.mean(apart[..., ::2])  # two are as given
    assert ends(two) == pytest.approx(ends(narrow))


def test_the_squares_of_replicates_by_hand():
    # One training, patients apart by 0 and 1, replicates at 0 and 4, and 2 of their interaction:
    # means of replicates 0.5 and 5.5 (square 2 * 12.5), rests of +-0.5 (square 1).
    values = np.array([[[0.0, 4]], [[1, 7]]])
    assert replicate_squares(values) == (pytest.approx(25), pytest.approx(24))
    # A second training that is the first shifted: nothing of it is the replicates' own.
    both = np.concatenate([values, values + 10], axis=1)
    assert replicate_squares(both) == (pytest.approx(50), pytest.approx(50 - 2))


@pytest.mark.parametrize("arms", [1, 2])
def test_what_it_promises_over_replicates_it_holds(arms):
    """Normal patients, trainings, replicates and interactions: 95 of 100 intervals hold 0."""
    draw, design, hits = np.random.default_rng(3), crossed(12, 3), 0
    for _ in range(400):
        shared = draw.normal(size=(12, 1, 1)) + 0.5 * draw.normal(size=(1, 3, 1))
        sides = [
            0.5 * draw.normal(size=(1, 1, 3))
            + 0.3 * draw.normal(size=(12, 1, 3))
            + 0.2 * draw.normal(size=(1, 3, 3))
            + 0.3 * draw.normal(size=(12, 3, 3))
            for _ in range(arms)
        ]
        less = sides[1] if arms == 2 else None
        found = design.mean((0 if arms == 2 else shared) + sides[0], less=less)
        hits += found.low <= 0 <= found.high
    assert hits >= 0.92 * 400


def test_other_numbers_of_trainings_are_refused():
    with pytest.raises(ValueError, match="5 cases x 3 trainings"):
        FIVE.mean(np.zeros((5, 2, 4)))


CENTRED = arrays(float, (6, 3), elements=st.floats(-1, 1, width=32))
SIX = [*"abcdef"]


@settings(max_examples=30)
@given(CENTRED)
def test_a_centre_of_its_own_for_each_patient_or_fewer_than_three_change_nothing(values):
    plain = Crossed(SIX, 3).mean(values)
    for centres in ([*"uvwxyz"], [*"uuuuuu"], [*"uuuvvv"]):
        assert Crossed(SIX, 3, centres=centres).mean(values) == plain


@settings(max_examples=30)
@given(CENTRED, st.lists(st.sampled_from("uvw"), min_size=6, max_size=6), st.permutations(range(6)))
def test_centres_make_no_interval_surer_and_their_names_are_nothing(values, centres, order):
    number = np.unique(centres, return_inverse=True)[1]
    errors = [standard_error(values, (), each)[0] for each in (None, number)]
    assert errors[0] <= errors[1] * (1 + 1e-12)
    found = Crossed(SIX, 3, centres=centres).mean(values)
    renamed = {"u": "south", "v": "north", "w": "east"}
    moved = Crossed(SIX, 3, centres=[renamed[centres[one]] for one in order]).mean(values[order])
    assert ends(moved) == pytest.approx(ends(found), abs=1e-7)


def test_the_squares_of_centres_by_hand():
    # Three centres of two patients at 0, 2 and 4, each +-1: between 2 * (4 + 0 + 4) / 2 = 8,
    # within 6 / 3 = 2; m is 2, and of it (6 - 2) / 5 is in the patients' own: 1.2 over m.
    values, centres = np.array([-1.0, 1, 1, 3, 3, 5]), np.array([0, 0, 1, 1, 2, 2])
    assert centre_squares(values, centres) == (pytest.approx(0.6 * 6), pytest.approx(0.6 * 8))
    # And the patients' mean square with it is that of a mean over three independent centres.
    assert values.var(ddof=1) + 0.6 * 6 == pytest.approx(8)


def test_centres_that_differ_are_what_an_interval_allows_for():
    """Six centres of five patients, as far apart as their patients."""
    draw, owner = np.random.default_rng(4), np.repeat(np.arange(6), 5)
    names = [f"{one:02d}" for one in range(30)]
    designs = [Crossed(names, centres=[f"c{one}" for one in owner]), Crossed(names)]
    hits = np.zeros(2)
    for _ in range(300):
        values = draw.normal(size=30) + draw.normal(size=6)[owner]
        found = [design.mean(values) for design in designs]
        hits += [each.low <= 0 <= each.high for each in found]
    assert hits[0] >= 0.90 * 300 > 0.85 * 300 > hits[1]


def test_a_patient_seen_in_two_centres_is_of_both_and_each_case_has_one():
    values = np.arange(8.0)
    two = Crossed([*"aabbccdd"], centres=[*"uvuuwwxx"]).mean(values)
    assert two == Crossed([*"aabbccdd"], centres=[*"ttuuwwxx"]).mean(values)
    with pytest.raises(ValueError, match="a centre for each case, got 1"):
        Crossed([*"ab"], centres=["u"])
