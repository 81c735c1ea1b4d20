import dataclasses
import multiprocessing
import sys
from itertools import islice

import numpy as np
import pytest
import torch

from synth3d.data.cache.packed import pack
from synth3d.data.cutting import check_drawable
from synth3d.data.options import DataConfig
from synth3d.data.patches import (
    Stream,
    augmentation,
    brain_box,
    patch_centres,
    to_subject,
)
from synth3d.data.prepared import prepare
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.images.volumes import read_label, write_like

TASK = Task(3, ("t1n", "t1c", "t2w"), ("t2f",))
DATA = DataConfig((16, 12, 8), (8, 6, 4), batch=2, patches_per_case=2, queue=4)


def drawn(prepared, seed=0, count=6, **changes):
    """So many batches, with some settings changed."""
    data = dataclasses.replace(DATA, **changes)
    stream = Stream([pack(prepared)] * 2, TASK, data)
    return list(islice(stream.batches(seed), count))


def test_a_prepared_case_is_zero_outside_and_one_half_at_the_median(prepared):
    for volume in prepared.volumes.values():
        assert not volume[~prepared.brain].any()
        assert np.median(volume[prepared.brain]) == pytest.approx(0.5, abs=0.02)


def test_the_brain_is_known_without_the_target(phantom_cohort, prepared):
    case = prepared.case
    images = {name: path for name, path in case.images.items() if name != "t2f"}
    without = prepare(dataclasses.replace(case, images=images), TASK.sources, ())
    assert (without.brain == prepared.brain).all()


def test_an_absent_source_is_zeros_in_its_own_place(prepared):
    volumes = {name: v for name, v in prepared.volumes.items() if name != "t1c"}
    stack = dataclasses.replace(prepared, volumes=volumes).sources(TASK)
    assert [bool(channel.any()) for channel in stack] == [True, False, True]


