"""The library of the CPU: compiled once, kept safely, and a sentence where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cuda_ops import cpu_calls, cpu_library
from cuda_ops.cpu_library import NoLibraryError

pytestmark = pytest.mark.skipif(
    not cpu_library.known_processor(), reason="the compiled library is for x86-64 with AVX2"
)


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """As in a new process of somebody who never compiled it; ``auto`` unless the test says else."""
    monkeypatch.setenv("CUDA_OPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_OPS_CPU", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(cpu_library, "_refused", [])
    caches = cpu_library._library, cpu_library._warn, cpu_library.opened
    for cached in caches:
        cached.cache_clear()
    yield tmp_path / "cache"
    for cached in caches:
        cached.cache_clear()


def small():
    return torch.randn(1, 8, 3, 3, 3), torch.randn(8, 8, 3, 3, 3)


def test_it_is_compiled_once_and_kept(anew, monkeypatch):
    assert cpu_library.describe() == "compiled"
    (kept,) = anew.iterdir()
    before = kept.stat()
    assert before.st_mode & 0o777 == 0o700
    assert anew.stat().st_mode & 0o777 == 0o700
    cpu_library._library.cache_clear()
    cpu_library.opened.cache_clear()
    monkeypatch.setenv("PATH", "")  # another process, without a compiler
    assert cpu_library.describe() == "compiled"
    assert [path.name for path in anew.iterdir()] == [kept.name]
    assert kept.stat().st_mtime_ns == before.st_mtime_ns


def test_another_source_or_processor_is_another_library(anew, monkeypatch):
    first = cpu_library._key()
    monkeypatch.setattr(cpu_library, "OPTIONS", (*cpu_library.OPTIONS, "-g"))
    assert cpu_library._key() != first


def test_without_a_compiler_torch_convolves_and_says_so(anew, monkeypatch):
    monkeypatch.setenv("PATH", "")
    x, kernel = small()
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler.*install one.*CUDA_OPS_CPU=torch"):
        assert not cpu_calls.is_there()
    assert not cpu_calls.is_for(x, kernel)  # and says it once
    assert cpu_library.describe().startswith("torch: no C++ compiler")
    assert not any(anew.iterdir())


@pytest.mark.parametrize(
    ("compiler", "sentence"),
    [
        ("false", r": it could not be compiled \(false: exit 1: \)$"),
        ("/nowhere/c++", r"could not be compiled \(/nowhere/c\+\+: .*No such file"),
        ("true", r"could not be compiled \(true: .*No such file"),
        ("g++ 'x", r"CXX=g\+\+ 'x is no command \(No closing quotation\)$"),
        (r"printf '\\377' #", "could not be compiled"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing(anew, monkeypatch, compiler, sentence):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")
    with pytest.raises(NoLibraryError, match=sentence):
        cpu_library.library()
    assert not any(anew.iterdir())
    monkeypatch.setenv("CUDA_OPS_CPU", "torch")
    assert cpu_library.library() is None
    assert "CUDA_OPS_CPU" in cpu_library.describe()


def test_another_compiler_is_tried(anew, monkeypatch, tmp_path):
    broken = tmp_path / "bin" / "c++"
    broken.parent.mkdir()
    broken.write_bytes(b"#!/bin/sh\nprintf 'caf\\351' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    assert cpu_library.describe() == "compiled"


def test_what_others_could_have_written_is_not_loaded(anew, monkeypatch):
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")
    anew.mkdir()
    anew.chmod(0o777)
    with pytest.raises(NoLibraryError, match=f"{anew}: it belongs to somebody else, or others may"):
        cpu_library.library()
    anew.chmod(0o700)
    cpu_library._refused.clear()
    path = anew / f"cpu-{cpu_library._key()}.so"
    path.write_bytes(b"not ours")
    path.chmod(0o777)
    assert cpu_library.library() is not None  # compiled anew
    assert path.read_bytes().startswith(b"\x7fELF")
    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("size", [0, 11, 3000, -1])
def test_a_damaged_library_is_compiled_anew(anew, size):
    cpu_library.opened()
    (path,) = anew.iterdir()
    whole = path.read_bytes()
    path.unlink()  # what is loaded stays
    path.write_bytes(whole[:size])
    path.chmod(0o700)
    cpu_library.opened.cache_clear()
    assert cpu_library.describe() == "compiled"
    assert path.read_bytes() == whole


def test_what_a_killed_process_left_is_removed(anew):
    anew.mkdir(mode=0o700)
    old, new = anew / f"{cpu_library.NEW}1", anew / f"{cpu_library.NEW}2"
    for path in (old, new):
        path.touch()
    os.utime(old, (1, 1))
    cpu_library.opened()
    assert not old.exists()
    assert new.exists()


def test_where_programs_may_not_run_the_next_folder_is_tried(anew, monkeypatch, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr(cpu_library, "_folders", lambda: iter([first, second]))
    load = cpu_library._load

    def refuses(path):
        if path.parent == first:
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(cpu_library, "_load", refuses)
    assert cpu_library.describe() == "compiled"
    monkeypatch.setattr(cpu_library, "_folders", lambda: iter([first]))
    cpu_library._library.cache_clear()
    cpu_library.opened.cache_clear()
    with pytest.warns(UserWarning, match="failed to map segment.*from which programs may run"):
        assert cpu_library.library() is None


def test_a_folder_that_cannot_be_made(anew, monkeypatch):
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")
    anew.write_text("a file")
    with pytest.raises(NoLibraryError, match=f"{anew}: File exists.*CUDA_OPS_CACHE"):
        cpu_library.library()


def test_the_users_cache_is_the_first_choice(anew, monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_OPS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert next(cpu_library._folders()) == tmp_path / "xdg" / "cuda_ops"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert next(cpu_library._folders()) == tmp_path / ".cache" / "cuda_ops"

    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert [path.name for path in cpu_library._folders()] == [f"cuda_ops-{os.getuid()}"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "expanduser", lambda path: path)
    monkeypatch.setenv("CUDA_OPS_CACHE", ".")
    assert list(cpu_library._folders()) == [tmp_path]


def test_another_processor_is_torchs(anew, monkeypatch):
    monkeypatch.setattr(cpu_library.platform, "machine", lambda: "aarch64")
    assert cpu_library.library() is None
    assert cpu_library.describe() == "torch, the only one for this processor"
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")
    with pytest.raises(NoLibraryError, match="x86-64 processor with AVX2, and this is .* aarch64"):
        cpu_library.library()


def test_an_unknown_choice_is_a_sentence(anew, monkeypatch):
    monkeypatch.setenv("CUDA_OPS_CPU", "fast")
    with pytest.raises(NoLibraryError, match=r"must be one of .*'auto'.* got 'fast'"):
        cpu_calls.is_for(*small())


FIRST_USE = """
import sys, torch
from cuda_ops import roll_kernel
from cuda_ops.cpu_calls import by_torch
from cuda_ops.cpu_conv import conv_compiled
from cuda_ops.mixing import mixing_forward
from cuda_ops.cpu_norm import norm_gelu_by_torch, norm_gelu_compiled
x, kernel = torch.randn(2, 8, 3, 4, 5), torch.randn(8, 8, 3, 3, 3, requires_grad=True)
laid = x.to(memory_format=torch.channels_last_3d)
leaves = torch.randn(4, 3, 3, 3, 16).movedim(-1, 1), torch.randn(2, 2, 3), torch.randn(2, 2)
within = {
    "no_grad": torch.no_grad, "inference": torch.inference_mode,
    "meta": lambda: torch.device("meta"), "float64": lambda: torch.set_default_dtype(torch.float64),
    "float16": lambda: torch.set_default_dtype(torch.float16),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "hooks": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: 1 / 0, lambda t: t),
}[sys.argv[1]]()
import contextlib
with within if within is not None else contextlib.nullcontext():
    y = conv_compiled(x, kernel.detach())
    kernels = roll_kernel(*leaves)
    normed = norm_gelu_compiled(laid, x[0, :, 0, 0, 0], x[0, :, 0, 0, 1], 1e-5)
    kept = x.clone()
