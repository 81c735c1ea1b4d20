"""What is overheard of AGI-Net is what it did, tile by tile, whatever the batch."""

from dataclasses import replace

import pytest
import torch

from synth3d.data.task import Task
from synth3d.frameworks import build
from synth3d.frameworks.reconstruction import L1Options
from synth3d.inference import RouteRecorder, SynthesisOptions, synthesize_volume
from synth3d.models import routed
from synth3d.models.options import ModelConfig

PRESENT, WANTED = torch.tensor([True]), torch.tensor([True])


@pytest.fixture
def framework():
    torch.manual_seed(0)
    model = ModelConfig("agi-net", widths=(4, 8), blocks=1, groups=2, stages=2)
    made = build(Task(2, ("t1n",), ("t2f",)), model, "l1", L1Options(), None).eval()
    for module in routed(made.generator).values():
        torch.nn.init.normal_(module.routing.offsets.weight)
    return made


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_means_are_over_the_tiles_and_fillers_do_not_count(framework, batch):
    slices = torch.rand(1, 5, 8, 8)
    recorder = RouteRecorder(framework)
    options = SynthesisOptions((8, 8), (0, 0), batch, on_tile=recorder.on_tile)
    with recorder.listening():
        made = synthesize_volume(framework, slices, PRESENT, WANTED, options)
    plain = synthesize_volume(framework, slices, PRESENT, WANTED, replace(options, on_tile=None))
    assert torch.equal(made, plain)
    (name, module), *_ = routed(framework.generator).items()
    seen = []
    hook = module.routing.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        for number in range(5):
            framework.synthesize(slices[None, :, number], PRESENT[None], WANTED[None])
    hook.remove()
    offsets = torch.cat([offsets for offsets, _ in seen]).double()
    scales = torch.cat([scale for _, scale in seen]).double()
    first, second, *rest = recorder.groups
    assert [(one.place, one.group, one.tiles) for one in (first, second)] == [
        ("down1.0", 0, 5), ("down1.0", 1, 5),
    ]  # fmt: skip
    assert rest[0].place == "body.0"
    for number, one in enumerate((first, second)):
        assert one.offset == pytest.approx(offsets[:, number].mean(0).tolist(), abs=1e-6)
        spread = offsets[:, number].std(0, correction=0).tolist()
        assert one.offset_sd == pytest.approx(spread, abs=1e-6)
        assert one.scale == pytest.approx(float(scales[:, number].mean()))
        assert 0 < one.gate < 1
    assert first.offset != second.offset


def test_a_volume_that_is_begun_anew_counts_once(framework):
    recorder = RouteRecorder(framework)
    slices = torch.rand(1, 4, 8, 8)
    options = SynthesisOptions((8, 8), (0, 0), 2, on_tile=recorder.on_tile)
    with recorder.listening():
        for _ in range(2):
            synthesize_volume(framework, slices, PRESENT, WANTED, options)
    assert {one.tiles for one in recorder.groups} == {4}
    assert RouteRecorder(framework).groups == []
