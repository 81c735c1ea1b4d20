"""What an experiment's files come from is remembered, and refused when it changed.

Or when it would judge itself: a synthesiser that a segmenter has taught (``train.coupling``).
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from nnunet_plans.presets import PRESETS
from seg_eval.arms import Arm, Completed, Teacher
from seg_eval.experiment.folder import Experiment, Key
from seg_eval.experiment.plan import Plan
from seg_eval.records import GUARD, CaseMarks, Pin, digest, marks
from seg_eval.segmenter import CONFIGURATION
from synth3d.cohort import MODALITIES
from synth3d.errors import InputError
from synth3d.files import sha256, write_json
from synth3d.settings import read_as


def pin_case_files(experiment: Experiment) -> CaseMarks:
    """Remember the cases' files in ``case_files.json``; finished arms saw them as they are."""
    pin, cohort = experiment.folder / "case_files.json", experiment.plan.cohort
    before = read_as(CaseMarks, pin, GUARD) if pin.is_file() else {}
    owners = {
        path.absolute(): case.name
        for case in (*cohort.train, *cohort.test)
        for path in (*(case.images[name] for name in MODALITIES), case.label)
    }
    now = marks(owners, before)
    other = {path for path in now.keys() & before.keys() if now[path][2] != before[path][2]}
    if changed := {name for path, name in owners.items() if str(path) in other}:
        raise InputError(
            f"files of {', '.join(sorted(changed))} changed since {experiment.folder} was begun; "
            "give another --name or remove that folder"
        )
    if now != before:
        write_json(pin, now)
    return now


def pin_segmenters(experiment: Experiment, models: Mapping[Key, Path]) -> None:
    """Remember which segmenters these are in ``segmenters.json``; predictions are theirs."""
    pin = experiment.folder / "segmenters.json"
    before = read_as(dict[str, Pin], pin, GUARD) if pin.is_file() else {}
    now = {
        f"{kind}-seed{seed}": Pin(str(model), _mark(model, experiment.plan.is_foreign(kind)))
        for (kind, seed), model in models.items()
    }
    for name in now.keys() & before.keys():
        if before[name].receipt != now[name].receipt:
            raise InputError(
                f"the segmenter {now[name].model} was trained anew since {experiment.folder} was "
                "begun; give another --name or remove that folder"
            )
    if before | now != before:
        write_json(pin, {name: asdict(entry) for name, entry in (before | now).items()})


def refuse_teachers(plan: Plan, models: Mapping[Key, Path]) -> None:
    """Stop where a segmenter would judge what was coupled to it: a run, or files of one.

    That is one with the checkpoint of its teacher, or with its name and training cases: the same
    training, done again. ``models`` need not be there yet.

    Raises:
        InputError: As said.
    """
    taught = [(arm.content, teacher) for arm in plan.arms for teacher in _teachers(arm, plan)]
    learnt = [case.name for case in plan.cohort.train]
    for (kind, seed), model in models.items() if taught else ():
        found = checkpoints(model)
        for made, teacher in taught:
            again = kind == "frozen" and not plan.is_foreign(kind) and model.name == teacher.origin
            again = again and teacher.learnt_from(learnt)
            if again or teacher.checkpoint_sha256 in found:
                raise InputError(
                    f"{made} was coupled to the segmenter {model.name}, which would "
                    f"judge what it taught; judge it by another: other --seeds than {seed}, or "
                    "--segmenter"
                )


def _teachers(arm: Arm, plan: Plan) -> tuple[Teacher, ...]:
    """Who taught what fills the missing channels of ``arm``; nobody where nothing was learnt."""
    if isinstance(arm.source, Completed):
        return arm.source.teachers(plan.cohort.test)
    return () if arm.source is None else arm.source.teachers


def checkpoints(model: Path) -> set[str]:
    """SHA-256 of all weights in a model folder; empty where there is none yet."""
    return {sha256(path) for path in model.glob("fold_*/*.pth")}


def expected(plan: Plan) -> dict[Key, Path]:
    """The frozen segmenters that are there or will be trained, by their names at least."""
    if plan.foreign is not None:
        return {("frozen", plan.seeds[0]): plan.foreign}
    trainer = f"{PRESETS[plan.preset].trainer}__{plan.preset}"
    return {("frozen", seed): Path(f"{trainer}-seed{seed}__{CONFIGURATION}") for seed in plan.seeds}


def _mark(model: Path, foreign: bool) -> str | None:
    """A hash of the receipt of a training, or of all that decides what a foreign model says."""
    if foreign:
        said = [model / "dataset.json", model / "plans.json"]
        files = [*sorted(model.glob("fold_*/*.pth")), *filter(Path.is_file, said)]
        return digest({str(path.relative_to(model)): sha256(path) for path in files})
    receipt = model / "model.json"
    return sha256(receipt) if receipt.is_file() else None
