"""The CUDA source itself, run without a GPU: compiled for the host, thread by thread.

Everything but CuPy is real: :mod:`cuda_ops.cuda` names the instances, lays out the memory, sets
the grids and passes the arguments; only its ``_launch`` calls the host's library instead.
"""

import ctypes
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cuda_ops
from cuda_ops import KernelError, cuda, roll_kernel_reference
from cuda_ops.launcher import SOURCE

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
PROVE_FIRST = cuda._prove_first


def compile_for_host(folder: Path, *flags: str) -> Path:
    compiler = shutil.which("g++")
    if compiler is None and not os.environ.get("CI"):
        pytest.skip("needs g++ to run the CUDA source on the host")
    library = folder / "libroll_kernel.so"
    source = Path(cuda_ops.__file__).parent
    command = [compiler or "g++", "-O1", "-std=c++17", "-shared", "-fPIC", *flags]
    command += [
        "-I",
        str(folder),
        "-I",
        str(source),
        "-I",
        str(HERE),
        str(HERE / "host_driver.cpp"),
    ]
    subprocess.run([*command, "-o", str(library)], check=True, capture_output=True, text=True)
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_for_host(tmp_path_factory.mktemp("host"))))


def launcher(library: ctypes.CDLL):
    """What stands in for ``cuda``'s launch of an instance."""

    def launch(name, grid, threads, tensors, numbers):
        pointers = (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])
        counts = (ctypes.c_int * len(numbers))(*numbers)
        assert library.launch(name.encode(), *grid, threads, pointers, counts) == 0, name

    return launch


@pytest.fixture(autouse=True)
def host_launches(library, monkeypatch):
    """The launcher of ``cuda`` runs the host's library; proofs are a test of their own here."""
    monkeypatch.setattr(cuda, "_launch", launcher(library))
    monkeypatch.setattr(cuda, "_prove_first", lambda *_: None)


def case(
    name: str, seed: int, batch: int = 2, outputs: int = 3, groups: int = 2, width: int = 2,
    gated: bool = False,
):  # fmt: skip
    """A gradient, weight, offsets, scale and, if ``gated``, gates in the types of the instance."""
    g = torch.Generator().manual_seed(seed)
    sides = SIDES[name.split("_")[1]]
    kind, other, _ = REDUCED.get(name, (torch.float64, torch.float64, 0))
    sums = torch.float64 if kind == torch.float64 else torch.float32
    weight = torch.randn(outputs, groups * width, *sides, generator=g, dtype=torch.float64)
    offsets = 6 * torch.rand(batch, groups, len(sides), generator=g, dtype=torch.float64) - 3
    scale = torch.randn(batch, groups, generator=g, dtype=torch.float64)
    grad = torch.randn(batch, *weight.shape, generator=g, dtype=torch.float64)
    gates = torch.randn(batch, groups * width, generator=g, dtype=torch.float64).to(sums)
    inputs = [weight.to(kind), offsets.to(sums), scale.to(sums), gates]
    return grad.to(other), inputs if gated else inputs[:3]


def laid(weight, last):
    return weight.movedim(1, -1).contiguous().movedim(-1, 1) if last else weight


def host_forward(name, inputs, dtype, last=False):
    """The rolled kernels; with ``last`` from a channels-last weight, and so themselves."""
    weight, offsets, scale, *gates = inputs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "THREADS", THREADS.get(name, 32))
        out = cuda.roll_forward(laid(weight, last), offsets, scale, dtype, *gates)
    assert (out.movedim(2, -1) if last else out).is_contiguous()
    return out


def host_backward(name, grad, inputs, last=False):
    """The gradients of as many inputs as there are."""
    weight, *others = inputs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "THREADS", THREADS.get(name, 32))
        found = cuda.roll_backward(grad, laid(weight, last), *others)
    assert all(one.numel() == 0 for one in found[len(inputs) :])
    return found[: len(inputs)]


def reference(grad, inputs):
    """Rolled kernels and the gradients in float64."""
    leaves = [t.double().clone().requires_grad_() for t in inputs]
    out = roll_kernel_reference(*leaves)
    return out.detach(), torch.autograd.grad(out, leaves, grad.double())


FIXTURE = [HealthCheck.function_scoped_fixture]  # the launcher is the same for all examples
SHAPES = {
    "seed": st.integers(0, 10**6),
    "batch": st.integers(1, 3),
    "outputs": st.sampled_from([1, 3, 20, 40]),
    "groups": st.sampled_from([1, 2, 3]),
    "width": st.sampled_from([1, 2, 5]),
    "gated": st.booleans(),
    "last": st.booleans(),
}


