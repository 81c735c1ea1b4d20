import base64
import io
import itertools
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image
from skimage.measure import find_contours

from seg_eval.report.slices import BRIGHTEST, MOST_PIECES, Limits, agreement, draw_planes, outline
from seg_eval.report.volumes import ArmVolumes, CaseVolumes, Orientation


def test_a_volume_of_another_shape_is_refused():
    real = np.zeros((3, 4, 5), np.float32)
    wrong = {"full": ArmVolumes(np.zeros((3, 4, 4), np.float32), {})}
    with pytest.raises(ValueError, match=r"full channel is \(3, 4, 4\)"):
        CaseVolumes("c", "p", "worst", "t2f", real, wrong, {}, np.eye(4), (1, 1, 1))


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
@pytest.mark.parametrize("signs", itertools.product((1, -1), repeat=3))
def test_turned_axes_run_left_back_and_down_whichever_way_the_file_runs(order, signs):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(np.array(signs) * [1.0, 2.0, 3.0])[:, order]
    affine[:3, :3] += 0.05
    orientation = Orientation(affine)
    shape = (4, 3, 5)  # (z, y, x)
    z, y, x = np.indices(shape)
    world = np.einsum("ij,jzyx->izyx", affine[:3, :3], np.stack([x, y, z]))
    for axis in range(3):
        along = np.diff(orientation.turn(world[axis]), axis=axis)
        assert (along < 0).all()
        length = orientation.turn(world[axis]).shape[axis]
        index = np.indices(shape)[2 - "xyz".index(orientation.file_axis(axis))]
        found = np.moveaxis(orientation.turn(index), axis, 0)
        assert [orientation.file_index(axis, i, length) for i in range(length)] == [
            found[i].flat[0] for i in range(length)
        ]
    spacing = orientation.turn_spacing((30.0, 20.0, 10.0))
    assert spacing == tuple(10.0 * (1 + "xyz".index(orientation.file_axis(i))) for i in range(3))
    assert orientation.letters("axial") == ("R", "L", "A", "P")


def test_an_oblique_grid_has_its_tilt_and_a_broken_affine_is_unknown():
    turn = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    assert Orientation(affine).tilt == pytest.approx(20)
    for broken in (np.zeros((4, 4)), np.full((4, 4), np.nan), np.ones((4, 4))):
        assert Orientation(broken).letters("axial") == ("?",) * 4
        assert not Orientation(broken).known


def test_sheets_hold_the_slices_in_order_and_the_start_is_the_largest_tumour():
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(rng.uniform(0.2, 1, (6, 2, 2)), 8, axis=1), 8, axis=2)
    real = smooth.astype(np.float32)
    mask = np.zeros(real.shape, bool)
    mask[2, 3:9, 3:9] = mask[3, 4, 4] = True
    case = CaseVolumes("c", "p", "worst", "t2f", real, {"full": ArmVolumes(real, {"WT": mask})},
                       {"WT": mask}, np.diag([1.0, 1, 1, 1]), (3.0, 1.0, 1.0))  # fmt: skip
    plane = draw_planes(case, ["full"], Limits(48, 95))[0]
    assert plane.labels[plane.start] == "z = 2 of 0–5"
    assert plane.labels[0] == "z = 0 of 0–5"
    assert plane.letters == ("R", "L", "A", "P")
    data = base64.b64decode(plane.sheets["real"].split(",")[1])
    sheet = np.asarray(Image.open(io.BytesIO(data)).convert("L"), float) / 255 * BRIGHTEST
    width, height = plane.size
    for place in range(len(plane.indices)):
        row, column = divmod(place, plane.columns)
        tile = sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
        want = np.pad(real[place][::-1, ::-1], 2)  # RAS+: front at the top, right at the left
        assert np.abs(tile - want)[4:-4, 4:-4].mean() < 0.04


def test_the_aspect_is_that_of_millimetres(phantom):
    case = phantom("c", "worst", shape=(20, 60, 60), spacing=(6.0, 2.0, 1.0))
    by_name = {plane.name: plane for plane in draw_planes(case, ["full"], Limits(4, 50))}
    for name, across in (("coronal", 1.0), ("sagittal", 2.0)):
        width, height = by_name[name].size
        assert by_name[name].aspect == pytest.approx(width * across / (height * 6.0))


def unit_steps(points: np.ndarray) -> set:
    """The steps of a closed line, cut at every middle of a pixel's side, without direction."""
    found = set()
    for start, end in pairwise(points):
        count = np.abs(end - start).max() // (1 if (end != start).all() else 2)
        cuts = [tuple(point) for point in np.linspace(start, end, count + 1).round().astype(int)]
        found |= {frozenset(pair) for pair in pairwise(cuts)}
    return found


@given(arrays(bool, (7, 9)))
def test_an_outline_is_that_of_scikit_image(mask):
    drawn = set()
    for piece in outline(mask).split("z")[:-1]:
        numbers = [int(n) for n in re.findall(r"-?\d+", piece)]
        points = np.cumsum(np.reshape(numbers, (-1, 2)), axis=0)
        drawn |= unit_steps(np.concatenate([points, points[:1]]))
    want = set()
    for line in find_contours(np.pad(mask, 1).astype(float), 0.5):
        want |= unit_steps(np.rint(2 * line[:, ::-1] - 1).astype(int))
    assert drawn == want


def test_of_noise_only_the_longest_outlines_are_drawn():
    noise = np.random.default_rng(0).random((200, 200)) < 0.3
    assert outline(noise).count("z") == MOST_PIECES


def test_agreement_is_of_the_masks_that_are_shown(phantom):
    case = phantom("c", "worst")
    truth, found = case.truth["WT"], case.arms["zero"].masks["WT"]
    want = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    assert agreement(case, ["zero"])["WT"]["zero"] == pytest.approx(want)
