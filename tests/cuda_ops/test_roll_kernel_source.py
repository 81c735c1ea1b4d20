"""The CUDA source itself, run without a GPU: compiled for the host, thread by thread.

Everything but CuPy is real: :mod:`cuda_ops.cuda` names the instances, lays out the memory, sets
the grids and passes the arguments; only its ``_launch`` calls the host's library instead.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cuda_ops
from cuda_ops import cuda, roll_kernel_reference

HERE = Path(__file__).parent
SIDES = {
    "33": (3, 3),
    "13": (1, 3),
    "42": (4, 2),
    "333": (3, 3, 3),
    "133": (1, 3, 3),
    "111": (1, 1, 1),
    "235": (2, 3, 5),
    "555": (5, 5, 5),
}
DOUBLE = [f"f64_{sides}" for sides in SIDES]
# name: weight, rolled kernels, relative tolerance of both (one step of the coarser type)
REDUCED = {
    "f32_33": (torch.float32, torch.float32, 2e-6),
    "f32_333": (torch.float32, torch.float32, 2e-6),
    "mix16_333": (torch.float32, torch.bfloat16, 2**-8),
    "mixhalf_33": (torch.float32, torch.float16, 2**-11),
    "bf16_333": (torch.bfloat16, torch.bfloat16, 2**-8),
    "f16_33": (torch.float16, torch.float16, 2**-11),
}
THREADS = {"f32_33": 128, "f32_333": 128, "f64_555": 64}  # of a block; else one warp


def compile_for_host(folder: Path, *flags: str) -> Path:
    compiler = shutil.which("g++")
    if compiler is None and not os.environ.get("CI"):
        pytest.skip("needs g++ to run the CUDA source on the host")
    library = folder / "libroll_kernel.so"
    source = Path(cuda_ops.__file__).parent
    command = [compiler or "g++", "-O1", "-std=c++17", "-shared", "-fPIC", *flags]
    command += ["-I", str(source), "-I", str(HERE), str(HERE / "host_driver.cpp")]
    subprocess.run([*command, "-o", str(library)], check=True, capture_output=True, text=True)
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_for_host(tmp_path_factory.mktemp("host"))))


@pytest.fixture(autouse=True)
def host_launches(library, monkeypatch):
    """The launcher of ``cuda`` runs the host's library; proofs are a test of their own here."""

    def launch(name, grid, threads, tensors, numbers):
        pointers = (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])
        counts = (ctypes.c_int * len(numbers))(*numbers)
        assert library.launch(name.encode(), *grid, threads, pointers, counts) == 0, name

    monkeypatch.setattr(cuda, "_launch", launch)
    monkeypatch.setattr(cuda, "_prove_first", lambda *_: None)


def case(name: str, seed: int, batch: int = 2, outputs: int = 3, groups: int = 2, width: int = 2):
    """Weight, offsets, scale and a gradient in the types of the instance."""
    g = torch.Generator().manual_seed(seed)
    sides = SIDES[name.split("_")[1]]
    kind, other, _ = REDUCED.get(name, (torch.float64, torch.float64, 0))
    sums = torch.float64 if kind == torch.float64 else torch.float32
    weight = torch.randn(outputs, groups * width, *sides, generator=g, dtype=torch.float64)
    offsets = 6 * torch.rand(batch, groups, len(sides), generator=g, dtype=torch.float64) - 3
    scale = torch.randn(batch, groups, generator=g, dtype=torch.float64)
    grad = torch.randn(batch, *weight.shape, generator=g, dtype=torch.float64)
    return weight.to(kind), offsets.to(sums), scale.to(sums), grad.to(other)


def laid(weight, last):
    return weight.movedim(1, -1).contiguous().movedim(-1, 1) if last else weight


def host_forward(name, weight, offsets, scale, dtype, last=False):
    """The rolled kernels; with ``last`` from a channels-last weight, and so themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "THREADS", THREADS.get(name, 32))
        out = cuda.roll_forward(laid(weight, last), offsets, scale, dtype)
    assert (out.movedim(2, -1) if last else out).is_contiguous()
    return out


def host_backward(name, grad, weight, offsets, scale, last=False):
    """The gradients of weight, offsets and scale."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "THREADS", THREADS.get(name, 32))
        return cuda.roll_backward(grad, laid(weight, last), offsets, scale)


