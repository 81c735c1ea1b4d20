"""The CUDA source compiles for every GPU generation, and its threads live in registers alone."""

import ctypes
import importlib.util
import os
import re
from pathlib import Path

import pytest
import torch

import cuda_ops
from cuda_ops.cuda import THREADS, expression
from cuda_ops.launcher import OPTIONS

SOURCE = Path(cuda_ops.__file__).parent / "roll_kernel.cu"
F, D, H, B = torch.float32, torch.float64, torch.float16, torch.bfloat16
PAIRS = [(F, F), (D, D), (F, B), (F, H), (B, B), (H, H)]


def nvrtc(architecture: int) -> ctypes.CDLL:
    """A compiler library that knows the architecture: torch's own, or the test extra's CUDA 12.

    CUDA 13 has dropped the V100 (sm_70), for which a torch and a CuPy of CUDA 12 are made.
    """
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in spec.submodule_search_locations] if spec else []
    found = sorted((file for f in folders for file in f.rglob("libnvrtc.so.*")), reverse=True)
    for library in map(ctypes.CDLL, map(str, found)):
        if architecture in architectures(library):
            return library
    missing = f"none of {[file.name for file in found]} compiles for sm_{architecture}"
    assert not os.environ.get("CI"), missing
    return pytest.skip(missing)


def architectures(library: ctypes.CDLL) -> list[int]:
    count = ctypes.c_int()
    assert library.nvrtcGetNumSupportedArchs(ctypes.byref(count)) == 0
    numbers = (ctypes.c_int * count.value)()
    assert library.nvrtcGetSupportedArchs(numbers) == 0
    return list(numbers)


def compiled(architecture: int, names: list[str]) -> tuple[str, str]:
    """What ptxas says of the instances, and their PTX."""
    library, program = nvrtc(architecture), ctypes.c_void_p()
    source = SOURCE.read_bytes()
    library.nvrtcCreateProgram(ctypes.byref(program), source, b"roll_kernel.cu", 0, None, None)
    for name in names:
        assert library.nvrtcAddNameExpression(program, name.encode()) == 0
    # CuPy adds the second and the third itself.
    ours = (*OPTIONS, "-ftz=true", "--device-as-default-execution-space")
    flags = (*ours, f"-arch=sm_{architecture}", "--ptxas-options=-v")
    options = (ctypes.c_char_p * len(flags))(*[flag.encode() for flag in flags])
    failed = library.nvrtcCompileProgram(program, len(flags), options)
    log = text_of(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
    assert not failed, log
    ptx = text_of(library.nvrtcGetPTXSize, library.nvrtcGetPTX, program)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return log, ptx


def text_of(ask_size, ask_text, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    assert ask_size(program, ctypes.byref(size)) == 0
    text = ctypes.create_string_buffer(size.value)
    assert ask_text(program, text) == 0
    return text.value.decode()


def check(names: list[str], architecture: int, record_property) -> None:
    log, _ = compiled(architecture, names)
    frames = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill", log
    )
    found = re.findall(
        r"entry function '\w*?(roll_[a-z_]+?)I(\w+).*?Used (\d+) registers", log, re.S
    )
    assert len(found) >= len(names)
    assert len(frames) >= len(names)
    assert all(frame == ("0", "0", "0") for frame in frames), log
    for (
        name,
        types,
        count,
    ) in found:  # 128 let four blocks of 128 threads share a processor, 64 eight
        double = types.startswith("d")
        most = 255 if double else 64 if name == "roll_forward" else 128
        assert int(count) <= most, (name, types, count)
    seen = {name: max(int(n) for other, _, n in found if other == name) for name, *_ in found}
    report = ", ".join(f"{name} {count}" for name, count in sorted(seen.items()))
    record_property("registers", f"sm_{architecture}: {report}")


def instances_of_agi_net(*ways: str) -> list[str]:
    return [
        expression(f"roll_{way}", weight, other, sides, last, THREADS)
        for way in ways or ("forward", "backward")
        for weight, other in ((F, F), (F, B), (B, B))
        for sides in ((3, 3), (3, 3, 3))
        for last in (False, True)
    ]


@pytest.mark.parametrize("architecture", [70, 75, 80, 86, 89, 90, 100, 120])
def test_the_instances_of_agi_net_neither_spill_nor_use_local_memory(architecture, record_property):
    check([*instances_of_agi_net(), "roll_finish<float, 3>"], architecture, record_property)


@pytest.mark.parametrize(("way", "tensors"), [("forward", 1), ("backward", 2)])
def test_nine_loads_of_a_thread_are_on_their_way_together(way, tensors):
    """Of the weight, and backwards of the gradient: between two writes to shared memory."""
    for name in instances_of_agi_net(way):
        _, ptx = compiled(90, [name])
        runs = [part.count("ld.global") for part in ptx.split("st.shared")]
        assert sum(run >= 9 for run in runs) >= tensors, (name, runs)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [70, 75, 80, 86, 89, 90, 100, 120])
def test_no_instance_spills_or_uses_local_memory(architecture, record_property):
    names = [
        expression(f"roll_{way}", weight, other, sides, last, THREADS)
        for way in ("forward", "backward")
        for sides in ((3, 3), (1, 3, 3), (3, 3, 3), (5, 5), (5, 5, 5))
        for weight, other in PAIRS
        for last in (False, True)
    ]
    finish = [f"roll_finish<{kind}, {dim}>" for kind in ("float", "double") for dim in (2, 3)]
    check([*names, *finish], architecture, record_property)
