"""What nnU-Net wants around it while it works: variables, threads, chance, chatter."""

import contextlib
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import nnunet_plans
from synth3d.files import InputError, atomic_path, make_folder, progress

TRAINERS = Path(nnunet_plans.__file__).parent


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """``os.environ`` with ``variables`` set, as it was afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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

    Args:
        threads: Threads of torch. nnU-Net's own variable for it is read once, when it is first
            imported, and only ever limits torch's; so it gets the number of processors.
        log: What nnU-Net prints and warns is appended here; without a file it is dropped.
        folders: Of ``raw``, ``preprocessed`` and ``results``.
        workers: Augmentation processes; 0 works in this process but breaks planning.
        compiled: Let nnU-Net compile the network; never on a CPU.
        seed: For the global random generators, from which nnU-Net draws.
    """
    import torch

    variables = {f"nnUNet_{name}": str(path) for name, path in (folders or {}).items()} | {
        "nnUNet_extTrainer": str(TRAINERS),
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


@contextlib.contextmanager
def _chatter_to(log: Path | None) -> Iterator[None]:
    """Prints and warnings go to ``log``, so that a progress line stays readable."""
    if log is not None:
        make_folder(log.parent)
    with (
        (log or Path(os.devnull)).open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        warnings.showwarning = _writer(file)
        yield


def _writer(file: TextIO) -> Any:
    def show(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        file.write(warnings.formatwarning(message, category, filename, lineno))

    return show


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
    epochs = progress(
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
    """``cpu`` or ``cuda`` for ``cpu``, ``cuda`` or ``auto``.

    Raises:
        InputError: CUDA is wanted and absent.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but torch finds no CUDA GPU")
    return wanted


def fill_batch(network: Any, features: int, patch: Sequence[int]) -> None:
    """Let ``network`` work on small tiles in pairs, three times faster on a CPU.

    PyTorch hands a 3-D convolution of a single sample to oneDNN only when channels x depth x
    height exceed 20480; below, two samples cost a third of one. The second is the first again.

    Args:
        network: Gets tiles of shape (1, C, D, H, W); its caller uses the first output only.
        features: Channels of its finest stage.
        patch: Tile, voxels (z, y, x).
    """
    if 2 * features * patch[0] * patch[1] <= 20480:
        network.register_forward_pre_hook(lambda _, tiles: (tiles[0].repeat(2, 1, 1, 1, 1),))
