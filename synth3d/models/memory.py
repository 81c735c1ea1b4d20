"""How much memory a network's training step keeps, and how much there is."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
SHARE = 0.5
"""Of the free memory, what the kept activations may take; gradients and buffers need the rest."""


def saved_bytes(
    network: nn.Module, shape: Sequence[int], device: str = "cpu", timed: bool = False
) -> int:
    """Bytes of activations that one training step keeps for the backward.

    Counted with fake tensors, without computing anything, but as ``device`` would do it; under
    autocast, if that is on. Tensors that share memory count once; parameters do not count.

    ``shape`` (B, C, \\*S) is of the input, taken as channels-last; ``timed`` says whether the
    network is told a time.
    """
    kept: dict[int, torch.UntypedStorage] = {}
    own: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with FakeTensorMode():
        ghosts = {}
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            ghost = torch.empty(value.shape, dtype=value.dtype, device=device)
            layout = LAST.get(value.ndim, torch.contiguous_format)
            ghosts[name] = ghost.contiguous(memory_format=layout)
            ghosts[name].requires_grad_(value.requires_grad)
            own.add(ghosts[name].untyped_storage()._cdata)
        x = torch.empty(tuple(shape), device=device)
        x = x.contiguous(memory_format=LAST.get(x.ndim, torch.contiguous_format))
        told = {"time": torch.empty(shape[0], device=device)} if timed else {}
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            functional_call(network, ghosts, (x,), told)
        return sum(storage.nbytes() for storage in kept.values())


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process can still have on ``device``; None where nobody tells.

    On the CPU what the kernel calls available, or what is left to the process's control group if
    that is less.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return None
    known = [left for left in (_machine_bytes(), *_group_bytes()) if left is not None]
    return min(known, default=None)


def _machine_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return 1024 * int(line.split()[1])
    return None


def _group_bytes() -> Iterator[int]:
    folder = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            yield int((folder / limit).read_text()) - int((folder / used).read_text())


def needs_recomputing(network: nn.Module, x: Tensor, bound: float, timed: bool = False) -> bool:
    """Whether a training step on ``x`` keeps more than its share of the free memory.

    ``network`` is as it would keep everything. Of ``x`` (B, C, \\*S) shape and device are read.
    Where even ``bound`` bytes per voxel are there, of which it surely keeps less, the second that
    an exact count takes is saved.
    """
    free = free_bytes(x.device)
    if free is None or bound * x[:, 0].numel() <= SHARE * free:
        return False
    return saved_bytes(network, x.shape, x.device.type, timed) > SHARE * free
