"""What of a run goes out: all that synthesis needs, no path of this machine and no case's name."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cuda_ops import __file__ as ops_file
from synth3d import __file__ as own_file
from synth3d import __version__
from synth3d.cohort import Modality, are_simulated, patient_of, seen_together
from synth3d.errors import InputError
from synth3d.files import atomic_path, read_object, sha256, write_json
from synth3d.frameworks import CouplingOptions, Diffusion
from synth3d.settings import to_plain
from synth3d.training import (
    RunConfig,
    load_run,
    read_done,
    save_state,
    taught_by,
    weights_file,
)

LIBRARIES = (
    "torch", "numpy", "scipy", "nibabel", "SimpleITK", "torchio", "safetensors", "tqdm",
)  # fmt: skip
"""What synthesis imports beside the standard library; a test runs it and compares."""


@dataclass(frozen=True)
class Contents:
    """A finished run, judged whole.

    Attributes:
        name: Its folder's name.
        folder: Where it is.
        config: What was trained.
        done: What it says of itself, fit to be shown to others.
        state: The generator's weights by name, on the CPU.
        random: Whether it draws its pictures (a diffusion).
        parameters: How many numbers were learnt of what synthesis uses.
        apart: Pairs of its sequences that no training case had together.
    """

    name: str
    folder: Path
    config: RunConfig
    done: Mapping[str, Any]
    state: Mapping[str, torch.Tensor]
    random: bool
    parameters: int
    apart: tuple[tuple[Modality, Modality], ...] = ()


def read_contents(run: Path) -> Contents:
    """A finished run of ``synth3d train``, or one that was exported.

    Raises:
        InputError: As :func:`synth3d.training.load_run`, or its cohort.json is damaged.
    """
    loaded = load_run(run)
    done = {key: value for key, value in read_done(run).items() if key != "data_folder"}
    if (run / "cohort.json").is_file():
        cohort = read_object(run / "cohort.json", "train", "val", "test")
        done["trained_on"] = _counts(cohort)
        done["trained_on"] |= _begun_from(cohort, loaded.config)
    if taught := taught_by(run):
        done["taught_by"] = [*map(to_plain, taught)]
    generator = loaded.framework.generator
    state = {name: value.detach().cpu() for name, value in generator.state_dict().items()}
    random = isinstance(loaded.framework, Diffusion)
    used = [value for part in loaded.framework.used for value in part.state_dict().values()]
    parameters = sum(value.numel() for value in used)
    config = loaded.config
    names: list[Modality] = [*dict.fromkeys((*config.sources, *config.targets))]
    held: list[list[Modality]]
    held = [[name for name in names if name in case] for case in loaded.prior.cases]
    apart = tuple(pair for pair, count in seen_together(held, names).items() if not count)
    name = run.resolve().name
    return Contents(name, run, config, done, state, random, parameters, apart)


def _counts(cohort: Mapping[str, Any]) -> dict[str, Any]:
    """How many, never who; and whether they are all the built-in simulated heads."""
    try:
        names = [str(name) for name in cohort["train"]]
        return {
            "training_cases": len(names),
            "training_patients": len({patient_of(name) for name in names}),
            "validation_cases": len(cohort["val"]),
            "test_cases": len(cohort["test"]),
            "simulated": are_simulated(names),
        }
    except TypeError as error:
        raise InputError(f"cohort.json is damaged: {error}") from error


def _begun_from(cohort: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """Of a run begun from another: by how many cases that was trained, or null, not known."""
    if not config.train.start_sha256:
        return {}
    if "seen_before" not in cohort:
        return {"begun_from": None, "simulated": False}
    try:
        before = _counts(dict(cohort["seen_before"]) | {"test": ()})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"cohort.json is damaged: seen_before: {error}") from error
    kinds = ("training_cases", "training_patients", "validation_cases")
    names = [str(name) for name in (*cohort["train"], *cohort["seen_before"]["train"])]
    told = {"begun_from": {kind: before[kind] for kind in kinds}}
    return told | {"simulated": are_simulated(names)}


def write_model(contents: Contents, folder: Path, weights: str) -> None:
    """A run folder for synthesis alone, its weights under the name ``weights``.

    Raises:
        InputError: The disk is full or read-only.
    """
    source, target = weights_file(contents.folder), folder / weights
    if target.suffix == ".pt":
        save_state(target, {f"generator.{name}": one for name, one in contents.state.items()})
    elif source.suffix == ".pt":
        raise InputError(f"{contents.folder} is a MONAI bundle's; export the run it was made from")
    else:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    for name in ("scales.json", "roles.json"):
        if name == "scales.json" or (contents.folder / name).is_file():  # older runs have no roles
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(contents.folder / name, temporary)
    config = _without_paths(to_plain(contents.config))
    config["train"]["coupling"] = to_plain(CouplingOptions())  # done.json says by whom
    write_json(folder / "config.json", config)
    exported = {"weights_sha256": sha256(target), "exported_by": f"synth3d {__version__}"}
    write_json(folder / "done.json", {**contents.done, **exported})


def _without_paths(value: Any) -> Any:
    """Settings that name a file, all of which serve training alone, are left empty."""
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items()}
    return "" if isinstance(value, str) and ("/" in value or "\\" in value) else value


def copy_source(folder: Path) -> None:
    """The packages that make a run's pictures, so that no other version of them makes others."""
    for init in (own_file, ops_file):
        package = Path(str(init)).parent
        ignore = shutil.ignore_patterns("__pycache__", "*.so", "bench")
        shutil.copytree(package, folder / package.name, ignore=ignore)


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """The versions at hand, without build tags: library → version."""
    from importlib.metadata import version

    return {name: version(name).split("+")[0] for name in names}
