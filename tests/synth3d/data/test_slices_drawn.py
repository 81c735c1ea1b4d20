"""Slices drawn through TorchIO from the same volumes as patches are."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch

from synth3d.data.cache.packed import pack
from synth3d.data.cutting import check_drawable
from synth3d.data.options import DataConfig
from synth3d.data.patches import Stream, to_subject
from synth3d.data.slices import seen
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.images.planes import PLANES

TASK = Task(2, ("t1n", "t1c", "t2w"), ("t2f",))
DATA = DataConfig(
    patch=(32, 32), overlap=(0, 0), batch=4, patches_per_case=4, queue=8, flip=False,
    source_dropout=0.0, tumour_chance=0.0,
)  # fmt: skip


def drawn(prepared, seed=0, count=6, task=TASK, **changes):
    """So many batches, with some settings changed."""
    data = dataclasses.replace(DATA, **changes)
    stream = Stream([pack(seen(prepared, task, data))], task, data)
    return list(islice(stream.batches(seed), count))


def slices_of(prepared, names=TASK.sources, **changes):
    """(slices, S, rows, columns) as the network sees them, and the turned case."""
    view = seen(prepared, TASK, dataclasses.replace(DATA, **changes))
    return view.stack(names).swapaxes(0, 1), view


def found(picture, known) -> set[int]:
    """Which of the ``known`` slices ``picture`` is."""
    return {i for i, one in enumerate(known) if np.array_equal(picture, one)}


@pytest.mark.parametrize("plane", PLANES)
def test_whole_slices_are_drawn_as_they_are(prepared, plane):
    """Every picture is one of the plane's slices, sources and target of the same one."""
    known, _ = slices_of(prepared, (*TASK.sources, *TASK.targets), plane=plane)
    for batch in drawn(prepared, plane=plane):
        assert batch.sources.shape == (4, 3, 32, 32)
        assert batch.brain.shape == batch.label.shape == (4, 1, 32, 32)
        for picture in torch.cat([batch.sources, batch.targets], 1).numpy():
            assert found(picture, known)


@pytest.mark.parametrize("size", [(), (24, 20)])
def test_slices_can_be_resampled_first_and_the_label_with_them(prepared, size):
    """Classes are those of the slice, nearest where it is resampled, flipped with it."""
    label = prepared.label.copy()
    label[prepared.brain] = np.where(prepared.volumes["t1n"][prepared.brain] > 0.5, 2, 1)
    marked = dataclasses.replace(prepared, label=label)
    sides = {"slice_size": size, "patch": size or (32, 32), "flip": True}
    view = seen(marked, TASK, dataclasses.replace(DATA, **sides))
    either_way = [*view.label, *view.label[..., ::-1]]
    sources = view.stack(TASK.sources).swapaxes(0, 1)
    for batch in drawn(marked, **sides):
        assert batch.sources.shape[2:] == (size or (32, 32))
        for picture, marks in zip(batch.sources.numpy(), batch.label[:, 0].numpy(), strict=True):
            assert found(picture, sources) | found(picture, sources[..., ::-1])
            assert found(marks, either_way)
        assert torch.equal(batch.label > 0, batch.brain) or size
    if not size:
        assert view.label.sum() == label.sum()
    assert set(np.unique(view.label)) == {0, 1, 2}


@pytest.mark.parametrize("plane", PLANES)
def test_flips_are_left_right_within_the_slice(prepared, plane):
    known, _ = slices_of(prepared, plane=plane)
    mirrored, seen_as_is = 0, 0
    for batch in drawn(prepared, count=12, plane=plane, flip=True):
        for picture in batch.sources.numpy():
            as_is = bool(found(picture, known))
            seen_as_is += as_is
            mirrored += not as_is
            assert as_is or found(picture, known[..., ::-1])
    assert seen_as_is > 0
    assert bool(mirrored) == (plane != "sagittal")  # there, left is another slice


