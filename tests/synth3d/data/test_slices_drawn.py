"""Slices drawn through TorchIO from the same volumes as patches are."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch

from synth3d.cohort.cases import find_cases
from synth3d.config.run import DataConfig, ModelConfig, RunConfig
from synth3d.data.patches import batches, prepare, to_subject
from synth3d.data.slices import seen
from synth3d.errors import InputError
from synth3d.images.planes import PLANES, Turn

DATA = DataConfig(
    patch=(32, 32), overlap=(0, 0), batch=4, patches_per_case=4, queue=8, flip=False,
    source_dropout=0.0, tumour_chance=0.0,
)  # fmt: skip
CONFIG = RunConfig(dim=2, model=ModelConfig(widths=(4, 8), groups=2, stages=2), data=DATA)


def with_data(**changes):
    return dataclasses.replace(CONFIG, data=dataclasses.replace(DATA, **changes))


@pytest.fixture(scope="module")
def prepared(phantom_cohort):
    case = find_cases(phantom_cohort)[0]
    return prepare(case, CONFIG.sources, CONFIG.targets)


def drawn(prepared, config, seed=0, count=6):
    return list(islice(batches([to_subject(prepared, config)], config, seed), count))


@pytest.mark.parametrize("plane", PLANES)
def test_whole_slices_are_drawn_as_they_are(prepared, plane):
    """Every picture is one of the plane's slices, sources and target of the same one."""
    config = with_data(plane=plane)
    view = seen(prepared, config)
    known = view.sources((*config.sources, *config.targets)).swapaxes(0, 1)
    for batch in drawn(prepared, config):
        assert batch.sources.shape == (4, 3, 32, 32)
        assert batch.brain.shape == (4, 1, 32, 32)
        for picture in torch.cat([batch.sources, batch.targets], 1).numpy():
            assert any(np.array_equal(picture, one) for one in known)


def test_slices_are_those_that_completion_sees_whatever_the_file(prepared):
    """A permuted and reversed copy of the file gives the same batches, flips included."""
    turn = Turn((2, 0, 1), (True, False, True))
    other = dataclasses.replace(
        prepared,
        volumes={name: turn.apply(volume) for name, volume in prepared.volumes.items()},
        brain=turn.apply(prepared.brain),
        tumour=turn.apply(prepared.tumour),
        affine=turn.affine(prepared.affine, prepared.brain.shape),
    )
    config = with_data(flip=True, tumour_chance=0.5)
    for a, b in zip(drawn(prepared, config), drawn(other, config), strict=True):
        assert torch.equal(a.sources, b.sources)
        assert torch.equal(a.targets, b.targets)


@pytest.mark.parametrize("plane", PLANES)
def test_flips_are_left_right_within_the_slice(prepared, plane):
    config = with_data(plane=plane, flip=True)
    view = seen(prepared, config)
    known = view.sources(config.sources).swapaxes(0, 1)
    mirrored, seen_as_is = 0, 0
    for batch in drawn(prepared, config, count=12):
        for picture in batch.sources.numpy():
            as_is = any(np.array_equal(picture, one) for one in known)
            seen_as_is += as_is
            mirrored += not as_is
            assert as_is or any(np.array_equal(picture, one[..., ::-1]) for one in known)
    assert seen_as_is > 0
    assert bool(mirrored) == (plane != "sagittal")  # there, left is another slice


@pytest.mark.parametrize("patch", [(16, 16), (8, 24), (48, 40), (64, 16)])
def test_patches_smaller_and_larger_than_the_slice_have_the_asked_shape(prepared, patch):
    for batch in drawn(prepared, with_data(patch=patch, flip=True)):
        assert batch.sources.shape == (4, 3, *patch)
        assert batch.brain.any(dim=(2, 3)).all()


def test_where_a_slice_lies_in_a_larger_patch_is_where_completion_lays_it(prepared):
    batch = drawn(prepared, with_data(patch=(48, 40)))[0]
    known = seen(prepared, CONFIG).sources(CONFIG.sources).swapaxes(0, 1)
    for picture in batch.sources.numpy():
        assert any(np.array_equal(picture[:, :32, :32], one) for one in known)
        assert not picture[:, 32:].any()
        assert not picture[:, :, 32:].any()


