"""The compiled convolution: its numbers are torch's, whatever the shape, layout or threads."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from cuda_ops import cpu_calls, cpu_library, roll_kernel, rolling_conv
from cuda_ops.cpu_calls import by_torch, convolved, kernel_gradients, matches
from cuda_ops.cpu_conv import conv_compiled
from cuda_ops.geometry import Geometry
from cuda_ops.paths import choose_way, conv_per_sample, convolve

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
WIDTHS = (  # groups, channels of a group in and out
    (1, 8, 8), (1, 16, 16), (1, 24, 8), (1, 8, 24), (1, 32, 16), (2, 8, 8), (2, 16, 32), (3, 8, 16),
    (2, 4, 4), (4, 4, 4), (6, 4, 4), (4, 2, 2), (8, 2, 2), (8, 1, 1), (16, 1, 1),
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    not cpu_library.known_processor(), reason="the compiled convolutions are for x86-64 with AVX2"
)


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    """Insist: where the library should be and is not, these tests fail."""
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@st.composite
def problems(draw):
    """Whole numbers, whose sums of products are exact in float32, and the number of groups."""
    groups, width, each = draw(st.sampled_from(WIDTHS))
    dim = draw(st.sampled_from([2, 3, 3]))
    sizes = draw(st.tuples(*[st.integers(1, 7)] * (dim - 1), st.integers(1, 23)))
    batch, shared = draw(st.integers(1, 3)), draw(st.booleans())
    sides = (*(draw(st.sampled_from([1, 3])) for _ in range(dim - 1)), 3)
    g = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))

    def whole(*shape):
        return torch.randint(-4, 5, shape, generator=g).float()

    x = whole(batch, groups * width, *sizes)
    kernels = whole(*(() if shared else (batch,)), groups * each, width, *sides)
    layout = draw(st.sampled_from(["contiguous", "last", "strange"]))
    if layout == "last":
        kernels = kernels.movedim(-dim - 1, -1).contiguous().movedim(-1, -dim - 1)
    elif layout == "strange":
        kernels = kernels.transpose(-1, -2).contiguous().transpose(-1, -2)
    gates = whole(batch, groups * width, *[1] * dim) if draw(st.booleans()) else None
    bias = whole(groups * each) if draw(st.booleans()) else None
    if draw(st.booleans()):
        x = x.to(memory_format=LAST[x.ndim])
    return x, kernels, gates, bias, groups, whole(batch, groups * each, *sizes)


def exact(x):
    """The type in which torch is right: its own float64 routine in 2-D refuses strided kernels, and
    gives wrong gradients of grouped channels-last ones. The numbers are small: float32 is exact.
    """
    return torch.float64 if x.ndim == 5 else torch.float32


@given(problems(), st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_result_and_gradients_are_a_convolutions(problem, count):
    *given_, groups, grad = problem
    wanted = [i for i, tensor in enumerate(given_) if tensor is not None]
    found = []
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    for function, dtype in ((conv_compiled, torch.float32), (by_torch, exact(given_[0]))):
        own = [t if t is None or function is conv_compiled else t.contiguous() for t in given_]
        leaves = [t if t is None else t.detach().to(dtype).requires_grad_() for t in own]
        y = function(*leaves, groups)
        found.append([y, *torch.autograd.grad(y, [leaves[i] for i in wanted], grad.to(dtype))])
    torch.set_num_threads(before)
    for ours, theirs in zip(*found, strict=True):
        assert ours.shape == theirs.shape
        assert torch.equal(ours.to(theirs.dtype), theirs)
    x = given_[0]
    if not x.is_contiguous():
        assert found[0][0].is_contiguous(memory_format=LAST[x.ndim])
        assert found[0][1].is_contiguous(memory_format=LAST[x.ndim])
    elif not x.is_contiguous(memory_format=LAST[x.ndim]):
        assert all(t.is_contiguous() for t in found[0][:2])


@given(problems(), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_every_second_place(problem, count):
    """Stride 2, of which the gradient of the input is the caller's."""
    x, kernels, gates, bias, groups, _ = problem
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    y = convolved(x, kernels, gates, bias, groups, 2)
    dtype = exact(x)
    leaf = kernels.to(dtype).contiguous().requires_grad_()
    seen = (x if gates is None else x * gates).to(dtype)
    meant = by_torch(seen, leaf, None, None if bias is None else bias.to(dtype), groups, 2)
    assert torch.equal(y.to(dtype), meant)
    grad = torch.randint_like(y, -4, 5)
    found = kernel_gradients(seen.float(), kernels, False, grad, groups, 2)
    (truth,) = torch.autograd.grad(meant, leaf, grad.to(dtype))
    assert torch.equal(found.to(dtype), truth)
    torch.set_num_threads(before)


