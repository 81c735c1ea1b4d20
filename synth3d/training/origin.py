"""What a run under way was made from, so that it goes on from nothing else unseen.

A resume state carries the hashes of its training and validation files and the way its numbers were
computed. What changes the weights is refused; what may change their last bits is said.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from synth3d.data import Hashes
from synth3d.errors import InputError
from synth3d.files import read_object, write_json
from synth3d.machine import environment
from synth3d.settings import parse, to_plain
from synth3d.training.config import RunConfig
from synth3d.training.start import segmenter_of


@dataclass(frozen=True)
class Origin:
    """Whence a state is.

    Attributes:
        data: SHA-256 of each file that is learnt from or validated on, by ``case/sequence``.
        way: What computed it; another would end with other weights.
        machine: What else may change the last bits.
    """

    data: dict[str, str] = field(default_factory=dict)
    way: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As plain values, for the state."""
        return to_plain(self)


def origin_of(hashes: Hashes, config: RunConfig, device: str, processes: int = 1) -> Origin:
    """The origin of a run on ``device`` that reads the sequences and labels of such cases."""
    roles = {*config.sources, *config.targets, "label"}
    data = {
        f"{case}/{role}": digest
        for case, files in hashes.items()
        for role, digest in files.items()
        if role in roles
    }
    on_gpu = device.startswith("cuda")
    # The variable is that of cuda_ops: which of two forms rolls on a GPU. A CPU has one.
    rolling = os.environ.get("CUDA_OPS_BACKEND", "auto") if on_gpu else "torch"
    way = {"torch": torch.__version__, "device": "cuda" if on_gpu else "cpu", "rolling": rolling}
    # Those of one machine, which its processes share.
    threads = config.train.threads or torch.get_num_threads()
    way |= {} if on_gpu else {"threads": str(threads)}
    way |= {"start": config.train.start_sha256} if config.train.start else {}
    about = segmenter_of(config)
    way |= {} if about is None else {"segmenter": about.weights_sha256}
    chip = torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability()
    machine = {"chip": f"{platform.machine()} {chip}", "torchio": _version("torchio")}
    machine["processes"] = str(processes)
    return Origin(data, way, machine)


def _version(library: str) -> str:
    from importlib.metadata import version

    return version(library)


def check_origin(said: Any, now: Origin, run: Path) -> None:
    """Refuse to go on in ``run`` with other data or another way than ``said`` in its state.

    Prints a note where the machine is another one.

    Raises:
        InputError: They differ, or ``said`` is no origin.
    """
    try:
        before = parse(Origin, said, "origin")
    except InputError as error:
        raise InputError(f"{run / 'resume.pt'} says wrong things of itself: {error}") from error
    if changed := _differences(before.data, now.data):
        raise InputError(
            f"the files {', '.join(changed)} changed since the run {run} was begun; restore them, "
            "or choose another --name to start anew"
        )
    if changed := _differences(before.way, now.way):
        told = ", ".join(
            f"{key} {before.way.get(key, 'none')}, now {now.way.get(key, 'none')}"
            for key in changed
        )
        raise InputError(
            f"the run {run} was begun in another way and would end with other weights ({told}); "
            "go on as it was begun, or choose another --name to start anew"
        )
    for key in _differences(before.machine, now.machine):
        was, here = before.machine.get(key), now.machine.get(key)
        print(f"note: the run was begun with {key} {was}, now {here}: last bits may differ")


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def note_environment(path: Path, device: Any, same: bool = False) -> None:
    """Write the environment to ``path``; those of earlier calls that differ stay, ``earlier``.

    ``same`` is for a call of this process again, which replaces what it wrote: by then it is known
    how ``device`` rolls kernels.
    """
    now, before = environment(device), read_object(path) if path.exists() else {}
    earlier = before.pop("earlier", [])
    if not isinstance(earlier, list):
        raise InputError(f"{path} is damaged: earlier must be a list; remove it")
    if before and before != now and not same:
        earlier = [*earlier, before]
    write_json(path, now | ({"earlier": earlier} if earlier else {}))
