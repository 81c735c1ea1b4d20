"""Thick slices are seen in a header, and in a spectrum where a converter has hidden them."""

import json

import numpy as np
import pytest
from scipy import ndimage

from synth3d.cohort.audit.problems import audit
from synth3d.cohort.audit.report import audit_json, format_audit
from synth3d.cohort.thickness import (
    ratio_disagrees,
    ratio_found,
    thick_axes,
    thickness_in_words,
    too_thick,
)
from synth3d.images.grids import Grid
from synth3d.images.volumes import write_new

SIDE = 48


def head_of(seed=0):
    """A ball of detail as fine along every axis, and where it is."""
    fine = np.random.default_rng(seed).normal(size=(SIDE,) * 3)
    image = 500 + 200 * ndimage.gaussian_filter(fine, 1.0)
    places = np.indices(image.shape) - (SIDE - 1) / 2
    head = np.sqrt((places**2).sum(0)) < 20
    return (image * head).astype(np.float32), head


def thickened(image, head, axis, voxels):
    """Means over slices of so many voxels, interpolated back, as converters do."""
    moved = np.moveaxis(image, axis, 0)
    means = moved.reshape(SIDE // voxels, voxels, SIDE, SIDE).mean(1)
    back = ndimage.zoom(means, (voxels, 1, 1), order=1, grid_mode=True, mode="nearest")
    return np.moveaxis(back, 0, axis) * head


@pytest.mark.parametrize("voxels", [4, 6])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_interpolated_slices_are_seen_along_their_axis(axis, voxels):
    image, head = head_of()
    found = thick_axes(thickened(image, head, axis, voxels), head, (1, 1, 1))
    assert [*found] == ["zyx"[axis]]
    assert 1.5 < found["zyx"[axis]] <= voxels


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("voxels", "least"), [(2, 1.9), (3, 2.8), (4, 3.6)])
def test_planes_that_a_converter_has_repeated_are_seen_along_their_axis(axis, voxels, least):
    """By the nearest voxel, which leaves no part of the spectrum empty; the head's edge is fine."""
    image, head = head_of()
    kept = np.repeat(np.arange(0, SIDE, voxels), voxels)
    found = thick_axes(np.take(image, kept, axis) * head, head, (1, 1, 1))
    assert [*found] == ["zyx"[axis]]
    assert least < found["zyx"[axis]] <= voxels + 0.5


def test_a_few_planes_that_are_twice_there_and_large_steps_of_grey_are_no_thick_slices():
    image, head = head_of()
    image[20], image[30] = image[19], image[29]
    assert thick_axes(image * head, head, (1, 1, 1)) == {}
    assert thick_axes(np.round(image / 100) * head, head, (1, 1, 1)) == {}


def test_fine_images_noise_and_small_things_are_left_alone():
    image, head = head_of()
    for volume in (image, image * 1e-3, ndimage.gaussian_filter(image, 1.5)):
        assert thick_axes(volume, head, (1, 1, 1)) == {}
    assert thick_axes(image[:8, :8, :8], head[:8, :8, :8], (1, 1, 1)) == {}
    assert thick_axes(np.zeros_like(image), head, (1, 1, 1)) == {}


def test_long_voxels_are_thick_by_their_header():
    image, head = head_of()
    assert thick_axes(image, head, (5, 0.9, 0.9)) == {"z": pytest.approx(5 / 0.9)}
    assert thick_axes(image, head, (2, 1, 1)) == {}


def test_an_audit_says_which_sequence_of_which_case(tmp_path):
    root = tmp_path / "cohort"
    for number in range(2):
        name = f"BraTS-GLI-{number:05d}-000"
        for seed, modality in enumerate(("t1n", "t1c", "t2w", "t2f")):
            image, head = head_of(seed + 4 * number)
            if (number, modality) == (1, "t2f"):
                image = thickened(image, head, 0, 4)
            affine = np.diag([-1.0, -1.0, 1.0, 1.0])
            write_new(root / name / f"{name}-{modality}.nii.gz", image, affine, "int16")
    result = audit(root)
    told = json.loads(audit_json(result))["cases"]
    assert [list(case["thick_slices_voxels"]) for case in told] == [[], ["t2f"]]
    assert [*told[1]["thick_slices_voxels"]["t2f"]] == ["z"]
    rows = [line.split() for line in format_audit(result).splitlines()]
    (row,) = [row for row in rows if row[:2] == ["t2f", "z"]]
    assert row[-2:] == ["1", "BraTS-GLI-00001-000"]


