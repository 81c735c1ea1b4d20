"""The run folder: what is in it, written in one piece, read without executing anything.

``config.json`` the resolved configuration · ``recipe.json`` the recipe that it was begun with, and
how many steps that has · ``cohort.json`` data folder and split · ``environment.json`` versions and
commands · ``scales.json`` intensity scales of the training cases · ``roles.json`` what exchanged
sequences look like · ``resume.pt`` state of the last checkpoint, by which a run goes on, a finished
one to more steps · ``log.jsonl`` · ``weights.safetensors`` · ``registration.safetensors``, of fgdl,
for runs that begin from this one · ``curves.png`` ``contact.png`` ``tensorboard/`` · ``done.json``,
written last: a run without it is unfinished. An exported run (``synth3d.export``) has of this what
synthesis needs, its weights under another name.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import nn

from synth3d.cohort import Modality, Splits
from synth3d.errors import InputError
from synth3d.files import (
    REMEDY,
    atomic_file,
    is_claimed,
    opened,
    plain,
    plain_values,
    read_json,
    read_object,
    read_text,
    sha256,
    write_json,
)
from synth3d.frameworks import Framework
from synth3d.images import ScalePrior
from synth3d.runs import trained_name
from synth3d.settings import flatten, parse, read_as, require, to_plain
from synth3d.training.config import RunConfig, build_framework, unusual

FORMAT = 1
"""Raised when a run folder of an older version can no longer be read."""

WEIGHTS = ("weights.safetensors", "model.safetensors", "model.pt")
"""Of the generator: in a run folder, in an exported one, in a MONAI bundle."""


def save_weights(path: Path, module: nn.Module) -> None:
    """The parameters and buffers of ``module`` as safetensors."""
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with atomic_file(path) as file:
        file.write(save(state))


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


SEAL = b"\nsha256 "
"""Stands before the hash at the end of a state; what comes before is an ordinary file of torch."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Tensors and plain values and their hash, for :func:`load_state`."""
    with atomic_file(path) as file:
        torch.save(dict(state), cast(IO[bytes], file))  # which torch does no more than write to
        file.write(SEAL + file.digest().encode())


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote, to the bit; never runs code that a file may hold.

    Raises:
        InputError: It cannot be read, is not as it was written, or holds anything else.
    """
    remedy = "remove it to start anew"
    try:
        if not _is_sealed(path):
            raise InputError(f"{path} is damaged: its SHA-256 differs; {remedy}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (InputError, MemoryError):
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"{path} is damaged ({type(error).__name__}); {remedy}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} is damaged: it holds no state; {remedy}")
    return state


def _is_sealed(path: Path) -> bool:
    """Whether the file ends with the SHA-256 of what comes before."""
    length = len(SEAL) + 64
    with opened(path) as file:
        left, found = path.stat().st_size - length, hashlib.sha256()
        while left > 0 and (part := file.read(min(left, 2**22))):
            found.update(part)
            left -= len(part)
        return file.read() == SEAL + found.hexdigest().encode()


@dataclass(frozen=True)
class _LogLine:
    """A line of the log: either losses or a validation."""

    step: int
    loss: dict[str, float] | None = None
    seconds: dict[str, float] | None = None
    validation: dict[str, float] | None = None

    def __post_init__(self) -> None:
        whole = self.validation is None and self.loss is not None and self.seconds is not None
        checked = {"psnr", "ssim"} <= (self.validation or {}).keys() and self.loss is None
        require(whole or checked, "a line", "of losses and seconds, or of a validation", vars(self))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log lines in order of their steps, or none when there is no log yet.

    Raises:
        InputError: The log is damaged, or holds other values than this version writes.
    """
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(filter(None, read_text(path).splitlines()), 1):
        try:
            line = plain_values(json.loads, text, "it is not valid JSON")
            step = parse(_LogLine, line, "log").step
            least = lines[-1]["step"] if lines else 1
            require(step >= least, "log.step", f"at least {least}", step)
        except InputError as error:
            remedy = "remove it to go on without"
            raise InputError(f"{path} is damaged in line {number}: {error}; {remedy}") from error
        lines.append(line)
    return lines


def run_name(config: RunConfig, folder: Path, splits: Splits) -> str:
    """``t2f-agi-net-<cohort>-<hash>``: the same command always means the same folder.

    Also in a version that has more settings, or fewer: those of the default value do not count.
    """
    identity = [unusual(config), str(folder.resolve()), splits.train, splits.val, splits.test]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    made = "any" if config.mode == "any" else "-".join(config.targets)
    made = f"restored-{made}" if config.task.poor else made
    return trained_name(made, config.model.name, plain(folder.resolve().name), digest)


def check_same_run(
    run: Path, config: RunConfig, folder: Path, splits: Splits, grows: bool = False
) -> None:
    """Refuse to go on with a folder that another configuration, cohort or split began.

    Going on with another split would mix its test cases into what the weights have seen. Where it
    ``grows``, the number of steps may be another.
    """
    if not (run / "config.json").exists():
        return
    before, now = flatten(to_plain(read_config(run))), flatten(to_plain(config))
    if (run / "cohort.json").exists():
        cohort = {side: list(getattr(splits, side)) for side in ("train", "val", "test")}
        now |= flatten(cohort | {"data_folder": str(folder.resolve())}, "cohort")
        told = read_object(run / "cohort.json")
        # What follows from hashes in the configuration, or from the cases.
        for key in ("seen_before", "coupled", "left_out_thick"):
            told.pop(key, None)
        before |= flatten(told, "cohort")
    differ = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if grows:
        differ = [key for key in differ if key != "train.steps"]
    if differ:
        longer = f"; for more steps there is --continue {run} --steps N"
        raise InputError(
            f"the run {run} was begun with other settings ({', '.join(differ)}); choose another "
            f"--name or give the settings it had{longer if differ == ['train.steps'] else ''}"
        )


