from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from seg_eval.scoring.lesions import BRATS_GLIOMA, LesionRule, dilation_offsets, lesion_scores
from seg_eval.scoring.scores import dice
from seg_eval.scoring.surface import hausdorff_95, surface_distances

ONE_MM = (1.0, 1.0, 1.0)
SHAPE = (12, 14, 40)
ALL = LesionRule(smallest_mm3=0)


def box(shape, *corners):
    """A mask with cubes of 4 voxels (64 mm^3 at 1 mm) at these corners."""
    mask = np.zeros(shape, bool)
    for z, y, x in corners:
        mask[z : z + 4, y : y + 4, x : x + 4] = True
    return mask


def compare(reference, prediction, spacing=ONE_MM, rule=BRATS_GLIOMA):
    return lesion_scores(reference, prediction, spacing, rule)


def test_a_missed_and_a_false_lesion_count_zero_and_374():
    near, far, elsewhere = (4, 4, 2), (4, 4, 18), (4, 4, 34)
    got = compare(box(SHAPE, near, far), box(SHAPE, near, elsewhere))
    assert got.dice == pytest.approx(1 / 3)
    assert got.hd95_mm == pytest.approx(2 * 374 / 3)
    assert (got.lesions, got.found, got.false) == (2, 1, 1)


@pytest.mark.parametrize(("gap", "lesions"), [(1, 1), (6, 1), (7, 2), (8, 2)])
def test_lesions_up_to_six_voxels_apart_are_one(gap, lesions):
    """Both grow by 3 voxels: 6 between them are filled, and after 7 they do not touch."""
    a = box(SHAPE, (4, 4, 2), (4, 4, 2 + 4 + gap))
    got = compare(a, a)
    assert (got.lesions, got.dice, got.hd95_mm) == (lesions, 1, 0)
    missed = compare(a, box(SHAPE, (4, 4, 2)))
    assert missed.found == 1
    assert missed.dice == pytest.approx(2 / 3 if lesions == 1 else 1 / 2)


def test_one_component_over_two_lesions_belongs_to_both():
    a = box(SHAPE, (4, 4, 2), (4, 4, 16))
    b = np.zeros(SHAPE, bool)
    b[4:8, 4:8, 2:20] = True  # 288 voxels over two lesions of 64
    got = compare(a, b)
    assert (got.lesions, got.found, got.false) == (2, 2, 0)
    assert got.dice == pytest.approx(2 * 64 / (64 + 288))


@pytest.mark.parametrize(
    ("spacing", "voxels", "counts"),
    [
        (ONE_MM, 50, False),
        (ONE_MM, 51, True),
        ((1.000001, 1, 1), 50, False),  # a header's rounding
        ((2.0, 2.0, 2.0), 6, False),  # 48 mm^3
        ((2.0, 2.0, 2.0), 7, True),
    ],
    ids=str,
)
def test_lesions_of_at_most_50_cubic_millimetres_are_left_out(spacing, voxels, counts):
    a = np.zeros((1, 4, 60), bool)
    a[0, 0, :voxels] = True
    got = compare(a, a, spacing)
    assert (got.lesions, got.found) == (int(counts), int(counts))
    assert (got.dice, got.hd95_mm, got.false) == (1, 0, 0)  # nothing to count is 1 and 0
    missed = compare(a, np.zeros_like(a), spacing)
    assert (missed.dice, missed.hd95_mm) == ((0, 374) if counts else (1, 0))


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 4, 4), (1, 9, 1), (0, 3, 3)], ids=str)
def test_empty_and_full_masks(shape):
    none, full = np.zeros(shape, bool), np.ones(shape, bool)
    empty = compare(none, none)
    assert (empty.dice, empty.hd95_mm) == (1, 0)
    assert (empty.lesions, empty.found, empty.false) == (0, 0, 0)
    if full.size:
        false = compare(none, full, rule=ALL)
        assert (false.dice, false.hd95_mm, false.lesions, false.false) == (0, 374, 0, 1)
        missed = compare(full, none, rule=ALL)
        assert (missed.dice, missed.hd95_mm, missed.lesions, missed.found) == (0, 374, 1, 0)
        assert compare(full, full, rule=ALL).dice == 1


