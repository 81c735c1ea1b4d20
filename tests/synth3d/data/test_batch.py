"""A batch on its way to a device: what is known of it stays on the CPU, and where it lies."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from synth3d.data import feeding
from synth3d.data.batch import Batch
from synth3d.data.cache.packed import pack
from synth3d.data.options import DataConfig
from synth3d.data.patches import Stream
from synth3d.data.task import Task
from synth3d.losses import masked_mean

TASK = Task(3, ("t1n", "t1c", "t2w"), ("t2f",))
DATA = DataConfig((16, 12, 8), (8, 6, 4), batch=2, patches_per_case=2, queue=4)


@pytest.fixture
def batch() -> Batch:
    present = torch.tensor([[True, False], [True, True]])
    volumes = torch.rand(2, 2, 4, 4), torch.rand(2, 1, 4, 4)
    return Batch(*volumes, present, torch.ones(2, 1, dtype=torch.bool), volumes[0][:, :1] > 0.5)


@pytest.fixture
def pinned(monkeypatch) -> list[Tensor]:
    """Tensors that were made in page-locked memory, which needs a driver: plain copies here."""
    made: list[Tensor] = []

    def pin(values: Tensor) -> Tensor:
        made.append(values.clone())
        return made[-1]

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    return made


def values_of(batch: Batch) -> list[Tensor]:
    values = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return [value for value in values if isinstance(value, Tensor)]


def test_what_is_known_can_be_read_wherever_the_batch_is(batch):
    expected = torch.cat([batch.present, batch.wanted], 1)
    away = batch.to("meta")  # where nothing can be read
    assert away.present.device.type == "meta"
    assert torch.equal(away.known, expected)
    fewer = dataclasses.replace(batch, present=~batch.present)
    assert torch.equal(fewer.known[:, :2], ~batch.present)


def test_a_pinned_batch_is_pinned_in_all_its_parts(batch, pinned):
    held = batch.pin_memory()
    assert {id(one) for one in values_of(held)} <= {id(one) for one in pinned}
    for before, after in zip(values_of(batch), values_of(held), strict=True):
        assert torch.equal(before, after)


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 6]))
def test_the_mean_over_shares_is_that_of_the_whole_batch(seed, count):
    """Wherever the voxels that count lie, also where a share, or all of them, have none."""
    draws = torch.Generator().manual_seed(seed)
    values = torch.rand(6, 1, 4, 4, generator=draws)
    chance = torch.rand(6, 1, 1, 1, generator=draws).round(decimals=1) ** 3
    brain = torch.rand(6, 1, 4, 4, generator=draws) < chance
    seen = torch.rand(6, 2, generator=draws) < 0.5
    whole = Batch(values.expand(-1, 2, -1, -1), values, seen, seen[:, :1], brain)
    shares = whole.shares(count, {"voxels": brain})
    found = sum(
        masked_mean(share.targets, share.brain) * share.weight("voxels") for share in shares
    )
    torch.testing.assert_close(found / count, masked_mean(values, brain) * whole.weight("voxels"))
    assert torch.equal(torch.cat([share.sources for share in shares]), whole.sources)
    assert torch.equal(torch.cat([share.known for share in shares]), whole.known)
    assert [share.first for share in shares] == list(range(0, 6, 6 // count))


def test_a_share_knows_the_masks_that_it_was_told_of_alone(batch):
    with pytest.raises(KeyError):
        batch.shares(2, {"voxels": batch.brain})[1].weight("edges")
    with pytest.raises(ValueError, match="2 samples cannot be shared evenly by 3"):
        batch.shares(3, {})


def test_only_towards_a_gpu_a_copy_is_not_waited_for(batch, monkeypatch):
    asked = []
    monkeypatch.setattr(Tensor, "to", lambda one, where, **how: asked.append(how) or one)
    for device in ("cpu", "cuda:1"):
        batch.to(device)
        assert {how["non_blocking"] for how in asked} == {device != "cpu"}
        asked.clear()


def test_batches_made_in_this_process_are_pinned_if_asked_and_the_same(prepared, pinned):
    subjects = [pack(prepared)] * 2
    plain = next(Stream(subjects, TASK, DATA).batches(0))
    assert not pinned
    held = next(Stream(subjects, TASK, DATA, pinned=True).batches(0))
    assert {id(one) for one in values_of(held)} <= {id(one) for one in pinned}
    assert torch.equal(held.sources, plain.sources)


def test_torchs_loader_pins_what_workers_drew(prepared, monkeypatch):
    asked = []

    def loader(*args, **how):
        asked.append(how)
        return ()

    monkeypatch.setattr(feeding, "DataLoader", loader)
    subjects, data = [pack(prepared)] * 2, dataclasses.replace(DATA, workers=1)
    for wanted in (False, True):
        Stream(subjects, TASK, data, pinned=wanted).batches(0)
    assert [how["pin_memory"] for how in asked] == [False, True]