def write_config(run: Path, config: RunConfig) -> None:
    """Save the resolved configuration; ``--recipe RUN/config.json`` reruns it."""
    write_json(run / "config.json", to_plain(config))


def read_config(run: Path) -> RunConfig:
    """The configuration of a run folder.

    Raises:
        InputError: Not a run folder, one that is being begun, or its configuration is damaged.
    """
    if not (run / "config.json").is_file():
        _refuse_trained_now(run)
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


@dataclass(frozen=True)
class _Done:
    """What ``done.json`` may say, and of which kind it is."""

    format: int
    finished: bool = True
    weights_sha256: str = ""
    scales_sha256: str | None = None
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    data_folder: str | None = None
    steps: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    orientations: tuple[str, ...] = ()
    spacings_mm: tuple[tuple[float, ...], ...] = ()
    with_skulls: bool | None = None


def read_done(run: Path) -> dict[str, Any]:
    """What a finished run says of itself.

    Raises:
        InputError: It is of another format, or holds values of other kinds.
    """
    path = run / "done.json"
    done = read_object(path)
    if (found := done.get("format")) != FORMAT:
        raise InputError(
            f"{run} has run format {found}, this version reads {FORMAT}; remove the folder and "
            "train it again"
        )
    known = {each.name for each in fields(_Done)}
    try:
        parse(_Done, {key: value for key, value in done.items() if key in known}, "done.json")
    except (InputError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}; {REMEDY}") from error
    return done


def is_finished(run: Path, config: RunConfig) -> bool:
    """Whether ``run`` has ended with all steps that ``config`` has; one of fewer can grow."""
    if not (run / "done.json").exists():
        return False
    return read_done(run).get("steps", config.train.steps) >= config.train.steps


def open_again(run: Path) -> None:
    """Make a finished run one under way: by now nothing stands in its way any more."""
    (run / "done.json").unlink(missing_ok=True)


def leave_finished(run: Path) -> None:
    """Remove what a process leaves that is killed while it writes; the state stays, for growth."""
    for path in run.glob(".partial-*"):
        with contextlib.suppress(OSError):
            path.unlink()


def load_run(run: Path) -> Run:
    """A finished run.

    Raises:
        InputError: Not a run folder, being trained, unfinished, of another format, or damaged.
    """
    config = read_config(run)
    if not (run / "done.json").is_file():
        _refuse_trained_now(run)
        raise InputError(
            f"the run {run} is not finished; synth3d train --continue {run} goes on with it"
        )
    done = read_done(run)
    weights = weights_file(run)
    framework = build_framework(config, training=False)
    # MONAI's network is a module that holds the generator, as a framework does.
    load_weights(weights, framework if weights.suffix == ".pt" else framework.generator)
    digest = sha256(weights)
    if digest != done.get("weights_sha256"):
        raise InputError(f"{weights} is not the file this run wrote (its SHA-256 differs)")
    # Runs of older versions say nothing of their scales.
    if done.get("scales_sha256") not in (None, sha256(run / "scales.json")):
        raise InputError(f"{run / 'scales.json'} is not the file this run wrote; {REMEDY}")
    if any(len(mm) != config.dim or min(mm) <= 0 for mm in done.get("spacings_mm", ())):
        raise InputError(f"{run / 'done.json'} is damaged: spacings_mm has others than "
                         f"{config.dim} lengths above 0; {REMEDY}")  # fmt: skip
    try:
        prior = ScalePrior.from_list(read_json(run / "scales.json"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{run / 'scales.json'} is damaged: {error}") from error
    if unknown := [t for t in config.targets if not any(t in case for case in prior.cases)]:
        raise InputError(f"{run / 'scales.json'} is damaged: it has no scale of {unknown}")
    framework.eval().requires_grad_(False)
    return Run(run, config, framework, prior, digest)


def _refuse_trained_now(run: Path) -> None:
    """Refuse a run that a process of this machine is training, whatever of it is there by now."""
    if is_claimed(run / ".lock"):
        raise InputError(
            f"the run {run} is being trained; wait until it is finished, synth3d runs says how far "
            "it is"
        )


def runs_that_make(gap: Sequence[Modality], folder: Path) -> list[str]:
    """Names of the finished runs in ``folder`` that make all of ``gap`` of a case without them."""
    able = []
    for path in sorted(folder.glob("*/done.json")):
        try:
            task = read_config(path.parent).task
        except InputError:
            continue  # another version's, or damaged: no run to be recommended
        left = {*task.sources} - {*gap}
        if {*gap} <= {*task.targets} and (left == {*task.sources} or (left and task.mode == "any")):
            able.append(path.parent.name)
    return able


@dataclass(frozen=True)
class Recipe:
    """What a run was begun with: the recipe's name, and how many steps that has."""

    name: str
    steps: int


def note_recipe(run: Path, recipe: Recipe | None) -> None:
    """Write ``recipe.json`` into a run folder, unless it is there from when the run was begun."""
    if recipe is not None and not (run / "recipe.json").exists():
        write_json(run / "recipe.json", to_plain(recipe))
