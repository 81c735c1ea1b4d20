import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth3d.images.intensity import CEILING, SHOULDER, Scale, ScalePrior, foreground

ALL = np.ones(5, bool)


def test_worked_example():
    scale = Scale(low=100, high=300)
    values = np.array([100, 200, 300, 350, 0], np.float32)
    found = scale.apply(values, np.array([1, 1, 1, 1, 0], bool))
    bent = 1 + SHOULDER * np.log(1 + 0.25 / SHOULDER)
    np.testing.assert_allclose(found, [0, 0.5, 1, bent, 0], rtol=1e-6)


def test_percentiles_are_taken_inside_the_brain_only():
    volume = np.concatenate([np.zeros(9000), np.linspace(1000, 2000, 1001)])
    scale = Scale.fit(volume, volume > 0)
    assert scale.low == pytest.approx(1005)
    assert scale.apply(np.array([1500.0]), ALL[:1]) == pytest.approx(0.5)
    assert Scale.fit(volume, volume > 0, lower=None).low == 0


def test_worked_example_of_the_papers_convention():
    """The 99.5th percentile of the whole volume, background included, is 1; 0 is 0; clipped."""
    volume = np.concatenate([np.zeros(900), np.arange(1, 102)]).astype(np.float32)
    scale = Scale.papers(volume)
    assert (scale.low, scale.high, scale.clips) == (0, 96, True)  # position 0.995 x 1000 = 995
    mask = volume > 0
    network = scale.apply(volume, mask)
    assert network.max() == 1
    assert (network == 1).sum() == 6  # 96 to 101
    assert network[900 + 47] == 0.5
    assert not network[~mask].any()
    np.testing.assert_allclose(scale.invert(network, mask), np.minimum(volume, 96), atol=1e-4)
    assert scale.apply(np.array([-5.0]), ALL[:1]) == 0


@pytest.mark.parametrize("volume", [np.zeros(300), np.zeros(0), np.eye(20), -np.ones(9)])
def test_next_to_nothing_divides_by_nothing(volume):
    assert 0 < Scale.papers(volume).high <= 1
    for scale in (Scale.papers(volume), Scale.fit(volume, volume != 0)):
        assert np.isfinite(scale.apply(volume, volume != 0)).all()
    with pytest.raises(ValueError, match="low < high"):
        Scale(1, 1)


def test_a_clipping_scale_is_saved_and_predicted_as_one():
    scale = Scale(0, 96, clips=True)
    assert Scale.from_dict(scale.to_dict()) == scale
    assert Scale(1, 2).to_dict() == {"low": 1, "high": 2}  # as runs of before have it
    prior = ScalePrior.from_list(ScalePrior([{"t1n": scale, "t2f": scale}] * 3).to_list())
    guess = prior.estimate("t2f", {"t1n": scale})
    assert (guess.low, guess.high, guess.clips) == (0, pytest.approx(96), True)


def test_healthy_tissue_keeps_its_level_whatever_the_tumour_does():
    healthy = np.random.default_rng(0).normal(500, 50, 5000)
    large = np.concatenate([healthy, np.full(400, 1500.0)])
    levels = [
        Scale.fit(v, np.ones(v.shape, bool)).apply(np.array([500.0]), ALL[:1])[0]
        for v in (healthy, large)
    ]
    assert levels[0] == pytest.approx(levels[1], abs=0.03)
    dark = np.concatenate([np.full(900, 3.0), np.linspace(4, 9, 100)])  # mostly at its minimum
    assert Scale.fit(dark, dark > 0).high == pytest.approx(np.percentile(dark, 99.5))


@given(
    low=st.floats(-500, 500),
    width=st.floats(1, 3e4),
    seed=st.integers(0, 99),
    reach=st.floats(0, 5),
)
def test_the_way_back_is_exact_and_nothing_is_clipped(low, width, seed, reach):
    scale = Scale(low, low + width)
    values = np.random.default_rng(seed).uniform(low - width, low + (1 + reach) * width, 5)
    network = scale.apply(values, ALL)
    order = np.argsort(values)
    assert (np.diff(network[order]) >= 0).all()
    kept = network < CEILING
    back = scale.invert(network, ALL)
    np.testing.assert_allclose(back[kept], values[kept], atol=2e-4 * width)


def test_a_wild_prediction_does_not_explode():
    for scale, held in ((Scale(0, 1000), CEILING), (Scale(0, 400, clips=True), 1.0)):
        wild, most = scale.invert(np.array([50.0, held]), ALL[:2])
        assert wild == most
        assert np.isfinite(wild)
    clipped = Scale(0, 400, clips=True).invert(np.array([-0.5, 0.25, 1.0, 1.7, 50]), ALL)
    np.testing.assert_allclose(clipped, [0, 100, 400, 400, 400])


