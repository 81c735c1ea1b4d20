"""A finished experiment, read back from its folder as one fold of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_eval.arms import ARM_KINDS
from seg_eval.report import CaseFiles, read_results, read_shown, read_summary
from seg_eval.scoring import Score
from synth3d.errors import InputError
from synth3d.settings import parse

CONFIG = {
    "missing": tuple[str, ...], "data": str, "train": tuple[str, ...], "test": tuple[str, ...],
    "preset": str, "segmenter": str | None, "seeds": tuple[int, ...], "empty": str, "margin": float,
    "regions": tuple[str, ...], "nsd_tolerance_mm": float, "degraded": dict[str, Any] | None,
    "arms": dict[str, dict[str, Any]],
}  # fmt: skip
"""Keys of ``config`` that are read, and of which type they are."""
RECORD = {
    "warnings": tuple[str, ...], "notes": dict[str, str], "hashes": dict[str, str],
    "versions": dict[str, str], "seconds": dict[str, float], "commands": tuple[str, ...],
    "setting": dict[str, Any], "uncertainty": tuple[dict[str, Any], ...],
}  # fmt: skip
"""The same of the summary's own."""


@dataclass(frozen=True)
class Fold:
    """One experiment of several.

    Attributes:
        folder: Of the experiment.
        name: Unique among the folds.
        summary: Its ``summary.json``.
        scores, images: Its rows, of all arms that were judged.
        files: Where the volumes of the cases are that it shows.
    """

    folder: Path
    name: str
    summary: Mapping[str, Any]
    scores: Sequence[Score]
    images: Sequence[Mapping[str, Any]]
    files: Sequence[CaseFiles]

    @property
    def config(self) -> Mapping[str, Any]:
        """What was asked for."""
        return self.summary["config"]

    @property
    def kinds(self) -> dict[str, str]:
        """By name of each arm that was judged its kind, in order."""
        return {arm["name"]: arm["kind"] for arm in self.summary["arms"]}

    @property
    def replicates(self) -> dict[str, tuple[str, ...]]:
        """By arm of several trainings their names, in order."""
        return {name: tuple(runs) for name, runs in self.config.get("replicates", {}).items()}

    @property
    def patients(self) -> dict[str, str]:
        """The patient of each test case."""
        return {row.case: row.patient for row in self.scores}

    def runs(self, arm: str) -> list[list[Path]]:
        """Of a synthetic arm by our own runs their folders, a list for each training of it.

        A list has several where its pictures are a mean; there are none of any other arm.
        """
        names = self.replicates.get(arm, (arm,))
        told = [self.config["arms"].get(name, {}) for name in names]
        if arm not in self.kinds or not ARM_KINDS[self.kinds[arm]].is_synthesis:
            return []
        return [_folders(one) for one in told if "run" in one]


def _folders(told: Mapping[str, Any]) -> list[Path]:
    flags = told.get("mean_of", ())
    named = [value for flag, value in zip(flags, flags[1:], strict=False) if flag == "--run"]
    return [Path(run) for run in named or [told["run"]]]


def read_folds(folders: Sequence[Path]) -> list[Fold]:
    """The experiments in ``folders``, named after these.

    Raises:
        InputError: Fewer than two, the same twice, or some that are not finished, damaged or of
            another version; the sentence names all troubles.
    """
    places = [folder.resolve() for folder in folders]
    if len(places) < 2:
        raise InputError("pool wants two experiments or more, whose test patients are different")
    if twice := [str(one) for one in dict.fromkeys(places) if places.count(one) > 1]:
        raise InputError(f"{', '.join(twice)} is given twice; name each experiment once")
    alike = [place.name for place in places]
    names = [p.name if alike.count(p.name) == 1 else f"{p.parent.name} {p.name}" for p in places]
    names = [n if names.count(n) == 1 else f"{n} {i}" for i, n in enumerate(names, 1)]
    found, troubles = [], []
    for folder, name in zip(folders, names, strict=True):
        try:
            found.append(read_fold(folder, name))
        except InputError as error:
            troubles.append(str(error))
    if troubles:
        raise InputError("; ".join(troubles))
    return found


def read_fold(folder: Path, name: str) -> Fold:
    """The experiment in ``folder``.

    Raises:
        InputError: It is not finished, damaged, of another version, or pooled itself.
    """
    summary = read_summary(folder)
    try:
        config = summary["config"]
        if "folds" in config:
            raise InputError(f"{folder} is pooled itself; name the experiments that it is made of")
        for key, kind in CONFIG.items():
            parse(kind, config.get(key), f"config.{key}")
        for key, kind in RECORD.items():
            parse(kind, summary.get(key), key)
        parse(dict[str, tuple[str, ...]], config.get("replicates", {}), "config.replicates")
        parse(dict[str, str], config.get("drawn", {}), "config.drawn")
        scores, images = read_results(folder)
        fold = Fold(folder, name, summary, scores, images, read_shown(folder))
        _refuse_other_rows(fold)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, InputError) and str(folder) in str(error):
            raise
        raise InputError(
            f"{folder} is damaged or of another version: {error!r}; run the experiment again"
        ) from error
    return fold


def _refuse_other_rows(fold: Fold) -> None:
    """Stop where ``results.csv`` is not of the arms, cases and seeds that the summary tells of."""
    config = fold.config
    wanted = (*fold.kinds,), (*config["test"],), (*config["seeds"],)
    for key, names in zip(("arm", "case", "seed"), wanted, strict=True):
        if (found := {getattr(row, key) for row in fold.scores}) != {*names}:
            raise ValueError(f"results.csv has the {key}s {sorted(found)}, not {sorted(names)}")
    for arm in fold.kinds:
        named = {row.replicate for row in fold.scores if row.arm == arm}
        if named != {*fold.replicates.get(arm, ("",))}:
            raise ValueError(f"results.csv has the trainings {sorted(named)} of {arm}")
    if unknown := {*fold.replicates} - {*fold.kinds}:
        raise ValueError(f"replicates of no arm: {sorted(unknown)}")
    if unknown := {*fold.kinds.values()} - {*ARM_KINDS}:
        raise ValueError(f"unknown kinds of arm {sorted(unknown)}")
