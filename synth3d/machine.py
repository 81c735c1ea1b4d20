"""This machine: its device, its precisions, its memory, its versions."""

import contextlib
import os
import platform
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
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
        with torch.cuda.device(device):  # it asks the current one
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def suited(precision: str, device: Any) -> str:
    """``precision``, or ``fp32`` where ``bf16`` would be emulated."""
    return "fp32" if precision == "bf16" and not has_bfloat16(device) else precision


def refuse_depth(depths: Collection[int], patch: Sequence[int]) -> None:
    """Refuse grids that are two voxels deep, for 3-D training in bfloat16 on a CPU.

    torch 2.15's gradient of a 3-D convolution's weights is garbage there, large and finite: of a
    depth of 2, exactly, in bfloat16 alone.

    Raises:
        InputError: A grid is.
    """
    if 2 in depths:
        raise InputError(
            f"patches {tuple(patch)} (z, y, x) end in a grid two voxels deep, for which torch has "
            "wrong gradients in bfloat16 on a CPU; use a deeper --patch, fewer --widths or "
            "--precision fp32"
        )


def pick_device(name: str) -> str:
    """``auto`` becomes cuda where there is one that works; a device that cannot be used is refused.

    Where ``auto`` leaves a GPU alone because this torch has no code for it, it says so.
    """
    import torch

    if name == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        if useless := why_no_code("cuda"):
            print(f"note: {useless}; all is done on the CPU", file=sys.stderr)
        return "cpu" if useless else "cuda"
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
    if device.type == "cuda" and (useless := why_no_code(device)):
        raise InputError(f"--device {name}: {useless}, or use --device cpu")
    return str(device)


def why_no_code(device: Any) -> str:
    """Why nothing would run on a CUDA device: torch was built for others. Empty if it would run."""
    import torch

    built_for = torch.cuda.get_arch_list()
    if torch.version.cuda is None or not built_for:  # AMD's are named otherwise, or nobody tells
        return ""
    own = torch.cuda.get_device_capability(device)
    if any(_runs_on(own, code) for code in built_for):
        return ""
    what = f"{torch.cuda.get_device_name(device)} (compute capability {own[0]}.{own[1]})"
    return f"torch {torch.__version__} has no code for {what}; install a torch that has"


def _runs_on(own: tuple[int, int], code: str) -> bool:
    """``sm_80`` runs on 8.0 and what came after it of 8, ``sm_90a`` on 9.0 alone, ``compute_90``,
    which the driver compiles, on 9.0 and all that came after it.
    """
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", code)
    if found is None:
        return False
    least = int(found[2]), int(found[3])
    if found[4] == "a":
        return own == least
    return own >= least and (found[1] == "compute" or own[0] == least[0])


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


def use_device(name: Any) -> Any:
    """``torch.device(name)``, where an indexed CUDA device becomes the current one of this thread.

    What asks for CUDA without a number would else open a context on GPU 0, some 400 MB, and fail
    where that GPU is full.
    """
    import torch

    device = torch.device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def gpu_bytes(device: str) -> int:
    """All memory of a GPU, free or not: so that the same command means the same tomorrow."""
    import torch

    return torch.cuda.get_device_properties(device).total_memory


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


def environment(device: Any = "cpu") -> dict[str, Any]:
    """Versions, machine, device and command line, for the record."""
    import torch

    libraries = versions() | {name: version(name) for name in ("torchio", "numpy", "nibabel")}
    return {
        "python": libraries.pop("python"),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "device": device_facts(device),
        "libraries": libraries,
        "command": sys.argv,
    }


def device_facts(device: Any) -> dict[str, Any]:
    """The device that computes, as far as it may change numbers.

    ``rolling`` says how AGI-Net's kernels were rolled so far, and why not by the fused kernel;
    on CUDA there are also the GPU, the driver, CUDA, cuDNN and where TF32 takes the place of
    float32.
    """
    import torch

    from cuda_ops import rolling_backend

    device = torch.device(device)
    facts: dict[str, Any] = {"name": str(device), "rolling": rolling_backend(device)}
    if device.type != "cuda":
        return facts
    return facts | {
        "gpu": torch.cuda.get_device_name(device),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": tf32(device),
    }


def tf32(device: Any) -> dict[str, bool]:
    """Whether float32 ``convolutions`` and ``matmuls`` on a CUDA device keep 10 bits of 23.

    Torch's defaults are yes and no; GPUs before Ampere never do.
    """
    import torch

    able = torch.cuda.get_device_capability(device) >= (8, 0)
    return {
        "convolutions": able and bool(torch.backends.cudnn.allow_tf32),
        "matmuls": able and bool(torch.backends.cuda.matmul.allow_tf32),
    }


def _driver() -> str | None:
    """The version of NVIDIA's driver; None where Linux does not tell."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text("utf-8")
    except OSError:
        return None
    found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", text)
    return found[1] if found else None


def peak_memory_mb(device: str = "cpu") -> dict[str, int]:
    """The process's largest resident memory so far, and the GPU's if one is used, in MiB."""
    import resource

    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if device.startswith("cuda"):
        import torch

        peak["gpu"] = torch.cuda.max_memory_allocated(device) // 2**20
    return peak


TIMED, ENOUGH_S = 5, 6.0
"""Calls that are timed at most, and seconds after which no further one is."""


def seconds_of(work: Callable[[], object]) -> list[float]:
    """Seconds of each of up to five calls, of one where that takes seconds.

    What else runs on the machine makes calls slower and none faster: the fastest tells most.
    """
    took: list[float] = []
    while not took or (len(took) < TIMED and sum(took) + min(took) < ENOUGH_S):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return took


def busy_in_words() -> str:
    """That this machine has more to do than it has cores, and how much; else empty."""
    own = getattr(os, "sched_getaffinity", None)
    cores = len(own(0)) if own else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < cores + 0.5:
        return ""
    return f"this machine is busy now (load {load:.0f} on {cores} cores), so it may take less"


def free_bytes(path: Path) -> int:
    """What the disk has room for on which ``path`` is, or would be."""
    there = next(each for each in (path, *path.resolve().parents) if each.exists())
    return shutil.disk_usage(there).free