torch.set_default_dtype(torch.float32)
assert torch.allclose(y.float(), by_torch(x, kernel.detach()), atol=1e-4)
assert torch.allclose(kernels.float(), mixing_forward(*leaves), atol=3e-2)
meant = mixing_forward(*leaves)
assert kernels.dtype == torch.bfloat16 or torch.allclose(kernels, meant, atol=1e-5)
meant = norm_gelu_by_torch(laid, x[0, :, 0, 0, 0], x[0, :, 0, 0, 1], 1e-5)
assert torch.allclose(normed.float(), meant, atol=1e-4)
conv_compiled(x, kernel).sum().backward()
"""
AT_EXIT = """
import atexit, torch
from cuda_ops import roll_kernel
from cuda_ops.mixing import mixing_forward
leaves = torch.randn(4, 3, 3, 3, 16).movedim(-1, 1), torch.randn(2, 2, 3), torch.randn(2, 2)
meant = mixing_forward(*leaves)
atexit.register(lambda: print(torch.allclose(roll_kernel(*leaves), meant, atol=1e-5)))
"""


def test_the_first_use_may_be_the_last():
    environment = {**os.environ, "CUDA_OPS_CPU": "compiled"}
    root = Path(cpu_library.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT], env=environment, cwd=root, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize(
    "within", ["no_grad", "inference", "meta", "float64", "float16", "autocast", "hooks"]
)
def test_the_first_use_may_be_anywhere(within):
    """The proof of a library just loaded does not see what the caller has switched on or off."""
    environment = {**os.environ, "CUDA_OPS_CPU": "compiled"}
    root = Path(cpu_library.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE, within],
        env=environment, cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


WIDTHS = (
    (1, 8, 8), (1, 16, 16), (1, 24, 8), (1, 8, 24), (1, 32, 16), (2, 8, 8), (2, 16, 32), (3, 8, 16),
    (2, 4, 4), (4, 4, 4), (6, 4, 4), (4, 2, 2), (8, 2, 2), (8, 1, 1), (16, 1, 1),
)  # fmt: skip
DRIVER = """
import ctypes
library = ctypes.CDLL("{library}")
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def room(count):  # exactly so many floats: the sanitizer sees who goes beyond
    address = libc.malloc(4 * count)
    ctypes.memset(address, 0, 4 * count)
    return address

