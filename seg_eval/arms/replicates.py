"""Several trainings of one recipe that are judged as one arm: its replicates.

They share all but their seed. So what is said of the arm is said of its recipe, and the seed of the
synthesiser is drawn at random like a patient.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from seg_eval.arms.kinds import ARM_KINDS, Arm
from seg_eval.arms.synthesisers import SynthesisRun, read_mean
from synth3d.errors import InputError
from synth3d.files import LONGEST_STEM, fault_of, read_object
from synth3d.settings import flatten

SEED = "train.seed"
FREE = (SEED, "train.threads", "train.coupling.segmenter")
"""Keys in which replicates may differ; of a teacher its weights count, not where they lie."""


def read_replicates(
    given: Mapping[str, Sequence[Path]], arms: Sequence[Arm], work: Path = Path("work")
) -> dict[str, tuple[str, ...]]:
    """By merged arm the names of its ``arms``; none whose runs are not all among these.

    ``given`` has runs as :func:`read_mean` takes them, means as ``A+B@x`` among them.

    Raises:
        InputError: An arm has fewer than two runs, a name that no arm can have, or runs that
            differ in more than their seed or are the same; the sentence names all troubles.
    """
    runs = {name: [read_mean(run, work) for run in named] for name, named in given.items()}
    troubles = [one for name, found in runs.items() for one in _troubles(name, found)]
    together = [run for found in runs.values() for run in found]
    troubles += [
        f"{first.folder} and {second.folder} have the same weights"
        for first, second in combinations(together, 2)
        if first.weights_sha256 == second.weights_sha256
    ]
    names = {arm.name for arm in arms}
    if taken := sorted(runs.keys() & {*names, *ARM_KINDS}):
        troubles.append(f"{', '.join(taken)} is the name of another arm; choose a new one")
    if troubles:
        raise InputError(f"--as: {'; '.join(troubles)}")
    found = {name: tuple(run.name for run in each) for name, each in runs.items()}
    return {name: each for name, each in found.items() if names.issuperset(each)}


def _troubles(name: str, runs: Sequence[SynthesisRun]) -> list[str]:
    """Why these are no replicates of one arm."""
    found = []
    if fault := fault_of(name, LONGEST_STEM):
        found.append(f"the name {name!r:.120} {fault}")
    if len(runs) < 2:
        found.append(
            f"{name} is to be two --run flags or more that come before it and after any other "
            f"--as, and there {'is one' if runs else 'is none'}"
        )
    for other in runs[1:]:
        if keys := _differences(runs[0], other):
            found.append(
                f"{runs[0].folder} and {other.folder} differ in {', '.join(keys)}; replicates of "
                f"{name} may differ in {SEED} alone"
            )
    seeds = [_seeds(run) for run in runs]
    if twice := sorted({one for one in seeds if seeds.count(one) > 1}, key=str):
        told = "; ".join(", ".join(map(str, each)) for each in twice)
        found.append(f"several runs of {name} have the {SEED} {told}; give each another one")
    return found


def _differences(run: SynthesisRun, other: SynthesisRun) -> list[str]:
    """The keys in which the settings of two runs differ, but for those that are free."""
    first, second = _settings(run), _settings(other)
    return sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))


def _settings(run: SynthesisRun) -> dict[str, Any]:
    found: dict[str, Any] = {
        "the training cases": {*run.splits.train},
        "the validation cases": {*run.splits.val},
        "mirrors": run.mirror,
    }
    for number, folder in enumerate((run.folder, *run.others)):
        prefix = f"{number + 1}: " if run.others else ""
        found |= {f"{prefix}{key}": value for key, value in settings_of(folder).items()}
    return found


def settings_of(run: Path) -> dict[str, Any]:
    """The settings of a run by dotted key, but for those in which trainings of one recipe differ.

    Raises:
        InputError: The folder ``run`` is gone or damaged.
    """
    settings = flatten(read_object(run / "config.json"))
    return {key: value for key, value in settings.items() if key not in FREE}


def _seeds(run: SynthesisRun) -> tuple[Any, ...]:
    """The seed of each run that it is the mean of."""
    folders = (run.folder, *run.others)
    return tuple(flatten(read_object(each / "config.json")).get(SEED, 0) for each in folders)


def grouped(
    arms: Sequence[Arm], replicates: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Arm, ...]]:
    """By name of what is judged the arms that are made for it: its replicates, or itself alone.

    In the order of ``arms``; a merged arm stands where the first of its replicates does.
    """
    owner = {run: name for name, runs in replicates.items() for run in runs}
    found: dict[str, tuple[Arm, ...]] = {}
    for arm in arms:
        name = owner.get(arm.name, arm.name)
        found[name] = (*found.get(name, ()), arm)
    return found
