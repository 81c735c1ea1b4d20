"""AGI-Net's parts: the acceptance tests of its specification, in that order."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from synth3d.models import AGINet
from synth3d.models.agi_net.cagr import CagrConv, CrossGroupAttention
from synth3d.models.agi_net.routing import CagrOptions, OffsetHead, Routing

SMALL = {"widths": (16, 32), "stages": 3, "groups": 4}


def image(dim: int, channels: int = 2, batch: int = 2, side: int = 8) -> torch.Tensor:
    return torch.randn(batch, channels, *[side] * dim)


# 1: the offset branch learns


@pytest.mark.parametrize("routing", ["stacked", "parallel"])
@pytest.mark.parametrize("dim", [2, 3])
def test_offset_heads_get_a_gradient_at_the_start(dim, routing):
    net = AGINet(2, 1, dim=dim, routing=routing, **SMALL)
    net(image(dim)).square().sum().backward()
    heads = [m for m in net.modules() if isinstance(m, OffsetHead)]
    assert len(heads) == 6
    assert all(head.weight.grad.abs().max() > 1e-6 for head in heads)


# 2: initialisers


def test_offsets_start_at_zero_and_scales_at_sigmoid_one(routes):
    for offsets, scale in routes(AGINet(2, 1, **SMALL), image(3)):
        assert (offsets == 0).all()
        assert torch.allclose(scale, torch.full_like(scale, 1 / (1 + math.exp(-1))))


def test_reset_parameters_draws_every_weight_anew(routes):
    net = AGINet(2, 1, **SMALL)
    for p in net.parameters():
        nn.init.constant_(p, 7.0)
    net.reset_parameters()
    assert not any((p == 7.0).any() for p in net.parameters())
    assert all((offsets == 0).all() for offsets, _ in routes(net, image(3)))


# 3: attention


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (8, 4), (16, 4), (8, 8)])
def test_attention_is_the_published_formula(channels, groups, shuffle):
    attention = CrossGroupAttention(channels, groups, dim=2, shuffle=shuffle)
    x = image(2, channels)
    z = x.mean((2, 3))
    other = z.reshape(2, groups, -1).transpose(1, 2).reshape(2, -1) if shuffle else z
    gates = []
    for part in torch.arange(channels).chunk(groups):
        both = torch.cat([z[:, part], other[:, part]], 1)
        gates.append(both @ attention.mix.weight[part, :, 0, 0].T + attention.mix.bias[part])
    assert torch.allclose(attention(x).flatten(1), torch.cat(gates, 1).sigmoid(), atol=1e-6)


# 4: routing


@pytest.mark.parametrize("routing", ["stacked", "parallel"])
def test_routing_is_the_published_formula(routing):
    layer = Routing(8, 4, dim=2, options=CagrOptions(routing=routing))
    nn.init.normal_(layer.offsets.weight)
    nn.init.normal_(layer.scale.weight)
    x = image(2, 8)

    def unit(u: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(x, u[0].weight, u[0].bias, padding=1, groups=4).permute(0, 2, 3, 1)
        return F.gelu(F.layer_norm(y, (8,), u[1].weight, u[1].bias)).permute(0, 3, 1, 2)

    one = unit(layer.unit1, x)
    two = unit(layer.unit2, one if routing == "stacked" else x)
    v_scale = two.mean((2, 3))
    v_offset = v_scale if routing == "stacked" else one.mean((2, 3))
    offsets, scale = layer(x)
    expected = (v_offset @ layer.offsets.weight.T).reshape(2, 4, 2)
    assert torch.allclose(offsets, expected, atol=1e-5)
    assert torch.allclose(scale, (v_scale @ layer.scale.weight.T + 1).sigmoid(), atol=1e-5)


def test_a_stride_makes_the_routing_coarser_and_costs_no_parameter():
    plain, strided = (AGINet(2, 1, routing_stride=s, **SMALL) for s in (1, 2))
    assert sum(map(torch.numel, plain.parameters())) == sum(map(torch.numel, strided.parameters()))
    assert strided(image(3)).shape == (2, 1, 8, 8, 8)


# 5: scale at the start


def test_a_cagr_convolution_is_the_plain_one_scaled_by_gate_and_lambda():
    layer = CagrConv(8, 4, 3, CagrOptions(attn_init="open"))
    x = image(3, 8)
    factor = torch.tensor(1.0).sigmoid() * torch.tensor(2.0).sigmoid()
    plain = F.conv3d(x, layer.conv.weight, padding=1)
    assert torch.allclose(layer(x), factor * plain, atol=1e-5)
    nn.init.constant_(layer.attention.mix.bias, 100.0)  # open gates and unit scale
    nn.init.constant_(layer.routing.scale.bias, 100.0)
    assert torch.allclose(layer(x), plain, atol=1e-5)


# 6: periods


def test_an_offset_of_three_taps_is_no_offset():
    layer = CagrConv(8, 4, 3)
    x = image(3, 8)
    before = layer(x)
    nn.init.zeros_(layer.routing.unit2[1].weight)  # v becomes GELU(bias): a constant
    nn.init.ones_(layer.routing.unit2[1].bias)
    nn.init.constant_(layer.routing.offsets.weight, 3 / (8 * F.gelu(torch.tensor(1.0)).item()))
    offsets, _ = layer.routing(x)
    assert torch.allclose(offsets, torch.full_like(offsets, 3.0), atol=1e-5)
    assert torch.allclose(layer(x), before, atol=1e-4)


# The switches beside the published module


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(
    ("groups", "inputs", "owned"),
    [(4, 3, [8, 4, 4]), (4, 2, [8, 8]), (8, 3, [6, 6, 4]), (2, 1, [16])],
)
def test_a_grouped_head_gives_every_modality_groups_of_its_own(dim, groups, inputs, owned):
    net = AGINet(inputs, 1, dim=dim, widths=(16, 32), stages=3, groups=groups, head="grouped")
    x = torch.randn(1, inputs, *[4] * dim)
    first = 0
    for channel, size in enumerate(owned):
        moved = x.clone()
        moved[:, channel] += 1
        changed = (net.head(moved) != net.head(x)).flatten(2).any(2)[0]
        assert changed.nonzero().flatten().tolist() == list(range(first, first + size))
        first += size
    net(x).square().sum().backward()
    assert net.head.weight.grad.abs().min() > 0
    assert net.head.weight.numel() == 16 * 3**dim
    assert "head.mask" not in net.state_dict()
    with torch.device("meta"):  # as a run builds its network to tell its size
        ghost = AGINet(inputs, 1, dim=dim, widths=(16, 32), stages=3, groups=groups, head="grouped")
    assert ghost.head.mask.shape == net.head.mask.shape


@pytest.mark.parametrize(
    ("options", "lost", "check"),
    [
        ({"offsets": "frozen"}, 3 * 4 * 8, lambda o, s: not o.any()),
        ({"offsets": "shared"}, 3 * 3 * 8, lambda o, s: (o == o[:, :1]).all() and o.any()),
        ({"scale": "fixed"}, 4 * 8 + 4, lambda o, s: (s == 1).all()),
        ({"scale_init": 3.0}, 0, lambda o, s: torch.allclose(s, torch.full((2, 4), 0.95257413))),
    ],
)
def test_switched_off_heads_have_no_parameters_and_do_what_they_say(options, lost, check):
    full, less = (Routing(8, 4, 3, CagrOptions(**o)) for o in ({}, options))
    counts = [sum(p.numel() for p in layer.parameters()) for layer in (full, less)]
    assert counts[0] - counts[1] == lost
    if less.offsets is not None:
        nn.init.normal_(less.offsets.weight)
    offsets, scale = less(image(3, 8))
    assert (offsets.shape, scale.shape) == ((2, 4, 3), (2, 4))
    assert check(offsets, scale)


# 7 stands in test_counts.py; 6 once more: the output depends on the patch


def test_routing_depends_on_the_whole_patch():
    """Global pooling ties what a voxel becomes to the tile it is in; the plain network's does not.

    The interior of the same voxels in a larger tile: equal for the plain network as far as its
    receptive field reaches, different for AGI-Net.
    """
    x = image(2, batch=1, side=64)
    inner = x[..., 8:56, 8:56]
    far = (..., slice(20, 28), slice(20, 28))
    for module, same in (("conv", True), ("cagr", False)):
        net = AGINet(2, 1, dim=2, widths=(8, 16), blocks=1, stages=1, groups=2, module=module)
        for head in (m for m in net.modules() if isinstance(m, OffsetHead)):
            nn.init.normal_(head.weight, std=3.0)
        whole = net(x)[..., 8:56, 8:56][far]
        assert torch.allclose(net(inner)[far], whole, atol=1e-6) == same
