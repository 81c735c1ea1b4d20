"""Mirror images are the body's, whatever way a file is stored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from synth3d.cohort import Case
from synth3d.data import DataConfig, Prepared, Task
from synth3d.frameworks import FRAMEWORKS
from synth3d.frameworks.reconstruction import L1Options
from synth3d.images import Scale
from synth3d.inference import SynthesisOptions, mirrored, mirrors_of, synthesize_case

UPRIGHT = np.eye(4)  # grows to right, anterior, superior along (x, y, z)
SHAPE_XYZ = (6, 7, 5)
TASK = Task(3, ("t1n",), ("t2f",))
FLAT = Task(2, ("t1n",), ("t2f",))
DATA = DataConfig(patch=(8, 8, 8), overlap=(0, 0, 0))


def prepared_of(volume_xyz, affine):
    volume = np.ascontiguousarray(volume_xyz.T.astype(np.float32))
    case = Case("a", "a", Path(), {}, None, "brats2023")
    brain = np.ones(volume.shape, bool)
    return Prepared(case, {"t1n": volume}, {"t1n": Scale(0, 1)}, brain, volume > 0.5, affine)


@settings(max_examples=20)
@given(st.permutations("RAS"), st.tuples(*[st.booleans()] * 3))
def test_a_mirror_swaps_left_and_right_however_the_file_is_stored(axes, reverse):
    codes = "".join(
        dict(zip("RAS", "LPI", strict=True))[axis] if other else axis
        for axis, other in zip(axes, reverse, strict=True)
    )
    volume = np.random.default_rng(0).random(SHAPE_XYZ)
    upright, wanted = (nib.orientations.axcodes2ornt(each) for each in ("RAS", codes))
    turn: Any = nib.orientations.ornt_transform(upright, wanted)
    stored = nib.Nifti1Image(volume, UPRIGHT).as_reoriented(turn)
    case = prepared_of(stored.get_fdata(), stored.affine)
    _, mirror = mirrors_of("x", case.affine, TASK, DATA)
    seen = nib.Nifti1Image(mirrored(case, mirror).volumes["t1n"].T, stored.affine)
    back = nib.as_closest_canonical(seen).get_fdata()
    np.testing.assert_array_equal(back, volume[::-1].astype(np.float32))


@pytest.mark.parametrize(
    ("task", "plane", "x", "xyz"),
    [(TASK, "axial", 2, 8), (FLAT, "axial", 2, 4), (FLAT, "sagittal", 1, 4)],
)
def test_every_mirror_shows_the_network_something_else(task, plane, x, xyz):
    data = replace(DATA, plane=plane, patch=DATA.patch[: task.dim], overlap=(0,) * task.dim)
    for axes, count in (("", 1), ("x", x), ("xyz", xyz)):
        found = mirrors_of(axes, UPRIGHT, task, data)
        assert found[0] == ()
        assert len({*found}) == len(found) == count


class Leaning(nn.Module):
    """A generator that looks one voxel along x, so that a mirror changes what it makes."""

    def forward(self, x, *_, **__):
        return torch.roll(x, 1, dims=-1)


def test_what_is_made_in_a_mirror_is_mirrored_back():
    framework = FRAMEWORKS["l1"](Leaning(), TASK, L1Options()).eval()
    case = prepared_of(np.random.default_rng(1).random((8, 8, 8)), UPRIGHT)
    options = SynthesisOptions(DATA.patch, DATA.overlap)
    plain = synthesize_case(framework, case, DATA, options)[0]
    made = synthesize_case(framework, case, DATA, options, mirror=(2,))[0]
    volume = case.volumes["t1n"]
    np.testing.assert_array_equal(plain, np.roll(volume, 1, axis=2))
    np.testing.assert_array_equal(made, np.roll(volume, -1, axis=2))
    twice = mirrored(mirrored(case, (0, 2)), (0, 2))
    np.testing.assert_array_equal(twice.volumes["t1n"], volume)
    np.testing.assert_array_equal(twice.tumour, case.tumour)
