"""Counting parameters, operations and activations without running a model."""

import json

import pytest
import torch
from torch import nn

from synth3d.experiments.describe import count_flops, describe
from synth3d.models import AGINet, ResUNet
from synth3d.models.moving.deformable import DeformableConv
from synth3d.models.moving.rotating import RotatingConv

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


@pytest.mark.parametrize(
    ("widths", "plain", "agi"),
    [((64, 128, 256, 512), 858.6, 921.3), ((32, 64, 128, 256), 215.3, 231.2)],
)
def test_flops_of_volumes_are_the_specifications(widths, plain, agi):
    for model, printed in (("resunet", plain), ("agi-net", agi)):
        options = {"in_channels": 2, "side": 64}
        found = describe(model, 3, widths, **options)["flops"] / 1e9
        assert found == pytest.approx(printed, rel=1e-3)


@pytest.mark.parametrize("groups", GROUPS)
def test_both_wirings_cost_the_same(groups):
    with torch.device("meta"):
        flops = [gigaflops(groups=groups, routing=r) for r in ("stacked", "parallel")]
    assert flops[0] == pytest.approx(flops[1], abs=0.02)


def test_the_dictionary():
    result = describe("agi-net", 3, (64, 128, 256, 512), 8, 2, 1)
    assert result["parameters"] == 55_535_376
    assert result["flops_input"] == [1, 2, 64, 64, 64]
    assert result["flops"] == pytest.approx(921.3e9, rel=1e-3)
    assert {"model", "dim", "widths", "groups", "in_channels", "out_channels"} <= result.keys()
    assert json.loads(json.dumps(result)) == result


def test_activations_are_a_line_in_the_voxels():
    """3.39 kB per voxel at 4 times the widths, and nothing besides, for the plain network."""
    plain = describe("resunet", 3, (16, 32, 64, 128), side=32)
    assert plain["saved_bytes_per_voxel"] == pytest.approx(3388 / 4, rel=0.02)
    assert plain["saved_bytes_constant"] == 0
    agi = describe("agi-net", 3, (16, 32, 64, 128), side=128)
    assert agi["saved_bytes_per_voxel"] > 1.8 * plain["saved_bytes_per_voxel"]
    assert agi["recomputed_bytes_per_voxel"] < 1.05 * plain["saved_bytes_per_voxel"]


def test_a_hand_count():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
    assert count_flops(net, (1, 2, 4, 5)) == 20 * 3 * (2 * 18 + 1) + 60


def test_what_the_other_convolutions_cost():
    """By hand, at C channels and P positions: head map, reads of 2^d corners, convolution."""
    c, p = 8, 16 * 16
    x = (1, c, 16, 16)
    maps = p * 27 * (2 * 9 * c + 1)
    conv = 2 * p * c * 9 * c
    assert count_flops(DeformableConv(c, 2, "exact"), x) == maps + 9 * c * p * 8 + conv
    assert count_flops(DeformableConv(c, 2, "dcn"), x) == maps + 9 * c * p * 8 + conv
    warp = p * 3 * (2 * 9 * c + 1) + c * p * 8 + conv
    assert count_flops(DeformableConv(c, 2, "warp"), x) == warp
    routing = p * c * (2 * 9 + 5 + 1 + 1) + 2 * (2 * c * 3) + 3
    assert count_flops(RotatingConv(c, 3).eval(), x) == conv + routing


@pytest.mark.parametrize("model", ["deform-resunet", "arc-resunet", "agi-net", "resunet"])
def test_every_model_and_the_time_can_be_described(model):
    options = {"time_embedding": True}
    options |= {"stages": 3} if model != "resunet" else {}
    options |= {"groups": 2} if model == "agi-net" else {}
    timed = describe(model, 2, (8, 16), side=16, **options)
    assert min(timed["parameters"], timed["flops"], timed["saved_bytes_per_voxel"]) > 0


def test_a_layer_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="no counting rule for Bilinear"):
        count_flops(nn.Bilinear(1, 1, 1), (1, 1))


def test_unknown_models_and_options_are_refused():
    with pytest.raises(ValueError, match="unknown model 'unet'; there are agi-net, resunet"):
        describe("unet")
    with pytest.raises(ValueError, match="no option depth"):
        describe("agi-net", depth=4)
    with pytest.raises(ValueError, match="resunet has no option groups"):
        describe("resunet", groups=4)
    with pytest.raises(ValueError, match="do not split"):
        describe("agi-net", groups=7)
    with pytest.raises(ValueError, match="dim"):
        describe("agi-net", dim=4)
    with pytest.raises(ValueError, match="sides of at least 16"):
        describe("resunet", side=8)