def test_axes_turn_once_and_turn_back(prepared):
    data = dataclasses.replace(DATA, patch=(64, 64, 64), flip=False, source_dropout=0.0)
    batch = next(Stream([pack(prepared)], TASK, data).batches(0))
    box = brain_box(prepared.brain)
    inside = np.stack([prepared.volumes[n] for n in TASK.sources])[(slice(None), *box)]
    found = batch.sources[0].numpy()
    lead = [(a - b) // 2 for a, b in zip(found.shape[1:], inside.shape[1:], strict=True)]
    window = tuple(slice(n, n + m) for n, m in zip(lead, inside.shape[1:], strict=True))
    np.testing.assert_array_equal(found[(slice(None), *window)], inside)
    assert found.sum() == pytest.approx(inside.sum(), rel=1e-5)


@pytest.mark.parametrize("patch", [(16, 12, 8), (64, 64, 64)])
def test_patches_have_the_asked_shape_and_hold_brain(prepared, patch):
    for batch in drawn(prepared, patch=patch, overlap=(0, 0, 0)):
        assert batch.sources.shape == (2, 3, *patch)
        assert batch.targets.shape == batch.label.shape == (2, 1, *patch)
        centre = tuple(side // 2 for side in batch.brain.shape[2:])
        assert batch.brain[(slice(None), 0, *centre)].all()


def test_one_seed_gives_one_stream(prepared):
    for a, b, c in zip(*(drawn(prepared, seed) for seed in (5, 5, 6)), strict=True):
        assert torch.equal(a.sources, b.sources)
        assert torch.equal(a.present, b.present)
        assert not torch.equal(a.sources, c.sources)


def test_hidden_sources_are_zero_and_targets_are_not(prepared):
    hidden = 0
    for batch in drawn(prepared, 1, 8, source_dropout=0.6):
        for b, s in (~batch.present).nonzero().tolist():
            hidden += 1
            assert not batch.sources[b, s].any()
        assert batch.present.any(1).all()
        assert batch.targets.any()
    assert hidden > 4


def test_sources_move_against_the_target_when_asked(prepared):
    moved, still = (drawn(prepared, 3, 1, flip=False, misregistration=far)[0] for far in (2.0, 0.0))
    assert moved.sources.shape == still.sources.shape
    assert not torch.equal(moved.sources, still.sources)


def with_marks(prepared):
    """All volumes alike and telling the classes apart: 0.25 a class, inside the brain."""
    label = np.random.default_rng(0).integers(0, 4, prepared.brain.shape).astype(np.int8)
    marks = (0.25 * label * prepared.brain).astype(np.float32)
    volumes = {name: marks for name in prepared.volumes}
    return dataclasses.replace(prepared, volumes=volumes, label=label)


def test_flips_move_everything_together_and_the_label_with_it(prepared):
    for batch in drawn(with_marks(prepared), source_dropout=0.0):
        for channel in batch.sources.unbind(1):
            assert torch.equal(channel, batch.targets[:, 0])
        assert torch.equal(batch.targets, 0.25 * batch.label * batch.brain)


def test_a_label_changes_no_patch_and_without_one_all_is_unknown(prepared):
    without = dataclasses.replace(prepared, label=None)
    for a, b in zip(drawn(prepared), drawn(without), strict=True):
        assert torch.equal(a.sources, b.sources)
        assert torch.equal(a.targets, b.targets)
        assert (b.label == -1).all()
        assert set(a.label.unique().tolist()) <= {0, 1, 2, 3}
    assert (prepared.label > 0).sum() == prepared.tumour.sum()


def test_centres_weigh_the_tumour_and_nothing_outside():
    brain = np.zeros((4, 4, 4), bool)
    brain[1:3] = True
    tumour = np.zeros_like(brain)
    tumour[1, 0, :2] = True
    weights = patch_centres(brain, tumour, 0.5)
    assert weights.sum() == pytest.approx(1)
    assert not weights[~brain].any()
    assert weights[tumour].sum() == pytest.approx(0.5 + 0.5 * 2 / 32)
    assert patch_centres(brain, None, 0.5)[brain] == pytest.approx(1 / 32)
    assert not patch_centres(np.zeros_like(brain), None, 0.5).any()


def test_flips_are_left_right_whatever_the_order_of_the_axes(prepared):
    """Sagittal files (IXI's T1) have their left-right axis last, not first."""
    sagittal = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    subject = to_subject(dataclasses.replace(prepared, affine=sagittal), TASK, DATA)
    before = subject["sources"].data
    found = set()
    for seed in range(8):
        torch.manual_seed(seed)
        after = augmentation(DATA, subject.spacing)(subject)["sources"].data
        found |= {axis for axis in (1, 2, 3) if torch.equal(after, before.flip(axis))}
    assert found == {3}


def test_a_case_without_room_for_a_patch_is_told(prepared):
    rim = np.zeros_like(prepared.brain)
    rim[tuple(np.argwhere(prepared.brain)[0])] = True
    data = dataclasses.replace(DATA, tumour_chance=1.0)
    packed = pack(dataclasses.replace(prepared, tumour=rim))
    with pytest.raises(InputError, match="can be centred in its brain"):
        check_drawable(packed, prepared.case.name, TASK, data)


def test_labels_outside_any_scheme_are_refused_with_their_file(phantom_cohort, prepared, tmp_path):
    path = tmp_path / "seg.nii.gz"
    label = read_label(prepared.case.label).data * 7
    write_like(prepared.case.label, label, path)
    with pytest.raises(InputError, match=r"seg.nii.gz: label values \[7.* are in no scheme"):
        prepare(dataclasses.replace(prepared.case, label=path), TASK.sources, TASK.targets)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Python starts them as it likes")
def test_workers_draw_also_where_python_would_let_a_server_start_them(prepared):
    """As it does from Python 3.14 on."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        (batch,) = drawn(prepared, count=1, workers=1)
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert torch.equal(batch.sources, drawn(prepared, count=1)[0].sources)
