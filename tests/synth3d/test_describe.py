"""Counting parameters, operations and activations without running a model."""

import json

import pytest
import torch
from torch import nn

from synth3d.describe import count_flops, count_saved_bytes, describe
from synth3d.models import AGINet, ResUNet

# AGI-Net, Table 5: GFLOP of one 256 x 256 slice, one channel in and out.
GROUPS = {1: 238.84, 2: 190.52, 4: 166.36, 8: 154.28, 16: 148.24}
STAGES = {1: 144.46, 2: 146.95, 3: 149.40, 4: 151.83, 5: 154.28, 6: 156.76, 7: 159.31}


def gigaflops(model: str = "agi-net", **options) -> float:
    network = (
        AGINet(1, 1, dim=2, **options) if model == "agi-net" else ResUNet(1, 1, dim=2, **options)
    )
    return count_flops(network, (1, 1, 256, 256)) / 1e9


@pytest.mark.parametrize(("groups", "printed"), GROUPS.items())
def test_flops_by_groups_are_the_papers(groups, printed):
    with torch.device("meta"):
        assert gigaflops(groups=groups) == pytest.approx(printed, rel=1e-3)


@pytest.mark.parametrize(("stages", "printed"), STAGES.items())
def test_flops_by_stages_are_the_papers(stages, printed):
    with torch.device("meta"):
        assert gigaflops(stages=stages) == pytest.approx(printed, rel=1e-3)


def test_flops_of_the_backbone_are_the_papers():
    with torch.device("meta"):
        assert gigaflops("resunet") == pytest.approx(141.91, rel=1e-3)


def test_the_command_lines_dictionary():
    result = describe("agi-net", 3, (64, 128, 256, 512), 8, 2, 1)
    assert result["parameters"] == 55_535_376
    assert result["flops_input"] == [1, 2, 64, 64, 64]
    assert result["flops"] == pytest.approx(921.3e9, rel=1e-3)
    assert {"model", "dim", "widths", "groups", "in_channels", "out_channels"} <= result.keys()
    assert json.loads(json.dumps(result)) == result


def test_activations_are_counted_and_recomputing_saves_most_of_the_surplus():
    plain, kept, recomputed = (
        describe(name, 3, (16, 32, 64, 128), 8, 2, 1, side=32, **options)["saved_bytes_per_voxel"]
        for name, options in (
            ("resunet", {}),
            ("agi-net", {}),
            ("agi-net", {"checkpoint_routing": True}),
        )
    )
    assert plain == pytest.approx(3388 / 4, rel=0.02)  # 3.39 kB per voxel at 4 times the widths
    assert kept > 1.8 * plain
    assert (recomputed - plain) < 0.4 * (kept - plain)


def test_a_hand_count():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
    assert count_flops(net, (1, 2, 4, 5)) == 20 * 3 * (2 * 18 + 1) + 60
    assert count_saved_bytes(net, (1, 2, 4, 5)) == 4 * (40 + 60)


def test_a_layer_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="no counting rule for Bilinear"):
        count_flops(nn.Bilinear(1, 1, 1), (1, 1))


def test_unknown_models_and_options_are_refused():
    with pytest.raises(ValueError, match="unknown model 'unet'; there are agi-net, resunet"):
        describe("unet")
    with pytest.raises(ValueError, match="no option depth"):
        describe("agi-net", depth=4)
    with pytest.raises(ValueError, match="do not split"):
        describe("agi-net", groups=7)
    with pytest.raises(ValueError, match="dim"):
        describe("agi-net", dim=4)
