"""What makes no sense is told in one sentence, and before anything is trained or written."""

import numpy as np
import pytest

from seg_eval.experiment import plan
from synth3d.cohort import find_cases
from synth3d.errors import InputError
from synth3d.images.volumes import read, write_like

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--data", "COHORT", "--work", "COHORT"), "lies in the cohort folder"),
        (("--data", "COHORT", "--work", "COHORT/work"), "lies in the cohort folder"),
        (("--arms", "all", "--folds", "1"), "--folds must be at least 2 and at most the 4"),
        (("--arms", "all", "--folds", "5"), "--folds must be at least 2 and at most the 4"),
        (("--arms", "retrained", "--completed", "THEIRS"), "lacks Brats18_TOY_A_1 t2f"),
        (("--completed", "THEIRS", "--missing", "t1"), r"lacks 3 synthesised files.*TOY_F_1 t1n"),
        (("--segmenter", "THEIRS"), "it would have nothing to look at"),
        (("--segmenter", "THEIRS", "--seeds", "0,1"), "--segmenter is one model"),
        (("--segmenter", "nowhere"), "--segmenter: no folder"),
    ],
)
def test_it_is_refused_before_any_work(
    run_toy, machines, own_cohort, theirs, monkeypatch, flags, sentence
):
    class Described:
        channels = ("t2f",)

    monkeypatch.setattr(plan, "read_model_folder", lambda folder: Described())
    monkeypatch.setattr(plan, "refuse_untrusted", lambda *given: True)
    given = {"COHORT": str(own_cohort), "THEIRS": str(theirs("FGH"))}
    words = [given.get(word, word.replace("COHORT", str(own_cohort))) for word in flags]
    with pytest.raises(InputError, match=sentence):
        run_toy(*words, run=())
    assert machines.log == []


def test_a_prediction_that_fails_has_its_name(run_toy, machines, monkeypatch):
    def refuses(channels, spacing_mm):
        raise InputError("t2f has no zero background")

    monkeypatch.setattr(machines, "load_segmenter", lambda *given: refuses)
    with pytest.raises(InputError, match="arm full, case Brats18_TOY_F_1: t2f has no zero"):
        run_toy("--arms", "full")


def test_skipping_empty_regions_must_leave_something(run_toy, own_cohort):
    for case in find_cases(own_cohort)[5:]:
        write_like(case.label, np.zeros_like(read(case.label).data), case.label)
    flags = ("--data", str(own_cohort), "--arms", "full")
    with pytest.raises(InputError, match="--empty skip leaves nothing to judge"):
        run_toy(*flags, "--empty", "skip")
    assert run_toy(*flags) == 0
