"""What a frozen segmenter says of an image: by its features, to the label, to its own answer."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synth3d.errors import InputError
from synth3d.images import Scale
from synth3d.losses import feature_error, load_segmenter, standardised
from synth3d.losses.segmentation import FrozenSegmenter

SOFTMAX = {"regions": False, "heads": [[0], [1], [2], [3]]}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["regions", "labels"])
def segmenter(request, write_segmenter, tmp_path_factory) -> FrozenSegmenter:
    said = {} if request.param == "regions" else SOFTMAX
    return load_segmenter(write_segmenter(tmp_path_factory.mktemp("export"), dim=2, **said))


@given(st.floats(-50, 300), st.floats(1, 900), st.floats(-2, 1.9), st.floats(-100, 100))
def test_scores_are_those_of_scanner_units(low, width, x, mean):
    """slope × invert(x) + offset, with a width of 2 in scanner units as the deviation."""
    scale = Scale(low, low + width)
    value = scale.invert(np.array([x], np.float32), np.ones(1, bool)).item()
    levels = torch.tensor([[[width / 2, (low - mean) / 2, -mean / 2]]])
    one = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    found = standardised(torch.full((1, 1, 1, 1), x), one, levels, one).item()
    assert found == pytest.approx((value - mean) / 2, rel=1e-4, abs=1e-3)


def test_background_and_outside_are_two_things():
    levels = torch.tensor([[[2.0, 1.0, -7.0]]])
    there = torch.tensor([True, False, True, False]).view(1, 1, 1, 4)
    region = torch.tensor([True, True, False, False]).view(1, 1, 1, 4)
    found = standardised(torch.full((1, 1, 1, 4), 0.5), there, levels, region)
    assert found.flatten().tolist() == [2.0, -7.0, 0.0, 0.0]


def test_no_gradient_comes_from_where_nothing_is_shown():
    """Not even NaN: of what lies beyond the ceiling, in the background and outside."""
    x = torch.tensor([0.5, 1.5, 400.0, float("inf"), 0.5, 0.5]).view(1, 1, 1, 6).requires_grad_()
    there = torch.tensor([1, 1, 1, 1, 0, 1]).bool().view(1, 1, 1, 6)
    region = torch.tensor([1, 1, 1, 1, 1, 0]).bool().view(1, 1, 1, 6)
    standardised(x, there, torch.tensor([[[2.0, 1.0, 0.0]]]), region).sum().backward()
    expected = [2, 2 * math.exp(2), 0, 0, 0, 0]  # the shoulder's slope, 0.5 / 0.25 beyond its foot
    np.testing.assert_allclose(x.grad.flatten().numpy(), expected, rtol=1e-6)


def test_an_image_and_itself_have_the_same_features():
    maps = [normal(2, 3, 4, 4), normal(2, 5, 2, 2)]
    assert feature_error(maps, maps).item() == 0
    assert feature_error(maps, [7 * m for m in maps]).item() == pytest.approx(0, abs=1e-6)
    assert feature_error([m * 0 for m in maps], maps).isfinite()


def test_features_that_vanish_have_a_finite_gradient():
    """The root has something under it even where a feature is exactly 0."""
    zeros = torch.zeros(1, 3, 2, 2, requires_grad=True)
    feature_error([zeros], [normal(1, 3, 2, 2)]).backward()
    assert zeros.grad.isfinite().all()
    assert zeros.grad.abs().max() > 0


def test_opposite_features_by_hand():
    """(1, 0) and (0, 1) in one voxel of two: |difference| is 1 in both channels there."""
    a, b = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    a[0, 0, 0, 0] = 5.0
    b[0, 1, 0, 0] = 0.1
    assert feature_error([a], [b]).item() == pytest.approx(0.5, abs=1e-5)


def test_truth_of_regions_and_labels(segmenter):
    truth = segmenter.truth(torch.tensor([0, 1, 2, 3], dtype=torch.int8).view(1, 1, 2, 2))
    rows = truth.flatten(2)[0].int().tolist()
    if segmenter.about.regions:
        assert rows == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    else:
        assert rows == torch.eye(4).int().tolist()


def test_the_answer_is_the_least_error(segmenter):
    """To itself, certain or not, no change makes it better: its gradient there is 0."""
    logits = (2 * normal(2, len(segmenter.about.heads), 8, 8)).double().requires_grad_()
    error = segmenter.error(logits, segmenter.answer(logits))
    error.sum().backward()
    assert logits.grad.abs().max() < 1e-12
    for seed in range(5):
        other = logits.detach() + 0.1 * normal(*logits.shape, seed=seed)
        assert (segmenter.error(other, segmenter.answer(logits)) > error).all()


def test_error_by_hand(segmenter):
    """Whole tumour, core and enhancing found in all of 4 voxels with p = 1/2, and there in 2."""
    label = torch.tensor([0, 0, 3, 3], dtype=torch.int8).view(1, 1, 2, 2)
    logits = torch.zeros(1, len(segmenter.about.heads), 2, 2)
    found = segmenter.error(logits, segmenter.truth(label)).item()
    if segmenter.about.regions:
        dice = (2 * 2 * 0.5 + 1) / (4 * 0.25 + 2 + 1)
        assert found == pytest.approx(math.log(2) + 1 - dice, rel=1e-6)
    else:
        there, not_there = (2 * 2 * 0.25 + 1) / (4 * 0.0625 + 2 + 1), 1 / (4 * 0.0625 + 1)
        assert found == pytest.approx(math.log(4) + 1 - (there + 2 * not_there) / 3, rel=1e-6)


def test_a_cavity_counts_with_the_background(segmenter):
    """Two heads of one class are one probability."""
    if segmenter.about.regions:
        return
    heads = (*segmenter.about.heads, (0,))
    five = FrozenSegmenter(replace(segmenter.about, heads=heads), segmenter.network)
    logits = normal(1, 5, 3, 3)
    found, alone = five.answer(logits), logits.softmax(1)
    torch.testing.assert_close(found[:, 0], alone[:, 0] + alone[:, 4])
    torch.testing.assert_close(found[:, 1:], alone[:, 1:4])


def test_a_gradient_is_that_of_finite_differences(segmenter):
    logits = normal(2, len(segmenter.about.heads), 2, 2).double().requires_grad_()
    truth = segmenter.truth(torch.tensor([0, 1, 2, 3] * 2).view(2, 1, 2, 2)).double()
    assert torch.autograd.gradcheck(lambda x: segmenter.error(x, truth), logits)


def test_an_odd_patch_lies_in_the_middle_of_background(segmenter):
    """As nnU-Net's predictor lays it; what is in it is as in a larger one with zeros around."""
    seen = normal(1, 4, 9, 11)
    around = torch.nn.functional.pad(seen, (0, 1, 0, 1))
    torch.testing.assert_close(segmenter(seen), segmenter(around)[..., :9, :11])


