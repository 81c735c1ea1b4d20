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


@st.composite
def pairs(draw, filled=False):
    """Two masks of one small shape, size-1 axes among them."""
    shape = draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=4))
    masks = [draw(arrays(bool, shape)) for _ in range(2)]
    if filled:
        for mask in masks:
            assume(mask.any())
    return masks[0], masks[1]


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


def test_a_corner_is_as_far_as_pythagoras_says():
    a, b = voxels((2, 2, 2), (0, 0, 0)), voxels((2, 2, 2), (1, 1, 1))
    assert hd95(a, b) == pytest.approx(np.sqrt(3**2 + 1.5**2 + 1))


def test_the_larger_direction_counts_and_percentiles_are_interpolated():
    """One voxel against itself and 19 beside it on a line: directed distances 0 and 0..19 mm."""
    a, b = voxels((1, 1, 20), (0, 0, 0)), np.ones((1, 1, 20), bool)
    assert hd95(a, b) == hd95(b, a) == pytest.approx(0.95 * 19)
    # of 1 + 20 surface voxels one of a, and those 0 and 1 mm along b, are near enough
    assert nsd(a, b) == pytest.approx(3 / 21)


def test_a_box_shifted_by_one_voxel():
    a = voxels((8, 8, 8), np.s_[2:5, 2:5, 2:5])
    b = np.roll(a, 1, axis=2)
    # of 26 surface voxels each, both have the ring of 8 in the two layers that they share; the
    # middle of such a layer is the face of one cube and the inside of the other
    assert hd95(a, b, (1, 1, 1)) == 1
    assert nsd(a, b, (1, 1, 1), tolerance=0) == pytest.approx(2 * 16 / 52)
    assert nsd(a, b, (1, 1, 1)) == 1


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
    assert hausdorff_95(surface_distances(none, one, SPACING), empty_mm=50) == 50
    nothing = np.zeros((0, 4, 4), bool)  # a volume without voxels is an empty mask
    assert (hd95(nothing, nothing), bounding_box(nothing)) == (0, None)
    assert (hd95(one, one), nsd(one, one, tolerance=tolerance)) == (0, 1)


def test_rounding_in_a_header_moves_nothing():
    a = voxels((4, 4, 4), (1, 1, 1))
    b = np.roll(a, 1, axis=0)
    assert nsd(a, b, np.float32([1.000001, 1, 1])) == 1


@given(pairs(), SPACINGS, st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.data())
def test_to_swap_move_turn_or_mirror_the_masks_changes_nothing(pair, spacing, order, flip, data):
    a, b = pair
    assert hd95(a, b, spacing) == hd95(b, a, spacing)
    assert nsd(a, b, spacing) == pytest.approx(nsd(b, a, spacing), abs=1e-12)
    room = data.draw(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=3, max_size=3))
    axes, sides = tuple(np.flatnonzero(flip)), [spacing[axis] for axis in order]
    moved = [np.flip(np.pad(mask, room), axes).transpose(order) for mask in pair]
    assert hd95(*moved, sides) == pytest.approx(hd95(a, b, spacing))
    assert nsd(*moved, sides) == pytest.approx(nsd(a, b, spacing))


@given(pairs(filled=True), SPACINGS, st.floats(0.1, 10))
def test_distances_scale_with_the_spacing(pair, spacing, factor):
    scaled = [factor * side for side in spacing]
    assert hd95(*pair, scaled) == pytest.approx(factor * hd95(*pair, spacing))


@given(pairs(filled=True), SPACINGS)
def test_nsd_with_the_tolerance_zero_counts_shared_surface(pair, spacing):
    edges = [set(map(tuple, surface_voxels(mask).tolist())) for mask in pair]
    shared = 2 * len(edges[0] & edges[1]) / (len(edges[0]) + len(edges[1]))
    assert nsd(*pair, spacing, tolerance=0) == pytest.approx(shared)
    assert (shared == 1) == (edges[0] == edges[1])


@given(arrays(bool, (4, 3, 5)), SPACINGS)
def test_a_mask_agrees_with_itself(mask, spacing):
    assert hd95(mask, mask, spacing) == 0
    assert nsd(mask, mask, spacing, tolerance=0) == 1


@given(pairs(filled=True), SPACINGS)
def test_hd95_is_zero_only_where_19_of_20_surface_voxels_are_shared(pair, spacing):
    """For fewer than 20 surface voxels that means: 0 exactly for equal surfaces."""
    edges = [surface_voxels(mask) for mask in pair]
    if max(map(len, edges)) < 20:
        same = np.array_equal(*edges)
        assert (hd95(*pair, spacing) == 0) == same


@given(pairs(), st.floats(0, 10), st.floats(0, 10))
def test_a_wider_tolerance_never_lowers_nsd(pair, a, b):
    low, high = sorted((a, b))
    assert 0 <= nsd(*pair, tolerance=low) <= nsd(*pair, tolerance=high) <= 1


@given(pairs(filled=True), SPACINGS)
def test_hd95_lies_within_the_volume(pair, spacing):
    diagonal = np.sqrt(sum(((n - 1) * s) ** 2 for n, s in zip(pair[0].shape, spacing, strict=True)))
    assert 0 <= hd95(*pair, spacing) <= diagonal * (1 + 1e-12)


@given(pairs(filled=True), SPACINGS)
def test_tree_and_transform_find_what_a_plain_loop_finds(pair, spacing):
    edges = [surface_voxels(mask) * np.array(spacing) for mask in pair]
    plain = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=2)
    expected = Distances(plain.min(axis=1), plain.min(axis=0))
    for share in (0, 10**9):  # always the tree, always the transform
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(surface, "VOXELS_PER_TARGET", share)
            found = surface_distances(*pair, spacing)
        np.testing.assert_allclose(found.of_reference, expected.of_reference, atol=1e-9)
        np.testing.assert_allclose(found.of_prediction, expected.of_prediction, atol=1e-9)


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


def test_refuses_what_cannot_be_compared():
    mask = np.zeros((2, 2, 2), bool)
    with pytest.raises(ValueError, match=r"reference is \(2, 2, 2\), prediction \(2, 2, 1\)"):
        surface_distances(mask, mask[..., :1], SPACING)
    with pytest.raises(ValueError, match=r"the prediction must be a bool mask .* got uint8"):
        surface_distances(mask, mask.astype(np.uint8), SPACING)
    with pytest.raises(ValueError, match="bool mask"):
        surface_voxels(mask[0])
    for spacing in ((1, 1), (1, 0, 1), (1, np.nan, 1), (-1, 1, 1)):
        with pytest.raises(ValueError, match="three positive mm"):
            surface_distances(mask, mask, spacing)
    for tolerance in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="tolerance is at least 0"):
            nsd(mask, mask, tolerance=tolerance)