@pytest.mark.parametrize(("groups", "width", "each"), WIDTHS)
def test_bits_do_not_depend_on_threads_or_on_the_other_samples(threads, groups, width, each):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, groups * width, 9, 11, 17, generator=g).to(memory_format=LAST[5])
    kernels = torch.randn(3, groups * each, width, 3, 3, 3, generator=g)
    grad = torch.randn(3, groups * each, 9, 11, 17, generator=g).to(memory_format=LAST[5])

    def step(some):
        leaves = [t[some].detach().requires_grad_() for t in (x, kernels)]
        y = conv_compiled(*leaves, None, None, groups)
        return [y, *torch.autograd.grad(y, leaves, grad[some])]

    found = []
    for count in (1, 2, 3, 2):
        threads(count)
        found.append(step(slice(None)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    alone = step(slice(1, 2))
    assert all(torch.equal(a[1:2], b) for a, b in zip(found[0], alone, strict=True))


@pytest.mark.parametrize(("groups", "width", "each"), WIDTHS)
def test_nothing_outside_is_read_and_nan_stays_at_home(groups, width, each):
    """The tensors lie between NaNs, and so does what is computed from them."""
    g = torch.Generator().manual_seed(0)

    def between(*shape):
        room = torch.full((100 + torch.Size(shape).numel() + 100,), torch.nan)
        inner = room[100:-100].view(shape)
        inner.copy_(torch.randn(shape, generator=g))
        return inner

    x = between(2, 3, 4, 11, groups * width).movedim(-1, 1)
    kernels = between(2, groups * each, width, 3, 3, 3)
    grad = between(2, 3, 4, 11, groups * each).movedim(-1, 1)
    leaves = x.detach().requires_grad_(), kernels.detach().requires_grad_()
    y = conv_compiled(*leaves, None, None, groups)
    found = [y, *torch.autograd.grad(y, leaves, grad)]
    assert all(t.isfinite().all() for t in found)
    x = x.clone(memory_format=torch.preserve_format)
    x[1, 0, 0, 0, 0] = torch.nan
    leaves = x.requires_grad_(), kernels.detach().requires_grad_()
    y = conv_compiled(*leaves, None, None, groups)
    spoilt = [y, *torch.autograd.grad(y, leaves, grad)]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(found, spoilt, strict=True))
    assert spoilt[0][1, :, 2:].isfinite().all()
    assert spoilt[0][1, :each, :2, :2, :2].isnan().all()
    assert spoilt[0][1, each:].isfinite().all()


def test_each_gradient_alone_is_what_it_is_together():
    g = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(2, 8, 3, 4, 5, generator=g).to(memory_format=LAST[5]),
        torch.randn(8, 4, 3, 3, 3, generator=g), torch.rand(2, 8, 1, 1, 1, generator=g),
        torch.randn(8, generator=g),
    ]  # fmt: skip
    leaves = [leaf.requires_grad_() for leaf in leaves]
    together = torch.autograd.grad(conv_compiled(*leaves, 2).cos().sum(), leaves)
    for i in range(4):
        some = [leaf if i == k else leaf.detach() for k, leaf in enumerate(leaves)]
        (alone,) = torch.autograd.grad(conv_compiled(*some, 2).cos().sum(), some[i])
        assert torch.equal(alone, together[i])


