"""How a command line ends: what gives out is one sentence with what to do, a bug stays a bug."""

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from cuda_ops import KernelError
from synth3d.errors import InputError, run_guarded

CPU_ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:133] . DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 91000000000 bytes. Error code 12 (Cannot allocate memory)\nC++ frames:\n"
)
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.66 GiB"


def ended(error, capsys):
    def command(_):
        raise error

    code = run_guarded(command, None)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("no such case"), ["no such case"]),
        (FileNotFoundError(2, "No such file", "x.nii"), ["x.nii"]),
        (KernelError("needs CuPy; pip install it"), ["needs CuPy; pip install it"]),
        (torch.OutOfMemoryError(CUDA), ["GPU", "2.00 gib", "--patch", "--batch", "--widths",
            "model.checkpoint_routing=true", "PYTORCH_ALLOC_CONF=expandable_segments:True"]),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), ["GPU", "--patch"]),
        (RuntimeError(CPU_ALLOCATOR), ["this machine", "91000000000 bytes", "--patch", "--batch"]),
        (MemoryError("Unable to allocate 9.3 GiB for an array"), ["this machine", "9.3 gib"]),
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"),
            ["--ipc=host", "--shm-size=8g", "data.workers=0"]),
        (RuntimeError("unable to write to file </torch_81_2>: No space left on device (28)"),
            ["shared memory", "--shm-size=8g", "data.workers=0"]),
        (RuntimeError("PytorchStreamWriter failed writing file data/3"), ["disk is full"]),
    ],
)  # fmt: skip
def test_it_ends_with_one_sentence_that_says_what_to_do(error, words, capsys):
    code, said = ended(error, capsys)
    assert code == 2
    assert (said.count("\n"), said[:7]) == (1, "error: ")
    assert not [word for word in words if word not in said]


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), KeyError("x"), ValueError("x")])
def test_a_bug_keeps_its_traceback(error, capsys):
    with pytest.raises(type(error)) as found:
        ended(error, capsys)
    assert found.value is error


class Killed(Dataset):
    """A data set at which the process that reads it is ended."""

    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), self.how)


@pytest.mark.parametrize(
    ("how", "name"), [(signal.SIGBUS, "Bus error"), (signal.SIGKILL, "Killed")]
)
def test_a_worker_that_is_ended_from_outside_names_shared_memory(how, name, capsys):
    """SIGBUS is a full /dev/shm, as in a container; SIGKILL is the kernel's want of memory."""

    def command(_):
        return len(list(DataLoader(Killed(how), num_workers=1)))

    assert run_guarded(command, None) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"({name})" in said
    assert "--ipc=host" in said


def test_memory_that_is_refused_for_real_is_told(capsys):
    assert run_guarded(lambda _: len(torch.empty(2**50, dtype=torch.float64)), None) == 2
    assert "needs more memory than this machine has free" in capsys.readouterr().err