cases = 0
for groups, width, each in {widths}:
    for depth, height, line in ((1, 1, 1), (2, 1, 3), (3, 5, 7), (1, 9, 8), (2, 3, 13), (2, 2, 25)):
        for deep, high in ((1, 1), (1, 3), (3, 3)):
            for last in (False, True):
                for gated in (False, True):
                    batch, taps = 2, 3 * deep * high
                    inputs, outputs = groups * width, groups * each
                    entries, places = outputs * width * taps, batch * depth * height * line
                    strides = (taps * width, 1, width) if last else (taps * width, taps, 1)
                    for transposed, step in ((0, 1), (0, 2), (1, 1)):
                        one, other = (outputs, inputs) if transposed else (inputs, outputs)
                        shape = (ctypes.c_int64 * 16)(
                            batch, depth, height, line, one, other, groups, deep, high, entries,
                            *strides, transposed, step, 2)
                        fewer = batch
                        for side in (depth, height, line):
                            fewer *= -(-side // step)
                        buffers = [room(places * one), room(batch * entries),
                                   room(batch * inputs) if gated else None, room(other),
                                   room(batch * entries), room(fewer * other)]
                        library.convolve(shape, *map(ctypes.c_void_p, buffers))
                        for address in filter(None, buffers):
                            libc.free(address)
                    shape[4], shape[5], shape[13] = inputs, outputs, 0
                    for step in (1, 2):
                        shape[14], fewer = step, batch
                        for side in (depth, height, line):
                            fewer *= -(-side // step)
                        buffers = [room(places * inputs), room(fewer * outputs),
                                   room(batch * entries), room(batch * entries)]
                        library.kernel_gradient(shape, *map(ctypes.c_void_p, buffers))
                        for address in buffers:
                            libc.free(address)
                    cases += 1
for rows, channels in ((1, 8), (3, 16), (300, 16), (50, 24), (70, 32), (5, 512)):
    whole = ctypes.c_int64
    numbers = [whole(rows), whole(channels), ctypes.c_double(1e-5), whole(2)]
    x, y, grad, weight, bias = (room(n * channels) for n in (rows, rows, rows, 1, 1))
    sums = room(32 * 2 * channels)
    library.norm_gelu(*numbers, *map(ctypes.c_void_p, (x, weight, bias, y)))
    library.norm_gelu_backward(*numbers, *map(ctypes.c_void_p, (x, grad, weight, bias, y, sums)))
    for address in (x, y, grad, weight, bias, sums):
        libc.free(address)
for sides in ((3, 3, 3), (1, 2, 3), (1, 1, 1), (5, 5, 5), (1, 5, 25)):
    for groups, width in ((1, 32), (2, 8), (3, 4), (2, 3), (4, 1), (1, 40)):
        whole, batch, outputs = ctypes.c_int64, 2, 3
        taps = sides[0] * sides[1] * sides[2]
        weight, kernels = (room(n * outputs * taps * groups * width) for n in (1, batch))
        offsets, scale = room(3 * batch * groups), room(batch * groups)
        rolls = (ctypes.c_float * (3 * batch * groups)).from_address(offsets)
        wild = (0.5, -2.25, 1e30, -1e30, float("nan"), float("inf"), 3.0, -7.0, -1e-9)
        rolls[:] = [wild[i % 9] for i in range(len(rolls))]
        numbers = map(whole, (batch, outputs, groups * width, groups, 2))
        buffers = map(ctypes.c_void_p, (weight, offsets, scale, kernels))
        library.roll_kernels((whole * 3)(*sides), *numbers, *buffers)
        for address in (weight, kernels, offsets, scale):
            libc.free(address)
print("no fault in", cases)
"""


@pytest.mark.slow
def test_address_and_undefined_behaviour_sanitizers_find_nothing(tmp_path, under_sanitizers):
    """Every kind of group and tile, on buffers that end where they should."""
    library = tmp_path / "library.so"
    options = [option for option in cpu_library.OPTIONS if option != "-O3"]
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-shared"]
    command = ["g++", *options, *flags, *map(str, cpu_library.SOURCES), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    driver = tmp_path / "drive.py"
    driver.write_text(DRIVER.format(library=library, widths=WIDTHS))
    done = under_sanitizers(driver)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "no fault in" in done.stdout
