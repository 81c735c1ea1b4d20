"""One source out of place: what moves, how far, and that it moves alike each time."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synth3d.data.cache.packed import pack
from synth3d.data.misalign import (
    CONTROL_POINTS,
    Motion,
    draw_motion,
    lengths,
    misalign,
    motion_seed,
    move,
    moved,
)
from synth3d.data.options import DataConfig, MisalignConfig
from synth3d.data.patches import Stream
from synth3d.data.slices import seen
from synth3d.data.task import Task
from synth3d.images.planes import turn_to

FIXED = MisalignConfig(source="t2w", shift=3.0, draw="fixed_magnitude")
BENT = MisalignConfig(source="t2f", elastic=4.0, draw="fixed_magnitude", when="train")


def settings_of(dim=3, misalign=FIXED, **data):
    """Task, data and misalignment, as the functions here take them."""
    patch = (8, 8, 8) if dim == 3 else (16, 16)
    some = DataConfig(patch=patch, overlap=(0,) * dim, flip=False, source_dropout=0, **data)
    return Task(dim, ("t1n", "t1c", "t2w"), ("t2f",)), some, misalign


def drawn(prepared, settings, seed, count, seeds=()):
    task, data, misalign = settings
    stream = Stream([pack(seen(prepared, task, data))], task, data, misalign, seeds=seeds)
    return list(islice(stream.batches(seed), count))


def motion_of(shift, rotation=None, field=None):
    d = len(shift)
    return Motion(
        torch.tensor(shift, dtype=torch.float32),
        torch.eye(d) if rotation is None else rotation,
        torch.zeros(d, *[CONTROL_POINTS] * d) if field is None else field,
    )


def random_volume(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@given(shift=st.tuples(*[st.integers(-4, 4)] * 3))
def test_a_whole_shift_is_a_roll_inside_the_volume_and_zero_beyond(shift):
    volume = random_volume((1, 6, 7, 8))
    moved = move(volume, motion_of([float(n) for n in shift]), (1, 2, 3))
    rolled = torch.roll(volume, shift, (1, 2, 3))
    inside = torch.ones_like(volume, dtype=torch.bool)
    for axis, n in enumerate(shift, start=1):
        index = torch.arange(volume.shape[axis]) - n
        known = (index >= 0) & (index < volume.shape[axis])
        inside &= known.view(*[-1 if a == axis else 1 for a in range(4)])
    assert torch.equal(moved, rolled * inside)


def test_worked_example_of_half_a_voxel():
    line = torch.tensor([4.0, 8, 2, 0]).view(1, 1, 4)
    assert move(line, motion_of([0, 0.5]), (1, 1)).flatten().tolist() == [2, 6, 5, 1]
    assert move(line, motion_of([0, -0.5]), (1, 1)).flatten().tolist() == [6, 5, 1, 0]
    assert move(line, motion_of([0, 9.5]), (1, 1)).flatten().tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("shift", [(2.0, -1.0, 0.0), (0.5, 1.25, -2.75)])
def test_a_field_that_is_the_same_everywhere_is_a_translation(shift):
    """Two implementations: rolled copies, and sampling at displaced places."""
    volume = random_volume((2, 7, 8, 9))
    field = torch.tensor(shift).view(3, 1, 1, 1).expand(3, *[CONTROL_POINTS] * 3)
    displaced = move(volume, motion_of((0, 0, 0), field=field), (1, 2, 3))
    torch.testing.assert_close(displaced, move(volume, motion_of(shift), (1, 2, 3)), atol=1e-5,
                               rtol=1e-5)  # fmt: skip


def test_a_quarter_turn_is_a_quarter_turn_and_keeps_lengths_in_mm():
    turned = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    volume = random_volume((3, 6, 6))
    found = move(volume, motion_of((0, 0), turned), (2.0, 2.0))
    torch.testing.assert_close(found, torch.rot90(volume, 1, (1, 2)), atol=1e-5, rtol=0)
    line = torch.zeros(1, 9, 9)
    line[0, 4, :] = 1  # 9 columns of 1 mm become 3 rows of 3 mm
    column = move(line, motion_of((0, 0), turned), (3.0, 1.0))[0, :, 4]
    assert column.tolist() == pytest.approx([0, 0, 0, 1, 1, 1, 0, 0, 0], abs=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
@given(seed=st.integers(0, 200), draw=st.sampled_from(["uniform_box", "fixed_magnitude"]))
def test_motions_are_as_large_as_asked(dim, seed, draw):
    settings = MisalignConfig(source="t2w", shift=2.5, rotate=10, elastic=1.5, draw=draw)
    motion = draw_motion(settings, dim, torch.Generator().manual_seed(seed))
    cosine = (torch.trace(motion.rotation) - dim + 2) / 2
    degrees = float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))
    lengths = motion.field.norm(dim=0)
    if draw == "fixed_magnitude":
        assert float(motion.shift.norm()) == pytest.approx(2.5, rel=1e-4)
        assert degrees == pytest.approx(10, abs=0.1)
        assert float(lengths.max()) == pytest.approx(1.5, rel=1e-4)
    else:
        assert motion.shift.abs().max() <= 2.5
        assert degrees <= 10 * dim**0.5 + 0.1
        assert motion.field.abs().max() <= 1.5
    torch.testing.assert_close(motion.rotation @ motion.rotation.T, torch.eye(dim))


@pytest.mark.parametrize("draw", ["uniform_box", "fixed_magnitude"])
def test_the_points_of_a_curve_differ_in_length_alone(draw):
    def drawn(shift):
        settings = MisalignConfig(source="t2w", shift=shift, draw=draw)
        return draw_motion(settings, 3, torch.Generator().manual_seed(5)).shift

    torch.testing.assert_close(drawn(3.0), 6 * drawn(0.5))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("how", [{"shift": 3.0}, {"rotate": 9.0}, {"elastic": 3.0}])
def test_one_source_moves_and_nothing_else(prepared, dim, how):
    moved = misalign(prepared, *settings_of(dim, MisalignConfig(source="t2w", **how)))
    for name in ("t1n", "t1c", "t2f"):
        assert moved.volumes[name] is prepared.volumes[name]
    assert moved.brain is prepared.brain
    assert moved.scales == prepared.scales
    there, here = moved.volumes["t2w"], prepared.volumes["t2w"]
    assert there.shape == here.shape
    assert there.dtype == here.dtype
    assert np.abs(there - here).mean() > 0.01


def test_movements_follow_from_case_and_seed_alone(prepared):
    settings = settings_of(misalign=MisalignConfig(source="t2w", shift=3, rotate=5, elastic=2))

    def tested(name="a"):
        case = dataclasses.replace(prepared.case, name=name)
        return misalign(dataclasses.replace(prepared, case=case), *settings).volumes["t2w"]

    first = tested()
    torch.rand(3)  # the global generator has no part in it
    np.testing.assert_array_equal(tested(), first)
    assert (tested(name="b") != first).any()
    again = moved(prepared, *settings, motion_seed(0, "a")).volumes["t2w"]
    np.testing.assert_array_equal(again, first)
    assert (moved(prepared, *settings, motion_seed(1, "a")).volumes["t2w"] != first).any()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("how", [{"shift": 2.0}, {"rotate": 9.0}, {"elastic": 3.0}])
def test_in_two_dimensions_nothing_leaves_its_slice(prepared, plane, how):
    settings = settings_of(2, MisalignConfig(source="t2w", **how), plane=plane)
    turn = turn_to(plane, prepared.affine)
    volume = prepared.volumes["t2w"].copy()
    turned = turn.apply(volume)
    turned[::2] = 0
    turned[1::2] = turned[turned.shape[0] // 2 | 1]
    striped = dataclasses.replace(prepared, volumes={**prepared.volumes, "t2w": volume})
    moved = turn.apply(misalign(striped, *settings).volumes["t2w"])
    assert not moved[::2].any()
    assert all(np.array_equal(one, moved[1]) for one in moved[1::2])  # one motion for all slices
    assert (moved[1] != turned[1]).any()


def test_lengths_are_voxels_of_what_the_network_sees(prepared):
    doubled = settings_of(2, dataclasses.replace(FIXED, shift=6.0))
    np.testing.assert_allclose(
        misalign(prepared, *settings_of(2, slice_size=(16, 16))).volumes["t2w"],  # they are 32 x 32
        misalign(prepared, *doubled).volumes["t2w"],
        atol=1e-6,
    )


def test_nothing_happens_where_nothing_is_asked_or_the_source_is_absent(prepared):
    still = settings_of(misalign=MisalignConfig(source="t2w"))
    assert misalign(prepared, *still) is prepared
    without = {name: v for name, v in prepared.volumes.items() if name != "t2w"}
    absent = dataclasses.replace(prepared, volumes=without)
    assert misalign(absent, *settings_of()) is absent


@pytest.mark.parametrize("dim", [2, 3])
def test_training_sees_the_source_astray_unless_only_the_test_does(prepared, dim):
    """All channels hold one picture, so what moves shows against what does not."""
    same = prepared.volumes["t1n"]
    alike = dataclasses.replace(prepared, volumes={name: same for name in prepared.volumes})

    def stream(misalign):
        return drawn(alike, settings_of(dim, misalign), 3, 4)

    test_only = stream(dataclasses.replace(FIXED, when="test_only"))
    for plain, again in zip(stream(MisalignConfig()), test_only, strict=True):
        assert torch.equal(plain.sources, again.sources)
    steps = set()
    for first, again in zip(stream(FIXED), stream(FIXED), strict=True):
        assert torch.equal(first.sources, again.sources)
        assert torch.equal(first.sources[:, 0], first.targets[:, 0])  # the others stay
        assert torch.equal(first.sources[:, 1], first.targets[:, 0])
        steps.add(float((first.sources[:, 2] - first.targets[:, 0]).abs().mean()))
    assert len(steps - {0}) == 4


@pytest.mark.parametrize("dim", [2, 3])
def test_a_moved_target_lies_in_one_wrong_place_however_often_its_case_is_read(prepared, dim):
    """A source holds what the target should be, so that every patch shows whether it is."""
    settings = settings_of(dim, BENT)
    astray = moved(prepared, *settings, seed=5).volumes["t2f"]
    told = dataclasses.replace(prepared, volumes={**prepared.volumes, "t1n": astray})

    def gaps(batches):
        return [float((b.targets[:, 0] - b.sources[:, 0]).abs().max()) for b in batches]

    still = drawn(told, (*settings[:2], MisalignConfig()), 3, 3)
    for epochs in (3, 4):
        found = drawn(told, settings, epochs, 3, seeds=[5])
        assert max(gaps(found)) < 1e-4  # a store keeps so many decimals of what was interpolated
    assert max(gaps(drawn(told, settings, 3, 3, seeds=[6]))) > 0.05
    for batch, plain in zip(drawn(told, settings, 3, 3, seeds=[5]), still, strict=True):
        assert torch.equal(batch.sources, plain.sources)  # nothing else is drawn otherwise
        assert torch.equal(batch.label, plain.label)
    assert max(gaps(still)) > 0.05


def test_a_moved_target_is_learnt_from_and_never_judged_against(prepared):
    settings = settings_of(3, BENT)
    assert misalign(prepared, *settings) is prepared
    astray = moved(prepared, *settings, 0).volumes["t2f"]
    assert np.abs(astray - prepared.volumes["t2f"])[prepared.brain].mean() > 0.01
    assert not astray[~prepared.brain].any()
    with pytest.raises(ValueError, match="1 cases and 0 seeds"):
        drawn(prepared, settings, 0, 1)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("draw", ["uniform_box", "fixed_magnitude"])
def test_lengths_of_the_elastic_field_are_told_in_voxels(dim, draw):
    def told(elastic):
        return lengths(MisalignConfig(source="t2w", elastic=elastic, draw=draw), dim)

    mean, longest = told(1.0)
    assert told(3.0) == pytest.approx((3 * mean, 3 * longest), rel=1e-4)
    assert 0.1 < mean < longest < (1.0 if draw == "fixed_magnitude" else dim**0.5)
    # Another way to the same: how far a ramp along each axis is moved, inside the volume.
    motion = draw_motion(MisalignConfig(source="t2w", elastic=1.0, draw=draw), dim,
                         torch.Generator().manual_seed(0))  # fmt: skip
    still = dataclasses.replace(motion, shift=torch.zeros(dim), rotation=torch.eye(dim))
    axes = torch.meshgrid(*[torch.arange(24.0)] * dim, indexing="ij")
    ramps = torch.stack(axes)
    far = (move(ramps, still, (1.0,) * dim) - ramps)[(slice(None), *[slice(2, -2)] * dim)]
    assert 0.5 * mean < float(far.norm(dim=0).mean()) < 2 * mean
