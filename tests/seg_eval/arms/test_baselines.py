import warnings
from dataclasses import replace

import numpy as np
import pytest

from seg_eval.arms.baselines import (
    FILLINGS,
    POOR,
    pearson,
    read_channels,
    sample_training,
    share_one_grid,
)
from synth3d.cohort import find_cases
from synth3d.errors import InputError
from synth3d.images.intensity import Scale
from synth3d.images.volumes import read, write_new

SOURCES = ("t1n", "t1c", "t2w")


@pytest.fixture(scope="module")
def cases(toy_cohort):
    return find_cases(toy_cohort)


@pytest.fixture(scope="module")
def sample(cases):
    return sample_training(cases[:4], SOURCES, "t2f")


def filled(name, sample, case):
    fill, _ = FILLINGS[name](sample)
    return fill(case, read_channels(case, SOURCES))


@pytest.mark.parametrize(
    ("x", "y", "r"), [([1, 2, 3], [2, 4, 6], 1), ([1, 2, 3], [3, 1, 2], -0.5),
                      ([], [], 0), ([1], [0], 0), ([2, 2], [0, 1], 0)],
)  # fmt: skip
def test_pearson(x, y, r):
    """0 where it is not defined."""
    assert pearson(np.array(x, float), np.array(y, float)) == pytest.approx(r)


def test_copy_is_of_the_sequence_most_like_the_missing_one(sample):
    assert sample.most_alike == "t2w"
    assert sample.correlations["t2w"] > 0.9
    assert abs(sample.correlations["t1n"]) < 0.5


def test_a_correlation_counts_by_its_size_whatever_its_sign_in_each_case(cases, monkeypatch):
    found = iter([-0.9, 0.1, 0.5, 0.8, 0.1, 0.5])
    monkeypatch.setattr("seg_eval.arms.baselines.pearson", lambda x, y: next(found))
    turned = sample_training(cases[:2], SOURCES, "t2f")
    assert turned.correlations == pytest.approx({"t1n": 0.85, "t1c": 0.1, "t2w": 0.5})
    assert turned.most_alike == "t1n"


@pytest.mark.parametrize("name", ["ridge", "boosted"])
def test_regression_finds_a_flair_that_is_linear_in_the_others(cases, sample, name):
    case = cases[-1]
    channels = read_channels(case, SOURCES)
    found = filled(name, sample, case)
    real, inside = read(case.images["t2f"]).data, channels.brain
    assert found.dtype == np.float32
    assert not found[~inside].any()
    assert pearson(found[inside], real[inside]) > 0.98
    assert 0.6 < np.median(found[inside]) / np.median(real[inside]) < 1.6, "not in scanner units"
    scaled = Scale.fit(found, inside).apply(found, inside)
    error = np.abs(scaled - Scale.fit(real, inside).apply(real, inside))[inside].mean()
    assert error < (0.02 if name == "ridge" else 0.04)


def test_regression_sees_thick_slices_and_takes_their_scale(cases):
    """T2 has nothing of T1; slices that are as thin as the real ones give it back."""

    def thin(case):
        return read(case.images["t2w"]).data

    sample = sample_training(cases[:4], ("t1n", "t1c"), "t2w", poor=thin)
    assert sample.columns == ("t1n", "t1c", POOR)
    assert sample.correlations[POOR] == pytest.approx(1)
    assert sample.most_alike in ("t1n", "t1c")
    channels = read_channels(cases[-1], ("t1n", "t1c"), poor=thin)
    fill, _ = FILLINGS["ridge"](sample)
    real, inside = thin(cases[-1]), channels.brain
    clipped = np.minimum(real, np.percentile(real[inside], 98))[inside]
    found = np.minimum(fill(cases[-1], channels)[inside], clipped.max())
    np.testing.assert_allclose(found, clipped, atol=0.02 * clipped.max())


def test_the_same_seed_draws_the_same_voxels(cases, monkeypatch):
    monkeypatch.setattr("seg_eval.arms.baselines.VOXELS_PER_CASE", 50)
    first, again, other = (sample_training(cases[:2], SOURCES, "t2f", seed) for seed in (1, 1, 2))
    assert first.inputs.shape == (100, 3)
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert not np.array_equal(first.inputs, other.inputs)


def test_the_missing_sequence_does_not_define_the_brain(cases):
    with_target = read_channels(cases[0], SOURCES, "t2f")
    np.testing.assert_array_equal(with_target.brain, read_channels(cases[0], SOURCES).brain)


def test_a_template_is_the_mean_of_the_training_cases_inside_each_brain(cases):
    seen = []
    for case in cases[:3]:
        channels = read_channels(case, SOURCES, "t2f")
        seen.append(np.where(channels.brain, channels.normalised("t2f"), np.nan))
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # voxels outside every brain
        mean = np.nanmean(seen, axis=0)
    sample = sample_training(cases[:3], SOURCES, "t2f")
    channels = read_channels(cases[5], SOURCES)
    volume = filled("template", sample, cases[5])
    assert volume.dtype == np.float32
    assert not volume[~channels.brain].any()
    again = sample.prior.estimate("t2f", channels.scales).apply(volume, channels.brain)
    inside = channels.brain & np.isfinite(mean)
    np.testing.assert_allclose(again[inside], mean[inside], atol=1e-3)


def test_a_template_needs_one_grid(cases, tmp_path):
    sample = sample_training(cases[:3], SOURCES, "t2f")
    moved = read(cases[5].images["t2f"]).affine.copy()
    moved[0, 3] += 2
    images = {}
    for name in (*SOURCES, "t2f"):
        images[name] = tmp_path / f"{name}.nii.gz"
        write_new(images[name], read(cases[5].images[name]).data, moved, np.int16)
    other = replace(cases[5], images=images)
    with pytest.raises(InputError, match="arm template: case Brats18_TOY_F_1 lies on another grid"):
        filled("template", sample, other)
    with pytest.raises(InputError, match="resample the case to one grid"):
        filled("template", replace(sample, cases=[*cases[:2], other]), cases[5])
    assert share_one_grid(cases, "t2f")
    assert not share_one_grid([*cases, other], "t2f")
