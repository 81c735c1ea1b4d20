"""The CUDA source itself, run without a GPU: compiled for the host, thread by thread."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cuda_ops
from cuda_ops import roll_kernel_reference

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


def call(function, tensors, weight, offsets):
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    function(*pointers, len(offsets), *weight.shape[:2], offsets.shape[1])


def host_forward(library, name, weight, offsets, scale, dtype):
    out = torch.full((len(offsets), *weight.shape), torch.nan, dtype=dtype)
    call(library[f"forward_{name}"], (weight, offsets, scale, out), weight, offsets)
    return out


def host_backward(library, name, grad, weight, offsets, scale):
    grads = [torch.full_like(tensor, torch.nan) for tensor in (weight, offsets, scale)]
    call(library[f"backward_{name}"], (grad, weight, offsets, scale, *grads), weight, offsets)
    return grads


def reference(weight, offsets, scale, grad):
    """Rolled kernels and the three gradients in float64."""
    leaves = [t.double().clone().requires_grad_() for t in (weight, offsets, scale)]
    out = roll_kernel_reference(*leaves)
    return out.detach(), torch.autograd.grad(out, leaves, grad.double())


@pytest.mark.parametrize("name", DOUBLE)
@settings(max_examples=8)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    outputs=st.sampled_from([1, 3, 20]),
    groups=st.sampled_from([1, 2, 3]),
    width=st.sampled_from([1, 2, 5]),
)
def test_in_float64_it_is_the_reference(library, name, seed, batch, outputs, groups, width):
    if name.endswith(("555", "235")):
        outputs = min(outputs, 3)
    weight, offsets, scale, grad = case(name, seed, batch, outputs, groups, width)
    out, grads = reference(weight, offsets, scale, grad)
    result = host_forward(library, name, weight, offsets, scale, torch.float64)
    assert torch.allclose(result, out, rtol=0, atol=1e-12)
    results = host_backward(library, name, grad, weight, offsets, scale)
    for got, expected in zip(results, grads, strict=True):
        assert torch.allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("outputs", [1, 17])
def test_in_lower_precision_it_is_the_reference_to_one_step(library, name, outputs):
    kind, other, step = REDUCED[name]
    weight, offsets, scale, grad = case(name, 5, outputs=outputs)
    out, grads = reference(weight, offsets, scale, grad)
    result = host_forward(library, name, weight, offsets, scale, other)
    assert torch.allclose(result.double(), out, rtol=step, atol=2e-6)
    got = host_backward(library, name, grad, weight, offsets, scale)
    steps = (2e-6 if kind == torch.float32 else step, 1e-4, 1e-4)
    for one, expected, rtol in zip(got, grads, steps, strict=True):
        assert torch.allclose(one.double(), expected, rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("name", ["f32_333", "f64_555"])
def test_no_thread_depends_on_its_turn(library, name):
    weight, offsets, scale, grad = case(name, 1, outputs=20 if "f32" in name else 1)
    dtype = weight.dtype
    results = []
    for flag in (0, 1):
        library.reverse_threads(flag)
        one = host_forward(library, name, weight, offsets, scale, dtype)
        results.append([one, *host_backward(library, name, grad, weight, offsets, scale)])
    library.reverse_threads(0)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["f32_333", "f32_33"])
def test_zero_offset_and_unit_scale_change_no_bit(library, name):
    weight, offsets, scale, _ = case(name, 2)
    rest = torch.zeros_like(offsets), torch.ones_like(scale)
    result = host_forward(library, name, weight, *rest, torch.float32)
    assert all(torch.equal(sample, weight) for sample in result)


@pytest.mark.parametrize("name", ["f64_333", "f64_133", "f64_555"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_offset_spoils_its_own_group_alone(library, name, bad):
    weight, offsets, scale, _ = case(name, 3)
    offsets[0, 1, 0] = bad
    result = host_forward(library, name, weight, offsets, scale, torch.float64)
    assert result[0, :, 2:].isnan().all()
    assert result[0, :, :2].isfinite().all()
    assert result[1].isfinite().all()


@pytest.mark.parametrize("size", [1e9 + 1, -1e9, 1e30, -1e30, 1e300])
def test_huge_offsets_are_whole_rolls(library, size):
    weight, offsets, scale, _ = case("f64_333", 4)
    offsets, scale = torch.full_like(offsets, size), torch.ones_like(scale)
    result = host_forward(library, "f64_333", weight, offsets, scale, torch.float64)
    shift = int(size) % 3
    assert torch.equal(result[0], weight.roll((shift,) * 3, (2, 3, 4)))


def test_an_offset_just_below_zero_stays_inside_the_kernel(library):
    weight, offsets, scale, grad = case("f64_333", 5)
    offsets = torch.full_like(offsets, -1e-18)
    out, _ = reference(weight, offsets, scale, grad)
    result = host_forward(library, "f64_333", weight, offsets, scale, torch.float64)
    assert torch.allclose(result, out, atol=1e-12)


@pytest.mark.slow
def test_address_and_undefined_behaviour_sanitizers_find_nothing(tmp_path):
    """One process under the sanitizers, over every instance and the nastiest offsets."""
    flags = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    library = compile_for_host(tmp_path, *flags)
    runtime = [
        subprocess.run(
            ["g++", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    driver = tmp_path / "drive.py"
    driver.write_text(DRIVER.format(library=str(library), names=sorted([*DOUBLE, *REDUCED])))
    result = subprocess.run(
        [shutil.which("python3") or "python3", str(driver)],
        env={**os.environ, "LD_PRELOAD": ":".join(runtime), "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert "no fault" in result.stdout


DRIVER = """
import ctypes
library = ctypes.CDLL("{library}")
SIDES = {{"f64": 8, "f32": 4, "mix16": 4, "mixhalf": 4, "bf16": 2, "f16": 2}}
for name in {names}:
    kind, sides = name.split("_")
    size, taps = SIDES[kind], 1
    for side in sides:
        taps *= int(side)
    real = ctypes.c_double if size == 8 else ctypes.c_float
    batch, outputs, groups, width, axes = 2, 3, 2, 2, len(sides)
    count = outputs * groups * width * taps
    for value in (0.0, 0.3, -1e-9, 1e30, -1e30, float("nan"), float("inf"), -float("inf")):
        weight, grads = ((ctypes.c_char * (size * count))() for _ in range(2))
        out = (ctypes.c_char * (batch * size * count))()
        offsets, to = ((real * (batch * groups * axes))(*[value] * 4) for _ in range(2))
        scale, ts = ((real * (batch * groups))(1.0) for _ in range(2))
        shape = (batch, outputs, groups * width, groups)
        library["forward_" + name](weight, offsets, scale, out, *shape)
        library["backward_" + name](out, weight, offsets, scale, grads, to, ts, *shape)
print("no fault")
"""