@pytest.mark.parametrize("name", DOUBLE)
@settings(max_examples=10, suppress_health_check=FIXTURE)
@given(**SHAPES)
def test_in_float64_it_is_the_reference(name, last, outputs, **shape):
    outputs = min(outputs, 3) if name.endswith(("555", "235")) else outputs
    grad, inputs = case(name, outputs=outputs, **shape)
    out, grads = reference(grad, inputs)
    result = host_forward(name, inputs, torch.float64, last)
    assert torch.allclose(result, out, rtol=0, atol=1e-12)
    results = host_backward(name, grad, inputs, last)
    for got, expected in zip(results, grads, strict=True):
        assert torch.allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", REDUCED)
@settings(max_examples=6, suppress_health_check=FIXTURE)
@given(**SHAPES)
def test_in_lower_precision_it_is_the_reference_to_one_step(name, last, **shape):
    kind, other, step = REDUCED[name]
    grad, inputs = case(name, **shape)
    out, grads = reference(grad, inputs)
    result = host_forward(name, inputs, other, last)
    assert torch.allclose(result.double(), out, rtol=step, atol=5e-6)
    got = host_backward(name, grad, inputs, last)
    steps = (2e-6 if kind == torch.float32 else step, 1e-4, 1e-4, 1e-4)
    for one, expected, rtol in zip(got, grads, steps, strict=False):
        assert torch.allclose(one.double(), expected, rtol=rtol, atol=2e-4)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["f32_333", "f64_555"])
def test_no_thread_depends_on_its_turn(library, name, last):
    grad, inputs = case(name, 1, outputs=40 if "f32" in name else 1, gated=True)
    results = []
    for flag in (0, 1):
        library.reverse_threads(flag)
        one = host_forward(name, inputs, grad.dtype, last)
        results.append([one, *host_backward(name, grad, inputs, last)])
    library.reverse_threads(0)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["f32_333", "f32_33"])
def test_zero_offset_unit_scale_and_open_gates_change_no_bit(name, last):
    _, (weight, offsets, scale) = case(name, 2)
    weight[0, 0].fill_(-0.0)  # not even the sign of a zero, nor does infinity reach its neighbours
    weight[0, 1].flatten()[0] = torch.inf
    rest = weight, torch.zeros_like(offsets), torch.ones_like(scale)
    for inputs in (rest, (*rest, torch.ones(len(offsets), weight.shape[1]))):
        result = host_forward(name, inputs, torch.float32, last)
        assert all(torch.equal(s.view(torch.int32), weight.view(torch.int32)) for s in result)


@pytest.mark.parametrize("name", ["f32_333", "mix16_333", "f64_555"])
@pytest.mark.parametrize("last", [False, True])
def test_gates_of_ones_change_no_bit(name, last):
    grad, (*inputs, gates) = case(name, 6, gated=True)
    results = []
    for tensors in (inputs, [*inputs, torch.ones_like(gates)]):
        results.append([host_forward(name, tensors, grad.dtype, last)])
        results[-1] += host_backward(name, grad, tensors, last)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=False))


