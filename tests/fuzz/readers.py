"""Whoever reads a file that came from elsewhere: called with one of its files mutated."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from seg_eval.arms import finished_runs, read_run
from seg_eval.evaluation import evaluate
from seg_eval.evaluation import report as report_again
from seg_eval.segmenter import read_model_folder, refuse_untrusted
from seg_eval.segmenter.export import described
from synth3d.cohort import (
    AuditRequest,
    find_cases,
    findings,
    make_splits,
    read_splits,
    readings_of,
    refuse_twins,
    run_audit,
)
from synth3d.completion import CompleteRequest, complete_cohort
from synth3d.completion.makers import RunMaker
from synth3d.data import prepare
from synth3d.errors import InputError
from synth3d.experiments.plan import choose_cells, configure
from synth3d.experiments.tables import Choices, find_table
from synth3d.images import (
    check_same_grid,
    grid,
    place,
    read,
    read_label,
    shape_of,
    value_limits,
    write_like,
    write_moved,
)
from synth3d.losses import load_segmenter
from synth3d.phantom.cohort import make_cohort
from synth3d.training import build_framework, load_run, read_log, resolve
from synth3d.training.origin import note_environment
from synth3d.training.run_folder import check_same_run, load_state
from tests.fuzz import corpus
from tests.fuzz.commands import copied
from tests.seg_eval.conftest import FakeMachines

Read = Callable[[Path, Path, Path], object]


@dataclass(frozen=True)
class Reader:
    """A reader of the files of the corpus that match ``pattern``.

    ``read`` gets the corpus, of which it may only read, an empty folder to write into, and the
    file that is mutated. It raises an InputError or does well.
    """

    pattern: str
    read: Read
    share: int = 1


def _image(root: Path, out: Path, path: Path) -> None:
    """Each function alone: where one refuses, another may not break."""
    sibling = next(each for each in path.parent.glob("*.nii.gz") if each != path)
    for look in (grid, place, shape_of, value_limits, read_label):
        with suppress(InputError):
            look(path)
    with suppress(InputError):
        check_same_grid([path, sibling])
    with suppress(InputError):
        write_moved(path, grid(sibling).affine, out / "moved.nii.gz")
    volume = read(path)
    write_like(path, volume.data, out / "like.nii.gz", "again")
    assert read(out / "like.nii.gz").data.shape == volume.data.shape


def _case(root: Path, out: Path, path: Path) -> None:
    """As training, completing and the segmenter's cohort meet it."""
    cases = find_cases(root / "cohort")
    (case,) = [case for case in cases if case.name == path.parent.name]
    with suppress(InputError):
        prepare(case, ("t1n", "t1c", "t2w"), ("t2f",))
    with suppress(InputError):
        check_same_grid(case.images.values())
        volumes = {name: read(image) for name, image in case.images.items()}
        findings({name: volume.data for name, volume in volumes.items()}, (1, 1, 1))
    if path.name.endswith("_seg.nii.gz"):
        readings_of([case])


def _twins(root: Path, out: Path, path: Path) -> None:
    cases = find_cases(root / "cohort")
    refuse_twins(cases, make_splits(cases))


def _audit(root: Path, out: Path, path: Path) -> None:
    run_audit(AuditRequest(root / "cohort", root / "splits.json", json=True))


def _fix(root: Path, out: Path, path: Path) -> None:
    run_audit(AuditRequest(root / "cohort", fix_headers=out / "fixed"))


def _table(root: Path, out: Path, path: Path) -> None:
    cases = find_cases(path)
    assert cases
    readings_of([case for case in cases if case.label])


def _splits(root: Path, out: Path, path: Path) -> None:
    splits = read_splits(path, find_cases(root / "cohort"))
    assert set(splits.train) <= set(corpus.CASES)


def _recipe(root: Path, out: Path, path: Path) -> None:
    config = resolve(corpus.training(root, out, recipe=str(path)), "cpu")
    with torch.device("meta"):
        build_framework(config)


def _ablation(root: Path, out: Path, path: Path) -> None:
    _, table = find_table(str(path))
    base = configure(corpus.SETTINGS)
    for cell in choose_cells(table, base, Choices("t2w", "fixed_magnitude", False))[0]:
        configure(corpus.SETTINGS, cell.overrides, cell.testing)


def _dataset(root: Path, out: Path, path: Path) -> None:
    readings_of(find_cases(path.parent))


