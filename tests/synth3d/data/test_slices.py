"""What a 2-D network sees of a case, and the way back."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from synth3d.cohort import Case
from synth3d.data.options import DataConfig
from synth3d.data.prepared import Prepared
from synth3d.data.slices import (
    draw_in,
    frame_of,
    learnt_slices,
    restore,
    seen,
    slice_centres,
    spacing_seen,
)
from synth3d.data.task import Task
from synth3d.frameworks.reconstruction import L1Options, Reconstruction
from synth3d.images.intensity import Scale
from synth3d.images.planes import PLANES, Turn
from synth3d.inference.case import synthesize_case
from synth3d.inference.volume import SynthesisOptions

LPS = np.diag([-1.0, -1.5, 2.0, 1.0])


TASK = Task(2, ("t1n", "t2w"), ("t2f",))


def view_of(plane="axial", size=(), patch=(8, 8), overlap=(4, 4)):
    """Task and data, as the functions here take them."""
    return TASK, DataConfig(patch=patch, overlap=overlap, plane=plane, slice_size=size)


def case_of(shape=(9, 11, 13), affine=LPS, seed=0, names=("t1n", "t2w", "t2f")):
    """A textured ball off the centre, with a tumour in it."""
    generator = np.random.default_rng(seed)
    z, y, x = (np.linspace(-1, 1, side) for side in shape)
    brain = (z[:, None, None] - 0.1) ** 2 + y[:, None] ** 2 + (x + 0.1) ** 2 < 0.7
    volumes = {name: (brain * (0.2 + generator.random(shape))).astype(np.float32) for name in names}
    case = Case("P-1", "P", None, {}, None, "brats2023")
    scales = {name: Scale(0, 900) for name in names}
    return Prepared(case, volumes, scales, brain, brain & (x > 0.2), affine)


@pytest.mark.parametrize("plane", PLANES)
@given(order=st.permutations(range(3)), flips=st.tuples(*[st.booleans()] * 3))
def test_one_head_is_seen_alike_however_its_file_lies(plane, order, flips):
    view, case = view_of(plane), case_of()
    turn = Turn(tuple(order), tuple(flips))
    other = dataclasses.replace(
        case,
        volumes={name: turn.apply(volume) for name, volume in case.volumes.items()},
        brain=turn.apply(case.brain),
        tumour=turn.apply(case.tumour),
        affine=turn.affine(case.affine, case.brain.shape),
    )
    here, there = seen(case, *view), seen(other, *view)
    np.testing.assert_array_equal(here.sources(TASK), there.sources(TASK))
    np.testing.assert_array_equal(here.tumour, there.tumour)
    np.testing.assert_allclose(here.affine, there.affine, atol=1e-12)
    assert spacing_seen(case.grid, *view) == pytest.approx(spacing_seen(other.grid, *view))


@pytest.mark.parametrize("plane", PLANES)
@settings(max_examples=15)
@given(
    patch=st.tuples(*[st.sampled_from([2, 4, 8, 16])] * 2),
    order=st.permutations(range(3)),
    share=st.sampled_from([0, 0.5]),
)
def test_an_identity_network_gives_back_the_volume_bit_for_bit(plane, patch, order, share):
    class Copy(Reconstruction):
        def synthesize(self, sources, present, wanted, seed=0):
            assert sources.shape[2:] == patch
            return sources[:, 1:2]

    overlap = tuple(int(share * side) // 2 * 2 for side in patch)
    _, data = view_of(plane, patch=patch, overlap=overlap)
    affine = Turn(tuple(order), (True, False, True)).affine(LPS, (9, 11, 13))
    case = case_of(affine=affine)
    copy = Copy(torch.nn.Conv2d(1, 1, 1), TASK, L1Options())
    result = synthesize_case(copy, case, data, SynthesisOptions(patch, overlap, batch=3))
    np.testing.assert_array_equal(result[0], case.volumes["t2w"])


def test_slices_without_brain_are_never_computed():
    tiles = []

    class Count(Reconstruction):
        def synthesize(self, sources, present, wanted, seed=0):
            tiles.extend(sources)
            return sources[:, :1]

    case, (_, data) = case_of(), view_of(patch=(16, 16))
    case.brain[:] = False
    case.brain[3:5, 4:6, 4:6] = True
    counting = Count(torch.nn.Conv2d(1, 1, 1), TASK, L1Options())
    synthesize_case(counting, case, data, SynthesisOptions(data.patch, data.overlap, batch=1))
    assert len(tiles) == 2


@pytest.mark.parametrize("size", [(6, 7), (11, 13), (20, 31), (8, 30)])
def test_a_resampled_constant_comes_back_as_it_was_without_dark_rims(size):
    settings, case = view_of(size=size), case_of()
    flat = {name: 0.7 * case.brain.astype(np.float32) for name in case.volumes}
    case = dataclasses.replace(case, volumes=flat)
    view = seen(case, *settings)
    assert view.brain.shape == (9, *size)
    np.testing.assert_allclose(view.volumes["t1n"][view.brain], 0.7, rtol=1e-5)
    assert not view.volumes["t1n"][~view.brain].any()
    back = restore(view.stack(["t1n"]), case, *settings)
    np.testing.assert_allclose(back[0], flat["t1n"], rtol=1e-5)


@settings(max_examples=30)
@given(
    sides=st.tuples(*[st.integers(2, 24)] * 2),
    size=st.tuples(*[st.integers(1, 24)] * 2),
    chance=st.floats(0.02, 0.9),
)
def test_no_voxel_of_the_brain_is_lost_by_resampling(sides, size, chance):
    brain = np.random.default_rng(1).random((3, *sides)) < chance
    brain[0, 0, 0] = True
    ones = {"t1n": brain.astype(np.float32)}
    case = dataclasses.replace(case_of(), volumes=ones, brain=brain, tumour=None)
    settings = view_of(size=size)
    back = restore(seen(case, *settings).stack(["t1n"]), case, *settings)
    np.testing.assert_allclose(back[0], ones["t1n"], atol=1e-5)


def test_resampling_keeps_the_field_of_view():
    """A linear ramp in mm is the same ramp after resampling, read with the new affine."""
    settings = view_of("coronal", size=(21, 26))
    case = case_of()
    z, y, x = np.indices(case.brain.shape)
    ramp = 3.0 * x - 2.0 * z
    everywhere = np.ones_like(case.brain)
    case = dataclasses.replace(
        case, brain=everywhere, volumes={"t1n": ramp.astype(np.float32)}, tumour=None
    )
    view = seen(case, *settings)
    slices, rows, columns = np.indices(view.brain.shape)
    mm = np.stack([columns, rows, slices, np.ones(view.brain.shape)], -1) @ view.affine.T
    own = mm @ np.linalg.inv(case.affine).T
    expected = 3.0 * own[..., 0] - 2.0 * own[..., 2]
    inner = (slice(None), slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(view.volumes["t1n"][inner], expected[inner], atol=1e-4)
    assert spacing_seen(case.grid, *settings) == pytest.approx((2.0 * 9 / 21, 1.0 * 13 / 26))


def test_worked_example_of_the_slices_that_are_learnt_from():
    brain = np.zeros((20, 4, 4), bool)
    brain[4:15, 1:3, 1:3] = True
    assert learnt_slices(brain, 0) == slice(4, 15)
    assert learnt_slices(brain, 5) == slice(7, 12)
    assert learnt_slices(brain, 99) == slice(4, 15)
    assert learnt_slices(np.zeros_like(brain), 5) == slice(0, 0)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 30), st.integers(1, 30)),
    patch=st.tuples(*[st.integers(1, 16)] * 2),
    count=st.integers(0, 6),
    seed=st.integers(0, 50),
)
def test_the_frame_holds_all_learnt_brain_and_fits_the_patch(shape, patch, count, seed):
    brain = np.random.default_rng(seed).random(shape) < 0.1
    brain[0, -1, 0] = True
    assume(brain[learnt_slices(brain, count)].any())
    frame = frame_of(brain, patch, count)
    learnt = np.zeros_like(brain)
    learnt[learnt_slices(brain, count)] = True
    learnt &= brain
    padded = np.pad(frame.cut(brain), frame.margins)
    assert padded.shape == frame.shape
    assert padded.sum() == learnt.sum()
    assert all(side >= size for side, size in zip(frame.shape[1:], patch, strict=True))
    for axis, size in enumerate(patch, start=1):
        if shape[axis] <= size:  # then the slice lies where completion lays it: at the beginning
            assert (frame.origin[axis], frame.shape[axis]) == (0, size)


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)),
    data=st.data(),
    seed=st.integers(0, 99),
)
def test_every_weight_becomes_that_of_a_patch_that_fits(shape, data, seed):
    patch = tuple(data.draw(st.integers(1, side)) for side in shape)
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    drawn = draw_in(weights, patch)
    assert drawn.sum() == pytest.approx(float(weights.sum()), rel=1e-5)
    for centre in drawn.nonzero().tolist():
        for at, size, side in zip(centre, patch, shape, strict=True):
            assert 0 <= at - size // 2 <= side - size


def test_worked_example_of_drawing_in():
    weights = torch.arange(1.0, 7.0).view(1, 1, 6)
    assert draw_in(weights, (1, 1, 4)).flatten().tolist() == [0, 0, 1 + 2 + 3, 4, 5 + 6, 0]
    assert draw_in(weights, (1, 1, 6)).flatten().tolist() == [0, 0, 0, 21, 0, 0]
    assert draw_in(weights, (1, 1, 1)).equal(weights)


def test_slices_are_equally_likely_and_the_tumour_as_likely_as_asked():
    brain = np.zeros((4, 6, 6), bool)
    brain[0, :2, :2] = brain[1] = brain[3, 0, 0] = True  # and one slice with none in between
    weights = slice_centres(brain, None, 0.5)
    np.testing.assert_allclose(weights.sum((1, 2)), [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)
    tumour = np.zeros_like(brain)
    tumour[1, 2:4, 2:4] = tumour[2] = True
    weights = slice_centres(brain, tumour, 0.25)
    assert weights.sum() == pytest.approx(1)
    assert weights[tumour & brain].sum() == pytest.approx(0.25 + 0.75 / 3 * 4 / 36)
    assert not weights[~brain].any()