@pytest.mark.parametrize("name", ["f64_333", "f64_133", "f64_555"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("last", [False, True])
def test_a_non_finite_offset_spoils_its_own_group_alone(name, bad, last):
    grad, inputs = case(name, 3, gated=True)
    inputs[1][0, 1, 0] = bad
    result = host_forward(name, inputs, torch.float64, last)
    assert result[0, :, 2:].isnan().all()
    assert result[0, :, :2].isfinite().all()
    assert result[1].isfinite().all()
    gates = host_backward(name, grad, inputs, last)[3]
    assert gates.isfinite().tolist() == [[True, True, False, False], [True] * 4]


@pytest.mark.parametrize("size", [1e9 + 1, -1e9, 1e30, -1e30, 1e300])
def test_huge_offsets_are_whole_rolls(size):
    _, (weight, offsets, scale) = case("f64_333", 4)
    inputs = weight, torch.full_like(offsets, size), torch.ones_like(scale)
    result = host_forward("f64_333", inputs, torch.float64)
    shift = int(size) % 3
    assert torch.equal(result[0], weight.roll((shift,) * 3, (2, 3, 4)))


def test_an_offset_just_below_zero_stays_inside_the_kernel():
    grad, inputs = case("f64_333", 5)
    inputs[1].fill_(-1e-18)
    out, _ = reference(grad, inputs)
    result = host_forward("f64_333", inputs, torch.float64)
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


def prove_33():
    """The proof of the float32 instance of 3 x 3 taps, whose blocks have four warps."""
    cuda.prove.__wrapped__(torch.device("cpu"), *[torch.float32] * 2, (3, 3), False)


@pytest.mark.parametrize("broken", ["roll_forward<", "roll_backward<", "roll_finish<"])
def test_a_kernel_that_gives_other_numbers_is_not_used(broken, monkeypatch):
    right = cuda._launch

    def wrong(name, grid, threads, tensors, numbers):
        right(name, grid, threads, tensors, numbers)
        if name.startswith(broken):
            next(t for t in reversed(tensors) if t.numel()).view(-1)[-1] += 0.01

    monkeypatch.setattr(cuda, "_launch", wrong)
    with pytest.raises(KernelError, match="wrong .* CUDA_OPS_BACKEND=torch"):
        prove_33()


FAULTS = {
    "the last warp is left out": ("warp < T / 32; ++warp", "warp < T / 32 - 1; ++warp"),
    "the second block rolls the first's rows": ("first = blockIdx.x * T", "first = 0"),
    "the last chunk is left out": ("chunk < chunks; chunk", "chunk < chunks - 1; chunk"),
    "gates beyond a warp are left out": ("term < terms; term", "term < 32; term"),
    "gates are the next channel's": ("inputs + row.input]", "inputs + (row.input + 1) % inputs]"),
    "the last row of a block that is not full is left out": (
        "left < T ? left : T",
        "left < T ? left - 1 : T",
    ),
    "only lane 0 counts": ("half = 16; half > 0", "half = 16; half > 16"),
}


@pytest.mark.parametrize(
    "fault",
    [pytest.param(name, marks=[pytest.mark.slow] * (i > 2)) for i, name in enumerate(FAULTS)],
)
def test_a_kernel_with_a_fault_beyond_the_first_warp_fails_the_proof(fault, tmp_path, monkeypatch):
    source, (right, wrong) = SOURCE.read_text("utf-8"), FAULTS[fault]
    assert right in source
    (tmp_path / "roll_kernel.cu").write_text(source.replace(right, wrong), "utf-8")
    library = ctypes.CDLL(str(compile_for_host(tmp_path, "-DONE_INSTANCE")))
    monkeypatch.setattr(cuda, "_launch", launcher(library))
    with pytest.raises(KernelError):
        prove_33()


def test_the_proof_does_not_heed_torchs_default_device():
    with torch.device("meta"):
        prove_33()


def test_the_proof_is_refused_while_a_stream_captures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    kinds = [torch.float32] * 2
    with pytest.raises(KernelError, match="roll once before capturing"):
        cuda.prove.__wrapped__(torch.device("cuda", 0), *kinds, (3, 3), False)


def test_two_threads_prove_an_instance_once(monkeypatch):
    seen, right = [], cuda._launch
    monkeypatch.setattr(cuda, "_launch", lambda *args: (seen.append(args[0]), right(*args)))
    cuda.prove.cache_clear()
    weight, start = torch.zeros(1, 1, 3, 3), threading.Barrier(2)

    def first_use():
        start.wait()
        PROVE_FIRST(weight, torch.float32)

    threads = [threading.Thread(target=first_use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cuda.prove.cache_clear()
    assert len(seen) == 6  # forward and twice backward, with gates and without


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
        addresses = [ctypes.addressof(b) if len(b) else 0 for b in buffers]
        pointers = (ctypes.c_void_p * len(buffers))(*addresses)
        numbers = (ctypes.c_int * len(numbers))(*numbers)
        assert library.launch(name.encode(), *grid, threads, pointers, numbers) == 0, name

    values = (0.0, 0.3, -1e-9, 1e30, -1e30, float("nan"), float("inf"), -float("inf"))
    for value, gated in [(value, gated) for value in values for gated in (0, 1)]:
        weight, grads = ((ctypes.c_char * (SIZES[kinds[0]] * count))() for _ in range(2))
        out = (ctypes.c_char * (batch * SIZES[kinds[1]] * count))()
        offsets = (real * (batch * groups * axes))(*[value] * batch * groups * axes)
        to = (real * (batch * groups * axes))()
        scale, ts = ((real * (batch * groups))(*[1.0] * batch * groups) for _ in range(2))
        channels, terms = groups * width, outputs * (taps if "_any" in name else 1)
        gates, tg = ((real * (gated * batch * channels))() for _ in range(2))
        dots = (real * (gated * batch * terms * channels))()
        shape = (outputs, channels, groups)
        buffers = (weight, offsets, scale, gates, out)
        launch(name, (chunks, groups, batch), threads, buffers, shape)
        partials = (real * (batch * groups * chunks * 4))()
        buffers = (out, weight, offsets, scale, gates, grads, partials, dots)
        back = name.replace("forward", "backward")
        launch(back, (chunks, groups, 1), threads, buffers, (batch, *shape))
        ends, pairs = (partials, dots, to, ts, tg), batch * groups
        grid = (pairs + gated * batch * channels, 1, 1)
        sizes = (pairs, chunks, terms, channels)
        launch("roll_finish<%s, %d>" % (finish, axes), grid, 32, ends, sizes)
print("no fault")
"""
