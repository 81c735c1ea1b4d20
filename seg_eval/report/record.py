"""What went into an experiment, for the record: caveats of its plan, hashes, versions."""

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from seg_eval.analysis import Caveat
from seg_eval.arms import ARM_KINDS, Completed, SynthesisRun, kinds_with
from seg_eval.experiment import SMALL, Experiment, Plan
from seg_eval.records import GUARD, Pin
from seg_eval.segmenter import BEST, FINAL, STOCK_TOTAL, iterations_of
from synth3d.files import sha256
from synth3d.settings import read_as

LIBRARIES = ("torch", "nnunetv2", "scikit-learn", "numpy", "nibabel", "torchio")


def caveats_of(plan: Plan) -> list[Caveat]:
    """What a reader has to know of the plan that the figures do not say."""
    found = []
    found += [Caveat("label_scheme", {"warning": note}) for note in plan.cohort.notes]
    kinds = {arm.kind for arm in plan.arms}
    if absent := [kind for kind in kinds_with("own_segmenter") if kind not in kinds]:
        found.append(Caveat("rivals_not_run", {"kinds": absent, "degraded": bool(plan.degraded)}))
    how, restoring = plan.degraded, [arm.source for arm in plan.arms if arm.kind == "restored"]
    for run in [source for source in restoring if isinstance(source, SynthesisRun)]:
        if how is not None and not how.is_learnt_by(run, plan.cohort.test[0]):
            about = {"name": run.name, "ratio": run.ratio, "profile": run.profile}
            found.append(Caveat("other_slices", about))
    if thick := how.thick_already(plan.cohort.test) if how else {}:
        found.append(Caveat("thick_truth", {"name": plan.missing[0], "cases": thick}))
    if not plan.foreign and (count := iterations_of(plan.preset)) < SMALL:
        about = {"preset": plan.preset, "iterations": count, "stock": STOCK_TOTAL}
        found.append(Caveat("small_segmenter", about))
    if plan.foreign is not None:
        found.append(Caveat("foreign_segmenter", {"name": plan.foreign.name}))
        if kinds & set(kinds_with("own_segmenter")):
            found.append(Caveat("rivals_of_another_preset", {"preset": plan.preset}))
    other = [arm for arm in plan.arms if ARM_KINDS[arm.kind].group == "synthesis"]
    if unknown := [arm.name for arm in other if not isinstance(arm.source, SynthesisRun)]:
        found.append(Caveat("unknown_training", {"names": unknown}))
    if taught := [arm.of for arm in plan.arms if isinstance(arm.source, Completed) and arm.of]:
        found.append(Caveat("retrained_on_files", {"name": taught[0]}))
    return found


def hashes(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of whatever was learned: synthesisers and segmenters.

    Raises:
        InputError: The record of the segmenters is damaged.
    """
    found: dict[str, str] = {}
    for arm in experiment.plan.arms:
        if isinstance(arm.source, SynthesisRun):
            found[f"synthesiser {arm.source.name}"] = arm.source.weights_sha256
    models = read_as(dict[str, Pin], experiment.folder / "segmenters.json", GUARD)
    for name in (f"{kind}-seed{seed}" for kind, seed in experiment.segmenters()):
        folder = Path(models[name].model)
        final, best = (folder.glob(f"fold_*/{file}") for file in (FINAL, BEST))
        for path in sorted(final) or sorted(best):
            found[f"segmenter {name} {path.parent.name}"] = sha256(path)
    return found


def versions() -> dict[str, str]:
    """Of Python and of the libraries that have a part in the figures."""
    found = {"python": platform.python_version()} | dict.fromkeys(LIBRARIES, "not installed")
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
