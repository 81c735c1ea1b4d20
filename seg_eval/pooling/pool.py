"""One certificate of several experiments whose test patients are different.

Rows are put together under the names of the certificate's arms, and mean what they would mean in
one experiment, but for one thing: the patients of a fold share its networks and are a cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seg_eval.analysis import Question, tell_uncertainty
from seg_eval.arms import Arm
from seg_eval.experiment import TRANSFER
from seg_eval.pooling.fitting import Fitted, fit
from seg_eval.pooling.fold import Fold, read_fold, read_folds
from seg_eval.pooling.record import commands_of, merge_config, record_of, warnings_of
from seg_eval.report import (
    CaseFiles,
    places_of,
    ranked,
    read_transfers,
    say,
    used_of,
    write_findings,
)
from seg_eval.scoring import Score
from synth3d.cohort import find_cases
from synth3d.errors import InputError
from synth3d.files import LONGEST_STEM, fault_of, lock, make_folder, place, plain, sweep, write_json
from synth3d.settings import read_as

Rows = tuple[list[Score], list[dict[str, Any]]]


def pool(
    folders: Sequence[Path], work: Path = Path("work"), name: str | None = None, words: str = ""
) -> tuple[Path, dict[str, Any]]:
    """Write the certificate of the experiments in ``folders``; its folder and its summary.

    Args:
        folders: Finished experiments, two or more.
        work: The certificate is written into ``work/eval``.
        name: Of its folder; by default ``<missing>-<cohort>-pooled``.
        words: The command line, for the record.

    Raises:
        InputError: They do not belong together, one is damaged, or the folder holds anything else.
            Nothing is written then.
    """
    if name is not None and (fault := fault_of(name, LONGEST_STEM)):
        raise InputError(f"--name wants a plain folder name; {name!r:.120} {fault}")
    folds = read_folds(folders)
    try:
        fitted = fit(folds)
        found = {None: _findings(fitted, words)}
        found |= {preset: _findings(fit(each)) for preset, each in _transfers(folds).items()}
    except InputError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"one of {', '.join(map(str, folders))} is damaged or of another version: {error!r}; "
            "run these experiments again"
        ) from error
    config = found[None].record["config"]
    missing = plain("-".join(config["missing"]))
    out = place(work / "eval", name or f"{missing}-{plain(Path(config['data']).name)}-pooled")
    refuse_taken(out, {fold.name: fold.folder for fold in folds})
    make_folder(out)
    with lock(out):
        sweep(out)
        for preset in [preset for preset in found if preset]:
            found[preset].write(place(out, TRANSFER, preset))
        return out, found[None].write(out)


@dataclass(frozen=True)
class _Findings:
    """All that a certificate is written from, see :func:`seg_eval.report.write_findings`."""

    rows: Rows
    question: Question
    record: Mapping[str, Any]
    shown: Sequence[CaseFiles]

    def write(self, out: Path) -> dict[str, Any]:
        """All outputs in ``out``; ``summary.json``."""
        record = {**self.record, "transfer": read_transfers(out)}
        folds = {name: each["folder"] for name, each in record["config"]["folds"].items()}
        make_folder(out)
        write_json(out / "config.json", record["config"] | {"folds": folds})
        return write_findings(out, self.rows, self.question, record, self.shown)


def refuse_taken(out: Path, folds: Mapping[str, Path]) -> None:
    """Stop where ``out`` is the folder of another experiment, or of other ``folds`` by name.

    Raises:
        InputError: As said.
    """
    path = out / "config.json"
    if not path.is_file():
        return
    before = read_as(dict[str, Any], path).get("folds", {})
    if before != {name: str(folder.resolve()) for name, folder in folds.items()}:
        held = ", ".join(before) if before else "no certificate of several"
        raise InputError(f"{out} holds another experiment ({held}); give another --name")


def _transfers(folds: Sequence[Fold]) -> dict[str, list[Fold]]:
    """The same folds by judges of another architecture, of each preset that all folds have."""
    presets = [{path.parent.name for path in fold.folder.glob(f"{TRANSFER}/*/summary.json")}
               for fold in folds]  # fmt: skip
    shared = set.intersection(*presets)
    for preset in sorted(set.union(*presets) - shared):
        print(f"note: not all of these were judged by {preset} (--transfer), so it is left out")
    return {
        preset: [read_fold(fold.folder / TRANSFER / preset, fold.name) for fold in folds]
        for preset in sorted(shared)
    }


def _findings(fitted: Fitted, words: str = "") -> _Findings:
    """Everything but ``transfer``, which is read where it was written.

    Raises:
        InputError: No score counts, or no fold recorded a case to show.
    """
    scores, images = merge_rows(fitted)
    config, (owner, shared) = merge_config(fitted), clusters_of(fitted.folds)
    centres = _centres(fitted.folds)
    question = Question(
        arms=[Arm(name, kind) for name, kind in fitted.kinds.items()],
        missing=config["missing"],
        empty=config["empty"],
        margin=config["margin"],
        degraded=config["degraded"],
        centres=centres,
        regions=config["regions"],
        folds={case: owner[fold.name] for fold in fitted.folds for case in fold.patients},
    )
    used = used_of(scores, config["empty"], config["regions"])
    warnings = warnings_of(fitted, centres)
    warnings += [say("shared_networks", folds=names) for names in shared]
    warnings += [say("unread_settings", names=fitted.unread)] if fitted.unread else []
    record = {
        "config": config,
        **record_of(fitted),
        "uncertainty": uncertainty_of(fitted, used),
        "commands": commands_of(fitted.folds, words),
        "warnings": warnings,
    }
    return _Findings((scores, images), question, record, shown_of(fitted, used))


def merge_rows(fitted: Fitted) -> Rows:
    """All scores and image scores, under the names of the certificate."""
    scores: list[Score] = []
    images: list[dict[str, Any]] = []
    for fold, names in zip(fitted.folds, fitted.names, strict=True):
        for row in fold.scores:
            replicate = names[row.replicate] if row.replicate else ""
            scores.append(replace(row, arm=names[row.arm], replicate=replicate))
        for image in fold.images:
            told = {"arm": names[str(image["arm"])]}
            told |= {"replicate": names[image["replicate"]]} if image.get("replicate") else {}
            images.append({**image, **told})
    return scores, images


def clusters_of(folds: Sequence[Fold]) -> tuple[dict[str, str], list[list[str]]]:
    """By fold the cluster that it belongs to: itself, or with all that share a network with it.

    And the names of folds that do. A segmenter that was given is shared by all, and makes nobody
    alike: the statement is about it.
    """
    owner = {fold.name: {fold.name} for fold in folds}
    seen: dict[str, str] = {}
    for fold in folds:
        given = bool(fold.config["segmenter"])
        for what, weights in fold.summary["hashes"].items():
            if given and what.startswith("segmenter frozen-"):
                continue
            other = seen.setdefault(weights, fold.name)
            joined = owner[fold.name] | owner[other]
            owner |= dict.fromkeys(joined, joined)
    order = [fold.name for fold in folds]
    groups = [[name for name in order if name in each] for each in owner.values()]
    shared = [group for i, group in enumerate(groups) if len(group) > 1 and group not in groups[:i]]
    return {name: "+".join(group) for name, group in zip(owner, groups, strict=True)}, shared


def _centres(folds: Sequence[Fold]) -> dict[str, str]:
    """Where each test case was acquired, if the cohort is still there and says so of all."""
    wanted = {case for fold in folds for case in fold.patients}
    try:
        cases = find_cases(Path(folds[0].config["data"]), wanted)
    except InputError as error:
        print(f"note: centres are not told, for the cohort cannot be read: {error}")
        return {}
    told = {case.name: case.centre for case in cases if case.centre}
    return told if told.keys() == wanted else {}


def uncertainty_of(fitted: Fitted, used: Sequence[Score]) -> list[dict[str, Any]]:
    """Volumes as intervals of each arm whose cases have an uncertainty in all folds."""
    sizes: dict[str, dict[str, float]] = {}
    for fold, names in zip(fitted.folds, fitted.names, strict=True):
        for told in fold.summary["uncertainty"]:
            mine = sizes.setdefault(names[told["arm"]], {})
            mine |= {row["case"]: row["uncertainty"] for row in told["volumes"]}
    scores = [replace(row, arm=row.replicate or row.arm) for row in used]
    counted = {row.case for row in used}
    whole = {arm: each for arm, each in sizes.items() if each.keys() >= counted}
    return [
        tell_uncertainty(scores, arm, {case: each[case] for case in sorted(counted)})
        for arm, each in whole.items()
    ]


def shown_of(fitted: Fitted, used: Sequence[Score]) -> list[CaseFiles]:
    """Whom to look at of all patients, of those whose files the folds recorded.

    Where the one in the middle is none of these, the nearest to it.

    Raises:
        InputError: The files of all of these are gone.
    """
    arms = [Arm(name, kind) for name, kind in fitted.kinds.items()]
    floor = next(name for name in fitted.kinds if name in ("zero", "degraded"))
    order = ranked(used, arms, sorted({row.case for row in used}), floor)
    recorded: dict[str, list[CaseFiles]] = {}
    for fold, names in zip(fitted.folds, fitted.names, strict=True):
        for files in fold.files:
            moved = _moved(files, fold, names)
            if all(Path(path).is_file() for path in _paths(moved)):
                recorded.setdefault(files.case, []).append(moved)
    left = [place for place, case in enumerate(order) if case in recorded]
    if not left:
        folders = ", ".join(str(fold.folder) for fold in fitted.folds)
        raise InputError(
            f"the volumes of all cases that {folders} show are gone; run one of these again"
        )
    shown: list[CaseFiles] = []
    wanted = places_of(len(order))
    for role in [role for role in ("median", "worst", "best") if role in wanted]:
        if left:
            left.remove(nearest := min(left, key=lambda at: abs(at - wanted[role])))
            shown += [replace(files, role=role) for files in recorded[order[nearest]]]
    return sorted(shown, key=lambda files: ("worst", "median", "best").index(files.role))


def _paths(files: CaseFiles) -> list[str]:
    """All files without which a case cannot be shown."""
    arms = [path for pair in files.arms.values() for path in pair if path]
    return [files.real, files.label, *files.brain, *arms]


def _moved(files: CaseFiles, fold: Fold, names: Mapping[str, str]) -> CaseFiles:
    """``files`` as found from elsewhere, under the names of the certificate."""

    def absolute(path: str) -> str:
        return str(fold.folder.resolve() / path)

    told = asdict(files)
    arms = {
        names[arm]: (made and absolute(made), absolute(found))
        for arm, (made, found) in told["arms"].items()
        if arm in names
    }
    maps = {
        names[arm]: {layer: absolute(path) for layer, path in each.items()}
        for arm, each in told["maps"].items()
        if arm in names
    }
    return replace(
        files,
        real=absolute(files.real),
        label=absolute(files.label),
        brain=tuple(map(absolute, files.brain)),
        arms=arms,
        maps=maps,
    )
