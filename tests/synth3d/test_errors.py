"""How a command line ends: what gives out is one sentence with what to do, a bug stays a bug."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from cuda_ops import KernelError
from synth3d.errors import InputError, run_guarded, visible

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


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (InputError("bad"), 2, "error: bad\n"),
        (InputError("x\nerror: forged \x1b[2J"), 2, "error: x\\nerror: forged \\x1b[2J\n"),
        (OSError(28, "No space left on device"), 2, "No space left"),
        (RecursionError(), 2, "nested too deeply"),
        (KeyboardInterrupt(), 130, "goes on where it stopped"),
        (BrokenPipeError(), 2, ""),
    ],
)  # fmt: skip
def test_every_end_has_its_code_and_one_line(capfd, error, code, part):
    def command(_):
        raise error

    assert run_guarded(command, None) == code
    said = capfd.readouterr().err
    assert part in said
    assert said.count("\n") == bool(part)


PROGRAM = """
from synth3d.errors import run_guarded
def command(_):
    print("64\\u00b3 of \\udcff\\ud800")
    for _ in range(20000): print("line")
    return 0
raise SystemExit(run_guarded(command, None))
"""


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("PYTHONIOENCODING=ascii {} > /dev/null", 0),
        ("PYTHONIOENCODING=utf-8:strict LC_ALL=C {} > /dev/null", 0),
        ("{} >&-", 0),
        ("{} 2>&-", 0),
        ("{} >&- 2>&- <&-", 0),
        ("set -o pipefail; {} | head -1", 2),
    ],
)
def test_any_encoding_closed_streams_and_a_reader_that_leaves(tmp_path, shell, code):
    (tmp_path / "program.py").write_text(PROGRAM)
    line = shell.format(f"{sys.executable} {tmp_path / 'program.py'}")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stderr) == (code, "")


def test_what_a_terminal_would_obey_is_shown_instead():
    assert visible("\x1b]0;x\x07\r\n\u202e\u2028\udcff") == (r"\x1b]0;x\x07\r\n\u202e\u2028\udcff")
    assert visible("Größe 64³ | 脳") == "Größe 64³ | 脳"
