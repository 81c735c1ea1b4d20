"""The rolling convolution as its users see it: numbers, gradients, edges, types, layouts."""

import pytest
import torch
import torch.nn.functional as F

from cuda_ops import RollingConv, conv, roll_kernel, rolling_conv
from cuda_ops.paths import WAYS

CONV = {2: F.conv2d, 3: F.conv3d}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def case(dim: int, batch: int = 3, dtype: torch.dtype = torch.float64):
    g = torch.Generator().manual_seed(dim)
    x = torch.randn(batch, 4, *(5, 6, 7)[:dim], generator=g, dtype=dtype)
    weight = torch.randn(6, 4, *[3] * dim, generator=g, dtype=dtype)
    offsets = torch.randn(batch, 2, dim, generator=g, dtype=dtype)
    scale = torch.rand(batch, 2, generator=g, dtype=dtype)
    return x, weight, offsets, scale


def one_by_one(x, weight, offsets, scale, *geometry):
    """What is meant: every sample with the kernel that is its own."""
    kernels = roll_kernel(weight, offsets, scale)
    convolve = CONV[x.ndim - 2]
    return torch.cat([convolve(x[b : b + 1], kernels[b], None, *geometry) for b in range(len(x))])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 0, 1)]
)
@pytest.mark.parametrize("last", [False, True])
def test_each_sample_is_convolved_with_its_own_kernel(way, dim, stride, padding, dilation, last):
    x, *rest = case(dim)
    if last:
        x = x.to(memory_format=LAST[dim])
    expected = one_by_one(x, *rest, stride, padding, dilation)
    result = rolling_conv(x, *rest, stride, padding, dilation, way)
    assert torch.allclose(result, expected, atol=1e-10)
    layout = LAST[dim] if last else torch.contiguous_format
    assert result.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dim", [2, 3])
def test_geometry_may_differ_per_axis(dim):
    inputs = case(dim)
    stride, padding, dilation = (2, 1, 1)[:dim], (0, 1, 2)[:dim], (1, 1, 2)[:dim]
    expected = one_by_one(*inputs, stride, padding, dilation)
    for way in WAYS:
        result = rolling_conv(*inputs, stride, padding, dilation, way)
        assert torch.allclose(result, expected, atol=1e-10)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_all_four_arguments_are_right(way):
    g = torch.Generator().manual_seed(0)
    shapes = (2, 2, 3, 2, 3), (2, 2, 2, 1, 3), (2, 2, 3), (2, 2)
    leaves = [torch.rand(s, generator=g, dtype=torch.float64) for s in shapes]
    leaves[2] = 0.1 + 0.8 * leaves[2]  # away from whole offsets, where there is a kink
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(lambda *a: rolling_conv(*a, 1, 1, 1, way), leaves)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dim", [2, 3])
def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(way, dim):
    x, *rest = case(dim, 0)
    leaves = [t.requires_grad_() for t in (x, *rest)]
    result = rolling_conv(*leaves, padding=1, way=way)
    assert result.shape == (0, 6, *x.shape[2:])
    result.sum().backward()
    assert torch.equal(leaves[1].grad, torch.zeros_like(leaves[1]))
    assert leaves[0].grad.shape == x.shape


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_of_one_is_a_plain_convolution_with_its_kernel(way):
    inputs = case(3, 1, torch.float32)
    expected = one_by_one(*inputs, 1, 1)
    assert torch.allclose(rolling_conv(*inputs, padding=1, way=way), expected, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_offset_that_is_no_number_spoils_its_own_sample_alone(way, value):
    x, weight, offsets, scale = case(3)
    clean = rolling_conv(x, weight, offsets, scale, 1, 1, 1, way)
    offsets[1, 0, 2] = value
    result = rolling_conv(x, weight, offsets, scale, 1, 1, 1, way)
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], clean[[0, 2]])


def shared_case(how: str, leaf: torch.Tensor, batch: int = 3) -> torch.Tensor:
    return leaf if how == "batch of one" else leaf.expand(batch, *leaf.shape[1:])


@pytest.mark.parametrize("how", ["batch of one", "expanded"])
@pytest.mark.parametrize("dim", [2, 3])
def test_a_shared_kernel_is_rolled_once_and_gives_the_same(monkeypatch, how, dim):
    x, weight, offsets, scale = case(dim)
    rows = [t[:1].clone().requires_grad_() for t in (offsets, scale)]
    leaves = [x.requires_grad_(), weight.requires_grad_(), *rows]
    repeated = [row.repeat(3, *[1] * (row.ndim - 1)) for row in rows]
    expected = one_by_one(x, weight, *repeated, 1, 1)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, leaves, grad)

    rolled = []

    def count(*args):
        rolled.append(args[1].shape[0])
        return roll_kernel(*args)

    monkeypatch.setattr(conv, "roll_kernel", count)
    result = rolling_conv(x, weight, *(shared_case(how, row) for row in rows), 1, 1)
    assert rolled == [1]
    assert torch.allclose(result, expected, atol=1e-10)
    for got, want in zip(torch.autograd.grad(result, leaves, grad), wanted, strict=True):
        assert torch.allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "auto"])
