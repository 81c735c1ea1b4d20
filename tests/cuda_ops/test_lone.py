"""Small samples past ATen: their numbers for any geometry, and who is not let through."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ops import lone
from cuda_ops.geometry import Geometry
from cuda_ops.paths import conv_looped, conv_per_sample, convolve, leaves_onednn

LAST = torch.channels_last_3d


@pytest.fixture(autouse=True)
def by_torch_alone(monkeypatch):
    monkeypatch.setenv("CUDA_OPS_CPU", "torch")


@st.composite
def samples(draw):
    """A sample, a kernel and a result's gradient, whole numbers all, and the geometry."""
    axes = []
    for _ in range(3):
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        padding, stride = draw(st.integers(0, 3)), draw(st.integers(1, 3))
        least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
        axes.append((draw(st.integers(least, least + 6)), kernel, stride, padding, dilation))
    sizes, kernel, *sides = zip(*axes, strict=True)
    g = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    channels = draw(st.sampled_from([1, 3, 8, 16, 33]))

    def whole(*shape):  # sums of their products are exact in float32
        return torch.randint(-4, 5, shape, generator=g).float()

    x, weight = whole(1, channels, *sizes), whole(draw(st.integers(1, 9)), channels, *kernel)
    grad = whole(*F.conv3d(x, weight, None, *sides).shape)
    return x.to(memory_format=LAST), weight, grad.to(memory_format=LAST), tuple(sides)


@given(samples(), st.sampled_from([1, 200, 5000, 640_000]))
@settings(max_examples=150, deadline=None)
def test_result_and_gradients_are_those_of_a_convolution(problem, elements):
    x, weight, grad, sides = problem
    leaves = x.double().requires_grad_(), weight.double().requires_grad_()
    meant = F.conv3d(*leaves, None, *sides)
    of_x, of_weight = torch.autograd.grad(meant, leaves, grad.double())
    assert torch.equal(lone.conv_lone(x, weight, sides).double(), meant)
    assert torch.equal(lone.sample_gradient(x.shape[2:], weight, grad, sides).double(), of_x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lone, "COLUMN_ELEMENTS", elements)  # all planes at a time, or one
        room = lone._room(x, weight, grad)
        for _ in range(2):  # what it was used for leaves no trace
            found = lone._by_products(x, weight, grad, sides, room)
            assert torch.equal(found.double(), of_weight)
    if sides[0][0] == 1 and grad.shape[2] % 2 == 0:
        assert torch.equal(lone._by_halves(x, weight, grad, sides).double(), of_weight)
    found = list(lone.kernel_gradients([(x, grad), (2 * x, grad)], weight, sides))
    assert torch.equal(found[0].double(), of_weight)
    assert torch.equal(found[1].double(), 2 * of_weight)


class Asked(TorchDispatchMode):
    """Whether oneDNN is asked by name."""

    seen = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen |= func is torch.ops.aten.mkldnn_convolution.default
        return func(*args, **(kwargs or {}))


def small(batch=2, channels=16, last=True):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, 9, 10, 8, generator=g)
    kernels = torch.randn(batch, 4, channels, 3, 3, 3, generator=g).requires_grad_()
    assert leaves_onednn(x, kernels.shape[1:], x.dtype)
    return (x.to(memory_format=LAST) if last else x).requires_grad_(), kernels


@pytest.mark.parametrize("channels", [16, 40])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_small_samples_go_past_aten_with_gradients_of_any_order(batch, last, channels):
    x, kernels = small(batch, channels, last)
    with Asked() as asked:
        y = conv_per_sample(x, kernels, 1, 1, way="looped")
    assert asked.seen
    pairs = zip(x.double().split(1), kernels.double(), strict=True)
    meant = torch.cat([F.conv3d(sample, kernel, None, 1, 1) for sample, kernel in pairs])
    assert y.is_contiguous(memory_format=LAST if last else torch.contiguous_format)
    assert torch.allclose(y.double(), meant, atol=1e-4)
    for leaf in (x, kernels):
        first, expected = (
            torch.autograd.grad(z.square().sum(), leaf, create_graph=True)[0] for z in (y, meant)
        )
        assert torch.allclose(first, expected, rtol=1e-4, atol=1e-2)
        again = torch.autograd.grad(first.sum(), kernels, retain_graph=True)[0]
        assert torch.allclose(again, torch.autograd.grad(expected.sum(), kernels,
                              retain_graph=True)[0], rtol=1e-3, atol=1e-1)  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_without_onednn_by_transforms_and_under_autocast_nobody_goes_past_aten():
    x, kernels = (leaf.detach() for leaf in small())
    meant = conv_looped(x, kernels, 1, 1)
    with Asked() as asked:
        torch._C._set_mkldnn_enabled(False)
        try:
            assert torch.allclose(conv_looped(x, kernels, 1, 1), meant, atol=1e-4)
        finally:
            torch._C._set_mkldnn_enabled(True)
        linear = torch.func.jvp(lambda x: conv_looped(x, kernels, 1, 1), (x,), (x,))
        assert all(torch.allclose(one, meant, atol=1e-4) for one in linear)
        with torch.autocast("cpu", torch.bfloat16):
            convolve(x[:1], kernels[0].bfloat16(), Geometry.of(1, 1, 1, 3))
        double = conv_looped(x.double(), kernels.double(), 1, 1)
        assert torch.allclose(double.float(), meant, atol=1e-4)
    assert not asked.seen


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_a_gradient_that_is_a_batch_or_has_a_tangent_is_taken_in_the_open():
    x, kernels = small(channels=40)
    y = conv_looped(x, kernels, 1, 1)
    grads = torch.randn(2, *y.shape)
    each = [torch.autograd.grad(y, (x, kernels), one, retain_graph=True) for one in grads]
    batched = torch.func.vmap(
        lambda one: torch.autograd.grad(y, (x, kernels), one, retain_graph=True)
    )(grads)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(grads[0], grads[1])
        found = torch.autograd.grad(y, (x, kernels), dual, retain_graph=True)
        tangents = [forward_ad.unpack_dual(one).tangent for one in found]
    for many, tangent, *ones in zip(batched, tangents, *each, strict=True):
        assert torch.allclose(many, torch.stack(ones), rtol=1e-3, atol=1e-2)
        assert torch.allclose(tangent, ones[1], rtol=1e-3, atol=1e-2)


def test_what_does_not_fit_is_refused_in_one_sentence():
    x, kernels = small()
    for more in (kernels[:1], torch.cat([kernels, kernels])):
        for way in (conv_looped, conv_per_sample):
            with pytest.raises(ValueError, match="a kernel for each sample, got 2 samples"):
                way(x, more, 1, 1)
    with pytest.raises(ValueError, match="larger than x"):
        convolve(x[:1, :, :1], kernels[0], Geometry.of(1, 0, 1, 3))


def test_a_kernel_without_values_goes_the_open_way():
    x, kernels = small()
    with FakeTensorMode() as mode:
        y = conv_looped(mode.from_tensor(x), mode.from_tensor(kernels), 1, 1)
    assert y.shape == (2, 4, *x.shape[2:])
