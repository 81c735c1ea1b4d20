"""A plain convolution of one small sample: torch's numbers, gradients and weights, not its time."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from synth3d.models.blocks import LoneConv3d, conv
from synth3d.models.drop_in import replace_convolutions
from synth3d.models.resunet import ResUNet


class Slow(TorchDispatchMode):
    """Counts the 3-D convolutions that do not go to oneDNN."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func in (aten.convolution.default, aten.convolution_backward.default):
            at = 0 if func is aten.convolution.default else 1
            x, weight = args[at : at + 2]
            sides = args[at + 3 : at + 6]
            transposed, rest, groups = args[at + 6 : at + 9]
            which = torch._C._select_conv_backend(x, weight, None, *sides, transposed, rest, groups)
            self.seen += "Slow" in str(which) and not transposed
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (2, 2)])
def test_it_is_a_convolution(side, stride, batch, last):
    torch.manual_seed(0)
    layer = conv(3, 8, 6, side, stride)
    plain = nn.Conv3d(8, 6, side, stride, padding=layer.padding, bias=False).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(batch, 8, 6, 8, 4)
    x = x.to(memory_format=torch.channels_last_3d) if last else x
    leaves = x.requires_grad_(), x.detach().double().requires_grad_()
    for leaf, module in zip(leaves, (layer, plain), strict=True):
        module(leaf).square().sum().backward()
    assert isinstance(layer, LoneConv3d)
    assert torch.allclose(layer(x).double(), plain(leaves[1]), atol=1e-5)
    assert torch.allclose(leaves[0].grad.double(), leaves[1].grad, atol=1e-4)
    assert torch.allclose(layer.weight.grad.double(), plain.weight.grad, rtol=1e-4, atol=1e-2)


def test_one_patch_alone_meets_no_slow_convolution():
    net = ResUNet(2, 1, 3, (8, 16)).to(memory_format=torch.channels_last_3d)
    x = torch.randn(1, 2, 8, 8, 8).to(memory_format=torch.channels_last_3d)
    with Slow() as slow:
        net(x).sum().backward()
    assert slow.seen == 0
    plain = nn.Conv3d(8, 8, 3, padding=1)
    with Slow() as slow:  # which this would notice
        plain(torch.randn(1, 8, 8, 8, 8)).sum().backward()
    assert slow.seen == 2


def test_it_can_be_replaced_by_a_rolling_one():
    net = ResUNet(2, 1, 3, (8, 16))
    assert replace_convolutions(net, ["stages.down1.*.first"], groups=2).done
