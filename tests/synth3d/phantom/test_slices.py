"""Slices without end: where the moved source lies is known, between pixels, too."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth3d.errors import InputError
from synth3d.phantom import draw_slices

FRACTION = st.floats(-0.5, 0.5, width=32)
WHOLE = st.integers(-3, 3)


def drawn(shift, seed: int = 0, side: int = 32, **how):
    return draw_slices(np.random.default_rng(seed), np.array(shift), side, **how)


@settings(max_examples=15, deadline=None)
@given(FRACTION, FRACTION, WHOLE, WHOLE)
def test_a_whole_pixel_more_is_a_roll_from_whatever_fraction(y, x, down, right):
    """So nothing is interpolated: the fraction itself loses nothing."""
    near = drawn([(y, x)], noise=0).sources[0, 1]
    far = drawn([(y + down, x + right)], noise=0).sources[0, 1]
    rolled, inner = np.roll(near, (down, right), (0, 1)), (slice(4, -4),) * 2
    assert np.abs(rolled - far)[inner].max() < 2e-3  # head ends are cut at 1 part in 20


def test_half_a_pixel_is_between_its_neighbours():
    here, half, there = (drawn([(s, 0)] * 2, side=128, noise=0).sources[:, 1] for s in (0, 0.5, 1))
    middle = np.abs(half - (here + there) / 2).mean()
    assert 0 < middle < 0.35 * np.abs(half - here).mean()


def test_the_heads_are_the_same_whatever_the_shifts():
    still, moved = drawn([(0, 0), (0, 0)]), drawn([(2.5, -1), (0, 0)])
    assert np.array_equal(still.target, moved.target)
    assert np.array_equal(still.sources[:, 0], moved.sources[:, 0])
    assert np.array_equal(still.sources[1], moved.sources[1])
    assert np.abs(still.sources[0, 1] - moved.sources[0, 1]).max() > 0.1
    assert np.array_equal(moved.shift, [(2.5, -1), (0, 0)])


def test_no_two_heads_are_alike():
    rng = np.random.default_rng(0)
    found = [draw_slices(rng, np.zeros((2, 2)), 32).target for _ in range(2)]
    heads = np.concatenate(found).reshape(4, -1)
    assert np.corrcoef(heads > 0.55)[np.triu_indices(4, 1)].max() < 0.8


def test_a_slice_is_background_around_a_head():
    found = drawn([(0, 0)] * 8, side=64)
    assert found.sources.shape == (8, 2, 64, 64)
    assert found.target.shape == (8, 1, 64, 64)
    assert {each.dtype for each in (found.sources, found.target, found.shift)} == {
        np.dtype(np.float32)
    }
    head = found.target > 0
    assert np.array_equal(found.sources > 0, np.repeat(head, 2, 1))
    assert not head[..., 0, 0].any()
    assert 0.25 < head.mean() < 0.65
    assert 0.3 < np.median(found.target[head]) < 0.7


def test_no_slices_and_slices_that_are_too_small():
    assert drawn(np.zeros((0, 2))).sources.shape == (0, 2, 32, 32)
    with pytest.raises(InputError, match="32 pixels a side or more, got 16"):
        drawn([(0, 0)], side=16)
