"""Whether experiments belong into one certificate, and which arm of one is which of another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_eval.arms import settings_of
from seg_eval.pooling.fold import Fold
from synth3d.errors import InputError

TEACHER = "train.coupling.segmenter_sha256"
"""The setting that says by whose weights a run was taught."""

ALIKE = {
    "missing": "the missing sequence", "degraded": "the thick slices", "data": "the cohort",
    "preset": "--preset", "segmenter": "--segmenter", "seeds": "--seeds", "empty": "--empty",
    "margin": "--margin", "regions": "the regions", "nsd_tolerance_mm": "--nsd-tolerance",
}  # fmt: skip
"""Keys of an experiment's configuration in which all must agree, as a user knows them."""


@dataclass(frozen=True)
class Fitted:
    """Experiments that belong together.

    Attributes:
        folds: These, in the order given.
        kinds: By name of each arm in the certificate its kind, in order.
        names: For each fold, its own name of an arm or of a training → that in the certificate.
        replicates: By arm of several trainings their names there.
        unread: Arms whose runs are gone, so that their settings were not compared.
    """

    folds: Sequence[Fold]
    kinds: Mapping[str, str]
    names: Sequence[Mapping[str, str]]
    replicates: Mapping[str, tuple[str, ...]]
    unread: Sequence[str]


def fit(folds: Sequence[Fold]) -> Fitted:
    """The arms lined up.

    Arms are known by name. Where the names of runs differ from fold to fold, and each fold has one
    run of a kind, that arm takes the name of its kind.

    Raises:
        InputError: They do not belong together; the sentence names all troubles.
    """
    first, *others = folds
    troubles = [trouble for other in others for trouble in _differences(first, other)]
    troubles += _judged_twice(folds)
    lined = [_line_up(fold, alone=False) for fold in folds]
    renamed = any(list(one.items()) != list(lined[0].items()) for one in lined)
    if renamed:
        lined = [_line_up(fold, alone=True) for fold in folds]
    kinds = [
        [(name, fold.kinds[own]) for own, name in one.items()]
        for fold, one in zip(folds, lined, strict=True)
    ]
    strange = [fold for fold, one in zip(folds, kinds, strict=True) if one != kinds[0]]
    for other in strange:
        troubles.append(
            f"the arms of {first.folder} are {', '.join(first.kinds)}, those of {other.folder} "
            f"{', '.join(other.kinds)}: expected the same names, order and kinds"
        )
    unread: list[str] = []
    if not strange:
        counts = [{to: len(f.replicates.get(own, ())) for own, to in one.items()}
                  for f, one in zip(folds, lined, strict=True)]  # fmt: skip
        troubles += [
            f"{name} has {count} trainings in {first.folder} and {each[name]} in {other.folder}"
            for other, each in zip(others, counts[1:], strict=True)
            for name, count in counts[0].items() if each[name] != count
        ]  # fmt: skip
        told, unread = _settings_apart(folds, lined)
        troubles += told
        if renamed and (lost := [n for n in unread if n not in first.kinds]):
            troubles.append(
                f"the runs of {', '.join(lost)} have other names from fold to fold and some are "
                "gone, so that nothing says they are trainings of one recipe; bring them back"
            )
    if troubles:
        raise InputError(f"no certificate of these: {'; '.join(troubles)}")
    merged = {
        to: tuple(f"{to}-{number}" for number, _ in enumerate(first.replicates[own], 1))
        for own, to in lined[0].items() if own in first.replicates
    }  # fmt: skip
    names = [_with_replicates(f, one, merged) for f, one in zip(folds, lined, strict=True)]
    return Fitted(folds, dict(kinds[0]), names, merged, unread)


def _line_up(fold: Fold, alone: bool) -> dict[str, str]:
    """Own name of each arm → its name in the certificate; of runs that are ``alone`` the kind."""
    single = {name: kind for name, kind in fold.kinds.items()
              if fold.runs(name) and name not in fold.replicates}  # fmt: skip
    kinds = list(single.values())
    rename = {name: kind for name, kind in single.items() if alone and kinds.count(kind) == 1}
    return {name: rename.get(name, name) for name in fold.kinds}


def _with_replicates(
    fold: Fold, names: Mapping[str, str], merged: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    ordinal = {own: to for arm, runs in fold.replicates.items()
               for own, to in zip(runs, merged[names[arm]], strict=True)}  # fmt: skip
    return {**names, **ordinal}


def _differences(first: Fold, other: Fold) -> list[str]:
    told = [
        f"{said} ({_short(first.config.get(key))}, {_short(other.config.get(key))})"
        for key, said in ALIKE.items()
        if first.config.get(key) != other.config.get(key)
    ]
    if first.config["segmenter"] and first.config["segmenter"] == other.config["segmenter"]:
        mine, theirs = ({k: v for k, v in one.summary["hashes"].items() if "frozen" in k}
                        for one in (first, other))  # fmt: skip
        told += ["the weights of --segmenter"] if mine != theirs else []
    return [f"{first.folder} and {other.folder} differ in {', '.join(told)}"] if told else []


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(_short(each) for each in value.values())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _judged_twice(folds: Sequence[Fold]) -> list[str]:
    where: dict[str, list[Fold]] = {}
    for fold in folds:
        for patient in sorted({*fold.patients.values()}):
            where.setdefault(patient, []).append(fold)
    shared: dict[str, list[str]] = {}
    for patient, each in where.items():
        if len(each) > 1:
            shared.setdefault(" and ".join(str(f.folder) for f in each), []).append(patient)
    return [
        f"{'patients' if len(who) > 1 else 'the patient'} {', '.join(who)} "
        f"{'are' if len(who) > 1 else 'is'} tested in {places}: each is to be judged once"
        for places, who in shared.items()
    ]


def _settings_apart(
    folds: Sequence[Fold], lined: Sequence[Mapping[str, str]]
) -> tuple[list[str], list[str]]:
    """A clause for each run that is none of the first fold's recipe, and arms that are not read."""
    first, *others = folds
    troubles: list[str] = []
    unread: dict[str, None] = {}
    for own, name in lined[0].items():
        mine = [[_settings(run) for run in runs] for runs in first.runs(own)]
        for other, names in zip(others, lined[1:], strict=True):
            theirs_own = next(there for there, to in names.items() if to == name)
            theirs = [[_settings(run) for run in runs] for runs in other.runs(theirs_own)]
            if [len(one) for one in mine] != [len(one) for one in theirs]:
                troubles.append(f"{name} is a mean of other runs in {other.folder}")
                continue
            pairs = [pair for each in zip(mine, theirs, strict=True)
                     for pair in zip(*each, strict=True)]  # fmt: skip
            if any(None in pair for pair in pairs):
                unread[name] = None
            keys = {key for a, b in pairs if a is not None and b is not None
                    for key in a.keys() | b.keys() if a.get(key) != b.get(key)}  # fmt: skip
            if keys:
                troubles.append(
                    f"the runs of {name} in {first.folder} and {other.folder} differ in "
                    f"{', '.join(sorted(keys))}; expected one recipe, of another split and seed"
                )
    return troubles, list(unread)


def _settings(run: Path) -> dict[str, Any] | None:
    """Without its teacher, of which each fold has its own; None where the run is gone."""
    try:
        told = settings_of(run)
    except InputError:
        return None
    return {key: value for key, value in told.items() if key != TEACHER}