@pytest.mark.parametrize("steps", [1, 3])
def test_millimetres_are_steps_of_the_18_neighbour_element(steps):
    element = ndimage.generate_binary_structure(3, 2)
    grown = ndimage.iterate_structure(element, steps)
    expected = {tuple(at - steps) for at in np.argwhere(grown)}
    assert set(map(tuple, dilation_offsets(ONE_MM, steps).tolist())) == expected


def test_dilation_is_measured_in_millimetres():
    assert np.abs(dilation_offsets((2.0, 2.0, 2.0), 3)).max() == 1
    assert np.abs(dilation_offsets((5.0, 1.0, 0.5), 3)).max(axis=0).tolist() == [0, 3, 6]


def by_the_book(reference, prediction, spacing, rule, steps):
    """The rule once more, lesion by lesion on whole volumes, as its text reads."""
    element, touching = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3))
    grown = ndimage.binary_dilation(reference, element, iterations=steps)
    territory, count = ndimage.label(grown, touching)
    parts, part_count = ndimage.label(prediction, touching)
    hit, found, dices, distances = set(), 0, [], []
    for number in range(1, count + 1):
        lesion = reference & (territory == number)
        around = ndimage.binary_dilation(lesion, element, iterations=steps)
        own = set(np.unique(parts[around & prediction]).tolist())
        hit |= own
        if lesion.sum() * np.prod(spacing) <= rule.smallest_mm3:
            continue
        found += bool(own)
        claimed = np.isin(parts, list(own))
        dices.append(dice(lesion, claimed))
        distances.append(hausdorff_95(surface_distances(lesion, claimed, spacing)))
    false = part_count - len(hit)
    counts = len(dices), found, false
    dices, distances = dices + [0] * false, distances + [374] * false
    return (np.mean(dices), np.mean(distances), *counts) if dices else (1, 0, *counts)


@st.composite
def scattered(draw):
    """Two sparse masks in which lesions, merged lesions and false ones all occur."""
    shape = tuple(draw(st.integers(1, 16)) for _ in range(3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    masks = [generator.random(shape) < draw(st.floats(0, 0.03)) for _ in range(2)]
    return [ndimage.binary_dilation(mask) if draw(st.booleans()) else mask for mask in masks]


@given(scattered(), st.sampled_from([1, 3]), st.sampled_from([0, 2, 6, 50]))
def test_agrees_with_the_rule_by_the_book(pair, steps, smallest):
    rule = LesionRule(dilation_mm=steps, smallest_mm3=smallest)
    got = compare(*pair, rule=rule)
    expected = by_the_book(*pair, ONE_MM, rule, steps)
    assert astuple(got) == pytest.approx(expected)


@given(scattered())
def test_known_distances_change_nothing_and_masks_are_not_touched(pair):
    kept = [mask.copy() for mask in pair]
    whole = surface_distances(*pair, ONE_MM)
    assert lesion_scores(*pair, ONE_MM, ALL, whole) == compare(*pair, rule=ALL)
    np.testing.assert_array_equal(pair, kept)


@given(scattered(), st.permutations(range(3)), st.integers(0, 5))
def test_room_turned_axes_and_the_order_in_memory_change_nothing(pair, order, room):
    spacing = (2.5, 1.0, 1.5)
    moved = [np.asfortranarray(np.pad(mask, room).transpose(order)) for mask in pair]
    a = compare(*pair, spacing, ALL)
    b = compare(*moved, [spacing[axis] for axis in order], ALL)
    assert (a.lesions, a.found, a.false) == (b.lesions, b.found, b.false)
    assert (a.dice, a.hd95_mm) == pytest.approx((b.dice, b.hd95_mm))
