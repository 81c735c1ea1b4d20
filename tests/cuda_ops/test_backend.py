"""Which form rolls CUDA tensors, with a GPU and its kernel played by stand-ins."""

import threading
import time
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ops import KernelError, backend, cuda, op, roll_kernel, rolling_backend
from cuda_ops.backend import uses_fused
from cuda_ops.products import roll_backward, roll_forward


class Weight:
    """What is asked of a weight on a GPU before it is rolled there."""

    def __init__(self, device="cuda:0", dtype=torch.float32):
        self.device, self.dtype, self.shape = torch.device(device), dtype, (8, 8, 3, 3, 3)

    def is_contiguous(self, **_):
        return True


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose kernel proves itself unless ``gpu.fault`` is set; notes every trial."""

    class Gpu:
        fault: Exception | None = None
        tried: list = []
        capturing = False

    def prove(*instance):
        Gpu.tried.append(instance)
        if Gpu.fault:
            raise Gpu.fault

    Gpu.tried = []
    monkeypatch.setattr(cuda, "prove", prove)
    monkeypatch.setattr(backend, "_PROVED", set())
    monkeypatch.setattr(backend, "_REFUSED", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: Gpu.capturing)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.delenv("CUDA_OPS_BACKEND", raising=False)
    return Gpu


def test_by_default_the_fused_kernel_is_tried_once_for_each_instance_and_device(gpu):
    for device in ("cuda:0", "cuda:0", "cuda:1"):
        assert uses_fused(Weight(device), torch.float32)
    assert uses_fused(Weight(), torch.bfloat16)
    assert len(gpu.tried) == 3
    assert rolling_backend("cuda") == rolling_backend("cuda:1") == "fused"


def test_where_it_cannot_be_had_torch_rolls_with_one_warning_that_says_why(gpu):
    gpu.fault = KernelError("no CuPy; pip install it")
    with pytest.warns(RuntimeWarning, match=r"plain torch on cuda:1: no CuPy; pip install"):
        assert not uses_fused(Weight("cuda:1"), torch.float32)
    for device in ("cuda:1", "cuda:0", "cuda:0"):  # a warning would be an error here
        assert not uses_fused(Weight(device), torch.bfloat16)
    assert len(gpu.tried) == 2  # once for each device
    assert rolling_backend("cuda:1") == "torch: no CuPy; pip install it"


def test_an_instance_that_fails_later_ends_the_fused_kernel_on_its_device(gpu):
    assert uses_fused(Weight(), torch.float32)
    gpu.fault = KernelError("wrong gradient; report it")
    with pytest.warns(RuntimeWarning, match="wrong gradient; report it"):
        assert not uses_fused(Weight(), torch.bfloat16)
    assert not uses_fused(Weight(), torch.float32)


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("x")])
def test_what_is_no_fault_of_the_kernel_is_not_taken_for_one(gpu, fault):
    gpu.fault = fault
    with pytest.raises(type(fault)):
        uses_fused(Weight(), torch.float32)
    gpu.fault = None
    assert uses_fused(Weight(), torch.float32)


def test_several_threads_try_once(gpu, monkeypatch):
    def prove(*instance):
        time.sleep(0.02)
        gpu.tried.append(instance)

    monkeypatch.setattr(cuda, "prove", prove)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(uses_fused(Weight(), torch.float32)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, len(gpu.tried)) == ([True] * 4, 1)


@pytest.mark.parametrize(("name", "fused"), [("cupy", True), ("torch", False)])
def test_who_names_a_backend_gets_it_untried(gpu, monkeypatch, name, fused):
    gpu.fault = KernelError("no CuPy")
    monkeypatch.setenv("CUDA_OPS_BACKEND", name)
    assert uses_fused(Weight(), torch.float32) == fused
    assert not gpu.tried
    assert rolling_backend("cuda").startswith("fused" if fused else "torch: CUDA_OPS_BACKEND")


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_OPS_BACKEND", "jax")
    with pytest.raises(ValueError, match="one of .*torch.*cupy.*auto.*'jax'"):
        uses_fused(Weight(), torch.float32)


def test_nothing_is_tried_while_a_cuda_graph_is_captured(gpu):
    gpu.capturing, gpu.fault = True, KernelError("a proof waits for the device")
    assert not uses_fused(Weight(), torch.float32)
    gpu.capturing, gpu.fault = False, None
    assert uses_fused(Weight(), torch.float32)
    gpu.capturing = True
    assert uses_fused(Weight(), torch.float32)
    assert len(gpu.tried) == 1


class Called(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("name", "refused", "fused"),
    [("auto", {}, True), ("auto", {0: "no CuPy"}, False), ("cupy", {}, True), ("torch", {}, False)],
)
def test_nothing_is_tried_with_tensors_that_hold_no_numbers(gpu, monkeypatch, name, refused, fused):
    """As when the memory of a training step on a GPU is counted."""
    monkeypatch.setenv("CUDA_OPS_BACKEND", name)
    monkeypatch.setattr(backend, "_REFUSED", refused)
    with FakeTensorMode(), Called() as called:
        weight = torch.empty(8, 8, 3, 3, 3, device="cuda:0")
        offsets, scale = torch.empty(2, 4, 3, device="cuda:0"), torch.empty(2, 4, device="cuda:0")
        assert roll_kernel(weight, offsets, scale).shape == (2, 8, 8, 3, 3, 3)
    assert not gpu.tried
    assert ("cuda_ops::roll_kernel" in called.names) == fused


def test_a_compiled_graph_leaves_the_choice_to_the_operator(gpu):
    gpu.fault = KernelError("no CuPy")
    seen = []

    @torch.compile(fullgraph=True, backend=lambda graph, _: seen.append(str(graph.code)) or graph)
    def rolled(*leaves):
        return roll_kernel(*leaves)

    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        leaves = [
            torch.empty(*shape, device="cuda:0") for shape in ((4, 4, 3, 3), (1, 2, 2), (1, 2))
        ]
        rolled(*leaves)
    assert "cuda_ops" in seen[0]
    assert not gpu.tried


@pytest.mark.filterwarnings("ignore:kernels are rolled in plain torch")
@pytest.mark.parametrize("gated", [False, True])
def test_the_operator_itself_falls_back_with_the_same_results(gpu, small, gated):
    """As it must in a compiled graph; the first weight it sees is on this CPU."""
    gpu.fault = KernelError("no CuPy")
    leaves = [leaf.detach() for leaf in small(3, torch.device("cpu"))]
    gates = torch.rand(2, 4, dtype=torch.float64) if gated else None
    kernels = op.roll_on_cuda(*leaves, torch.float64, gates)
    assert torch.allclose(kernels, roll_forward(*leaves, torch.float64, gates), rtol=0, atol=1e-12)
    found = op.roll_on_cuda_backward(kernels, *leaves, gates)
    wanted = roll_backward(kernels, *leaves, gates)
    for one, other in zip(found[: 4 if gated else 3], wanted, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_the_operator_uses_the_fused_kernel_where_it_proved_itself(gpu, small, monkeypatch, way):
    monkeypatch.setattr(cuda, f"roll_{way}", lambda *given: "fused")
    leaves = small(3, torch.device("cpu"))
    if way == "forward":
        assert op.roll_on_cuda(*leaves, torch.float64) == "fused"
    else:
        assert op.roll_on_cuda_backward(leaves[0][None], *leaves) == "fused"


def test_on_other_devices_torch_rolls_and_nothing_is_asked(gpu):
    assert rolling_backend("cpu") == "torch"
    assert rolling_backend("cuda:3") == "nothing rolled"
