"""The one door of CuPy: loads it, compiles instances of ``roll_kernel.cu``, launches them.

Launches go to torch's current stream of the tensors' own device and touch no other GPU. CuPy keeps
what it compiles on disk for the next process; where it cannot write, it compiles in memory anew.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cuda_ops.errors import KernelError

SOURCE = Path(__file__).with_name("roll_kernel.cu")
OPTIONS = ("-std=c++17",)
EXTRAS = {"12": "gpu-cuda12", "13": "gpu"}
"""The extra with the CuPy for each major version of CUDA that torch may be built for."""
WITHOUT = "or set CUDA_OPS_BACKEND=torch"
ROOM = 1 << 20
"""Bytes that must fit into CuPy's folder: several instances of the kernel."""


def launch(
    name: str,
    grid: tuple[int, int, int],
    threads: int,
    tensors: tuple[Tensor, ...],
    numbers: tuple[int, ...],
) -> None:
    """Launch one instance; its arguments are the tensors' addresses and then the numbers.

    Raises:
        KernelError: As :func:`compiled`.
    """
    device = tensors[0].device
    kernel = compiled(device.index, name)
    addresses = [np.uintp(tensor.data_ptr()) for tensor in tensors]
    # CuPy's own context for a device would restore GPU 0 behind it, and so open a context there.
    with torch.cuda.device(device), _known_to_cupy(torch.cuda.current_stream(device)):
        kernel(grid, (threads, 1, 1), (*addresses, *[np.int32(number) for number in numbers]))


@cache
def compiled(device: int, name: str) -> Any:
    """The kernel of one C++ name, ready on one GPU; made once in a process.

    Raises:
        KernelError: CuPy is missing, or it, the driver or the disk does not do; says what to do.
    """
    if torch.version.cuda is None:
        raise KernelError(
            f"the fused rolling kernel needs an NVIDIA GPU and a torch built for CUDA, got torch "
            f"{torch.__version__}; install such a torch, {WITHOUT}"
        )
    cupy = load_cupy()
    try:
        with torch.cuda.device(device):
            try:
                return _built(cupy, name)
            except OSError:  # the disk is full, or has become read-only
                os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
                return _built(cupy, name)
    except MemoryError:
        raise
    except Exception as error:
        raise KernelError(f"{_what_fails(cupy, error)}, {WITHOUT}") from error


def _built(cupy: Any, name: str) -> Any:
    code = SOURCE.read_text("utf-8")
    module = cupy.RawModule(code=code, options=OPTIONS, name_expressions=(name,))
    return module.get_function(name)


def load_cupy() -> Any:
    """The CuPy module.

    Raises:
        KernelError: It is not installed or does not load; says what to do.
    """
    try:
        with _writable_cache():
            import cupy  # pyright: ignore[reportMissingImports]
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            said = f"needs CuPy, which is not installed; {remedy()}"
        elif isinstance(error, OSError) and error.errno:
            said = f"cannot load CuPy ({_first_line(error)}); {ELSEWHERE}"
        else:
            said = f"cannot load CuPy ({_first_line(error)}); {remedy()}"
        raise KernelError(f"the fused rolling kernel {said}, {WITHOUT}") from error
    return cupy


ELSEWHERE = "set CUPY_CACHE_DIR to a folder that can be written and has room"


def extra() -> str:
    """The extra of this package with the CuPy for torch's CUDA; empty where there is none."""
    return EXTRAS.get((torch.version.cuda or "").split(".")[0], "")


def remedy() -> str:
    """What installs the CuPy that fits torch's CUDA: ``pip install 'synth3d[gpu]'``."""
    major = (torch.version.cuda or "13").split(".")[0]
    what = f"'synth3d[{EXTRAS[major]}]'" if major in EXTRAS else f"cupy-cuda{major}x"
    return f"pip install {what}"


def _what_fails(cupy: Any, error: Exception) -> str:
    """Whose fault it is that nothing could be compiled, and what to do."""
    said, version = _first_line(error), cupy.__version__
    if isinstance(error, OSError) and error.errno:
        return f"CuPy {version} cannot keep what it compiles ({said}); {ELSEWHERE}"
    theirs, ours = _cuda_of(cupy), (torch.version.cuda or "").split(".")[0]
    if theirs not in ("", ours):
        return (
            f"CuPy {version} is for CUDA {theirs}, torch {torch.__version__} for CUDA {ours} "
            f"({said}); pip uninstall cupy-cuda{theirs}x and {remedy()}"
        )
    if "InsufficientDriver" in said:
        return (
            f"the NVIDIA driver is too old for CuPy {version}, which is for CUDA {theirs} ({said})"
            "; update the driver"
        )
    return f"CuPy {version} could not compile the rolling kernel ({said}); {remedy()} anew"


def _cuda_of(cupy: Any) -> str:
    """The major version of CUDA that CuPy is built for; empty where it does not tell."""
    try:
        return str(cupy.cuda.runtime.runtimeGetVersion() // 1000)
    except Exception:
        return ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip("=\n ").splitlines()), type(error).__name__)


@contextmanager
def _writable_cache() -> Iterator[None]:
    """Let CuPy be imported where the folder of its compiled kernels cannot be written.

    It makes that folder when it is imported. Elsewhere it is shown one that is there, and compiles
    in memory, so that nothing is written to it.
    """
    given = os.environ.get("CUPY_CACHE_DIR")
    home = os.path.expanduser("~/.cupy/kernel_cache")  # noqa: PTH111 - Path's raises without a home
    if "cupy" in sys.modules or _has_room(home if given is None else given):
        yield
        return
    os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
    os.environ["CUPY_CACHE_DIR"] = str(SOURCE.parent)
    try:
        yield
    finally:
        if given is None:
            del os.environ["CUPY_CACHE_DIR"]
        else:
            os.environ["CUPY_CACHE_DIR"] = given


def _has_room(folder: str) -> bool:
    """Whether files can be written there, tried by writing one."""
    try:
        Path(folder or os.devnull).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


@lru_cache(maxsize=256)
def _known_to_cupy(stream: torch.cuda.Stream) -> Any:
    """CuPy's handle of torch's stream: a context in which CuPy launches there."""
    cupy = load_cupy()
    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream, stream.device_index)  # CuPy 13, older torch