def _model(root: Path, out: Path, path: Path) -> None:
    model = read_model_folder(root / "model")
    with suppress(InputError):
        described(model)
    refuse_untrusted(model, False, root)


def _segmenter(root: Path, out: Path, path: Path) -> None:
    load_segmenter(root / "segmenter")


def _run(root: Path, out: Path, path: Path) -> None:
    """A finished run, by both packages."""
    run = path.parent
    with suppress(InputError):
        finished_runs(root / "work", root / "cohort", lambda run: run.can_make(("t2f",)))
    with suppress(InputError):
        read_run(run)
    with suppress(InputError):
        read_log(run / "log.jsonl")
    maker = RunMaker(load_run(run))
    maker.findings(find_cases(root / "few")[0])


def _begun(root: Path, out: Path, path: Path) -> None:
    """A run under way goes on, if what it finds is sound."""
    work = copied(root / "half", out / "half")
    run = work / "runs" / "run"
    with suppress(InputError):
        load_state(run / "resume.pt")
    with suppress(InputError):
        read_log(run / "log.jsonl")
    with suppress(InputError):
        note_environment(run / "environment.json", torch.device("cpu"))
    cases = find_cases(root / "cohort")
    config = resolve(corpus.training(root, work), "cpu")
    check_same_run(run, config, root / "cohort", read_splits(root / "splits.json", cases))


def _complete(root: Path, out: Path, path: Path) -> None:
    """A completed cohort that its receipts prove, or not."""
    run = root / "work" / "runs" / "run"
    completed = copied(root / "completed", out / "completed")
    complete_cohort(
        CompleteRequest(root / "few", completed, run=run, missing=("t2f",), device="cpu",
                        dry_run=True)
    )  # fmt: skip


def _phantom(root: Path, out: Path, path: Path) -> None:
    make_cohort(copied(root / "phantom", out / "phantom"), 1, 24, 0)


def _experiment(root: Path, out: Path, path: Path) -> None:
    """The same request again: no record but that of a score changes what comes out."""
    work = copied(root / "work", out / "work")
    (before,) = root.glob("work/eval/toy/results.csv")
    with mock.patch.multiple("seg_eval.report.outputs", draw_dice=mock.Mock(),
                             draw_scatter=mock.Mock(), draw_panel=mock.Mock(),
                             page=lambda *_, **__: ""):  # fmt: skip
        evaluate(corpus.experiment(root, work), FakeMachines().engines())
    if path != before and "scores" not in path.parts:
        assert (work / "eval" / "toy" / "results.csv").read_bytes() == before.read_bytes()


def _report(root: Path, out: Path, path: Path) -> None:
    folder = copied(path.parent, out / "toy")
    report_again(folder)


def _draft(root: Path, out: Path, path: Path) -> None:
    run_audit(AuditRequest(path.parents[1], write_table=out / "table.csv"))


READERS = (
    Reader("cohort/*/*.nii.gz", _image, 30),
    Reader("cohort/*/*.nii.gz", _case, 12),
    Reader("cohort/*/*_seg.nii.gz", _case, 6),
    Reader("cohort/*/*.nii.gz", _twins, 3),
    Reader("cohort/*/*.nii.gz", _audit, 1),
    Reader("cohort/*/*.nii.gz", _fix, 3),
    Reader("cohort/*/*.nii.gz", _draft, 1),
    Reader("table.csv", _table, 8),
    Reader("splits.json", _splits, 8),
    Reader("recipe.toml", _recipe, 8),
    Reader("recipe.json", _recipe, 8),
    Reader("table.toml", _ablation, 6),
    Reader("dataset/dataset.json", _dataset, 10),
    Reader("model/**/*.json", _model, 12),
    Reader("segmenter/*", _segmenter, 6),
    Reader("work/runs/run/*.json", _run, 10),
    Reader("work/runs/run/*.safetensors", _run, 1),
    Reader("half/runs/run/*.json*", _begun, 8),
    Reader("half/runs/run/resume.pt", _begun, 1),
    Reader("completed/*/*.json", _complete, 4),
    Reader("phantom/*.json", _phantom, 2),
    Reader("work/eval/toy/**/*.json", _experiment, 2),
    Reader("work/eval/toy/summary.json", _report, 3),
    Reader("work/eval/toy/volumes.json", _report, 1),
    Reader("work/eval/toy/*.csv", _report, 2),
)
