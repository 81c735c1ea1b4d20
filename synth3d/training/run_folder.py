"""The run folder: what is in it, written in one piece, read without executing anything.

``config.json`` the resolved configuration · ``cohort.json`` data folder and split ·
``environment.json`` versions and command · ``scales.json`` intensity scales of the training
cases · ``resume.pt`` state of a run under way · ``log.jsonl`` · ``weights.safetensors`` ·
``curves.png`` ``contact.png`` ``tensorboard/`` · ``done.json``, written last: a run without it is
unfinished. An exported run (``synth3d.export``) has of this what synthesis needs, its weights under
another name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synth3d.errors import InputError
from synth3d.files import atomic_path, read_json, read_object, sha256, write_json
from synth3d.frameworks import Framework
from synth3d.images import ScalePrior
from synth3d.settings import read_as, to_plain
from synth3d.training.config import RunConfig, build_framework

FORMAT = 1
"""Raised when a run folder of an older version can no longer be read."""

WEIGHTS = ("weights.safetensors", "model.safetensors", "model.pt")
"""Of the generator: in a run folder, in an exported one, in a MONAI bundle."""


def save_weights(path: Path, module: nn.Module) -> None:
    """The parameters and buffers of ``module`` as safetensors."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary)


def weights_file(run: Path) -> Path:
    """The file of ``WEIGHTS`` that a run folder has.

    Raises:
        InputError: It has none or several.
    """
    there = [run / name for name in WEIGHTS if (run / name).is_file()]
    if len(there) != 1:
        found = " and ".join(path.name for path in there) or "none"
        raise InputError(f"{run} must have one file of weights ({', '.join(WEIGHTS)}), has {found}")
    return there[0]


def load_weights(path: Path, module: nn.Module) -> None:
    """Fill ``module`` from safetensors, or from what :func:`save_state` wrote, strictly.

    Raises:
        InputError: The file is missing, damaged, or does not fit the module.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        read = load_state if path.suffix == ".pt" else load_file
        module.load_state_dict(read(path), strict=True)
    except OSError as error:
        raise InputError(f"cannot read the weights {path}: {error}") from error
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the weights {path} are damaged or belong to another model: {reason}"
        ) from error


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Tensors and plain values, readable by :func:`load_state` without unpickling code."""
    with atomic_path(path) as temporary:
        torch.save(dict(state), temporary)


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote; a damaged file is refused."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(
            f"{path} is damaged ({type(error).__name__}); remove it to start anew"
        ) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log lines, or none when there is no log yet; a damaged log is refused."""
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); remove it to go on") from error


def write_config(run: Path, config: RunConfig) -> None:
    """Save the resolved configuration; ``--recipe RUN/config.json`` reruns it."""
    write_json(run / "config.json", to_plain(config))


def read_config(run: Path) -> RunConfig:
    """The configuration of a run folder.

    Raises:
        InputError: Not a run folder, or its configuration is damaged.
    """
    if not (run / "config.json").is_file():
        raise InputError(f"{run} is not a run folder: it has no config.json")
    remedy = "train it again, or read it with the version that wrote it"
    return read_as(RunConfig, run / "config.json", remedy)


@dataclass(frozen=True)
class Run:
    """A finished run, ready to synthesise; its folder's name is its own.

    ``framework`` is in evaluation mode, on the CPU, with nothing that only training needs;
    ``prior`` holds likely intensity scales of the targets.
    """

    folder: Path
    config: RunConfig
    framework: Framework
    prior: ScalePrior
    weights_sha256: str


def read_done(run: Path) -> dict[str, Any]:
    """What a finished run says of itself; a run of another format is refused."""
    done = read_object(run / "done.json")
    if (found := done.get("format")) != FORMAT:
        raise InputError(
            f"{run} has run format {found}, this version reads {FORMAT}; remove the folder and "
            "train it again"
        )
    return done


def load_run(run: Path) -> Run:
    """A finished run.

    Raises:
        InputError: Not a run folder, unfinished, of another format, or damaged.
    """
    config = read_config(run)
    if not (run / "done.json").is_file():
        raise InputError(f"the run {run} is not finished; run its training command again")
    done = read_done(run)
    weights = weights_file(run)
    framework = build_framework(config, training=False)
    # MONAI's network is a module that holds the generator, as a framework does.
    load_weights(weights, framework if weights.suffix == ".pt" else framework.generator)
    digest = sha256(weights)
    if digest != done.get("weights_sha256"):
        raise InputError(f"{weights} is not the file this run wrote (its SHA-256 differs)")
    try:
        prior = ScalePrior.from_list(read_json(run / "scales.json"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{run / 'scales.json'} is damaged: {error}") from error
    if unknown := [t for t in config.targets if not any(t in case for case in prior.cases)]:
        raise InputError(f"{run / 'scales.json'} is damaged: it has no scale of {unknown}")
    framework.eval().requires_grad_(False)
    return Run(run, config, framework, prior, digest)
