"""Rolling convolutions in networks that somebody else built."""

import doctest
import math

import pytest
import torch
from torch import nn

from synth3d.models import drop_in, replace_convolutions
from synth3d.models.agi_net.cagr import CagrConv
from synth3d.models.agi_net.routing import OffsetHead, Routing


class Block(nn.Module):
    """As nnU-Net builds them: the convolution is registered under two names."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=True)
        self.norm = nn.InstanceNorm3d(outputs, affine=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, nn.LeakyReLU(0.01))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.all_modules(x)


class UNet(nn.Module):
    """Two levels, concatenating skip, biases and instance normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(Block(2, 8), Block(8, 8))
        self.body = nn.Sequential(Block(8, 16, stride=2), Block(16, 16))
        self.up = nn.ConvTranspose3d(16, 8, 2, 2)
        self.merge = Block(16, 8)
        self.tail = nn.Conv3d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.down(x)
        return self.tail(self.merge(torch.cat([skip, self.up(self.body(skip))], 1)))


def wake(net: nn.Module) -> None:
    for head in (m for m in net.modules() if isinstance(m, OffsetHead)):
        nn.init.normal_(head.weight)


@pytest.mark.parametrize("module", ["cagr", "gr", "ca"])
@pytest.mark.parametrize("scale", ["learned", "fixed"])
def test_a_network_computes_what_it_did(module, scale):
    net, x = UNet().double(), torch.randn(2, 2, 8, 8, 8, dtype=torch.float64)
    before = net(x)
    report = replace_convolutions(net, "*conv", groups=2, module=module, scale=scale)
    assert set(report.done) == {"down.0.conv", "down.1.conv", "body.1.conv", "merge.conv"}
    assert torch.allclose(net(x), before, atol=1e-10)


def test_it_then_learns_to_roll():
    net, x = UNet(), torch.randn(2, 2, 8, 8, 8)
    replace_convolutions(net, "*conv", groups=2)
    net(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    heads = [m for m in net.modules() if isinstance(m, OffsetHead)]
    assert len(heads) == 4
    assert all(head.weight.grad.abs().max() > 0 for head in heads)


def test_all_names_of_a_convolution_are_replaced():
    net = UNet()
    replace_convolutions(net, "down.1.conv")
    block = net.down[1]
    assert isinstance(block.conv, CagrConv)
    assert block.all_modules[0] is block.conv
    assert isinstance(net.down[0].conv, nn.Conv3d)


def test_what_stays_is_listed_with_its_reason():
    report = replace_convolutions(UNet(), ["*"], groups=2)
    assert report.skipped == {
        "body.0.conv": "its stride is (2, 2, 2), not 1",
        "up": "a ConvTranspose3d is no plain Conv2d or Conv3d",
        "tail": "a kernel of one tap cannot be rolled",
    }
    assert "replaced 4: down.0.conv" in str(report)
    assert "kept tail: a kernel of one tap" in str(report)


HOOKED = nn.Conv2d(4, 4, 3)
HOOKED.register_forward_pre_hook(lambda module, inputs: None)


@pytest.mark.parametrize(
    ("layer", "options", "claim"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), {}, "has 2 groups"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), {}, "pads with 'reflect'"),
        (nn.Conv2d(4, 4, 4, padding="same"), {}, "even kernel"),
        (nn.Conv1d(4, 4, 3), {}, "a Conv1d is no plain"),
        (HOOKED, {}, "has hooks"),
        (nn.Linear(2, 2), {}, "can be rolled"),
        (UNet(), {"pattern": "encoder.*"}, r"fits \['encoder.*'\].*'0.down.0.conv'"),
        (UNet(), {"groups": 0}, "groups must be positive"),
        (UNet(), {"module": "conv"}, "there already"),
        (UNet(), {"module": "deform"}, "module must be one of"),
        (UNet(), {"attn_init": "default"}, "keep_function=False"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(layer, options, claim):
    net = nn.Sequential(layer)
    with pytest.raises(ValueError, match=claim):
        replace_convolutions(net, **{"pattern": "*", **options})
    assert not any(isinstance(m, CagrConv) for m in net.modules())


def test_a_network_that_is_a_convolution_cannot_be_replaced_in_itself():
    with pytest.raises(ValueError, match="it is the network itself"):
        replace_convolutions(nn.Conv2d(4, 4, 3), "*")


def test_groups_that_do_not_divide_become_the_greatest_common_divisor():
    net = nn.Sequential(nn.Conv2d(12, 4, 3, padding=1))
    with pytest.warns(UserWarning, match="0 has 12 input channels, which 8 groups do not divide"):
        replace_convolutions(net, "0", groups=8)
    assert net[0].routing.groups == 4
    assert net(torch.zeros(1, 12, 5, 5)).shape == (1, 4, 5, 5)


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1), (1, 1, 3), (3, 3, 3)])
def test_axes_of_one_tap_are_not_rolled(kernel):
    padding = tuple(k // 2 for k in kernel)
    net = nn.Sequential(nn.Conv3d(4, 6, kernel, padding=padding)).double()
    x = torch.randn(2, 4, 4, 5, 6, dtype=torch.float64)
    before = net(x)
    replace_convolutions(net, "0", groups=2)
    assert torch.allclose(net(x), before, atol=1e-12)
    routing = net[0].routing
    rolled = [axis for axis, k in enumerate(kernel) if k > 1]
    assert routing.offsets.weight.shape == (2 * len(rolled), 4)
    wake(net)
    offsets, _ = routing(x)
    assert offsets.shape == (2, 2, 3)
    assert [bool(offsets[..., axis].any()) for axis in range(3)] == [k > 1 for k in kernel]
    assert net(x).shape == before.shape


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=2, dilation=2),
        nn.Conv2d(4, 6, 5, padding="same", bias=False),
        nn.Conv2d(4, 6, 3, padding="valid"),
        nn.Conv2d(4, 6, (3, 5), padding=(1, 2)),
        nn.Conv2d(4, 6, 2),
    ],
)
def test_every_geometry_is_kept(layer):
    net, x = nn.Sequential(layer).double(), torch.randn(2, 4, 9, 8, dtype=torch.float64)
    before = net(x)
    replace_convolutions(net, "0", groups=2)
    assert torch.allclose(net(x), before, atol=1e-12)


