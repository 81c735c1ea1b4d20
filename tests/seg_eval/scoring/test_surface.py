import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from seg_eval.scoring import surface
from seg_eval.scoring.surface import (
    Distances,
    bounding_box,
    hausdorff_95,
    normalised_surface_distance,
    surface_distances,
    surface_voxels,
)

SPACING = (3.0, 1.5, 1.0)
SIDES = st.floats(0.3, 5)
SPACINGS = st.tuples(SIDES, SIDES, SIDES)
SHAPES = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=4)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(*[arrays(bool, shape)] * 2))
"""Two masks of one small shape, size-1 axes among them."""


def hd95(a, b, spacing=SPACING):
    return hausdorff_95(surface_distances(a, b, spacing))


def nsd(a, b, spacing=SPACING, tolerance=1.0):
    return normalised_surface_distance(surface_distances(a, b, spacing), tolerance)


def voxels(shape, *places):
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


@pytest.mark.parametrize(("axis", "step_mm"), enumerate(SPACING))
def test_two_voxels_are_their_spacing_apart(axis, step_mm):
    other = [1, 1, 1]
    other[axis] = 3
    a, b = voxels((5, 5, 5), (1, 1, 1)), voxels((5, 5, 5), tuple(other))
    assert hd95(a, b) == pytest.approx(2 * step_mm)
    assert nsd(a, b, tolerance=2 * step_mm) == 1
    assert nsd(a, b, tolerance=2 * step_mm - 0.01) == 0


def test_the_larger_direction_counts_and_percentiles_are_interpolated():
    """One voxel against itself and 19 beside it on a line: directed distances 0 and 0..19 mm."""
    a, b = voxels((1, 1, 20), (0, 0, 0)), np.ones((1, 1, 20), bool)
    assert hd95(a, b) == hd95(b, a) == pytest.approx(0.95 * 19)
    # of 1 + 20 surface voxels one of a, and those 0 and 1 mm along b, are near enough
    assert nsd(a, b) == pytest.approx(3 / 21)


def test_the_surface_is_what_has_a_face_neighbour_outside():
    cube = np.ones((3, 3, 3), bool)
    assert len(surface_voxels(cube)) == 26  # all but the middle: beyond the volume is outside
    dented = np.pad(cube, 1)
    dented[1, 1, 1] = False  # a missing corner is no face neighbour of the middle
    assert [2, 2, 2] not in surface_voxels(dented).tolist()
    dented[1, 2, 2] = False
    assert [2, 2, 2] in surface_voxels(dented).tolist()


@pytest.mark.parametrize("tolerance", [0, 1.0, 500])
def test_empty_masks_follow_brats(tolerance):
    none, one = np.zeros((2, 3, 1), bool), np.ones((2, 3, 1), bool)
    assert (hd95(none, none), nsd(none, none, tolerance=tolerance)) == (0, 1)
    for pair in ((none, one), (one, none)):
        assert (hd95(*pair), nsd(*pair, tolerance=tolerance)) == (374, 0)
    nothing = np.zeros((0, 4, 4), bool)  # a volume without voxels is an empty mask
    assert (hd95(nothing, nothing), bounding_box(nothing)) == (0, None)
    assert (hd95(one, one), nsd(one, one, tolerance=tolerance)) == (0, 1)


def test_rounding_in_a_header_moves_nothing():
    a = voxels((4, 4, 4), (1, 1, 1))
    assert nsd(a, np.roll(a, 1, axis=0), np.float32([1.000001, 1, 1])) == 1


@given(PAIRS, SPACINGS, st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.data())
def test_to_swap_move_turn_or_mirror_the_masks_changes_nothing(pair, spacing, order, flip, data):
    a, b = pair
    assert hd95(a, b, spacing) == hd95(b, a, spacing)
    assert nsd(a, b, spacing) == pytest.approx(nsd(b, a, spacing), abs=1e-12)
    room = data.draw(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=3, max_size=3))
    axes, sides = tuple(np.flatnonzero(flip)), [spacing[axis] for axis in order]
    moved = [np.flip(np.pad(mask, room), axes).transpose(order) for mask in pair]
    assert hd95(*moved, sides) == pytest.approx(hd95(a, b, spacing))
    assert nsd(*moved, sides) == pytest.approx(nsd(a, b, spacing))


@given(PAIRS, SPACINGS, st.floats(0, 10))
def test_tree_and_transform_find_what_a_plain_loop_finds(pair, spacing, tolerance):
    assume(pair[0].any() and pair[1].any())
    edges = [surface_voxels(mask) * np.array(spacing) for mask in pair]
    plain = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=2)
    expected = Distances(plain.min(axis=1), plain.min(axis=0))
    for share in (0, 10**9):  # always the tree, always the transform
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(surface, "VOXELS_PER_TARGET", share)
            found = surface_distances(*pair, spacing)
        np.testing.assert_allclose(found.of_reference, expected.of_reference, atol=1e-9)
        np.testing.assert_allclose(found.of_prediction, expected.of_prediction, atol=1e-9)
    directed = [np.percentile(plain.min(axis=axis), 95) for axis in (0, 1)]
    assert hd95(*pair, spacing) == pytest.approx(max(directed))
    every = np.concatenate([plain.min(axis=0), plain.min(axis=1)])
    assume(np.abs(every - tolerance).min() > 1e-3)  # the slack for rounding in a header
    assert nsd(*pair, spacing, tolerance) == pytest.approx(np.mean(every < tolerance))


def blobs(seed, shape=(14, 20, 17)):
    """Two overlapping random shapes, a stray voxel in the second."""
    generator = np.random.default_rng(seed)
    first = ndimage.gaussian_filter(generator.standard_normal(shape), 2) > 0.05
    second = np.roll(first, seed % 3, axis=1) ^ (generator.random(shape) < 0.02)
    second[0, 0, 0] = True
    return first, second


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 2, 2), (3, 1.5, 1), (0.9, 0.9, 4.8)], ids=str)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.filterwarnings("ignore:monai:FutureWarning")  # of its own argument, to itself
def test_monai_measures_the_same(spacing, seed):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    a, b = blobs(seed)
    pair = [torch.from_numpy(mask)[None, None].float() for mask in (b, a)]
    options = {"include_background": True, "spacing": [float(side) for side in spacing]}
    theirs = monai.compute_hausdorff_distance(*pair, percentile=95, **options).item()
    assert hd95(a, b, spacing) == pytest.approx(theirs, rel=1e-5)
    for tolerance in (0.5, 1.0, 2.0):
        shares = monai.compute_surface_dice(*pair, class_thresholds=[tolerance], **options)
        assert nsd(a, b, spacing, tolerance) == pytest.approx(shares.item(), rel=1e-5)
