"""A missing sequence follows its siblings, whatever convention was trained on."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from synth3d.images import Grid, Scale, ScalePrior, Volume, background_of, foreground, resample

SIDE = 18
TISSUES = {"t1n": (0.55, 0.8, 0.25), "t1c": (0.6, 0.85, 0.3), "t2w": (0.6, 0.45, 1.0)}
TARGET = "t2f"
TISSUES[TARGET] = (0.55, 0.45, 0.2)


def case(seed):
    """Scanner units, background 0; one gain a patient."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
    r = np.sqrt(z**2 + y**2 + x**2)
    gain = rng.uniform(400, 1600)
    made = {}
    for name, levels in TISSUES.items():
        head = np.select([r < 0.3, r < 0.6, r < 0.9], levels[::-1], 0.0)
        noisy = head * (1 + 0.08 * rng.standard_normal(r.shape))
        made[name] = np.where(r < 0.9, np.maximum(noisy, 0.02), 0) * gain
    return made


CONVENTIONS = {
    "scanner": lambda v: np.rint(v),
    "z-scored volume": lambda v: (v - v.mean()) / v.std(),
    "z-scored brain, background 0": lambda v: np.where(
        v > 0, (v - v[v > 0].mean()) / v[v > 0].std(), 0
    ),
    "z-scored brain, background at -9": lambda v: np.where(
        v > 0, (v - v[v > 0].mean()) / v[v > 0].std(), -9
    ),
    "minus 1024": lambda v: np.rint(v) - 1024,
    "zero to one": lambda v: v / v.max(),
}


def scales(seed, convention):
    volumes = {m: CONVENTIONS[convention](v).astype(np.float32) for m, v in case(seed).items()}
    brain = np.logical_or.reduce([foreground(volumes[m]) for m in volumes if m != TARGET])
    return volumes, brain, {m: Scale.fit(v, brain & foreground(v)) for m, v in volumes.items()}


@pytest.mark.parametrize(("trained", "tested"), list(product(CONVENTIONS, CONVENTIONS)), ids=str)
def test_the_scale_follows_the_siblings(trained, tested):
    prior = ScalePrior([scales(seed, trained)[2] for seed in range(6)])
    prior = ScalePrior.from_list(prior.to_list())
    volumes, brain, known = scales(77, tested)
    truth = known.pop(TARGET)
    guess = prior.estimate(TARGET, known)
    assert guess.background == pytest.approx(truth.background, abs=0.5 * truth.width)
    if len({scale.background for scale in known.values()}) == 1:
        assert guess.background == truth.background
    assert abs(np.log(guess.width / truth.width)) < np.log(2.3)
    middle, real = guess.low + guess.width / 2, truth.low + truth.width / 2
    assert abs(middle - real) < truth.width
    # Darker than brain stays what stands for nothing, wherever it was so.
    picture = guess.invert(truth.apply(volumes[TARGET], brain), brain)
    assert (picture[~brain] == np.float32(guess.background)).all()
    if truth.low > truth.background:
        assert np.percentile(picture[brain], 1) > guess.background


@pytest.mark.parametrize("value", [0.0, -1024.0, -1.234567, 37.0])
def test_the_background_is_what_fills_the_border(value):
    volume = np.full((9, 9, 9), value, np.float32)
    volume[2:7, 2:9, 2:7] = np.random.default_rng(0).normal(500, 40, (5, 7, 5))
    assert background_of(volume) == np.float32(value)
    assert foreground(volume).sum() == 5 * 7 * 5
    moved = np.eye(4)
    moved[0, 3] = 1.5
    there = resample(Volume(volume, np.eye(4), Path("a.nii")), Grid((9, 9, 9), moved)).data
    assert there[0, 0, -1] == np.float32(value)
    assert 0.9 < foreground(there).sum() / foreground(volume).sum() < 1.5


def test_noise_around_a_head_is_no_constant_and_nothing_is_no_crash():
    rng = np.random.default_rng(0)
    assert background_of(rng.integers(0, 9, (9, 9, 9))) == 0
    assert background_of(np.zeros((0, 3, 3))) == 0