def test_without_keeping_the_function_it_starts_as_published():
    """Kernels as they were, scales at sigmoid(1): with open gates 0.731 · 0.881 of it."""
    layer = nn.Conv3d(4, 4, 3, padding=1, bias=False)
    net, x = nn.Sequential(layer), torch.randn(1, 4, 5, 5, 5)
    before = net(x)
    replace_convolutions(net, "0", groups=2, keep_function=False, attn_init="open")
    factor = 1 / (1 + math.exp(-1)) / (1 + math.exp(-2))
    assert torch.equal(net[0].conv.weight, layer.weight)
    assert torch.allclose(net(x), factor * before, atol=1e-6)


def test_device_type_mode_and_frozen_weights_are_taken_over():
    net = UNet().double().eval()
    net.down[0].conv.weight.requires_grad_(False)
    replace_convolutions(net, "down.*.conv", groups=2)
    new = net.down[0].conv
    assert not new.training
    assert not new.conv.weight.requires_grad
    assert new.bias.requires_grad
    assert {p.dtype for p in new.parameters()} == {torch.float64}


def test_the_example_of_the_docstring():
    assert doctest.testmod(drop_in, extraglobs={"nn": nn}).failed == 0


def test_nnunets_own_network():
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    net = unet.PlainConvUNet(
        1, 3, (8, 16, 32), nn.Conv3d, [(1, 3, 3), (3, 3, 3), (3, 3, 3)],
        [(1, 1, 1), (1, 2, 2), (2, 2, 2)], (2, 2, 2), 2, (2, 2), conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
    ).double()  # fmt: skip
    x = torch.randn(1, 1, 4, 16, 16, dtype=torch.float64)
    before = net(x)
    # Two convolutions a stage; the first of the two deeper encoder stages has a stride.
    report = replace_convolutions(net, ["encoder.*.convs.1.conv", "decoder.stages.*.conv"])
    assert len(report.done) == 3 + 4
    assert not report.skipped
    assert torch.allclose(net(x), before, atol=1e-8)
    net(x).square().mean().backward()
    assert all(m.offsets.weight.grad.any() for m in net.modules() if isinstance(m, Routing))
    assert sum(isinstance(m, CagrConv) for m in net.modules()) == 7