@pytest.mark.parametrize("shared", [False, True])
def test_differentiated_twice(shared):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 2, 3, 4, generator=g).to(memory_format=LAST[5])
    kernels = torch.randn(*(() if shared else (2,)), 8, 4, 3, 3, 3, generator=g)
    gates, bias = torch.rand(2, 8, 1, 1, 1, generator=g), torch.randn(8, generator=g)
    found = []
    for function, dtype in ((conv_compiled, torch.float32), (by_torch, torch.float64)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, kernels, gates, bias)]
        y = function(*leaves, 2)
        first = torch.autograd.grad(y.pow(3).sum(), leaves, create_graph=True)
        total = sum(t.square().sum() for t in first)
        found.append([*first, *torch.autograd.grad(total, leaves)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(
            ours.double(), theirs, rtol=1e-3, atol=1e-4 * float(theirs.detach().abs().max())
        )


def test_a_gradient_that_is_one_number_everywhere():
    """As ``sum`` hands it back, with strides of 0, and with a view in between."""
    x = torch.randn(2, 8, 3, 4, 5).to(memory_format=LAST[5]).requires_grad_()
    kernels = torch.randn(2, 8, 8, 3, 3, 3, requires_grad=True)
    found = [
        torch.autograd.grad(function(x, kernels).transpose(2, 4).sum(), (x, kernels))
        for function in (conv_compiled, by_torch)
    ]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*found, strict=True))


def test_one_kernel_expanded_to_all_samples():
    x = torch.randn(3, 8, 3, 4, 5).to(memory_format=LAST[5])
    kernel = torch.randn(8, 8, 3, 3, 3, requires_grad=True)
    expanded = conv_compiled(x, kernel.expand(3, *kernel.shape))
    assert torch.equal(expanded, conv_compiled(x, kernel))
    (of_expanded,) = torch.autograd.grad(expanded.square().sum(), kernel)
    (of_kernel,) = torch.autograd.grad(conv_compiled(x, kernel).square().sum(), kernel)
    assert torch.allclose(of_expanded, of_kernel, rtol=1e-4, atol=1e-3)


GEOMETRY = Geometry.of(1, 1, 1, 3)


@pytest.mark.parametrize(
    ("channels", "shape", "geometry", "dtype", "expected"),
    [
        (16, (16, 16, 3, 3, 3), GEOMETRY, torch.float32, True),
        (64, (8, 64, 3, 3, 3), GEOMETRY, torch.float32, True),
        (64, (64, 64, 1, 3, 3), Geometry.of(1, (0, 1, 1), 1, 3), torch.float32, True),
        (72, (8, 72, 3, 3, 3), GEOMETRY, torch.float32, False),  # more channels
        (12, (16, 12, 3, 3, 3), GEOMETRY, torch.float32, False),  # no multiple of 8
        (16, (16, 16, 3, 3, 1), Geometry.of(1, (1, 1, 0), 1, 3), torch.float32, False),
        (16, (16, 16, 5, 3, 3), Geometry.of(1, (2, 1, 1), 1, 3), torch.float32, False),
        (16, (16, 16, 3, 3, 3), Geometry.of(2, 1, 1, 3), torch.float32, False),
        (16, (16, 16, 3, 3, 3), Geometry.of(1, 0, 1, 3), torch.float32, False),
        (16, (16, 16, 3, 3, 3), Geometry.of(1, 2, 2, 3), torch.float32, False),
        (16, (16, 16, 3, 3, 3), GEOMETRY, torch.bfloat16, False),
        (16, (16, 16, 3, 3, 3), GEOMETRY, torch.float64, False),
    ],
)
def test_the_rule(monkeypatch, channels, shape, geometry, dtype, expected):
    x = torch.zeros(2, channels, 8, 8, 8, dtype=dtype)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert (choose_way(x, shape, geometry, dtype, 2) == "compiled") is expected
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert choose_way(x, shape, geometry, dtype, 2) != "compiled"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("CUDA_OPS_CPU", "torch")
    assert choose_way(x, shape, geometry, dtype, 2) != "compiled"