def reference(weight, offsets, scale, grad):
    """Rolled kernels and the three gradients in float64."""
    leaves = [t.double().clone().requires_grad_() for t in (weight, offsets, scale)]
    out = roll_kernel_reference(*leaves)
    return out.detach(), torch.autograd.grad(out, leaves, grad.double())


FIXTURE = [HealthCheck.function_scoped_fixture]  # the launcher is the same for all examples
SHAPES = {
    "seed": st.integers(0, 10**6),
    "batch": st.integers(1, 3),
    "outputs": st.sampled_from([1, 3, 20]),
    "groups": st.sampled_from([1, 2, 3]),
    "width": st.sampled_from([1, 2, 5]),
    "last": st.booleans(),
}


@pytest.mark.parametrize("name", DOUBLE)
@settings(max_examples=10, suppress_health_check=FIXTURE)
@given(**SHAPES)
def test_in_float64_it_is_the_reference(name, last, outputs, **shape):
    outputs = min(outputs, 3) if name.endswith(("555", "235")) else outputs
    weight, offsets, scale, grad = case(name, outputs=outputs, **shape)
    out, grads = reference(weight, offsets, scale, grad)
    result = host_forward(name, weight, offsets, scale, torch.float64, last)
    assert torch.allclose(result, out, rtol=0, atol=1e-12)
    results = host_backward(name, grad, weight, offsets, scale, last)
    for got, expected in zip(results, grads, strict=True):
        assert torch.allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", REDUCED)
@settings(max_examples=6, suppress_health_check=FIXTURE)
@given(**SHAPES)
def test_in_lower_precision_it_is_the_reference_to_one_step(name, last, **shape):
    kind, other, step = REDUCED[name]
    weight, offsets, scale, grad = case(name, **shape)
    out, grads = reference(weight, offsets, scale, grad)
    result = host_forward(name, weight, offsets, scale, other, last)
    assert torch.allclose(result.double(), out, rtol=step, atol=5e-6)
    got = host_backward(name, grad, weight, offsets, scale, last)
    steps = (2e-6 if kind == torch.float32 else step, 1e-4, 1e-4)
    for one, expected, rtol in zip(got, grads, steps, strict=True):
        assert torch.allclose(one.double(), expected, rtol=rtol, atol=2e-4)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["f32_333", "f64_555"])
def test_no_thread_depends_on_its_turn(library, name, last):
    weight, offsets, scale, grad = case(name, 1, outputs=20 if "f32" in name else 1)
    results = []
    for flag in (0, 1):
        library.reverse_threads(flag)
        one = host_forward(name, weight, offsets, scale, weight.dtype, last)
        results.append([one, *host_backward(name, grad, weight, offsets, scale, last)])
    library.reverse_threads(0)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["f32_333", "f32_33"])
def test_zero_offset_and_unit_scale_change_no_bit(name, last):
    weight, offsets, scale, _ = case(name, 2)
    weight[0, 0].fill_(-0.0)  # not even the sign of a zero, nor does infinity reach its neighbours
    weight[0, 1].flatten()[0] = torch.inf
    rest = torch.zeros_like(offsets), torch.ones_like(scale)
    result = host_forward(name, weight, *rest, torch.float32, last)
    assert all(torch.equal(s.view(torch.int32), weight.view(torch.int32)) for s in result)


