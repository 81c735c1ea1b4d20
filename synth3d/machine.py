"""This machine: its device, its precisions, its memory, its versions."""

import contextlib
import os
import platform
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from synth3d import __version__
from synth3d.errors import InputError


def has_bfloat16(device: Any) -> bool:
    """Whether ``device`` computes in bfloat16 rather than emulating it.

    A CPU that has not at least AVX-512 convolves bfloat16 in a plain loop: 85 times slower than
    float32 on an AMD Milan (ResUNet 16-128, tiles of 48³).
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def suited(precision: str, device: Any) -> str:
    """``precision``, or ``fp32`` where ``bf16`` would be emulated."""
    return "fp32" if precision == "bf16" and not has_bfloat16(device) else precision


def pick_device(name: str) -> str:
    """``auto`` becomes cuda where there is one; a device that is not there is refused."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"--device {name}: this machine has no usable CUDA device; use --device cpu"
        )
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices")
    return str(device)


_TUNED: list[bool] = []
"""What cuDNN's flag was before each of the blocks of :func:`tuned` that are open."""
_TUNING = threading.Lock()


@contextlib.contextmanager
def tuned(device: Any) -> Iterator[None]:
    """In the block cuDNN times its algorithms for each new shape and takes the fastest.

    ``device`` is torch's current one there, so that nothing is put on the first GPU unasked. Both
    are as they were after the last of several blocks at once; nothing is changed for a CPU.
    """
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with _TUNING:
        _TUNED.append(cudnn.benchmark)
        cudnn.benchmark = True
    try:
        with torch.cuda.device(device):
            yield
    finally:
        with _TUNING:
            before = _TUNED.pop()
            if not _TUNED:  # in whichever order threads leave, this is what the first one found
                cudnn.benchmark = before


def keep_memory() -> None:
    """Tell glibc to keep freed blocks: large tensors are then not paged in anew each step.

    Measured at 15 % of a training step; called by command lines only, never at import.
    """
    import ctypes

    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-2, 256 << 20)  # M_TOP_PAD
    except (OSError, AttributeError):
        return  # not glibc: slower, nothing else


def versions() -> dict[str, str]:
    """What made the pictures."""
    import torch

    python = platform.python_version()
    return {"synth3d": __version__, "torch": torch.__version__, "python": python}


def environment() -> dict[str, Any]:
    """Versions, machine and command line, for the record."""
    import torch

    libraries = versions() | {name: version(name) for name in ("torchio", "numpy", "nibabel")}
    return {
        "python": libraries.pop("python"),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "libraries": libraries,
        "command": sys.argv,
    }


def peak_memory_mb(device: str = "cpu") -> dict[str, int]:
    """The process's largest resident memory so far, and the GPU's if one is used, in MiB."""
    import resource

    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if device.startswith("cuda"):
        import torch

        peak["gpu"] = torch.cuda.max_memory_allocated(device) // 2**20
    return peak
