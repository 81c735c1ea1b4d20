"""The record of several experiments as one: what each was, by its name."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from seg_eval.analysis import Question, summarise
from seg_eval.arms import ARM_KINDS, Arm
from seg_eval.pooling.fitting import Fitted
from seg_eval.pooling.fold import Fold
from seg_eval.report import say
from synth3d.scoring import FEWEST_TRAININGS


def merge_config(fitted: Fitted) -> dict[str, Any]:
    """``config`` of ``summary.json``: what all folds agree in, and each fold's own by its name."""
    configs = [fold.config for fold in fitted.folds]
    agreed = {key: value for key, value in configs[0].items()
              if all(one.get(key) == value for one in configs)}  # fmt: skip
    drawn = {case: name for one in configs for case, name in one.get("drawn", {}).items()}
    synthesis = [n for n, kind in fitted.kinds.items() if ARM_KINDS[kind].group == "synthesis"]
    merged = {name: list(names) for name, names in fitted.replicates.items()}
    return agreed | {
        "train": sorted({case for one in configs for case in one["train"]}),
        "test": sorted(case for one in configs for case in one["test"]),
        **({"drawn": drawn} if drawn else {}),
        "primary": next(iter(synthesis), None),
        "arms": {name: {"kind": kind} for name, kind in fitted.kinds.items()},
        **({"replicates": merged} if merged else {}),
        "folds": {fold.name: {"folder": str(fold.folder.resolve()), **fold.config}
                  for fold in fitted.folds},
    }  # fmt: skip


def record_of(fitted: Fitted) -> dict[str, Any]:
    """Keys of ``summary.json`` that no row tells, but those that others make."""
    summaries = [fold.summary for fold in fitted.folds]
    seconds: dict[str, float] = {}
    for summary in summaries:
        for stage, spent in summary["seconds"].items():
            seconds[stage] = round(seconds.get(stage, 0.0) + spent, 2)
    libraries = dict.fromkeys(name for each in summaries for name in each["versions"])
    settings = [summary["setting"] for summary in summaries]
    return {
        "setting": {
            "date": date.today().isoformat(),
            "simulated": all(one.get("simulated") for one in settings),
            "iterations": settings[0].get("iterations"),
        },
        "notes": {name: _notes(fitted, name) for name in fitted.kinds},
        "seconds": seconds,
        "peak_memory_mb": max((one.get("peak_memory_mb") or 0 for one in summaries), default=0),
        "versions": {
            name: ", ".join(
                dict.fromkeys(one["versions"].get(name, "not told") for one in summaries)
            )
            for name in libraries
        },
        "hashes": {
            f"{fold.name}: {what}": found
            for fold in fitted.folds for what, found in fold.summary["hashes"].items()
        },
    }  # fmt: skip


def _notes(fitted: Fitted, name: str) -> str:
    """How an arm was made: once if it is the same in all folds, else of each."""
    told: dict[str, str] = {}
    for fold, names in zip(fitted.folds, fitted.names, strict=True):
        own = next(own for own in fold.kinds if names[own] == name)
        trained = [own] if own != name else list(fold.replicates.get(own, ()))
        each = [f"run {' and '.join(trained)}" if trained else "", fold.summary["notes"].get(own)]
        told[fold.name] = ", ".join(filter(None, each))
    if len({*told.values()}) == 1:
        return next(iter(told.values()))
    return "; ".join(f"{fold}: {note}" for fold, note in told.items() if note)


def commands_of(folds: Sequence[Fold], words: str) -> list[str]:
    """Every command of every fold, its name behind it, and last the one that put them together."""
    told = [(one, fold.name) for fold in folds for one in fold.summary["commands"]]
    found = [f"{one}  # {name}" for one, name in told if one != words]
    return [*found, *([words] if words else [])]


def warnings_of(fitted: Fitted, centres: Mapping[str, str]) -> list[str]:
    """What limits the folds by their plans; what their rows told is told anew of all rows.

    What all folds say is said once.
    """
    told = {fold.name: _of_plan(fold, centres) for fold in fitted.folds}
    first = next(iter(told.values()))
    common = [one for one in first if all(one in each for each in told.values())]
    own = [f"{name}: {one}" for name, each in told.items() for one in each if one not in common]
    return [*common, *own]


def _of_plan(fold: Fold, centres: Mapping[str, str]) -> list[str]:
    """The fold's warnings without those of its rows, and that its weights are few."""
    config = fold.config
    arms = [Arm(name, kind) for name, kind in fold.kinds.items()]
    mine = {case: centres[case] for case in fold.patients if case in centres}
    about = arms, config["missing"], config["empty"], config["margin"]
    more = {"degraded": config["degraded"], "regions": config["regions"]}
    question = Question(*about, **more, centres=mine)
    found = summarise(fold.scores, fold.images, question).caveats
    rows = {say(caveat.code, **caveat.figures) for caveat in found}
    few = [arm.name for arm in arms if fold.runs(arm.name)
           and len(fold.replicates.get(arm.name, (arm.name,))) < FEWEST_TRAININGS]  # fmt: skip
    rows |= {say("these_weights", names=few)} if few else set()
    return [warning for warning in fold.summary["warnings"] if warning not in rows]