def test_a_way_that_was_asked_for_is_taken_for_a_shared_kernel_too(way):
    x, weight, offsets, scale = case(3)
    expected = rolling_conv(x, weight, offsets[:1], scale[:1], 1, 1)
    result = rolling_conv(x, weight, offsets[:1], scale[:1], 1, 1, 1, way)
    assert torch.allclose(result, expected, atol=1e-10)


def test_one_of_offsets_and_scale_may_be_shared_alone():
    x, weight, offsets, scale = case(3)
    for o, s in ((offsets[:1], scale), (offsets, scale[:1])):
        full = o.expand(3, -1, -1).clone(), s.expand(3, -1).clone()
        expected = one_by_one(x, weight, *full, 1, 1)
        assert torch.allclose(rolling_conv(x, weight, o, s, 1, 1), expected, atol=1e-10)


def test_an_expanded_leaf_gets_a_gradient_for_each_of_its_rows():
    """Its rows are one in memory, but whoever asks the leaf for gradients asks for B of them."""
    x, weight, offsets, scale = case(2)
    leaf = offsets[:1].expand(3, -1, -1).requires_grad_()
    rows = offsets[:1].repeat(3, 1, 1).requires_grad_()
    for o in (leaf, rows):
        (rolling_conv(x, weight, o, scale[:1]) ** 2).sum().backward()
    assert torch.allclose(leaf.grad, rows.grad, atol=1e-9)


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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_under_autocast_offsets_keep_their_fraction_and_the_result_has_its_type(way, kind):
    x, weight, offsets, scale = case(3, dtype=torch.float32)
    offsets = 100.3 + 0 * offsets  # bfloat16 has no number between 100 and 100.5
    expected = rolling_conv(x, weight, offsets, scale, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = rolling_conv(x.to(kind), weight, offsets, scale, 1, 1, 1, way)
    assert result.dtype == torch.bfloat16
    assert (result - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(
    ("way", "backend"),
    [
        ("looped", "aot_eager"),
        ("mixed-input", "aot_eager"),
        pytest.param("auto", "aot_eager", marks=pytest.mark.slow),
        pytest.param("grouped", "aot_eager", marks=pytest.mark.slow),
        *(pytest.param(way, "inductor", marks=pytest.mark.slow) for way in WAYS),
    ],
)
@pytest.mark.filterwarnings("ignore:No CUDA runtime")
def test_it_compiles_whole_in_each_way(way, backend):
    torch.compiler.reset()

    def run(*args):
        return rolling_conv(*args, 1, 1, 1, way)

    leaves = [t.requires_grad_() for t in case(3, 2, torch.float32)]
    expected = run(*leaves)
    grad = torch.ones_like(expected)
    wanted = torch.autograd.grad(expected, leaves, grad)
    result = torch.compile(run, fullgraph=True, backend=backend)(*leaves)
    assert torch.allclose(result, expected, atol=1e-4)
    for got, want in zip(torch.autograd.grad(result, leaves, grad), wanted, strict=True):
        assert torch.allclose(got, want, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it
def test_the_module_compiles_with_own_shared_and_no_offsets():
    torch.compiler.reset()
    layer = RollingConv(4, 4, groups=2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, _, offsets, scale = case(3, dtype=torch.float32)
    row = offsets[:1].clone().requires_grad_()
    for rolls in ((), (offsets, scale), (row,), (row.expand(3, -1, -1),)):
        assert torch.allclose(compiled(x, *rolls), layer(x, *rolls), atol=1e-4)


def test_disagreeing_shapes_are_refused():
    x, weight, offsets, scale = case(3)
    with pytest.raises(ValueError, match="5 axes"):
        rolling_conv(x[0], weight, offsets, scale)
    with pytest.raises(ValueError, match="B = 2"):
        rolling_conv(x, weight, offsets[:2], scale[:2])
    with pytest.raises(ValueError, match="C_in = 4"):
        rolling_conv(x[:, :3], weight, offsets, scale)
    for way in WAYS:
        with pytest.raises(ValueError, match="scale must be"):
            rolling_conv(x, weight, offsets, scale[:2], way=way)
        with pytest.raises(ValueError, match="offsets"):
            rolling_conv(x, weight, offsets[:, 0], scale, way=way)
        with pytest.raises(TypeError, match="floating"):
            rolling_conv(x, weight, offsets.long(), scale, way=way)
    with pytest.raises(ValueError, match="larger than x"):
        rolling_conv(x, weight, offsets, scale, dilation=4)
    with pytest.raises(ValueError, match="way among"):
        rolling_conv(x, weight, offsets, scale, way="quickly")
    with pytest.raises(ValueError, match="do not split into 3"):
        RollingConv(4, 4, groups=3)
    with pytest.raises(ValueError, match="dim 2 or 3"):
        RollingConv(4, 4, dim=1, groups=2)
    with pytest.raises(ValueError, match="one per axis"):
        RollingConv(4, 4, (3, 3), dim=3, groups=2)
    with pytest.raises(ValueError, match="5 axes"):
        RollingConv(4, 4, groups=2)(x[0])
