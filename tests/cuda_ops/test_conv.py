"""Convolution with one kernel per sample: both ways, their rule and their edges."""

import pytest
import torch
import torch.nn.functional as F

from cuda_ops import RollingConv, roll_kernel, rolling_conv
from cuda_ops.conv import conv_grouped, conv_looped, conv_per_sample, runs_per_sample

CONV = {2: F.conv2d, 3: F.conv3d}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def case(dim: int, batch: int = 3, dtype: torch.dtype = torch.float64):
    g = torch.Generator().manual_seed(dim)
    x = torch.randn(batch, 4, *(5, 6, 7)[:dim], generator=g, dtype=dtype)
    weight = torch.randn(6, 4, *[3] * dim, generator=g, dtype=dtype)
    offsets = torch.randn(batch, 2, dim, generator=g, dtype=dtype)
    scale = torch.rand(batch, 2, generator=g, dtype=dtype)
    return x, weight, offsets, scale


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 0, 1)]
)
@pytest.mark.parametrize("last", [False, True])
def test_each_sample_is_convolved_with_its_own_kernel(dim, stride, padding, dilation, last):
    x, weight, offsets, scale = case(dim)
    kernels = roll_kernel(weight, offsets, scale)
    geometry = (None, stride, padding, dilation)
    expected = torch.cat([CONV[dim](x[i : i + 1], kernels[i], *geometry) for i in range(3)])
    if last:
        x = x.to(memory_format=LAST[dim])
    result = rolling_conv(x, weight, offsets, scale, stride, padding, dilation)
    assert torch.allclose(result, expected, atol=1e-10)
    for way in (conv_looped, conv_grouped):
        result = way(x, kernels, stride, padding, dilation)
        assert torch.allclose(result, expected, atol=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_geometry_may_differ_per_axis(dim):
    x, weight, offsets, scale = case(dim)
    stride, padding, dilation = (2, 1, 1)[:dim], (0, 1, 2)[:dim], (1, 1, 2)[:dim]
    kernels = roll_kernel(weight, offsets, scale)
    expected = CONV[dim](x[1:2], kernels[1], None, stride, padding, dilation)
    result = rolling_conv(x, weight, offsets, scale, stride, padding, dilation)
    assert torch.allclose(result[1:2], expected, atol=1e-10)


@pytest.mark.parametrize("way", [conv_looped, conv_grouped])
@pytest.mark.parametrize("dim", [2, 3])
def test_both_ways_have_the_same_gradients(way, dim):
    grads = []
    for one in (way, conv_per_sample):
        x, weight, offsets, scale = (t.requires_grad_() for t in case(dim))
        (one(x, roll_kernel(weight, offsets, scale), 1, 1) ** 2).sum().backward()
        grads.append([t.grad for t in (x, weight, offsets, scale)])
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("batch", [0, 1])
def test_a_batch_may_be_empty_or_one(dim, batch):
    x, weight, offsets, scale = case(dim, batch)
    result = rolling_conv(x, weight, offsets, scale, padding=1)
    assert result.shape == (batch, 6, *x.shape[2:])


def backend(x: torch.Tensor, outputs: int, groups: int) -> str:
    """The name of the routine that ATen picks for a 3x3x3 convolution."""
    weight = torch.empty(outputs * groups, x.shape[1] // groups, 3, 3, 3, dtype=x.dtype)
    ones, none = [1, 1, 1], [0, 0, 0]
    chosen = torch._C._select_conv_backend(x, weight, None, ones, ones, ones, False, none, groups)
    return str(chosen)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("channels", "side"), [(16, 32), (16, 64), (32, 32), (64, 16), (64, 32), (128, 8), (128, 12)]
)
def test_no_batch_falls_to_the_slow_3d_convolution(channels, side, dtype, last):
    """A one-sample float32 slice of a small tensor leaves oneDNN and is 3 to 8 times slower."""
    x = torch.empty(2, channels, side, side, side, dtype=dtype)
    if last:
        x = x.to(memory_format=torch.channels_last_3d)
    if runs_per_sample(x):
        routine = backend(x[:1], channels, 1)
    else:
        routine = backend(x.reshape(1, -1, *x.shape[2:]), channels, 2)
    assert "Slow3d" not in routine
    assert "Mkldnn" in routine


def test_channels_last_goes_sample_by_sample_and_contiguous_grouped():
    x = torch.empty(2, 32, 32, 32, 32)
    assert not runs_per_sample(x)
    assert runs_per_sample(x.to(memory_format=torch.channels_last_3d))
    assert not runs_per_sample(x[:, :, :8, :8, :8].to(memory_format=torch.channels_last_3d))
    assert runs_per_sample(x[:1])


@pytest.mark.parametrize("dim", [2, 3])
def test_without_a_roll_the_module_is_a_plain_convolution(dim):
    x, *_ = case(dim, dtype=torch.float32)
    layer = RollingConv(4, 6, 3, dim=dim, groups=2)
    plain = CONV[dim](x, layer.weight, None, 1, 1)
    assert torch.equal(layer(x), plain)
    at_rest = layer(x, torch.zeros(3, 2, dim), torch.ones(3, 2))
    assert torch.allclose(at_rest, plain, atol=1e-5)
    assert torch.allclose(layer(x, offsets=torch.zeros(3, 2, dim)), plain, atol=1e-5)
    assert torch.allclose(layer(x, scale=torch.full((3, 2), 0.5)), plain / 2, atol=1e-5)


def test_the_module_keeps_the_size_for_anisotropic_and_dilated_kernels():
    x = torch.randn(1, 4, 5, 6, 7)
    layer = RollingConv(4, 4, (1, 3, 3), dim=3, groups=4, dilation=(1, 2, 1))
    assert layer(x, torch.randn(1, 4, 3), torch.ones(1, 4)).shape == x.shape
    assert "kernel_size=(1, 3, 3)" in repr(layer)


def test_autocast_convolves_in_the_compute_dtype():
    x, weight, offsets, scale = case(3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = rolling_conv(x, weight, offsets, scale, padding=1)
    assert result.dtype == torch.bfloat16
    expected = rolling_conv(x, weight, offsets, scale, padding=1)
    assert torch.allclose(result.float(), expected, atol=0.2)


def test_disagreeing_shapes_are_refused():
    x, weight, offsets, scale = case(3)
    with pytest.raises(ValueError, match="5 axes"):
        rolling_conv(x[0], weight, offsets, scale)
    with pytest.raises(ValueError, match="B = 2"):
        rolling_conv(x, weight, offsets[:2], scale[:2])
    with pytest.raises(ValueError, match="C_in = 4"):
        rolling_conv(x[:, :3], weight, offsets, scale)
    with pytest.raises(ValueError, match="do not split into 3"):
        RollingConv(4, 4, groups=3)
    with pytest.raises(ValueError, match="dim 2 or 3"):
        RollingConv(4, 4, dim=1, groups=2)
    with pytest.raises(ValueError, match="one per axis"):
        RollingConv(4, 4, (3, 3), dim=3, groups=2)
