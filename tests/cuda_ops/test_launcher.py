"""CuPy's door, with CuPy and torch's GPU played by stand-ins that note what is asked of them."""

import errno
import os
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from cuda_ops import KernelError, launcher

IMPORTED_LIKE_CUPY = """
import os
folder = os.environ.get("CUPY_CACHE_DIR", os.path.expanduser("~/.cupy/kernel_cache"))
if not os.path.isdir(folder):
    os.makedirs(folder, exist_ok=True)
"""
TOO_OLD = RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
NO_NVRTC = RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: cannot open shared object")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A CuPy for CUDA 13 and a torch for CUDA 13.2; ``faults`` are raised by the next compilers."""
    notes = SimpleNamespace(devices=[], streams=[], launched=[], memory=[], faults=[], cuda=13020)

    class Module:
        def __init__(self, code, options, name_expressions):
            assert "roll_forward" in code
            notes.memory.append(os.environ.get("CUPY_CACHE_IN_MEMORY"))
            notes.devices.append(("compile", current[-1]))
            if notes.faults:
                raise notes.faults.pop(0)

        def get_function(self, name):
            return lambda grid, block, args: notes.launched.append((name, grid, current[-1]))

    @contextmanager
    def using(what):
        current.append(what)
        yield
        current.pop()

    current = [0]
    streams = SimpleNamespace(from_external=lambda s: notes.streams.append(s) or nullcontext())
    cupy = ModuleType("cupy")
    runtime = SimpleNamespace(runtimeGetVersion=lambda: notes.cuda)
    vars(cupy).update(
        __version__="14.2.0", RawModule=Module,
        cuda=SimpleNamespace(Stream=streams, runtime=runtime),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "device", lambda device: using(torch.device(device).index
                        if isinstance(device, str | torch.device) else device))  # fmt: skip
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(device.index))
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "0")
    launcher.compiled.cache_clear()
    launcher._known_to_cupy.cache_clear()
    yield notes
    launcher.compiled.cache_clear()
    launcher._known_to_cupy.cache_clear()


class Stream:
    """As torch's: equal where pointer and device are."""

    def __init__(self, index):
        self.index = index

    def __eq__(self, other):
        return self.index == other.index

    def __hash__(self):
        return self.index

    def __cuda_stream__(self):
        return (0, 0)


def on(device):
    return SimpleNamespace(device=torch.device(device), data_ptr=lambda: 4096)


def test_an_instance_is_compiled_once_and_launched_on_its_own_device_only(machine):
    for _ in range(3):
        launcher.launch("roll<float>", (2, 3, 4), 128, (on("cuda:1"), on("cuda:1")), (5,))
    assert machine.devices == [("compile", 1)]
    assert machine.launched == [("roll<float>", (2, 3, 4), 1)] * 3
    assert [stream.index for stream in machine.streams] == [1]


@pytest.mark.parametrize(
    ("cuda", "extra"),
    [("13.2", "'synth3d[gpu]'"), ("12.8", "'synth3d[gpu-cuda12]'"), ("14.1", "cupy-cuda14x")],
)
def test_a_missing_cupy_is_named_with_the_extra_that_fits_torch(monkeypatch, cuda, extra):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(KernelError, match="not installed") as found:
        launcher.load_cupy()
    assert f"pip install {extra}" in str(found.value)
    assert "CUDA_OPS_BACKEND=torch" in str(found.value)


def test_a_cupy_for_another_cuda_is_told_apart_and_replaced(machine, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    machine.faults = [TOO_OLD]
    with pytest.raises(KernelError, match="CuPy 14.2.0 is for CUDA 13, torch .* for CUDA 12") as e:
        launcher.compiled(0, "roll")
    assert "pip uninstall cupy-cuda13x and pip install 'synth3d[gpu-cuda12]'" in str(e.value)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (TOO_OLD, "driver is too old .* update the driver"),
        (NO_NVRTC, "could not compile .*libnvrtc.so.13.* pip install 'synth3d.gpu.'"),
        (RuntimeError(""), "could not compile the rolling kernel .RuntimeError."),
    ],
)
def test_what_hinders_compiling_is_one_sentence(machine, fault, said):
    machine.faults = [fault]
    with pytest.raises(KernelError, match=said) as found:
        launcher.compiled(0, "roll")
    assert "\n" not in str(found.value)
    assert "CUPY_CACHE_DIR" not in str(found.value)
    assert launcher.compiled(0, "roll")  # a failure is not kept


def test_a_disk_that_fills_up_does_not_stop_training(machine):
    full = OSError(errno.ENOSPC, "No space left on device")
    machine.faults = [full]
    assert launcher.compiled(0, "roll")
    assert machine.memory == ["0", "1"]
    machine.faults = [full, full]
    with pytest.raises(KernelError, match="cannot keep what it compiles .* set CUPY_CACHE_DIR"):
        launcher.compiled(0, "other")


def test_a_torch_that_is_not_built_for_cuda_has_no_fused_kernel(machine, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(KernelError, match="needs an NVIDIA GPU"):
        launcher.compiled(0, "roll")


def test_memory_that_gives_out_is_no_fault_of_the_kernel(machine):
    machine.faults = [MemoryError("9 GB")]
    with pytest.raises(MemoryError):
        launcher.compiled(0, "roll")


@pytest.fixture
def importable(monkeypatch, tmp_path):
    """A CuPy that makes its folder when it is imported, as the real one does."""
    (tmp_path / "cupy.py").write_text(IMPORTED_LIKE_CUPY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "0")
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield tmp_path
    sys.modules.pop("cupy", None)


def test_compiled_kernels_are_kept_in_the_home_folder(importable):
    launcher.load_cupy()
    assert os.environ["CUPY_CACHE_IN_MEMORY"] == "0"
    assert not [*(importable / "home" / ".cupy" / "kernel_cache").iterdir()]


@pytest.mark.parametrize("trouble", ["no home", "a file in its place", "full", "theirs is bad"])
def test_without_a_folder_that_can_be_written_kernels_stay_in_memory(
    importable, monkeypatch, trouble
):
    given = None
    if trouble == "no home":
        monkeypatch.setenv("HOME", "/proc/nohome")
    elif trouble == "a file in its place":
        (importable / "home").write_text("")
    elif trouble == "full":
        monkeypatch.setattr(os, "fsync", refuse)
    else:
        given = "/proc/nowhere"
        monkeypatch.setenv("CUPY_CACHE_DIR", given)
    assert launcher.load_cupy()
    assert os.environ["CUPY_CACHE_IN_MEMORY"] == "1"
    assert os.environ.get("CUPY_CACHE_DIR") == given
    assert not [*Path(launcher.__file__).parent.glob("*.cubin")]


def refuse(file):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_cupy_that_does_not_load_is_told_with_its_first_line(importable):
    text = "raise ImportError('\\n====\\nlibcublas.so.13: cannot open shared object\\nmore')"
    (importable / "cupy.py").write_text(text)
    with pytest.raises(KernelError, match=r"cannot load CuPy .libcublas.*; pip install") as found:
        launcher.load_cupy()
    assert "\n" not in str(found.value)
