"""The rolling convolution as its users see it: numbers, gradients, edges, types, layouts."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ops import RollingConv, conv, conv_per_sample, roll_kernel, rolling_conv
from cuda_ops.conv import WAYS, Geometry, choose_way, rolling_conv_by

CONV = {2: F.conv2d, 3: F.conv3d}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def by(way, x, weight, offsets, scale, stride=1, padding=0, dilation=1):
    """The rolling convolution in one way."""
    geometry = Geometry.of(stride, padding, dilation, x.ndim - 2)
    return rolling_conv_by(way, x, weight, offsets, scale, geometry)


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
@pytest.mark.parametrize("last", [False, True])
def test_the_result_lies_in_memory_as_the_input_does(way, dim, last):
    x, *rest = case(dim)
    layout = LAST[dim] if last else torch.contiguous_format
    result = by(way, x.to(memory_format=layout), *rest, 2, 1)
    assert result.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dim", [2, 3])
def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(way, dim):
    x, *rest = case(dim, 0)
    leaves = [t.requires_grad_() for t in (x, *rest)]
    result = by(way, *leaves, 1, 1)
    assert result.shape == (0, 6, *x.shape[2:])
    result.sum().backward()
    assert torch.equal(leaves[1].grad, torch.zeros_like(leaves[1]))
    assert leaves[0].grad.shape == x.shape


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_offset_that_is_no_number_spoils_its_own_sample_alone(way, value):
    x, weight, offsets, scale = case(3)
    clean = by(way, x, weight, offsets, scale, 1, 1)
    offsets[1, 0, 2] = value
    result = by(way, x, weight, offsets, scale, 1, 1)
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


@pytest.mark.parametrize("way", WAYS)
def test_both_or_one_of_offsets_and_scale_may_be_shared_in_each_way(way):
    x, weight, offsets, scale = case(3)
    for o, s in ((offsets[:1], scale), (offsets, scale[:1]), (offsets[:1], scale[:1])):
        full = o.expand(3, -1, -1).clone(), s.expand(3, -1).clone()
        expected = one_by_one(x, weight, *full, 1, 1)
        assert torch.allclose(by(way, x, weight, o, s, 1, 1), expected, atol=1e-10)


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
        result = by(way, x.to(kind), weight, offsets, scale, 1, 1)
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
        return by(way, *args, 1, 1)

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
            by(way, x, weight, offsets, scale[:2], 1, 0)
        with pytest.raises(ValueError, match="offsets"):
            by(way, x, weight, offsets[:, 0], scale, 1, 0)
        with pytest.raises(TypeError, match="floating"):
            by(way, x, weight, offsets.long(), scale, 1, 0)
    with pytest.raises(ValueError, match="larger than x"):
        rolling_conv(x, weight, offsets, scale, dilation=4)
    with pytest.raises(ValueError, match="way among"):
        by("quickly", x, weight, offsets, scale, 1, 1)
    with pytest.raises(ValueError, match="do not split into 3"):
        RollingConv(4, 4, groups=3)
    with pytest.raises(ValueError, match="dim 2 or 3"):
        RollingConv(4, 4, dim=1, groups=2)
    with pytest.raises(ValueError, match="one per axis"):
        RollingConv(4, 4, (3, 3), dim=3, groups=2)
    with pytest.raises(ValueError, match="5 axes"):
        RollingConv(4, 4, groups=2)(x[0])


@st.composite
def problems(draw):
    """Anything a convolution takes, the kernel no larger than the padded input."""
    dim = draw(st.sampled_from([2, 3]))
    axes = []
    for _ in range(dim):
        kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        padding, stride = draw(st.integers(0, 2)), draw(st.integers(1, 3))
        least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
        axes.append((draw(st.integers(least, least + 5)), kernel, stride, padding, dilation))
    sizes, kernel, *geometry = zip(*axes, strict=True)
    groups, width = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    g = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    batch = draw(st.integers(1, 3))
    x = normal(batch, groups * width, *sizes)
    weight = normal(draw(st.integers(1, 3)), groups * width, *kernel)
    if draw(st.booleans()):
        x = x.to(memory_format=LAST[dim])
    if draw(st.booleans()):
        weight = weight.to(memory_format=LAST[dim])
    leaves = x, weight, normal(batch, groups, dim), normal(batch, groups)
    return [leaf.requires_grad_() for leaf in leaves], geometry


def with_gradients(result, leaves):
    return [result, *torch.autograd.grad((result * result.detach().cos()).sum(), leaves)]


@given(problems())
@settings(max_examples=60)
def test_all_ways_give_the_same_numbers_and_gradients(problem):
    leaves, geometry = problem
    x, weight, offsets, scale = leaves
    kernels = roll_kernel(weight, offsets, scale)
    pairs = zip(x.split(1), kernels, strict=True)
    meant = torch.cat([CONV[x.ndim - 2](s, k, None, *geometry) for s, k in pairs])
    expected = with_gradients(meant, leaves)
    for way in WAYS:
        got = with_gradients(by(way, *leaves, *geometry), leaves)
        assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(got, expected, strict=True))


@given(problems())
def test_the_sizes_of_the_result_are_known_beforehand(problem):
    (x, weight, *_), geometry = problem
    y = CONV[x.ndim - 2](x, weight, None, *geometry)
    assert Geometry(*geometry).outputs(x.shape[2:], weight.shape[2:]) == list(y.shape[2:])


def routine(x, weight, stride, padding, dilation, groups) -> str:
    """The name of what ATen picks for a convolution."""
    dim = x.ndim - 2
    args = (x, weight, None, stride, padding, dilation, False, [0] * dim, groups)
    return str(torch._C._select_conv_backend(*args)).split(".")[-1]


class Routines(TorchDispatchMode):
    """Notes what ATen picks for each convolution, forward and backward."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func is aten.convolution.default:
            x, weight, _, *sides, _, _, groups = args
            self.seen.add(routine(x, weight, *sides, groups))
        elif func is aten.convolution_backward.default:
            _, x, weight, _, *sides, _, _, groups, _ = args
            self.seen.add(routine(x, weight, *sides, groups))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("channels", "sizes"),
    [(8, (10, 9, 8)), (32, (5, 4, 3)), (64, (2, 2, 2)), (16, (40, 32, 5)), (16, (41, 33, 5))],
)
@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_two_samples_and_more_never_meet_the_slow_3d_convolution(
    channels, sizes, batch, last, stride
):
    """On both sides of the limit below which ATen keeps a lone sample from oneDNN."""
    x = torch.randn(batch, channels, *sizes)
    x = x.to(memory_format=torch.channels_last_3d) if last else x
    layer = RollingConv(channels, channels, groups=2, stride=stride)
    rolls = torch.randn(batch, 2, 3), torch.ones(batch, 2)
    for given_rolls in (rolls, (), (rolls[0][:1],)):
        with Routines() as routines:
            layer(x.requires_grad_(), *given_rolls).sum().backward()
        assert routines.seen <= {"Mkldnn"}


