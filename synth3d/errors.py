"""What a user is told of, and how a command line ends."""

import contextlib
import errno
import os
import re
import signal
import sys
import traceback
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from synth3d.console import speaking

T = TypeVar("T")

LESS_ON_GPU = (
    "take a smaller --batch or --patch, in training also smaller --widths or "
    "--set model.checkpoint_routing=true, or set PYTORCH_ALLOC_CONF=expandable_segments:True"
)
LESS = "take a smaller --batch or --patch, or end what else runs here"
FEWER_WORKERS = "run the container with --ipc=host or --shm-size=8g, or give --set data.workers=0"


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence for that user.

    Command lines print it without a traceback and end with exit code 2.
    """


def lacks_memory(error: BaseException) -> bool:
    """Whether a GPU or the machine had not the memory: torch's own error, or what cuDNN, cuBLAS,
    the driver or the allocator say. Known by name and words, since torch is not imported for it.
    """
    if isinstance(error, MemoryError):
        return True
    kinds, low = {kind.__name__ for kind in type(error).__mro__}, str(error).lower()
    words = "out of memory|can't allocate memory|_alloc_failed|allocation_failed"
    return "OutOfMemoryError" in kinds or re.search(words, low) is not None


def what_gave_out(error: BaseException, doing: str = "the command", hint: str = "") -> str:
    """Memory, disk, a worker process or the fused kernel, in one sentence; empty for all else.

    Args:
        error: Known by name and words, since torch is not imported for it.
        doing: What was done meanwhile: ``training nnU-Net``.
        hint: What the user may do about memory; by default about the flags of ``synth3d``.
    """
    said, kinds = str(error), {kind.__name__ for kind in type(error).__mro__}
    low = said.lower()
    if "KernelError" in kinds:
        return said
    shared = "shared memory" in low or "unable to write to file </torch_" in low
    if shared and isinstance(error, RuntimeError) and "worker (pid" not in said:
        return f"shared memory is full (while {doing}): {FEWER_WORKERS}"
    if "DataLoader worker (pid" in said:
        found = re.search(r"signal: ([\w ]+)", f"{said} {error.__cause__}")
        how = f" ({found[1]})" if found else ""
        died = f"a process that draws patches was ended from outside{how}"
        return f"{died}, mostly for want of shared memory: {FEWER_WORKERS}"
    if "too many open files" in low:
        return f"{doing} opens more files than it may; raise ulimit -n, or take fewer workers"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "PytorchStreamWriter failed" in said or "No space left" in said:
        return f"the disk is full (while {doing}); free some space and give the same command again"
    if lacks_memory(error):
        on_gpu = "OutOfMemoryError" in kinds or re.search("cuda|cudnn|cublas", low)
        amount = re.search(r"(tried|unable) to allocate [\d.]+ ?\w+", low)
        much = f" ({amount[0]})" if amount else ""
        where = "the GPU has" if on_gpu else "this machine has"
        remedy = hint or (LESS_ON_GPU if on_gpu else LESS)
        return f"{doing} needs more memory than {where} free{much}: {remedy}"
    if "background workers" in low:
        died = f"a worker process of nnU-Net died while {doing}, mostly for want of memory"
        return f"{died}: use fewer workers, or a container with --ipc=host or --shm-size=8g"
    return ""


def visible(text: str) -> str:
    r"""``text`` in one line that a terminal only shows: control characters become ``\x1b``.

    So do line ends, marks that turn the direction of writing, and bytes that are no text.
    """
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        one.encode("unicode_escape").decode() if unicodedata.category(one) in hidden else one
        for one in text
    )


def _open_streams() -> None:
    """Let anything be printed: what an encoding lacks as ``\\xb3``, to nowhere if closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # else the next file would be taken for a closed stream, and printed into
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, Path(os.devnull).open("w", errors="replace"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)


def run_guarded(command: Callable[[T], int], args: T) -> int:
    """``command(args)`` for a command line; its exit code.

    A mistake of the user, a file system that refuses, memory or a worker that gives out, or a GPU
    whose fused kernel was insisted on in vain is told in one sentence on standard error: exit code
    2. An interruption is 130. All of it is told as ``manner`` and ``words`` of ``args`` say, if
    there are such: how, and by which command (:func:`synth3d.console.speaking`).
    """
    # Idle OpenMP threads that spin would slow whatever shares the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _open_streams()
    with speaking(getattr(args, "manner", "words"), getattr(args, "words", "")) as end:
        code = _code_of(command, args)
        end(code)
    return code


def _code_of(command: Callable[[T], int], args: T) -> int:
    try:
        return command(args)
    except BrokenPipeError:
        # Whoever read us is gone, and what Python still holds would be one more broken pipe.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except (InputError, OSError) as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    except RecursionError:
        print("error: a file that was given is nested too deeply to be read", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not (sentence := what_gave_out(error)):
            raise
        print(f"error: {visible(sentence)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, lambda *_: None)  # one is enough: no traceback at the end
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def run_one_of_several(command: Callable[[T], int], args: T) -> NoReturn:
    """As :func:`run_guarded`, in one of several processes that are one training, which ends here.

    Python's own end is left out: a thread of torch's that lets go of a tensor meanwhile would abort
    the process, and the whole training would count as failed.
    """
    # A process that is gone is told in a sentence of ours, not in torch's stack traces.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        code = run_guarded(command, args)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 2
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