def test_only_the_middle_slices_are_learnt_from(prepared):
    config = with_data(slices_per_case=3)
    view = seen(prepared, config)
    where = np.flatnonzero(view.brain.any((1, 2)))
    middle = (where[0] + where[-1] + 1 - 3) // 2
    known = view.sources(config.sources).swapaxes(0, 1)[middle : middle + 3]
    found = set()
    for batch in drawn(prepared, config, count=20):
        for picture in batch.sources.numpy():
            found |= {i for i, one in enumerate(known) if np.array_equal(picture, one)}
            assert any(np.array_equal(picture, one) for one in known)
    assert found == {0, 1, 2}


def test_the_tumour_is_shown_as_often_as_asked(prepared):
    config = with_data(tumour_chance=1.0)
    view = seen(prepared, config)
    known = view.sources(config.sources).swapaxes(0, 1)
    ill = {i for i in range(len(known)) if (view.tumour[i] & view.brain[i]).any()}
    for batch in drawn(prepared, config):
        for picture in batch.sources.numpy():
            assert {i for i, one in enumerate(known) if np.array_equal(picture, one)} <= ill


def test_slices_can_be_resampled_first(prepared):
    config = with_data(slice_size=(24, 20), patch=(24, 20))
    known = seen(prepared, config).sources(config.sources).swapaxes(0, 1)
    for batch in drawn(prepared, config, count=2):
        assert batch.sources.shape[2:] == (24, 20)
        for picture in batch.sources.numpy():
            assert any(np.array_equal(picture, one) for one in known)


def test_memory_holds_the_brain_alone(prepared):
    subject = to_subject(prepared, with_data(patch=(64, 64)))
    extent = [np.flatnonzero(prepared.brain.any(axis)) for axis in ((0, 1), (0, 2), (1, 2))]
    assert subject.spatial_shape == tuple(int(w[-1] - w[0] + 1) for w in extent)
    assert subject["brain"].data.dtype == torch.uint8


def test_hidden_sources_are_zero(prepared):
    hidden = 0
    for batch in drawn(prepared, with_data(source_dropout=0.5)):
        for b, s in (~batch.present).nonzero().tolist():
            hidden += 1
            assert not batch.sources[b, s].any()
    assert hidden > 3


def test_misregistered_sources_move_together_and_within_their_slice(prepared):
    """All volumes are alike and hold every other slice only."""
    same = prepared.volumes["t1n"].copy()
    same[::2] = 0
    alike = dataclasses.replace(prepared, volumes={name: same for name in prepared.volumes})
    moved = 0
    for batch in drawn(alike, with_data(misregistration=2.0)):
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
        to_subject(empty, CONFIG)


@pytest.mark.parametrize("dim", [2, 3])
def test_one_worker_draws_what_none_would_and_two_draw_alike_each_time(prepared, dim):
    shape = {} if dim == 2 else {"patch": (16, 16, 16), "overlap": (0, 0, 0)}
    data = dataclasses.replace(DATA, flip=True, source_dropout=0.3, **shape)
    plain = dataclasses.replace(CONFIG, dim=dim, data=data)

    def stream(workers, seed=4):
        data = dataclasses.replace(plain.data, workers=workers)
        config = dataclasses.replace(plain, data=data)
        return [batch.sources for batch in drawn(prepared, config, seed, 7)]

    none, one, two, again = stream(0), stream(1), stream(2), stream(2)
    assert all(map(torch.equal, none, one))
    assert all(map(torch.equal, two, again))
    assert torch.equal(two[0], one[0])
    assert not torch.equal(two[1], one[1])


def test_what_does_not_fill_a_batch_is_told_before_any_worker_starts(prepared):
    config = with_data(patches_per_case=3, workers=1)
    with pytest.raises(InputError, match="do not fill one batch of 4; raise data.patches"):
        next(batches([to_subject(prepared, config)], config, 0))
