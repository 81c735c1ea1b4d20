"""A batch on its way to a device: what is known of it stays on the CPU, and where it lies."""

import dataclasses

import pytest
import torch
from torch import Tensor

from synth3d.data import patches
from synth3d.data.batch import Batch
from synth3d.data.cache.packed import pack
from synth3d.data.options import DataConfig
from synth3d.data.patches import Stream
from synth3d.data.task import Task

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
    return [getattr(batch, field.name) for field in dataclasses.fields(batch)]


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

    monkeypatch.setattr(patches, "DataLoader", loader)
    subjects, data = [pack(prepared)] * 2, dataclasses.replace(DATA, workers=1)
    for wanted in (False, True):
        Stream(subjects, TASK, data, pinned=wanted).batches(0)
    assert [how["pin_memory"] for how in asked] == [False, True]
