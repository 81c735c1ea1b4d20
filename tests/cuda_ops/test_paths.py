"""The ways to convolve: that they agree, which is chosen, and that none meets a slow routine."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ops import RollingConv, roll_kernel, rolling_conv
from cuda_ops.geometry import Geometry
from cuda_ops.looped import conv_made
from cuda_ops.paths import (
    ONEDNN_ELEMENTS,
    WAYS,
    choose_way,
    conv_looped,
    conv_per_sample,
    convolve,
    leaves_onednn,
    turns,
)

CONV = {2: F.conv2d, 3: F.conv3d}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.fixture(autouse=True)
def by_torch_alone(monkeypatch):
    monkeypatch.setenv("CUDA_OPS_CPU", "torch")


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
        got = with_gradients(rolling_conv(*leaves, *geometry, way), leaves)
        assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(got, expected, strict=True))
    # As for small float32 samples: halved where there is one kernel or a loop over them.
    with mock.patch("cuda_ops.paths.leaves_onednn", return_value=True):
        got = with_gradients(rolling_conv(*leaves, *geometry, "looped"), leaves)
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
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func is aten.convolution.default:
            x, weight, _, *sides, _, _, groups = args
            self.seen.append(routine(x, weight, *sides, groups))
        elif func is aten.convolution_backward.default:
            _, x, weight, _, *sides, _, _, groups, _ = args
            self.seen.append(routine(x, weight, *sides, groups))
        elif func is aten.mkldnn_convolution.default:
            self.seen.append("Mkldnn")
        return func(*args, **(kwargs or {}))


SMALL = [(8, (10, 9, 8)), (16, (8, 8, 8)), (32, (5, 4, 3)), (16, (1, 7, 6)), (64, (2, 2, 2))]


@pytest.mark.parametrize(("channels", "sizes"), SMALL)
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_no_way_falls_to_the_slow_3d_convolution(channels, sizes, batch, last, stride):
    x = torch.randn(batch, channels, *sizes)
    if last:
        x = x.to(memory_format=torch.channels_last_3d)
    x.requires_grad_()
    layer = RollingConv(channels, channels, groups=2, stride=stride)
    offsets = torch.randn(batch, 2, 3)
    rolls = (offsets, torch.ones(batch, 2))
    for way in WAYS:
        with Routines() as routines:
            y = rolling_conv(x, layer.weight, *rolls, layer.stride, layer.padding, 1, way)
            y.sum().backward()
        assert set(routines.seen) == (set() if way == "mixed-input" else {"Mkldnn"}) or (
            way == "auto" and not routines.seen
        )
    for shared in ((), (offsets[:1],)):
        with Routines() as routines:
            layer(x, *shared).sum().backward()
        assert set(routines.seen) <= {"Mkldnn"}


@given(st.integers(1, 700), st.tuples(*[st.integers(3, 40)] * 3), st.integers(2, 5), st.booleans())
def test_the_stated_limit_is_atens(channels, sizes, kernel, last):
    """If this fails, torch has moved the limit, and ``leaves_onednn`` is to follow."""
    shape = (channels, channels, kernel, kernel, kernel)
    x, weight = torch.empty(1).expand(1, channels, *sizes), torch.empty(1).expand(shape)
    slow = routine(x, weight, [1] * 3, [2] * 3, [1] * 3, 1) != "Mkldnn"
    assert leaves_onednn(x, shape, torch.float32) == slow


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 convolution"
)
def test_a_small_bfloat16_sample_needs_no_halves():
    x, weight = torch.empty(1, 16, 8, 8, 8).bfloat16(), torch.empty(16, 16, 3, 3, 3).bfloat16()
    assert routine(x, weight, [1] * 3, [1] * 3, [1] * 3, 1) == "Mkldnn"


def test_only_small_float32_samples_on_the_cpu_leave_onednn():
    x = torch.empty(1, ONEDNN_ELEMENTS // 256, 16, 16, 16)
    shape = (8, x.shape[1], 3, 3, 3)
    assert leaves_onednn(x, shape, torch.float32)
    assert not leaves_onednn(x, shape, torch.bfloat16)
    assert not leaves_onednn(x.to("meta"), shape, torch.float32)
    assert not leaves_onednn(torch.empty(1, x.shape[1] + 1, 16, 16, 16), shape, torch.float32)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("sizes", [(4, 5, 6), (5, 5, 5), (1, 2, 1), (1, 1, 1), (7, 3, 9)])
def test_one_small_sample_is_convolved_as_a_large_one(sizes, last):
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 4, *sizes, generator=g), torch.randn(6, 4, 3, 3, 3, generator=g)
    if last:
        x = x.to(memory_format=torch.channels_last_3d)
    leaves = x.requires_grad_(), weight.requires_grad_()
    plain = F.conv3d(torch.cat([x, x]), weight, None, 1, 1)[:1]
    got = with_gradients(convolve(x, weight, Geometry.of(1, 1, 1, 3)), leaves)
    for a, b in zip(got, with_gradients(plain, leaves), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    if last:
        assert got[0].is_contiguous(memory_format=torch.channels_last_3d)


CHOICES = [
    # channels, side, in channels-last memory, in contiguous memory
    (16, 64, "looped", "looped"),
    (64, 32, "looped", "looped"),
    (128, 32, "looped", "grouped"),
    (16, 32, "looped", "looped"),  # small samples of few channels, and of many
    (64, 8, "looped", "looped"),
    (128, 12, "looped", "looped"),
    (128, 8, "looped", "looped"),
    (256, 8, "looped", "looped"),
    (16, 8, "grouped", "grouped"),  # so small that calls show
    (512, 4, "mixed-input", "mixed-input"),
    (256, 4, "mixed-input", "mixed-input"),
    (64, 4, "grouped", "grouped"),
]


@pytest.mark.parametrize(("channels", "side", "last", "contiguous"), CHOICES)
def test_the_rule_chooses_by_shape_and_memory_format(channels, side, last, contiguous):
    x = torch.empty(2, channels, side, side, side)
    shape, geometry = (channels, channels, 3, 3, 3), Geometry.of(1, 1, 1, 3)
    assert choose_way(x, shape, geometry, torch.float32, 2) == contiguous
    x = torch.empty_like(x, memory_format=torch.channels_last_3d)
    assert choose_way(x, shape, geometry, torch.float32, 2) == last
    if last == "mixed-input":  # not for kernels that are there, nor for one kernel of many samples
        assert choose_way(x, shape, geometry, torch.float32) != last
        many = x.expand(2, *x.shape[1:]).repeat(32, 1, 1, 1, 1)
        assert choose_way(many, shape, geometry, torch.float32, 1) != last


@pytest.mark.parametrize("channels", [3, 127, 128])
@pytest.mark.parametrize("batch", [1, 2])
def test_thin_contiguous_samples_go_by_way_of_channels_last_memory(channels, batch):
    g = torch.Generator().manual_seed(0)
    side = 20 if channels > 100 else 84
    x = torch.randn(batch, channels, side, side, 5, generator=g, requires_grad=True)
    weight = torch.randn(2, channels, 3, 3, 3, generator=g, requires_grad=True)
    geometry = Geometry.of((1, 2, 1), (1, 0, 2), 1, 3)
    assert turns(x, weight.shape, torch.float32) == (channels < 128)
    assert not turns(x, weight.shape, torch.bfloat16)
    assert not turns(x.to(memory_format=torch.channels_last_3d), weight.shape, torch.float32)
    assert not turns(x[0], weight.shape[:-1], torch.float32)
    got = with_gradients(convolve(x, weight, geometry), (x, weight))
    plain = with_gradients(F.conv3d(x, weight, None, *geometry), (x, weight))
    kernels = weight.expand(batch, *weight.shape)
    looped = with_gradients(conv_looped(x, kernels, *geometry), (x, weight))
    assert all(a.is_contiguous() for a in (got[0], looped[0], looped[1]))
    for a, b, c in zip(got, looped, plain, strict=True):
        assert torch.allclose(a, c, rtol=1e-3, atol=1e-3 * float(c.detach().abs().max()))
        assert torch.allclose(b, c, rtol=1e-3, atol=1e-3 * float(c.detach().abs().max()))


def test_bfloat16_goes_looped_however_small_in_channels_last_memory():
    x = torch.empty(2, 128, 8, 8, 8).to(memory_format=torch.channels_last_3d)
    shape, geometry = (128, 128, 3, 3, 3), Geometry.of(1, 1, 1, 3)
    assert choose_way(x, shape, geometry, torch.bfloat16, 2) == "looped"


def test_elsewhere_than_on_the_cpu_the_number_of_samples_decides():
    geometry = Geometry.of(1, 1, 1, 2)
    ways = [
        choose_way(torch.empty(batch, 512, 2, 2, device="meta"), (512, 512, 3, 3), geometry,
                   torch.float32, batch)
        for batch in (1, 4, 5, 64)
    ]  # fmt: skip
    assert ways == ["looped", "looped", "grouped", "grouped"]


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
        return conv_looped(x, kernels, (1, 2, 1), 1, (1, 1, 2))

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
        conv_looped(x, kernels, 1, 1).sum().backward()
    assert sizes.most <= x.numel() // 4


def test_thin_contiguous_samples_are_not_kept_twice():
    x = torch.randn(1, 8, 64, 64, 2, requires_grad=True)
    weight = torch.randn(8, 8, 3, 3, 3, requires_grad=True)
    assert turns(x, weight.shape, torch.float32)
    kept = set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.add(t.untyped_storage().data_ptr()) or t, lambda t: t
    ):
        convolve(x, weight, Geometry.of(1, 1, 1, 3))
    assert kept == {x.untyped_storage().data_ptr(), weight.untyped_storage().data_ptr()}


def test_what_is_made_for_a_convolution_is_made_again_and_not_kept():
    """The result and both gradients, twice over, of a convolution of something made from ``x``."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 3, 4, 3, generator=g, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(2, 2, 3, 3, 3, generator=g, dtype=torch.float64, requires_grad=True)
    sides = (1, 2, 1), (1, 1, 1), (1, 1, 1)
    calls = []

    def make(x):
        calls.append(None)
        return torch.cat([x, x.square()])

    def made(x, kernel):
        return conv_made(x, kernel, make, sides)

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t.shape), t)[1], lambda t: t
    ):
        y = made(x, kernel)
    assert kept == [x.shape, kernel.shape]
    assert torch.equal(y, F.conv3d(make(x), kernel, None, *sides))
    before = len(calls)
    y.sum().backward()
    assert len(calls) == before + 1
    assert torch.autograd.gradcheck(made, (x, kernel))
    assert torch.autograd.gradgradcheck(made, (x, kernel))
    for leaf in (x, kernel):
        got, meant = (
            f.pow(2).sum() for f in (made(x, kernel), F.conv3d(make(x), kernel, None, *sides))
        )
        assert torch.allclose(*(torch.autograd.grad(v, leaf)[0] for v in (got, meant)))


def test_halves_are_not_kept():
    x = torch.randn(2, 16, 8, 8, 8).to(memory_format=torch.channels_last_3d).requires_grad_()
    kernels = torch.randn(2, 16, 16, 3, 3, 3, requires_grad=True)
    assert leaves_onednn(x, kernels.shape[1:], x.dtype)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        conv_looped(x, kernels, 1, 1, 1)
    assert set(kept) == {t.untyped_storage().data_ptr() for t in (x, kernels)}


def test_halves_of_float32_kernels_under_autocast_have_gradients():
    """What is convolved in bfloat16 is not differentiated in float32."""
    x = torch.randn(2, 16, 8, 8, 8).to(memory_format=torch.channels_last_3d).requires_grad_()
    kernels = torch.randn(2, 16, 16, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv_per_sample(x, kernels, 1, 1, 1)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == kernels.grad.dtype == torch.float32
    assert x.grad.abs().max() > 0
