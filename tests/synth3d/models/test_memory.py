"""Counting what a step keeps, and recomputing the routing where memory asks for it."""

import pytest
import torch
from torch import nn

from synth3d.models import AGINet, ResUNet, memory
from synth3d.models.agi_net.routing import Routing, RoutingUnit
from synth3d.models.memory import free_bytes, needs_recomputing, saved_bytes

SMALL = {"widths": (8, 16), "stages": 3, "groups": 2}


def recomputes(net: nn.Module) -> set[bool]:
    return {m.recompute for m in net.modules() if isinstance(m, Routing)}


def really_saved(net: nn.Module, x: torch.Tensor) -> int:
    own = {p.untyped_storage()._cdata for p in net.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = net(x)
    del y
    return sum(storage.nbytes() for storage in kept.values())


def test_a_hand_count():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
    assert saved_bytes(net, (1, 2, 4, 5)) == 4 * (40 + 60)


@pytest.mark.parametrize(("recompute", "stride"), [(False, 1), (True, 1), (False, 2), (True, 2)])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_count_is_what_a_real_step_keeps(dim, recompute, stride):
    net = AGINet(2, 1, dim=dim, checkpoint_routing=recompute, routing_stride=stride, **SMALL)
    layout = memory.LAST[dim + 2]
    net = net.to(memory_format=layout)
    x = torch.randn(2, 2, *[16] * dim).to(memory_format=layout)
    counted, kept = saved_bytes(net, x.shape), really_saved(net, x)
    assert saved_bytes(net.to("meta"), x.shape) == counted
    assert kept <= counted * 1.001
    # Without values the rolls are made in the form that keeps its matrices, and what they are of.
    modules = sum(isinstance(module, Routing) for module in net.modules())
    matrices = modules * 4 * len(x) * SMALL["groups"] * 3 ** (2 * dim)
    assert counted <= kept + 3 * matrices


def test_the_cheap_routing_keeps_a_result_of_each_unit_and_not_three():
    """Two units each: neither the normalised features nor the mean and deviation of a voxel."""
    x = torch.randn(1, 2, 16, 16, 16).to(memory_format=torch.channels_last_3d)
    net = AGINet(2, 1, dim=3, routing_stride=2, **SMALL).to(memory_format=torch.channels_last_3d)
    lean = really_saved(net, x)
    for module in net.modules():
        if isinstance(module, RoutingUnit):
            module.lean = False
    routed = [(8, 8), (8, 8), (16, 4), (16, 4), (8, 8), (8, 8)]  # channels, side after the stride
    assert len(routed) == sum(isinstance(module, Routing) for module in net.modules())
    spared = sum(2 * 4 * (channels + 2) * side**3 for channels, side in routed)
    assert really_saved(net, x) - lean == pytest.approx(spared, rel=0.05)


def test_autocast_halves_it():
    net = ResUNet(1, 1, widths=(8, 16))
    full = saved_bytes(net, (1, 1, 16, 16, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert saved_bytes(net, (1, 1, 16, 16, 16)) == pytest.approx(full / 2, rel=0.2)


def test_a_network_that_is_told_a_time_can_be_counted():
    net = AGINet(2, 1, time_embedding=True, **SMALL)
    assert saved_bytes(net, (1, 2, 8, 8, 8), timed=True) > 0


def test_somebody_knows_how_much_memory_is_free():
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**60
    assert free_bytes(torch.device("meta")) is None


def test_the_smaller_of_machine_and_group_counts(monkeypatch):
    monkeypatch.setattr(memory, "_machine_bytes", lambda: 1000)
    monkeypatch.setattr(memory, "_group_bytes", lambda: iter([300]))
    assert free_bytes(torch.device("cpu")) == 300
    monkeypatch.setattr(memory, "_group_bytes", lambda: iter([]))
    assert free_bytes(torch.device("cpu")) == 1000


@pytest.mark.parametrize(("share_of_need", "expected"), [(2.2, False), (1.8, True)])
def test_auto_recomputes_when_half_of_the_free_memory_is_too_little(
    monkeypatch, share_of_need, expected
):
    net, x = AGINet(2, 1, **SMALL), torch.randn(1, 2, 16, 16, 16)
    need = saved_bytes(AGINet(2, 1, checkpoint_routing=False, **SMALL), x.shape)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(share_of_need * need))
    assert recomputes(net) == {False}
    with torch.no_grad():
        net(x)
    assert recomputes(net) == {False}
    net(x).sum().backward()
    assert recomputes(net) == {expected}


def test_it_is_decided_once(monkeypatch):
    net, x = AGINet(2, 1, **SMALL), torch.randn(1, 2, 8, 8, 8)
    net(x)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    net(x)
    assert recomputes(net) == {False}
    assert recomputes(AGINet(2, 1, checkpoint_routing=True, **SMALL)) == {True}


def test_where_nobody_knows_nothing_is_recomputed(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    assert not needs_recomputing(ResUNet(1, 1, widths=(4, 8)), torch.zeros(1, 1, 8, 8, 8), 1e9)


def test_the_bound_that_saves_the_count_is_above_it():
    """AGINet's promise to :func:`needs_recomputing`, where kernels weigh most: few voxels."""
    for widths, side in (((64, 128, 256, 512), 16), ((16, 32, 64, 128), 16), ((8, 8, 8), 8)):
        with torch.device("meta"):
            net = AGINet(2, 1, widths=widths, stages=5, checkpoint_routing=False)
        bound = 400 * 2 * sum(widths) * side**3
        assert saved_bytes(net, (1, 2, *[side] * 3)) < bound


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"checkpoint_routing": True}, 1.10),
        ({"routing_stride": 2, "checkpoint_routing": False}, 1.3),
    ],
)
def test_bytes_per_voxel_over_the_plain_network(options, limit):
    """Of what grows with the volume: the difference of two patches, kernels cancel."""
    widths = (16, 32, 64, 128)
    with torch.device("meta"):
        plain = ResUNet(2, 1, widths=widths)
        net = AGINet(2, 1, widths=widths, groups=4, **options)
    per_voxel = [
        saved_bytes(m, (1, 2, 128, 128, 128)) - saved_bytes(m, (1, 2, 96, 96, 96))
        for m in (plain, net)
    ]
    assert per_voxel[1] / per_voxel[0] <= limit