@pytest.mark.parametrize("name", ["f64_333", "f64_133", "f64_555"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("last", [False, True])
def test_a_non_finite_offset_spoils_its_own_group_alone(name, bad, last):
    weight, offsets, scale, _ = case(name, 3)
    offsets[0, 1, 0] = bad
    result = host_forward(name, weight, offsets, scale, torch.float64, last)
    assert result[0, :, 2:].isnan().all()
    assert result[0, :, :2].isfinite().all()
    assert result[1].isfinite().all()


@pytest.mark.parametrize("size", [1e9 + 1, -1e9, 1e30, -1e30, 1e300])
def test_huge_offsets_are_whole_rolls(size):
    weight, offsets, scale, _ = case("f64_333", 4)
    offsets, scale = torch.full_like(offsets, size), torch.ones_like(scale)
    result = host_forward("f64_333", weight, offsets, scale, torch.float64)
    shift = int(size) % 3
    assert torch.equal(result[0], weight.roll((shift,) * 3, (2, 3, 4)))


def test_an_offset_just_below_zero_stays_inside_the_kernel():
    weight, offsets, scale, grad = case("f64_333", 5)
    offsets = torch.full_like(offsets, -1e-18)
    out, _ = reference(weight, offsets, scale, grad)
    result = host_forward("f64_333", weight, offsets, scale, torch.float64)
    assert torch.allclose(result, out, atol=1e-12)


def instance(name, last):
    kind, other, _ = REDUCED.get(name, (torch.float64, torch.float64, 0))
    sides, threads = SIDES[name.split("_")[1]], THREADS.get(name, 32)
    return cuda.expression("roll_forward", kind, other, sides, last, threads)


@pytest.mark.parametrize("name", [*DOUBLE, *REDUCED])
@pytest.mark.parametrize("last", [False, True])
def test_every_instance_passes_the_proof_before_its_first_use(name, last, monkeypatch):
    kind, other, _ = REDUCED.get(name, (torch.float64, torch.float64, 0))
    monkeypatch.setattr(cuda, "THREADS", THREADS.get(name, 32))
    sides = SIDES[name.split("_")[1]]
    cuda.prove.__wrapped__(torch.device("cpu"), kind, other, sides, last)


@pytest.mark.parametrize("broken", ["roll_forward<", "roll_backward<", "roll_finish<"])
def test_a_kernel_that_gives_other_numbers_is_not_used(broken, monkeypatch):
    right = cuda._launch

    def wrong(name, grid, threads, tensors, numbers):
        right(name, grid, threads, tensors, numbers)
        if name.startswith(broken):
            tensors[-1].view(-1)[-1] += 0.01

    monkeypatch.setattr(cuda, "_launch", wrong)
    with pytest.raises(RuntimeError, match="wrong .* CUDA_OPS_BACKEND=torch"):
        cuda.prove.__wrapped__(torch.device("cpu"), *[torch.float32] * 2, (3, 3, 3), False)


@pytest.mark.slow
def test_address_and_undefined_behaviour_sanitizers_find_nothing(tmp_path, under_sanitizers):
    """One process under the sanitizers, over every instance and the nastiest offsets."""
    flags = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    library = compile_for_host(tmp_path, *flags)
    driver = tmp_path / "drive.py"
    names = [instance(name, last) for name in [*DOUBLE, *REDUCED] for last in (False, True)]
    driver.write_text(DRIVER.format(library=str(library), names=names))
    result = under_sanitizers(driver)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "no fault" in result.stdout


DRIVER = """
import ctypes
library = ctypes.CDLL("{library}")
SIZES = {{"double": 8, "float": 4, "half16": 2, "brain16": 2}}
for name in {names}:
    kinds = name[name.index("<") + 1 : -1].split(", ")
    taps = int(kinds[3]) * int(kinds[4]) * int(kinds[5])
    axes, threads, wide = int(kinds[2]), int(kinds[7]), kinds[0] == "double"
    real, finish = (ctypes.c_double, "double") if wide else (ctypes.c_float, "float")
    batch, outputs, groups, width = 2, 3, 2, 2
    count = outputs * groups * width * taps
    chunks = -(-outputs * width * (taps if "_any" in name else 1) // threads)

    def launch(name, grid, threads, buffers, numbers):
        pointers = (ctypes.c_void_p * len(buffers))(*[ctypes.addressof(b) for b in buffers])
        numbers = (ctypes.c_int * len(numbers))(*numbers)
        assert library.launch(name.encode(), *grid, threads, pointers, numbers) == 0, name

    for value in (0.0, 0.3, -1e-9, 1e30, -1e30, float("nan"), float("inf"), -float("inf")):
        weight, grads = ((ctypes.c_char * (SIZES[kinds[0]] * count))() for _ in range(2))
        out = (ctypes.c_char * (batch * SIZES[kinds[1]] * count))()
        offsets = (real * (batch * groups * axes))(*[value] * batch * groups * axes)
        to = (real * (batch * groups * axes))()
        scale, ts = ((real * (batch * groups))(*[1.0] * batch * groups) for _ in range(2))
        shape = (outputs, groups * width, groups)
        launch(name, (chunks, groups, batch), threads, (weight, offsets, scale, out), shape)
        partials = (real * (batch * groups * chunks * 4))()
        buffers = (out, weight, offsets, scale, grads, partials)
        back = name.replace("forward", "backward")
        launch(back, (chunks, groups, 1), threads, buffers, (batch, *shape))
        ends = (partials, to, ts)
        launch("roll_finish<%s, %d>" % (finish, axes), (batch * groups, 1, 1), 32, ends, (chunks,))
print("no fault")
"""