def test_a_patch_that_would_shrink_to_one_voxel_is_refused(segmenter):
    with pytest.raises(InputError, match="too small"):
        segmenter(normal(1, 4, 2, 2))


def test_looking_leaves_the_input_as_it_is(segmenter):
    """nnU-Net's activations work in place."""
    seen = normal(1, 4, 8, 8)
    before = seen.clone()
    maps = segmenter.encode(seen)
    kept = [m.clone() for m in maps]
    segmenter.decode(maps, (8, 8))
    assert torch.equal(seen, before)
    assert all(torch.equal(a, b) for a, b in zip(maps, kept, strict=True))


@pytest.mark.parametrize("dim", [2, 3])
def test_the_gradient_of_a_single_sample_does_not_depend_on_how_memory_is_laid_out(
    dim, write_segmenter, tmp_path
):
    """torch's instance normalisation has a wrong one where it comes to it channels-last."""
    net = load_segmenter(write_segmenter(tmp_path / "export", dim=dim))
    layouts = (torch.contiguous_format, (torch.channels_last, torch.channels_last_3d)[dim - 2])
    seen = normal(1, 4, *[16] * dim)
    weight, found = normal(*net(seen).shape, seed=1), []
    for layout in layouts:
        x = seen.clone(memory_format=layout).requires_grad_()
        (net(x) * weight.contiguous(memory_format=layout)).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)
