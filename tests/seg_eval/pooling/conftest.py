"""A toy cohort cross-validated once; whoever changes its folders takes a copy."""

import shutil
from pathlib import Path

import pytest

from seg_eval.evaluation import evaluate
from seg_eval.experiment.request import RunRequest
from tests.seg_eval.conftest import FakeMachines

QUIET = ("draw_dice", "draw_panel", "draw_scatter", "draw_volumes")


def asked(work: Path, cohort: Path, **more) -> RunRequest:
    """Eight patients in four folds, by the cheapest arms and a synthesiser."""
    about = {"arms": ("copy,synthetic",), "threads": 1, "name": "cv", "cross_validate": 4}
    return RunRequest("flair", cohort, work=work, **about | more)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_cohort: Path) -> Path:
    """WORK with the folds cv-fold1 to cv-fold4 and their certificate cv; not to be changed."""
    work = tmp_path_factory.mktemp("folds") / "work"
    with pytest.MonkeyPatch.context() as patch:
        for name in QUIET:
            patch.setattr(f"seg_eval.report.outputs.{name}", lambda *given: given[-1].touch())
        patch.setattr("seg_eval.report.outputs.page", lambda *given, **named: "")
        evaluate(asked(work, toy_cohort), FakeMachines().engines(), "seg_eval run ...")
    return work


@pytest.fixture
def folds(finished: Path, tmp_path: Path) -> list[Path]:
    """The folders of these folds in a WORK of one's own, ``tmp_path/work``."""
    shutil.copytree(finished / "eval", tmp_path / "work" / "eval")
    shutil.rmtree(tmp_path / "work" / "eval" / "cv")
    return [tmp_path / "work" / "eval" / f"cv-fold{i}" for i in (1, 2, 3, 4)]