CHOICES = [
    # channels, side, float32, bfloat16
    (16, 64, "looped", "looped"),
    (128, 32, "looped", "looped"),
    (16, 32, "grouped", "looped"),  # ATen would keep one float32 sample from oneDNN
    (128, 8, "grouped", "looped"),
    (512, 4, "mixed-input", "mixed-input"),
    (256, 4, "mixed-input", "mixed-input"),
    (64, 4, "grouped", "looped"),
]


@pytest.mark.parametrize(("channels", "side", "full", "half"), CHOICES)
def test_the_rule_chooses_by_shape_and_type(channels, side, full, half):
    shape, geometry = (channels, channels, 3, 3, 3), Geometry.of(1, 1, 1, 3)
    for dtype, way in ((torch.float32, full), (torch.bfloat16, half)):
        x = torch.empty(2, channels, side, side, side, dtype=dtype)
        assert choose_way(x, shape, geometry, 2) == way
        if way == "mixed-input":  # not for kernels that are there, nor for one kernel of many
            assert choose_way(x, shape, geometry) != way
            assert choose_way(x.repeat(32, 1, 1, 1, 1), shape, geometry, 1) != way


@pytest.mark.parametrize(
    ("sides", "stride", "ways"),
    [
        ((2, 2), 1, ["looped", "looped", "grouped", "grouped"]),
        ((64, 63), 1, ["looped", "looped", "grouped", "grouped"]),
        ((64, 64), 1, ["looped"] * 4),  # 4096 result voxels a sample
        ((64, 64), 2, ["looped", "looped", "grouped", "grouped"]),
        ((16, 16, 16), 1, ["looped"] * 4),
    ],
)
def test_elsewhere_than_on_the_cpu_small_samples_go_together_if_they_are_many(sides, stride, ways):
    dim = len(sides)
    shape, geometry = (8, 8, *[3] * dim), Geometry.of(stride, 1, 1, dim)
    found = [
        choose_way(torch.empty(b, 8, *sides, device="meta"), shape, geometry, b)
        for b in (1, 4, 5, 64)
    ]
    assert found == ways