def test_autocast_and_transforms_are_torchs(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    x, shape = torch.zeros(2, 16, 4, 4, 4), (16, 16, 3, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert choose_way(x, shape, GEOMETRY, torch.float32, 2) != "compiled"
    chosen = []
    torch.func.vmap(lambda one: chosen.append(choose_way(one, shape, GEOMETRY, one.dtype)) or one)(
        x[None]
    )
    assert chosen != ["compiled"]
    kernels = torch.randn(2, *shape)
    x = torch.randn(2, 16, 4, 4, 4)
    mapped = torch.func.vmap(lambda a, k: convolve(a[None], k, GEOMETRY)[0])(x, kernels)
    assert torch.allclose(mapped, conv_per_sample(x, kernels, 1, 1), atol=1e-4)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_rolling_convolution_goes_compiled_and_gives_what_it_gave(batch, last, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    g = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(batch, 16, 5, 6, 7, generator=g),
        torch.randn(8, 16, 3, 3, 3, generator=g),
    )
    if last:
        x, weight = x.to(memory_format=LAST[5]), weight.to(memory_format=LAST[5])
    rolls = torch.randn(batch, 4, 3, generator=g), torch.rand(batch, 4, generator=g)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, *rolls)]
    found = []
    for way in ("auto", "compiled", "grouped"):
        y = rolling_conv(*leaves, 1, 1, 1, way)
        found.append([y, *torch.autograd.grad(y.cos().sum(), leaves)])
        assert y.is_contiguous(memory_format=LAST[5]) == last
    for auto, compiled, grouped in zip(*found, strict=True):
        assert torch.equal(auto, compiled)
        assert torch.allclose(auto, grouped, rtol=1e-3, atol=1e-3)
    shared = rolling_conv(x, weight, leaves[2][:1], leaves[3][:1], 1, 1)
    kernel = roll_kernel(weight, leaves[2][:1], leaves[3][:1])[0]
    assert torch.allclose(shared, F.conv3d(x, kernel, None, 1, 1), atol=1e-3)


def test_who_insists_on_what_cannot_be_is_told():
    x, kernels = torch.randn(2, 12, 3, 3, 3), torch.randn(2, 8, 12, 3, 3, 3)
    with pytest.raises(RuntimeError, match=r"multiples of 8 channels.*\(2, 12, 3, 3, 3\)"):
        conv_per_sample(x, kernels, 1, 1, way="compiled")
    with pytest.raises(RuntimeError, match="plain float32"):
        conv_per_sample(torch.randn(2, 8, 3, 3, 3).double(), torch.randn(2, 8, 8, 3, 3, 3).double(),
                        1, 1, way="compiled")  # fmt: skip
    with pytest.raises(ValueError, match="'mixed-input', 'compiled'"):
        rolling_conv(x, kernels[0], torch.zeros(2, 1, 3), torch.ones(2, 1), way="best")


def test_a_wrong_library_is_refused_forward_and_backward(monkeypatch):
    monkeypatch.setattr(cpu_calls, "_gives_torchs_numbers", lambda: False)
    monkeypatch.setattr(cpu_library, "_refused", [])
    x, kernel = torch.randn(1, 8, 3, 3, 3), torch.randn(8, 8, 3, 3, 3, requires_grad=True)
    with pytest.raises(cpu_library.NoLibraryError, match="does not give torch's numbers"):
        conv_compiled(x, kernel)
    monkeypatch.setenv("CUDA_OPS_CPU", "auto")
    cpu_library._warn.cache_clear()
    cpu_library._refused.clear()
    with pytest.warns(UserWarning, match="does not give torch's numbers; torch computes instead"):
        y = conv_compiled(x, kernel)
    assert torch.allclose(y, F.conv3d(x, kernel, None, 1, 1), atol=1e-4)
    monkeypatch.setattr(cpu_library, "opened", lambda: 1 / 0)
    y.square().sum().backward()
    assert kernel.grad.isfinite().all()
    assert cpu_library.library() is None
    assert "does not give torch's numbers" in cpu_library.describe()


def test_the_proof_can_fail():
    """On one wrong number in a thousand."""
    truth = torch.randn(2, 8, 5, 5, 5).double()
    spoilt = truth.float()
    assert cpu_calls.agree([spoilt], [truth])
    spoilt[1, 7, 4, 4, 4] += 0.01
    assert not cpu_calls.agree([truth.float(), spoilt], [truth, truth])


