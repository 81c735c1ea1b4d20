import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch

from synth3d.cohort.cases import find_cases
from synth3d.config.run import DataConfig, ModelConfig, RunConfig
from synth3d.data.patches import (
    augmentation,
    batches,
    brain_box,
    collate,
    patch_centres,
    prepare,
    to_subject,
)
from synth3d.errors import InputError
from synth3d.images.volumes import read_label, write_like

CONFIG = RunConfig(
    model=ModelConfig(widths=(4, 8), groups=2, stages=2),
    data=DataConfig(patch=(16, 12, 8), overlap=(8, 6, 4), batch=2, patches_per_case=2, queue=4),
)


@pytest.fixture(scope="module")
def prepared(phantom_cohort):
    case = find_cases(phantom_cohort)[0]
    return prepare(case, CONFIG.sources, CONFIG.targets)


def test_a_prepared_case_is_zero_outside_and_one_half_at_the_median(prepared):
    for volume in prepared.volumes.values():
        assert not volume[~prepared.brain].any()
        assert np.median(volume[prepared.brain]) == pytest.approx(0.5, abs=0.02)


def test_the_brain_is_known_without_the_target(phantom_cohort, prepared):
    case = prepared.case
    images = {name: path for name, path in case.images.items() if name != "t2f"}
    without = prepare(dataclasses.replace(case, images=images), CONFIG.sources, ())
    assert (without.brain == prepared.brain).all()


def test_an_absent_source_is_zeros_in_its_own_place(prepared):
    volumes = {name: v for name, v in prepared.volumes.items() if name != "t1c"}
    stack = dataclasses.replace(prepared, volumes=volumes).sources(CONFIG.sources)
    assert [bool(channel.any()) for channel in stack] == [True, False, True]


def test_axes_turn_once_and_turn_back(prepared):
    subject = to_subject(prepared, CONFIG)
    batch = collate([subject])
    box = brain_box(prepared.brain)
    inside = np.stack([prepared.volumes[n] for n in CONFIG.sources])[(slice(None), *box)]
    found = batch.sources[0].numpy()
    lead = [(a - b) // 2 for a, b in zip(found.shape[1:], inside.shape[1:], strict=True)]
    window = tuple(slice(n, n + m) for n, m in zip(lead, inside.shape[1:], strict=True))
    np.testing.assert_array_equal(found[(slice(None), *window)], inside)
    assert found.sum() == pytest.approx(inside.sum(), rel=1e-5)


def test_patches_have_the_asked_shape_and_hold_brain(prepared):
    stream = batches([to_subject(prepared, CONFIG)], CONFIG, seed=0)
    for _ in range(6):
        batch = next(stream)
        assert batch.sources.shape == (2, 3, 16, 12, 8)
        assert batch.targets.shape == (2, 1, 16, 12, 8)
        centre = tuple(side // 2 for side in batch.brain.shape[2:])
        assert batch.brain[(slice(None), 0, *centre)].all()


def test_one_seed_gives_one_stream(prepared):
    subjects = [to_subject(prepared, CONFIG)] * 2
    first, again, other = (list(islice(batches(subjects, CONFIG, s), 5)) for s in (5, 5, 6))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.sources, b.sources)
        assert torch.equal(a.present, b.present)
        assert not torch.equal(a.sources, c.sources)


def test_hidden_sources_are_zero_and_targets_are_not(prepared):
    data = dataclasses.replace(CONFIG.data, source_dropout=0.6)
    stream = batches([to_subject(prepared, CONFIG)], dataclasses.replace(CONFIG, data=data), seed=1)
    hidden = 0
    for _ in range(8):
        batch = next(stream)
        for b, s in (~batch.present).nonzero().tolist():
            hidden += 1
            assert not batch.sources[b, s].any()
        assert batch.present.any(1).all()
        assert batch.targets.any()
    assert hidden > 4


def test_sources_move_against_the_target_when_asked(prepared):
    data = dataclasses.replace(CONFIG.data, misregistration=2.0, flip=False)
    moved = dataclasses.replace(CONFIG, data=data)
    still = dataclasses.replace(CONFIG, data=dataclasses.replace(data, misregistration=0.0))
    subjects = [to_subject(prepared, CONFIG)]
    a, b = next(batches(subjects, moved, 3)), next(batches(subjects, still, 3))
    assert a.sources.shape == b.sources.shape
    assert not torch.equal(a.sources, b.sources)


def test_flips_move_everything_together(prepared):
    subject = to_subject(prepared, CONFIG)
    agree = prepared.volumes["t1n"]
    together = dataclasses.replace(
        prepared, volumes={**prepared.volumes, "t2f": agree, "t1c": agree, "t2w": agree}
    )
    subject = to_subject(together, CONFIG)
    data = dataclasses.replace(CONFIG.data, source_dropout=0.0)
    stream = batches([subject], dataclasses.replace(CONFIG, data=data), 0)
    for _ in range(6):
        batch = next(stream)
        for channel in batch.sources.unbind(1):
            assert torch.equal(channel, batch.targets[:, 0])


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
    subject = to_subject(dataclasses.replace(prepared, affine=sagittal), CONFIG)
    before = subject["sources"].data
    found = set()
    for seed in range(8):
        torch.manual_seed(seed)
        after = augmentation(CONFIG.data, subject.spacing)(subject)["sources"].data
        found |= {axis for axis in (1, 2, 3) if torch.equal(after, before.flip(axis))}
    assert found == {3}


def test_a_case_without_room_for_a_patch_is_told(prepared):
    rim = np.zeros_like(prepared.brain)
    rim[tuple(np.argwhere(prepared.brain)[0])] = True
    data = dataclasses.replace(CONFIG.data, tumour_chance=1.0)
    config = dataclasses.replace(CONFIG, data=data)
    with pytest.raises(InputError, match="can be centred in its brain"):
        to_subject(dataclasses.replace(prepared, tumour=rim), config)


def test_labels_outside_any_scheme_are_refused_with_their_file(phantom_cohort, prepared, tmp_path):
    path = tmp_path / "seg.nii.gz"
    label = read_label(prepared.case.label).data * 7
    write_like(prepared.case.label, label, path)
    with pytest.raises(InputError, match=r"seg.nii.gz: label values \[7"):
        prepare(dataclasses.replace(prepared.case, label=path), CONFIG.sources, CONFIG.targets)


def test_a_brain_smaller_than_the_patch_is_padded(prepared):
    config = dataclasses.replace(
        CONFIG, data=dataclasses.replace(CONFIG.data, patch=(64, 64, 64), overlap=(0, 0, 0))
    )
    batch = next(batches([to_subject(prepared, config)], config, 0))
    assert batch.sources.shape[2:] == (64, 64, 64)
