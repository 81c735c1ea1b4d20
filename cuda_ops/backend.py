"""Which form rolls CUDA tensors: the fused kernel, or torch's where that cannot be had.

The environment variable ``CUDA_OPS_BACKEND`` says ``auto`` (the default), ``cupy`` or ``torch``.
"""

import os
import threading
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from cuda_ops.errors import KernelError
from cuda_ops.products import is_channels_last

BACKENDS = ("torch", "cupy", "auto")

_TRYING = threading.RLock()
_PROVED: set[tuple[Any, ...]] = set()
"""Instances of the fused kernel that may be used: the arguments of :func:`cuda_ops.cuda.prove`."""
_REFUSED: dict[int, str] = {}
"""GPU → why the fused kernel is not used there; it is then not tried again in this process."""


def chosen_backend() -> str:
    """``CUDA_OPS_BACKEND``; a ValueError if it has no such value."""
    backend = os.environ.get("CUDA_OPS_BACKEND", "auto")
    if backend not in BACKENDS:
        raise ValueError(f"CUDA_OPS_BACKEND must be one of {BACKENDS}, got {backend!r}")
    return backend


def uses_fused(weight: Tensor, other: torch.dtype) -> bool:
    """Whether the fused kernel rolls ``weight``, on CUDA, into ``other``.

    ``torch`` never does, ``cupy`` always. With ``auto`` the first call for an instance of the
    kernel compiles and proves it; if that fails, torch's form is used on this device from then on,
    and the first failure of a process is a RuntimeWarning. Nothing is tried while a CUDA graph is
    captured: what has not been proved before is rolled in torch's form there.
    """
    backend = chosen_backend()
    if backend != "auto":
        return backend == "cupy"
    device = weight.device
    if device.index in _REFUSED:
        return False
    sides, last = tuple(weight.shape[2:]), is_channels_last(weight)
    instance = (device, weight.dtype, other, sides, last)
    if instance in _PROVED:
        return True
    if torch.cuda.is_current_stream_capturing():
        return False
    with _TRYING:
        if instance not in _PROVED and device.index not in _REFUSED:
            _try(*instance)
    return instance in _PROVED


def _try(device: torch.device, *instance: Any) -> None:
    from cuda_ops import cuda  # reached only with CUDA tensors

    try:
        cuda.prove(device, *instance)
    except KernelError as error:
        first = not _REFUSED
        _REFUSED[device.index] = str(error)
        if first:
            said = f"kernels are rolled in plain torch on {device}: {error}"
            warnings.warn(said, RuntimeWarning, stacklevel=4)
    else:
        _PROVED.add((device, *instance))


def is_refused(device: torch.device) -> bool:
    """Whether ``device`` rolls in torch's form, as far as is known without a trial."""
    backend = chosen_backend()
    return backend == "torch" or (backend == "auto" and device.index in _REFUSED)


def may_try(weight: Tensor) -> bool:
    """Whether ``weight`` holds numbers: no tracer's stand-in, of which only the shape is known."""
    return type(weight) in (Tensor, nn.Parameter)


def rolling_backend(device: torch.device | str) -> str:
    """How kernels have been rolled on ``device`` in this process, for the record.

    ``torch``, on CUDA followed by the reason; ``fused``; or ``nothing rolled``.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return "torch"
    backend = chosen_backend()
    if backend != "auto":
        return "fused" if backend == "cupy" else "torch: CUDA_OPS_BACKEND=torch"
    index = torch.cuda.current_device() if device.index is None else device.index
    if index in _REFUSED:
        return f"torch: {_REFUSED[index]}"
    proved = any(instance[0].index == index for instance in _PROVED)
    return "fused" if proved else "nothing rolled"
