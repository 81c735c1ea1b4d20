"""What nnU-Net wants around it while it works: variables, threads, chance, chatter."""

import contextlib
import importlib.util
import logging
import os
import random
import re
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeVar

import nnunet_plans
from synth3d.errors import InputError, what_gave_out
from synth3d.files import atomic_path, make_folder, progress
from synth3d.machine import why_no_code

T = TypeVar("T")
TRAINERS = Path(nnunet_plans.__file__).parent
WHERE_TRAINERS = "nnUNet_extTrainer"
END_OTHERS = "end what else needs memory on this machine"
_SCREEN: list[TextIO] = []
"""The standard error that was there before nnU-Net's went to a file; the innermost last."""


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """``os.environ`` with ``variables`` set, as it was afterwards."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextlib.contextmanager
def nnunet_environment(
    threads: int,
    log: Path | None = None,
    folders: Mapping[str, Path] | None = None,
    workers: int = 1,
    compiled: bool = False,
    seed: int = 0,
) -> Iterator[None]:
    """nnU-Net's variables, threads, randomness, warnings and printing; all put back afterwards.

    Trainers are looked for here and then where ``nnUNet_extTrainer`` pointed before.

    Args:
        threads: Of torch. nnU-Net's own variable for it is read once, when it is first imported,
            and only ever limits torch's; so it gets the number of processors.
        log: What nnU-Net prints and warns is appended here; without a file it is dropped.
        folders: Of ``raw``, ``preprocessed`` and ``results``.
        workers: Augmentation processes; 0 works in this process but breaks planning.
        compiled: Let nnU-Net compile the network; never on a CPU.
        seed: For the global random generators, from which nnU-Net draws.
    """
    import torch

    variables = {f"nnUNet_{name}": str(path) for name, path in (folders or {}).items()} | {
        WHERE_TRAINERS: trainer_folders(),
        "nnUNet_def_n_proc": str(os.cpu_count() or 1),
        "nnUNet_n_proc_DA": str(workers),
        "nnUNet_compile": "t" if compiled else "f",
        "nnUNet_wandb_enabled": "0",
    }
    before = torch.get_num_threads()
    with environment(variables), _chatter_to(log), _own_randomness(seed):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def trainer_folders() -> str:
    """``nnUNet_extTrainer`` with our trainers first and the user's own after them."""
    users = os.environ.get(WHERE_TRAINERS, "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([str(TRAINERS), *filter(None, users)]))


@contextlib.contextmanager
def _chatter_to(log: Path | None) -> Iterator[None]:
    """Prints, bars, warnings and log records go to ``log``; :func:`shown` still gets through."""
    if log is not None:
        make_folder(log.parent)
    _SCREEN.append(_SCREEN[-1] if _SCREEN else sys.stderr)
    streams = {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}
    try:
        with (
            (log or Path(os.devnull)).open("a", encoding="utf-8", buffering=1) as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
            _records_to(file, streams),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("default")
            warnings.showwarning = partial(_write_warning, file)
            yield
    finally:
        _SCREEN.pop()


@contextlib.contextmanager
def _records_to(file: TextIO, screens: set[Any]) -> Iterator[None]:
    """Log handlers that print on one of ``screens`` write to ``file`` for the block.

    Handlers made in the block, by an import for instance, print on the screen afterwards.
    """
    before = {handler: handler.stream for handler in _handlers() if handler.stream in screens}
    for handler in before:
        handler.setStream(file)
    try:
        yield
    finally:
        for handler in _handlers():
            if handler.stream is file:
                handler.setStream(before.get(handler, _SCREEN[-1]))


def _handlers() -> list[Any]:
    """All handlers of all loggers that write to a stream."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]


def shown(steps: Iterable[T], desc: str, **options: Any) -> Iterator[T]:
    """:func:`synth3d.files.progress`, on the screen also while nnU-Net's output goes to a file."""
    screen = _SCREEN[-1] if _SCREEN else sys.stderr
    with contextlib.redirect_stderr(screen):
        bar = progress(steps, desc, **options)
    nothing = object()
    while True:
        with contextlib.redirect_stderr(screen):
            step: Any = next(bar, nothing)
        if step is nothing:
            return
        yield step


@contextlib.contextmanager
def told_plainly(doing: str, log: Path | None = None, hint: str = END_OTHERS) -> Iterator[None]:
    """Memory, disk and dead workers that give out in the block become one sentence.

    Args:
        doing: What the block does: ``training nnU-Net``.
        log: Where nnU-Net's own words are.
        hint: What the user may do about memory.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        more = f"; nnU-Net's own words are in {log}" if log else ""
        if sentence := what_gave_out(error, doing, hint):
            raise InputError(f"{sentence}{more}") from error
        raise


def _write_warning(
    file: TextIO, message: Any, category: Any, name: str, line: int, *_: Any
) -> None:
    file.write(warnings.formatwarning(message, category, name, line))


@contextlib.contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Global random generators seeded for the block and put back afterwards."""
    import numpy as np
    import torch

    # nnU-Net draws from all three of them, NumPy's legacy one included.
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def tame(trainer: Any) -> None:
    """Checkpoints in one piece, a progress line, and no plot of 0.7 s after every epoch."""
    save, finish_epoch = trainer.save_checkpoint, trainer.on_epoch_end
    epochs = shown(
        range(trainer.current_epoch, trainer.num_epochs),
        "training nnU-Net",
        total=trainer.num_epochs,
        unit="epoch",
        initial=trainer.current_epoch,
    )

    def save_checkpoint(filename: str) -> None:
        with atomic_path(Path(filename)) as temporary:
            save(str(temporary))

    def on_epoch_end() -> None:
        finish_epoch()
        next(epochs, None)

    next(epochs, None)
    trainer.save_checkpoint, trainer.on_epoch_end = save_checkpoint, on_epoch_end
    trainer.logger.plot_progress_png = lambda folder: None


def pick_device(wanted: str) -> str:
    """``cpu``, ``cuda`` or ``cuda:1`` for ``cpu``, ``cuda``, ``cuda:1`` or ``auto``, if there.

    One with a number becomes torch's current device.

    Several GPUs are used as nnU-Net uses them, one training each: start one process per seed,
    each with its own ``cuda:N`` or with ``CUDA_VISIBLE_DEVICES=N`` and ``cuda``.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() and not why_no_code("cuda") else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", wanted)
    if match is None:
        raise InputError(f"the device must be auto, cpu, cuda or cuda:N, got {wanted!r}")
    if wanted != "cpu" and not torch.cuda.is_available():
        raise InputError(f"device {wanted} was asked for, but torch finds no CUDA GPU")
    if match[1] and int(match[1]) >= (count := torch.cuda.device_count()):
        raise InputError(f"device {wanted} was asked for, but torch finds {count} (from cuda:0)")
    if wanted != "cpu" and (useless := why_no_code(wanted)):
        raise InputError(f"device {wanted} was asked for, but {useless}")
    if match[1]:  # what asks for CUDA without a number would else open a context on GPU 0
        torch.cuda.set_device(int(match[1]))
    return wanted


def may_compile(device: str) -> bool:
    """Whether nnU-Net's network can be compiled for a ``device``, so far as this machine tells.

    Triton builds its launchers where it runs: it needs a C compiler and Python's headers, which
    slim containers have not, and a GPU from compute capability 7.0.
    """
    import torch

    if device == "cpu" or importlib.util.find_spec("triton") is None:
        return False
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    if not any(map(shutil.which, compilers)):
        return False
    scheme = sysconfig.get_default_scheme()  # Debian's posix_local has no headers
    scheme = "posix_prefix" if scheme == "posix_local" else scheme
    if not Path(sysconfig.get_path("include", scheme), "Python.h").is_file():
        return False
    return torch.cuda.get_device_capability(device) >= (7, 0)


def fill_batch(network: Any, features: int, patch: Sequence[int]) -> None:
    """Let ``network`` work on small tiles in pairs, three times faster on a CPU.

    PyTorch hands a 3-D convolution of a single sample to oneDNN only when channels x depth x
    height exceed 20480; below, two samples cost a third of one. The second is the first again,
    and the caller uses the first output only. The finest stage has ``features`` channels.
    """
    if 2 * features * patch[0] * patch[1] <= 20480:
        network.register_forward_pre_hook(lambda _, tiles: (tiles[0].repeat(2, 1, 1, 1, 1),))