def test_foreground_is_what_is_not_zero_and_leaves_out_the_noise_of_an_unstripped_head():
    stripped = np.zeros((4, 4, 4))
    stripped[1:3, 1:3, 1:3] = [[[5, -3], [1, 2]], [[9, 9], [9, 9]]]
    assert foreground(stripped).sum() == 8
    rng = np.random.default_rng(0)
    volume = np.abs(rng.normal(0, 2, (12, 12, 12))) + 0.01
    volume[3:9, 3:9, 3:9] += 500
    mask = foreground(volume)
    assert mask[3:9, 3:9, 3:9].all()
    assert mask.sum() == 6**3


@pytest.mark.parametrize(
    ("cases", "own", "expected", "error"),
    [
        # Sequences that scale together follow the scanner, negative ones too.
        ([((0, a), (a / 10, 2 * a)) for a in (100, 900, 5000)], (0, 300), (30, 600), 1e-9),
        ([((-3, -1), (-2, -0.5))] * 3, (-3, -1), (-2, -0.5), 1e-9),
        # Others get the median, but a case in other units a target in its own.
        ([((0, a), (0, 700)) for a in (100, 5000, 20, 800)], (0, 4000), (0, 700), 1e-3),
        ([((0, 600), (0, 700)), ((0, 800), (0, 720))], (0, 1), (0, 1.03), 0.15),
    ],
)
def test_prior_follows_the_scanner_or_the_other_patients(cases, own, expected, error):
    prior = ScalePrior([{"t1n": Scale(*source), "t2f": Scale(*made)} for source, made in cases])
    guess = prior.estimate("t2f", {"t1n": Scale(*own)})
    assert (guess.low, guess.high) == pytest.approx(expected, abs=error)


def test_a_gap_that_no_training_case_had_is_filled_from_the_siblings_that_one_had():
    """Scanners scale all alike here, and no case has all four."""
    names, gains = ("t1n", "t1c", "t2w"), (1, 3, 0.5, 7, 2, 4, 15, 6, 0.8)
    cases = [
        {name: Scale(0, 100 * gain) for name in (*names, "t2f") if name != names[n % 3]}
        for n, gain in enumerate(gains)
    ]
    shown = {name: Scale(0, 1200) for name in names}
    assert ScalePrior(cases).estimate("t2f", shown).high == pytest.approx(1200)
    assert ScalePrior(cases).estimate("t2f", {"t1n": Scale(0, 50)}).high == pytest.approx(50)


def test_one_whole_training_case_does_not_spoil_what_the_incomplete_ones_tell():
    """Of what t2f is predicted from, three cases have any two and one has all three."""
    names, draws = ("t1n", "t1c", "t2w", "t2f"), np.random.default_rng(0)

    def scanned(gain):
        return {
            name: Scale(0, 100 * gain * np.exp(0.03 * draws.standard_normal())) for name in names
        }

    whole = [scanned(np.exp(0.35 * draws.standard_normal())) for _ in range(13)]
    gappy = [
        {name: scale for name, scale in case.items() if name != names[n % 4]}
        for n, case in enumerate(whole[:12])
    ]
    for cases in (gappy, [*gappy, whole[12]], [*gappy, whole[12], whole[0]]):
        errors = []
        for gain in np.exp(np.linspace(-0.4, 0.4, 9)):
            case = scanned(gain)
            guess = ScalePrior(cases).estimate("t2f", {name: case[name] for name in names[:3]})
            errors.append(abs(np.log(guess.high / (100 * gain))))
        assert np.mean(errors) < 0.05


def test_an_odd_one_is_told_where_no_training_case_has_all_that_a_case_has():
    names = ("t1n", "t1c", "t2w", "t2f")
    whole = {name: Scale(0, 100 * (1 + n)) for n, name in enumerate(names)}
    cases = [{n: s for n, s in whole.items() if n != gone} for gone in names]
    prior = ScalePrior(cases)
    assert prior.odd_ones(whole) == []
    for name in names:
        (told,) = prior.odd_ones(whole | {name: Scale(0, 100 * whole[name].high)})
        assert told.startswith(f"{name} is 100 times as bright")
    assert ScalePrior([{"t1n": Scale(0, 1)}, {"t2f": Scale(0, 99)}]).odd_ones(whole) == []


def test_prior_survives_json_and_refuses_what_it_never_saw():
    prior = ScalePrior([{"t1n": Scale(1, 2)}])
    again = ScalePrior.from_list(prior.to_list())
    assert again.cases == prior.cases
    with pytest.raises(ValueError, match="no training case has t2f"):
        again.estimate("t2f", {})