@pytest.mark.parametrize("patch", [(16, 16), (8, 24), (48, 40), (64, 16)])
def test_patches_smaller_and_larger_than_the_slice_have_the_asked_shape(prepared, patch):
    for batch in drawn(prepared, patch=patch, flip=True):
        assert batch.sources.shape == (4, 3, *patch)
        assert batch.brain.any(dim=(2, 3)).all()


def test_where_a_slice_lies_in_a_larger_patch_is_where_completion_lays_it(prepared):
    known, _ = slices_of(prepared)
    for picture in drawn(prepared, patch=(48, 40))[0].sources.numpy():
        assert found(picture[:, :32, :32], known)
        assert not picture[:, 32:].any()
        assert not picture[:, :, 32:].any()


def test_only_the_middle_slices_are_learnt_from(prepared):
    known, view = slices_of(prepared)
    where = np.flatnonzero(view.brain.any((1, 2)))
    middle = (where[0] + where[-1] + 1 - 3) // 2
    shown = [
        found(picture, known)
        for batch in drawn(prepared, count=20, slices_per_case=3)
        for picture in batch.sources.numpy()
    ]
    assert all(shown)
    assert set.union(*shown) == {middle, middle + 1, middle + 2}


def test_the_tumour_is_shown_as_often_as_asked(prepared):
    known, view = slices_of(prepared)
    ill = {i for i in range(len(known)) if (view.tumour[i] & view.brain[i]).any()}
    for batch in drawn(prepared, tumour_chance=1.0):
        for picture in batch.sources.numpy():
            assert found(picture, known) <= ill


def test_memory_holds_the_brain_alone(prepared):
    data = dataclasses.replace(DATA, patch=(64, 64))
    subject = to_subject(seen(prepared, TASK, data), TASK, data)
    extent = [np.flatnonzero(prepared.brain.any(axis)) for axis in ((0, 1), (0, 2), (1, 2))]
    assert subject.spatial_shape == tuple(int(w[-1] - w[0] + 1) for w in extent)
    assert subject["brain"].data.dtype == torch.uint8


def test_misregistered_sources_move_together_and_within_their_slice(prepared):
    """All volumes are alike and hold every other slice only."""
    same = prepared.volumes["t1n"].copy()
    same[::2] = 0
    alike = dataclasses.replace(prepared, volumes={name: same for name in prepared.volumes})
    moved = 0
    for batch in drawn(alike, misregistration=2.0):
        first, second, third = batch.sources.unbind(1)
        assert torch.equal(first, second)
        assert torch.equal(first, third)
        moved += not torch.equal(first, batch.targets[:, 0])
        dark = ~batch.targets.flatten(1).any(1)
        assert first[dark].abs().sum() < 1e-3
    assert moved > 3


def test_a_case_without_brain_in_reach_is_told(prepared):
    empty = dataclasses.replace(prepared, brain=np.zeros_like(prepared.brain))
    with pytest.raises(InputError, match="has no axial slice with brain"):
        check_drawable(pack(seen(empty, TASK, DATA)), "one", TASK, DATA)


@pytest.mark.parametrize("dim", [2, 3])
def test_one_worker_draws_what_none_would_and_two_draw_alike_each_time(prepared, dim):
    shape = {} if dim == 2 else {"patch": (16, 16, 16), "overlap": (0, 0, 0)}
    how = {"flip": True, "source_dropout": 0.3, **shape}
    task = dataclasses.replace(TASK, dim=dim)

    def stream(workers):
        return [b.sources for b in drawn(prepared, 4, 7, task, workers=workers, **how)]

    none, one, two, again = stream(0), stream(1), stream(2), stream(2)
    assert all(map(torch.equal, none, one))
    assert all(map(torch.equal, two, again))
    assert torch.equal(two[0], one[0])
    assert not torch.equal(two[1], one[1])


def test_what_does_not_fill_a_batch_is_told_before_any_worker_starts(prepared):
    with pytest.raises(InputError, match="do not fill one batch of 4; raise data.patches"):
        drawn(prepared, patches_per_case=3, workers=1)
