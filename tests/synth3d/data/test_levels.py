"""What a coupled segmenter needs of a case travels with its patches, and only where it is asked."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch

from synth3d.data.cache import levels_of, region_of
from synth3d.data.cache.packed import BRAIN, pack
from synth3d.data.options import DataConfig, DegradeConfig
from synth3d.data.patches import Stream
from synth3d.data.slices import seen
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.images import differs, read, xyz_to_zyx
from synth3d.losses import standardised

TASK = Task(3, ("t1n", "t1c", "t2w"), ("t2f",))
NAMES = (*TASK.sources, *TASK.targets)
WHOLE = DataConfig((64, 64, 64), (8, 8, 8), batch=1, patches_per_case=1)
POOR = DegradeConfig(source="t1n", ratio=(1, 1, 4))


def scores_of(batch) -> torch.Tensor:
    """z-scores (B, 4, *) of what is in a batch."""
    volumes = torch.cat([batch.sources, batch.targets], 1)
    return standardised(volumes, volumes != 0, batch.levels, batch.region)


def test_a_voxel_is_0_where_the_file_has_background_and_nowhere_else(prepared):
    """Not where its scale says 0, either: of whole numbers many lie exactly there."""
    exact = 0
    for name, volume in prepared.volumes.items():
        raw, scale = read(prepared.case.images[name]).data, prepared.scales[name]
        exact += int((raw[prepared.brain] == scale.low).sum())
        there = prepared.brain & differs(raw, scale.background)
        np.testing.assert_array_equal(volume != 0, there)
    assert exact > 0


@pytest.mark.parametrize("kind", ["head", "box"])
def test_scores_have_mean_0_and_deviation_1_where_they_are_taken(prepared, kind):
    packed = pack(prepared)
    region = region_of(packed, kind)
    levels = torch.from_numpy(levels_of(packed, NAMES, region))[None]
    volumes = torch.from_numpy(packed.cut(NAMES, tuple(slice(None) for _ in packed.box)))[None]
    mask = torch.from_numpy(region)
    scores = standardised(volumes, volumes != 0, levels, mask[None, None])[0]
    for channel in scores:
        assert channel[mask].mean().item() == pytest.approx(0, abs=1e-4)
        assert channel[mask].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert not scores[:, ~mask].any()


def test_holes_belong_to_the_head(prepared):
    brain = prepared.brain.copy()
    middle = tuple(int(axis.mean()) for axis in np.nonzero(brain))
    brain[middle] = False
    packed = pack(dataclasses.replace(prepared, brain=brain))
    region, marked = region_of(packed, "head"), xyz_to_zyx(packed.marks) & BRAIN > 0
    assert not (marked & ~region).any()
    assert packed.placed(region)[middle]
    assert not packed.placed(marked)[middle]


def test_what_a_case_lacks_is_an_empty_channel(prepared):
    packed = pack(prepared)
    levels = levels_of(packed, ("t1n", "pd"), region_of(packed, "head"))
    assert levels[0].all()
    assert not levels[1].any()


@pytest.mark.parametrize(
    ("change", "said"), [({"clips": True}, "clips"), ({"background": -1024.0}, "-1024")]
)
def test_what_no_segmenter_would_see_right_is_refused(prepared, change, said):
    scales = {name: dataclasses.replace(s, **change) for name, s in prepared.scales.items()}
    packed = pack(dataclasses.replace(prepared, scales=scales))
    with pytest.raises(InputError, match=said):
        levels_of(packed, NAMES, region_of(packed, "head"))


@pytest.mark.parametrize("kind", ["head", "box"])
@pytest.mark.parametrize("poor", [DegradeConfig(), POOR], ids=["patch by patch", "read whole"])
def test_a_patch_has_the_scores_of_its_case(prepared, kind, poor):
    """Flipped with it; a patch that holds the whole case shows them all."""
    stream = Stream([pack(prepared)], TASK, WHOLE, coupled=kind, degrade=poor)
    sides = [part.stop - part.start for part in pack(prepared).box]
    for batch in islice(stream.batches(0), 3):
        mask = batch.region[0, 0]
        last = scores_of(batch)[0, -1]
        assert last[mask].mean().item() == pytest.approx(0, abs=1e-4)
        assert last[mask].std(correction=0).item() == pytest.approx(1, abs=1e-4)
        assert not (batch.brain & ~batch.region).any()
        if kind == "box":
            assert mask.sum() == np.prod(sides)


def test_slices_have_them_too(prepared):
    data = DataConfig((16, 16), (4, 4), batch=2, patches_per_case=2)
    task = Task(2, TASK.sources, TASK.targets)
    packed = pack(seen(prepared, task, data))
    batch = next(Stream([packed] * 2, task, data, coupled="head").batches(0))
    assert (batch.levels.shape, batch.region.shape) == ((2, 4, 3), (2, 1, 16, 16))
    assert not (batch.brain & ~batch.region).any()
    np.testing.assert_array_equal(
        batch.levels[0], levels_of(packed, NAMES, region_of(packed, "head"))
    )


def test_nothing_travels_unless_it_is_asked_for_and_nothing_else_changes(prepared):
    cases = [pack(prepared)]
    plain, more = (next(Stream(cases, TASK, WHOLE, coupled=k).batches(0)) for k in ("", "head"))
    assert plain.levels is plain.region is None
    for name in ("sources", "targets", "brain", "label", "present", "wanted"):
        assert torch.equal(getattr(plain, name), getattr(more, name))


def test_a_share_has_its_own(prepared):
    data = dataclasses.replace(WHOLE, patch=(16, 16, 16), batch=4, patches_per_case=4)
    batch = next(Stream([pack(prepared)], TASK, data, coupled="head").batches(0))
    levels = batch.levels * torch.arange(4).view(4, 1, 1)
    parts = dataclasses.replace(batch, levels=levels).to("cpu").shares(2, {})
    assert torch.equal(torch.cat([part.levels for part in parts]), levels)
    assert torch.equal(torch.cat([part.region for part in parts]), batch.region)


def test_levels_are_what_numpy_makes_of_the_file(prepared):
    packed = pack(prepared)
    region, scale = region_of(packed, "head"), prepared.scales["t2f"]
    inside = read(prepared.case.images["t2f"]).data[packed.box][region].astype(np.float64)
    mean, deviation = inside.mean(), inside.std()
    expected = scale.width / deviation, (scale.low - mean) / deviation, -mean / deviation
    np.testing.assert_allclose(levels_of(packed, ("t2f",), region)[0], expected, rtol=1e-4)