def test_what_is_made_from_the_input_counts_once():
    """Gates and kernels that follow from ``x``, as in a CAGR convolution, differentiated twice."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 3, 4, 5, generator=g).to(memory_format=LAST[5]).requires_grad_()
    weight = torch.randn(2, 8, 8, 3, 3, 3, generator=g)
    found = []
    for function in (conv_compiled, by_torch):
        pooled = x.mean((2, 3, 4), keepdim=True)
        y = function(x, weight * pooled.sigmoid()[:, None], pooled.tanh(), None, 1)
        (once,) = torch.autograd.grad(y.square().mean(), x, retain_graph=True)
        (again,) = torch.autograd.grad(y.square().mean(), x, create_graph=True)
        assert torch.allclose(once, again, atol=1e-5)
        found.append([again, *torch.autograd.grad(again.square().sum(), x)])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("x", "kernels", "gates", "bias", "groups"),
    [
        ((1, 32, 3, 4, 5), (16, 16, 3, 3, 3), None, None, 1),
        ((1, 8, 3, 4, 5), (16, 16, 3, 3, 3), None, None, 1),
        ((2, 16, 3, 4, 5), (3, 8, 16, 3, 3, 3), None, None, 1),
        ((2, 16, 3, 4, 5), (16, 4, 3, 3, 3), (1, 16, 1, 1, 1), None, 4),
        ((2, 16, 3, 4, 5), (16, 4, 3, 3, 3), (2, 1, 1, 1, 1), None, 4),
        ((2, 16, 3, 4, 5), (16, 4, 3, 3, 3), (), None, 4),
        ((2, 16, 3, 4, 5), (16, 4, 3, 3, 3), None, (8,), 4),
        ((2, 16, 3, 4, 5), (16, 4, 3, 3, 3), None, (16, 1, 1, 1), 4),
        ((2, 16, 4, 5), (16, 4, 3, 3, 3), None, None, 4),
    ],
)
def test_what_does_not_match_never_reaches_the_library(
    monkeypatch, x, kernels, gates, bias, groups
):
    """Torch broadcasts, or says what is wrong."""
    monkeypatch.setattr(cpu_library, "opened", lambda: 1 / 0)
    tensors = [None if shape is None else torch.rand(shape) for shape in (x, kernels, gates, bias)]
    assert not matches(*tensors, groups)
    try:
        meant = by_torch(*tensors, groups)
    except (RuntimeError, IndexError) as error:
        with pytest.raises(type(error)):
            conv_compiled(*tensors, groups)
    else:
        assert torch.equal(conv_compiled(*tensors, groups), meant)


def test_channels_that_disagree_are_a_sentence():
    x = torch.randn(2, 32, 3, 4, 5).to(memory_format=LAST[5])
    with pytest.raises(RuntimeError, match="to have 16 channels, but got 32"):
        convolve(x, torch.randn(16, 16, 3, 3, 3), GEOMETRY)


def test_saved_tensors_may_come_back_in_another_layout():
    x = torch.randn(2, 8, 3, 4, 5).to(memory_format=LAST[5]).requires_grad_()
    kernels = torch.randn(2, 8, 8, 3, 3, 3, requires_grad=True)
    plain = torch.autograd.grad(conv_compiled(x, kernels).cos().sum(), (x, kernels))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous(), lambda t: t):
        y = conv_compiled(x, kernels)
    packed = torch.autograd.grad(y.cos().sum(), (x, kernels))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(plain, packed, strict=True))


def test_a_tensor_that_is_not_plain_is_torchs_backward_too():
    x = torch._neg_view(torch.randn(2, 3, 4, 5, 8)).movedim(-1, 1)
    kernel = torch.randn(8, 8, 3, 3, 3, requires_grad=True)
    found = torch.autograd.grad(convolve(x, kernel, GEOMETRY).square().sum(), kernel)[0]
    meant = F.conv3d(x.resolve_neg(), kernel, None, 1, 1).square().sum()
    assert torch.allclose(found, torch.autograd.grad(meant, kernel)[0], rtol=1e-3, atol=1e-2)


def test_a_bias_gradient_is_in_full_precision_within_autocast():
    x, bias = torch.randn(2, 8, 9, 9, 9), torch.zeros(8, requires_grad=True)
    y = conv_compiled(x, torch.randn(8, 8, 3, 3, 3), None, bias)
    grad = torch.randn_like(y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = torch.autograd.grad(y, bias, grad)
    assert torch.allclose(found, grad.sum((0, 2, 3, 4)), rtol=1e-4, atol=1e-3)


def test_who_counts_operations_counts_these():
    x = torch.randn(2, 8, 4, 5, 6).to(memory_format=LAST[5]).requires_grad_()
    kernel = torch.randn(8, 8, 3, 3, 3, requires_grad=True)
    counts = []
    for function in (
        lambda: convolve(x, kernel, GEOMETRY),
        lambda: F.conv3d(x, kernel, None, 1, 1),
    ):
        with FlopCounterMode(display=False) as counter:
            function().sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_an_empty_batch_is_empty():
    y = conv_per_sample(torch.randn(0, 8, 3, 3, 3), torch.randn(0, 8, 8, 3, 3, 3), 1, 1,
                        way="compiled")  # fmt: skip
    assert y.shape == (0, 8, 3, 3, 3)
