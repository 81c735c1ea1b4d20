"""The operator on a GPU: forms against each other, launches, streams, graphs, compilers.

`make gpu-check` runs this. What can, also runs on the CPU, so that the tests' own logic is proved
without a GPU.
"""

import importlib.util
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from cuda_ops import KernelError, cuda, roll_kernel, rolling_conv
from cuda_ops.bench.gpu import device_activities
from cuda_ops.conv import WAYS, Geometry, rolling_conv_by
from cuda_ops.op import roll_kernel_backward_op, roll_kernel_op
from cuda_ops.products import roll_forward
from synth3d.models.agi_net.cagr import CagrConv

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gradients(leaves: list[Tensor]) -> list[Tensor]:
    """Rolled kernels and the gradients of a function of them."""
    out = roll_kernel(*leaves)
    return [out, *torch.autograd.grad(out.double().square().sum(), leaves)]


def both_forms(
    leaves: list[Tensor], grad: Tensor, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Tensor, Tensor]]:
    """Kernels and the gradients of the leaves, of plain torch and of the kernel."""
    results = []
    for backend in ("torch", "cupy"):
        monkeypatch.setenv("CUDA_OPS_BACKEND", backend)
        out = roll_kernel(*leaves)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, grad)])
    return zip(*results, strict=True)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("sides", [(3, 3), (1, 3), (3, 3, 3), (2, 3, 5), (5, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_fused_kernel_is_the_torch_form(sides, dtype, last, gated, fused, small, monkeypatch):
    leaves = small(len(sides), fused.device, dtype, sides, gated)
    if last:
        layout = LAST[len(sides)]
        leaves[0] = leaves[0].detach().contiguous(memory_format=layout).requires_grad_()
    grad = torch.linspace(-1, 2, 2 * leaves[0].numel(), device=fused.device, dtype=dtype)
    pairs = [*both_forms(leaves, grad.view(2, *leaves[0].shape), monkeypatch)]
    # autograd hands back its own layout in torch's form; the kernel keeps to that of each leaf
    layouts = [pairs[0][0].stride(), *(leaf.stride() for leaf in leaves)]
    for (one, other), layout in zip(pairs, layouts, strict=True):
        assert one.dtype == other.dtype
        assert other.stride() == layout
        step = {torch.float64: 1e-12, torch.float32: 2e-5}.get(one.dtype, torch.finfo(dtype).eps)
        size = max(1.0, float(one.abs().max()))
        assert float((one.double() - other.double()).abs().max()) <= step * size


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("channels", "dim", "batch"), [(512, 3, 4), (512, 2, 16), (64, 3, 2), (320, 3, 2)]
)
def test_the_fused_kernel_is_right_at_the_networks_sizes(
    channels, dim, batch, gated, fused, monkeypatch
):
    place = fused.device
    g = torch.Generator(place).manual_seed(0)
    weight = torch.randn(channels, channels, *[3] * dim, generator=g, device=place)
    offsets = 2 * torch.randn(batch, 8, dim, generator=g, device=place)
    scale = torch.rand(batch, 8, generator=g, device=place)
    gates = torch.rand(batch, channels, generator=g, device=place)
    leaves = [leaf.requires_grad_() for leaf in (weight, offsets, scale, gates)][: 3 + gated]
    grad = torch.randn(batch, *weight.shape, generator=g, device=place)
    for one, other in both_forms(leaves, grad, monkeypatch):
        # sums over a million products in float32: the error is set against the largest value
        assert float((one - other).abs().max()) <= 2e-4 * float(one.abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_the_result_alone(dtype, place, small):
    leaves = small(3, place.device, torch.float32)
    wanted = gradients(leaves)
    with torch.autocast(place.device.type, dtype=dtype):
        out = roll_kernel(*leaves)
    assert out.dtype == dtype
    step = torch.finfo(dtype).eps
    assert torch.allclose(out.float(), wanted[0], rtol=step, atol=step / 8)
    grads = torch.autograd.grad(out.float().square().sum(), leaves)
    for grad, leaf, exact in zip(grads, leaves, wanted[1:], strict=True):
        assert grad.dtype == leaf.dtype
        assert torch.allclose(grad, exact.float(), rtol=0, atol=8 * step * float(exact.abs().max()))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own check reads it
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_torchs_own_checks_pass_on_the_device(gated, last, fused, small):
    leaves = small(3, fused.device, torch.float32, gated=gated)
    if last:
        leaves[0] = leaves[0].detach().contiguous(memory_format=LAST[3]).requires_grad_()
    torch.library.opcheck(roll_kernel_op, (*leaves[:3], torch.bfloat16, *leaves[3:]))
    grad = torch.randn(2, *leaves[0].shape, device=fused.device).to(torch.bfloat16)
    torch.library.opcheck(roll_kernel_backward_op, (grad, *leaves))


@pytest.mark.parametrize("gated", [False, True])
def test_torch_func_differentiates_it(gated, place, small):
    leaves = [leaf.detach() for leaf in small(3, place.device, gated=gated)]

    def loss(*leaves: Tensor) -> Tensor:
        return roll_kernel(*leaves).square().sum()

    found = torch.func.grad(loss, tuple(range(len(leaves))))(*leaves)
    wanted = gradients([leaf.requires_grad_() for leaf in leaves])[1:]
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, wanted, strict=True))


def compilers() -> list[object]:
    ready = importlib.util.find_spec("triton") and (shutil.which("gcc") or shutil.which("cc"))
    missing = pytest.mark.skipif(not ready, reason="needs triton and a C compiler")
    return ["aot_eager", pytest.param("inductor", marks=[pytest.mark.gpu, missing])]


@pytest.mark.filterwarnings("ignore")  # what torch's compiler warns of is not ours
@pytest.mark.parametrize("compiler", compilers())
def test_it_compiles_as_one_graph_forward_and_backward(compiler, place, small):
    if compiler == "inductor" and place.device.type == "cpu":
        pytest.skip("one compiler is enough for the dry run")
    torch._dynamo.reset()

    def layer(x: Tensor, weight: Tensor, offsets: Tensor, scale: Tensor) -> Tensor:
        return rolling_conv(x, weight, offsets, scale, padding=1).square()

    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    leaves = small(3, place.device, torch.float32)
    for side in (4, 5):
        x = torch.randn(2, 4, side, side, side, device=place.device)
        results = []
        for form in (layer, compiled):
            y = form(x, *leaves)
            results.append([y, *torch.autograd.grad(y.sum(), leaves)])
        for one, other in zip(*results, strict=True):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """Within the block torch refuses what makes the host wait for the device."""
    if device.type != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("batch", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_never_waits_for_the_device(dtype, batch, place):
    torch.manual_seed(0)
    net = CagrConv(16, 4, 3).to(place.device)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    x = torch.randn(batch, 16, 6, 6, 6).to(place.device)

    def step() -> Tensor:
        with torch.autocast(place.device.type, dtype, enabled=dtype != torch.float32):
            loss = (net(x).float() - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    first = step()  # compiles, and proves the kernel once
    wait(place.device)
    with waiting_is_an_error(place.device):
        for _ in range(3):
            last = step()
    assert float(last) < float(first)
    assert float(net.routing.offsets.weight.detach().abs().max()) > 0


def test_the_check_for_waiting_would_notice_it(gpu):
    x = torch.ones(2, device=gpu.device)
    with waiting_is_an_error(x.device), pytest.raises(RuntimeError, match="synchron"):
        float(x.sum())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [16, 64])
def test_one_launch_forward_and_two_backward(channels, dtype, gated, fused, monkeypatch):
    monkeypatch.setenv("CUDA_OPS_BACKEND", "auto")  # which is the fused kernel, without a word
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(channels, channels, 3, 3, 3, generator=g)
    offsets, scale = torch.randn(2, 8, 3, generator=g), torch.rand(2, 8, generator=g)
    inputs = (weight, offsets, scale, torch.rand(2, channels, generator=g))[: 3 + gated]
    leaves = [leaf.to(fused.device).requires_grad_() for leaf in inputs]

    def forward() -> Tensor:
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            return roll_kernel(*leaves)

    out = forward()
    grad = torch.randn_like(out)
    (name,) = device_activities(forward)
    assert "roll_forward" in name
    back = device_activities(lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True))
    assert len(back) == 2, back


def test_the_current_stream_is_the_one_that_rolls(gpu, small):
    """Late weights: a launch on any other stream would read the zeros before them."""
    device = gpu.device
    leaves = [leaf.detach() for leaf in small(3, device, torch.float32)]
    wanted = gradients([leaf.clone().requires_grad_() for leaf in leaves])
    late = [torch.zeros_like(leaf).requires_grad_() for leaf in leaves]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        gradients([leaf.clone().requires_grad_() for leaf in leaves])  # its memory is ready now
        torch.cuda._sleep(100_000_000)  # tens of milliseconds
        with torch.no_grad():
            for there, here in zip(late, leaves, strict=True):
                there.copy_(here)
        found = gradients(late)
    assert not stream.query(), "the device was not busy long enough to prove anything"
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_the_current_one_rolls_itself(gpu, small):
    results = [gradients(small(3, torch.device("cuda", index), torch.float32)) for index in (0, 1)]
    assert torch.cuda.current_device() == 0
    for here, there in zip(*results, strict=True):
        assert there.device.index == 1
        assert torch.equal(here.cpu(), there.cpu())


def test_a_cuda_graph_holds_forward_and_backward(gpu, small):
    device = gpu.device
    leaves = small(3, device, torch.float32)

    def work() -> list[Tensor]:
        out = roll_kernel(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))]

    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    for move in (0.0, 1.3, -0.6):
        with torch.no_grad():
            leaves[1] += move
        graph.replay()
        torch.cuda.synchronize()
        replayed = [tensor.clone() for tensor in captured]
        for one, other in zip(replayed, work(), strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")  # since the roll is refused
def test_a_graph_is_not_captured_before_the_proof(fused, small):
    leaves = [leaf.detach() for leaf in small(3, fused.device, torch.float32)]
    cuda.prove.cache_clear()
    refused = pytest.raises(KernelError, match="roll once before capturing")
    with refused, torch.cuda.graph(torch.cuda.CUDAGraph()):
        roll_kernel(*leaves)
    roll_kernel(*leaves)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [0, 1, 2, 6])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_convolution_is_the_cpus(dim, last, batch, way, place):
    g = torch.Generator().manual_seed(batch)
    inputs = [
        torch.randn(batch, 8, *(9, 8, 7)[:dim], generator=g, dtype=torch.float64),
        torch.randn(6, 8, *[3] * dim, generator=g, dtype=torch.float64),
        torch.randn(batch, 4, dim, generator=g, dtype=torch.float64),
        torch.rand(batch, 4, generator=g, dtype=torch.float64),
    ]
    if last:
        inputs[:2] = [one.contiguous(memory_format=LAST[dim]) for one in inputs[:2]]
    convolve = torch.nn.functional.conv3d if dim == 3 else torch.nn.functional.conv2d
    results = []
    for device in (None, place.device):
        leaves = [one.detach().to(device or "cpu").requires_grad_() for one in inputs]
        if device is None:
            pairs = zip(leaves[0], roll_forward(*leaves[1:]), strict=True)
            parts = [convolve(x[None], kernel, None, 1, 1) for x, kernel in pairs]
            y = torch.cat(parts) if parts else leaves[0].new_zeros(0, 6, *inputs[0].shape[2:])
        else:
            y = rolling_conv_by(way, *leaves, Geometry.of(1, 1, 1, dim))
        if batch:
            results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
        else:
            results.append([y])
    for wanted, got in zip(*results, strict=True):
        assert wanted.shape == got.shape
        assert torch.allclose(wanted, got.cpu(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_wild_offsets_reach_no_foreign_memory_and_no_foreign_gradient(bad, place, small):
    weight, offsets, scale = small(3, place.device, torch.float32)
    with torch.no_grad():
        offsets[0, 1, 2] = bad
    out, for_weight, for_offsets, for_scale = gradients([weight, offsets, scale])
    spoilt = abs(bad) != 1e30
    assert bool(out[0, :, 2:].isnan().all()) == spoilt
    assert out[0, :, :2].isfinite().all()
    assert out[1].isfinite().all()
    for grad in (for_offsets, for_scale):
        assert grad[1].isfinite().all()
        assert grad[0, 0].isfinite().all()
        assert bool(grad[0, 1].isfinite().all()) != spoilt
    assert for_weight[:, :2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backward_repeats_bit_for_bit(dtype, place):
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 64, 3, 3, 3, generator=g).to(place.device, dtype)
    offsets, scale = torch.randn(3, 8, 3, generator=g), torch.rand(3, 8, generator=g)
    inputs = weight, offsets, scale, torch.rand(3, 64, generator=g)
    leaves = [leaf.to(place.device).requires_grad_() for leaf in inputs]
    first = gradients(leaves)
    for _ in range(3):
        again = gradients(leaves)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_gradients_that_are_expanded_or_strided_are_read_right(place, small):
    leaves = small(3, place.device, gated=True)
    out = roll_kernel(*leaves)
    dense = torch.ones_like(out)
    strided = torch.ones(*out.shape, 2, dtype=out.dtype, device=out.device)[..., 0]
    wanted = torch.autograd.grad(out, leaves, dense, retain_graph=True)
    for grad in (dense[:1, :1, :1, :1, :1, :1].expand_as(out), strided):
        got = torch.autograd.grad(out, leaves, grad, retain_graph=True)
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(got, wanted, strict=True))


def test_an_empty_batch_has_zero_gradients_on_the_device(place, small):
    weight, offsets, scale = small(3, place.device)
    leaves = [weight, *(leaf[:0].detach().requires_grad_() for leaf in (offsets, scale))]
    out, for_weight, *_ = gradients(leaves)
    assert out.shape == (0, *weight.shape)
    assert (for_weight == 0).all()