def test_finished_kernels_are_convolved_in_the_two_ways_that_take_them():
    g = torch.Generator().manual_seed(0)
    x, kernels = torch.randn(2, 3, 5, 5, generator=g), torch.randn(2, 4, 3, 3, 3, generator=g)
    meant = torch.cat([F.conv2d(x[b : b + 1], kernels[b], None, 2, 1) for b in range(2)])
    for way in ("auto", "looped", "grouped"):
        assert torch.allclose(conv_per_sample(x, kernels, 2, 1, way=way), meant, atol=1e-5)
    with pytest.raises(ValueError, match="'mixed-input'"):
        conv_per_sample(x, kernels, way="mixed-input")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_looped_convolution_is_differentiated_twice_and_by_functorch():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 3, 5, generator=g, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(2, 2, 3, 3, 1, 3, generator=g, dtype=torch.float64, requires_grad=True)

    def looped(x, kernels):
        return conv_per_sample(x, kernels, (1, 2, 1), 1, (1, 1, 2), "looped")

    assert torch.autograd.gradcheck(looped, (x, kernels))
    assert torch.autograd.gradgradcheck(looped, (x, kernels))
    for leaf in ((x,), (kernels,), (x, kernels)):  # each alone wants what it wants together
        got = torch.autograd.grad(looped(x, kernels).pow(2).sum(), leaf)
        meant = [F.conv3d(x[b : b + 1], kernels[b], None, (1, 2, 1), 1, (1, 1, 2)) for b in (0, 1)]
        meant = torch.autograd.grad(torch.cat(meant).pow(2).sum(), leaf)
        assert all(torch.allclose(a, b) for a, b in zip(got, meant, strict=True))
    got = torch.func.jacrev(lambda k: looped(x, k).sum((0, 2, 3, 4)))(kernels)
    meant = torch.autograd.functional.jacobian(lambda k: looped(x, k).sum((0, 2, 3, 4)), kernels)
    assert torch.allclose(got, meant)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(looped(dual, kernels)).tangent
    assert torch.allclose(tangent, looped(torch.ones_like(x), kernels))


@pytest.mark.parametrize("last", [False, True])
def test_looped_convolution_holds_no_second_result(last):
    class Sizes(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if func in (torch.ops.aten.cat.default, torch.ops.aten.clone.default):
                self.most = max(self.most, made.numel())
            return made

    x = torch.randn(4, 8, 20, 200, 5, requires_grad=True)
    x = x.contiguous(memory_format=torch.channels_last_3d) if last else x
    kernels = torch.randn(4, 8, 8, 3, 3, 3, requires_grad=True)
    with Sizes() as sizes:
        conv_per_sample(x, kernels, 1, 1, 1, "looped").sum().backward()
    assert sizes.most <= x.numel() // 4


@pytest.mark.parametrize("way", ["looped", "grouped"])
def test_float32_kernels_under_autocast_have_float32_gradients(way):
    x = torch.randn(2, 16, 8, 8, 8).to(memory_format=LAST[3]).requires_grad_()
    kernels = torch.randn(2, 16, 16, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv_per_sample(x, kernels, 1, 1, 1, way)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == kernels.grad.dtype == torch.float32
    assert x.grad.abs().max() > 0