def test_each_sequence_is_present_degraded_or_missing_and_what_helps_is_said(tmp_path):
    """A FLAIR scanned in thick slices, on a grid of its own; another case lacks T2."""
    root = tmp_path / "cohort"
    for number in range(2):
        name = f"BraTS-GLI-{number:05d}-000"
        for seed, modality in enumerate(("t1n", "t2w", "t2f")):
            image, edge = head_of(seed + 4 * number)[0], 1.0
            if (number, modality) == (1, "t2f"):
                image, edge = image.reshape(-1, 4, *image.shape[1:]).mean(1), 4.0
            if (number, modality) != (0, "t2w"):
                affine = np.diag([-1.0, -1.0, edge, 1.0])
                write_new(root / name / f"{name}-{modality}.nii.gz", image, affine, "int16")
    result = audit(root)
    states = [case["states"] for case in json.loads(audit_json(result))["cases"]]
    assert states == [
        {"t1n": "present", "t1c": "missing", "t2w": "missing", "t2f": "present"},
        {"t1n": "present", "t1c": "missing", "t2w": "present", "t2f": "degraded"},
    ]
    text = format_audit(result)
    rows = {row[0]: row[1:4] for row in map(str.split, text.splitlines()[2:7]) if row}
    assert (rows["t2w"], rows["t2f"]) == (["1", "0", "1"], ["2", "1", "0"])
    assert "synth3d train --degraded t2f=4,1,1" in text
    assert "synth3d complete --restore t2f" in text
    assert text.count("--degraded") == 1


def test_what_is_a_little_smoother_along_an_axis_is_not_called_thick(tmp_path):
    """As isotropic images are by their gradients; nobody would restore it."""
    for number in range(2):
        image, head = head_of(number)
        image = ndimage.gaussian_filter1d(image, 0.8, axis=0) * head
        assert 1 < thick_axes(image, head, (1, 1, 1))["z"] < 2
        for name, volume in (("t1", head_of(number + 9)[0]), ("flair", image)):
            affine = np.diag([-1.0, -1.0, 1.0, 1.0])
            write_new(tmp_path / f"case{number}_{name}.nii.gz", volume, affine, "int16")
    result = audit(tmp_path)
    states = [case["states"]["t2f"] for case in json.loads(audit_json(result))["cases"]]
    assert states == ["present", "present"]
    assert "--degraded" not in format_audit(result)


def test_where_no_case_has_a_sequence_whole_no_training_is_advised(tmp_path):
    image, head = head_of(0)
    for name, volume in (("t1", head_of(9)[0]), ("flair", thickened(image, head, 0, 4))):
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
        write_new(tmp_path / f"case_{name}.nii.gz", volume, affine, "int16")
    text = format_audit(audit(tmp_path))
    assert "t2f" in text
    assert "--degraded" not in text


@pytest.mark.parametrize(
    ("found", "by", "asked", "wrong"),
    [
        ((4, 1, 1), "header", (4, 1, 1), False),
        ((7.9, 1, 1), "header", (4, 1, 1), False),
        ((8.1, 1, 1), "header", (4, 1, 1), True),
        ((1, 1, 4), "header", (4, 1, 1), True),
        ((1.9, 1, 1), "header", (4, 1, 1), True),
        ((2, 1, 1), "spectrum", (8, 1, 1), False),
        ((8, 1, 1), "spectrum", (2, 1, 1), True),
        ((1, 1, 1), "spectrum", (2, 1, 1), False),
        ((1, 1, 1), "spectrum", (4, 1, 1), True),
    ],
)
def test_when_slices_are_others_than_a_run_was_trained_for(found, by, asked, wrong):
    """By the header more than twice off; a spectrum tells the least, and not of a factor of 2."""
    assert ratio_disagrees(found, by, asked) == wrong


def test_the_ratio_is_the_headers_or_what_the_spectrum_shows():
    image, head = head_of()
    fine = Grid(image.shape, np.diag([-1.0, -1.0, 1.0, 1.0]))
    long = Grid((image.shape[0] // 4, *image.shape[1:]), np.diag([-1.0, -1.0, 4.0, 1.0]))
    assert ratio_found(long, fine, image, head) == ((4, 1, 1), "header")
    (z, y, x), by = ratio_found(fine, fine, thickened(image, head, 0, 4), head)
    assert (y, x, by) == (1, 1, "spectrum")
    assert 2 <= z <= 4


def test_a_truth_is_too_thick_where_half_of_what_is_restored_is_missing_of_it():
    image, head = head_of()
    thick = thickened(image, head, 0, 4)
    found = too_thick(thick, head, (4, 1, 1))
    assert [*found] == ["z"]
    assert thickness_in_words({"z": 2.67, "x": 2.0}) == "2.7 voxels along z and 2 voxels along x"
    for ratio in ((16, 1, 1), (1, 1, 4)):
        assert too_thick(thick, head, ratio) == {}
    assert too_thick(image, head, (2, 2, 2)) == {}
