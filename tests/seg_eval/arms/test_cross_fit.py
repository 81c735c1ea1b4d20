import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_eval.arms.completed import Completed
from seg_eval.arms.cross_fit import CrossFit, check_out_of_fold, folds_of, out_of_fold
from seg_eval.arms.kinds import Arm
from seg_eval.arms.synthesisers import read_run
from seg_eval.cohort import load_cohort, refuse_leak
from synth3d.cohort import Case, patient_of
from synth3d.errors import InputError

NAMES = tuple(f"Brats18_TOY_{letter}_1" for letter in "ABCD")


def cases(names):
    return tuple(Case(n, patient_of(n), Path(n), {}, None, "brats2018") for n in names)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=12), st.data())
def test_every_case_is_held_out_once_with_all_of_its_patient(visits, data):
    folds = data.draw(st.integers(2, len(visits)))
    names = [f"BraTS-GLI-{p:05d}-{v:03d}" for p, count in enumerate(visits) for v in range(count)]
    parts = folds_of(cases(names), folds)
    assert sorted(case.name for part in parts for case in part) == sorted(names)
    assert all(parts)
    owners = [{case.patient for case in part} for part in parts]
    assert sum(map(len, owners)) == len(set().union(*owners))
    assert max(map(len, parts)) - min(map(len, parts)) <= max(visits)
    assert parts == folds_of(cases(reversed(names)), folds)


@pytest.mark.parametrize("folds", [0, 1, 3])
def test_too_few_patients_or_folds_are_refused(folds):
    with pytest.raises(InputError, match=f"at most the 2 training patients, got {folds}"):
        folds_of(cases(["BraTS-GLI-00001-000", "BraTS-GLI-00002-000"]), folds)


@pytest.fixture
def cohort(toy_cohort, toy_splits):
    return load_cohort(toy_cohort, toy_splits)


def make(arm, cohort, folder, machines):
    return out_of_fold(CrossFit(arm, cohort, ("t2f",), 2, folder, machines.synth3d, threads=1))


@pytest.fixture
def retrained(write_run, toy_cohort, tmp_path):
    """An arm that learns from a run; ``split`` is the run's own."""

    def arm(**split):
        run = read_run(write_run(tmp_path / "agi", toy_cohort, **split))
        return Arm("retrained", "retrained", run, "agi")

    return arm


def test_no_network_completes_a_case_that_it_learned_from(cohort, machines, retrained, tmp_path):
    arm = retrained()
    files = make(arm, cohort, tmp_path / "oof", machines)
    assert set(files) == {case.name for case in cohort.train}
    assert all(images["t2f"].is_file() for images in files.values())
    learned = {}
    for command in machines.commands:
        options = dict(zip(command[1::2], command[2::2], strict=False))
        if command[0] == "train":
            split = json.loads(Path(options["--splits"]).read_text())
            learned[options["--name"]] = {*split["train"], *split["val"]}
            assert options["--recipe"] == str(arm.source.folder / "config.json")
            assert not learned[options["--name"]] & {case.name for case in cohort.test}
        else:
            completed = command[command.index("--cases") + 1 :]
            assert completed
            assert not learned[Path(options["--run"]).name] & set(completed)
    assert len(learned) == 2
    machines.log.clear()
    assert make(arm, cohort, tmp_path / "oof", machines) == files
    assert machines.log == [], "a second call made something again"


def test_folds_are_done_side_by_side_each_in_its_order(cohort, retrained, tmp_path, monkeypatch):
    """By worker processes, with programs that only say that they were called."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("train", "complete"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/log\n')
        program.chmod(0o755)
    noted, run = [], subprocess.check_call
    fit = CrossFit(retrained(), cohort, ("t2f",), 2, tmp_path / "oof", run, 1, 2, noted.append)
    out_of_fold(fit)
    called = (tmp_path / "log").read_text().splitlines()
    assert sorted(f"synth3d {words}" for words in called) == sorted(noted)
    for number in ("1", "2"):
        of_fold = [line.split()[0] for line in called if f"fold-{number}" in line]
        assert of_fold == ["train", "complete"]
    (tmp_path / "train").write_text("#!/bin/sh\nkill -9 $PPID\n")
    with pytest.raises(InputError, match="fold .* was lost: .*SIGKILL"):
        out_of_fold(fit)


def test_the_files_of_another_tool_must_cover_the_training_cases(
    cohort, machines, theirs, tmp_path
):
    def arm(letters):
        return Arm("retrained", "retrained", Completed("theirs", theirs(letters)), "theirs")

    with pytest.raises(InputError, match=r"lacks Brats18_TOY_B_1 t2f, .*TOY_D_1 t2f; put their"):
        make(arm("A"), cohort, tmp_path / "oof", machines)
    files = make(arm("ABCD"), cohort, tmp_path / "oof", machines)
    assert machines.log == []
    assert all(path["t2f"].is_file() for path in files.values())
    assert not any(path["t2f"].is_relative_to(theirs()) for path in files.values())


@pytest.mark.parametrize("val", [NAMES[3], "Elsewhere_2"])
def test_every_fold_trains_and_validates_on_cases_of_the_segmenter_alone(cohort, retrained, val):
    """Whether the run was validated on one of them, or learned from another cohort."""
    arm = retrained(split={"train": ["Elsewhere_1"], "val": [val], "test": []})
    for made in check_out_of_fold(arm, cohort, ("t2f",), 2):
        assert made.train
        assert made.val
        assert sorted((*made.train, *made.val, *made.test)) == [*NAMES]


def test_a_run_that_was_begun_from_another_has_no_fold(cohort, retrained, toy_cohort, tmp_path):
    """A fold would begin from the same weights, which have seen the cases that it holds out."""
    arm = retrained()
    (tmp_path / "agi" / "config.json").write_text('{"train": {"start": "seq2seq"}}')
    told = json.loads((tmp_path / "agi" / "cohort.json").read_text())
    before = {"train": ["Before_1"], "val": ["Before_2"]}
    (tmp_path / "agi" / "cohort.json").write_text(json.dumps(told | {"seen_before": before}))
    later = replace(arm, source=read_run(tmp_path / "agi"))
    with pytest.raises(InputError, match=r"agi was begun from seq2seq, which may have seen"):
        check_out_of_fold(later, cohort, ("t2f",), 2)


@pytest.mark.parametrize("name", ["Brats18_TOY_A_2", "Ann"], ids=["by name", "by table"])
def test_two_visits_of_a_patient_are_never_on_two_sides(cohort, retrained, name):
    """The run was validated on a second visit of a patient whom the segmenter learns from."""
    twin = replace(cohort.train[0], name=name)
    whose = {**cohort.patients, name: twin.patient}
    both = replace(cohort, train=(*cohort.train, twin), patients=whose)
    split = {"train": [case.name for case in cohort.train[1:]], "val": [name], "test": []}
    for made in check_out_of_fold(retrained(split=split), both, ("t2f",), 2):
        sides = [{whose[name] for name in side} for side in (made.train, made.val, made.test)]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]


def test_a_case_that_takes_no_part_still_tells_whose_it_is(cohort):
    """A run that learned from the test patient's other visit, which only a table tells."""
    knows = replace(cohort, patients={**cohort.patients, "Ann": cohort.test[0].patient})
    with pytest.raises(InputError, match=r"\(as Ann\) is among the run's cases"):
        refuse_leak(knows, ["Ann"], "the run's cases")
    refuse_leak(cohort, ["Ann"], "the run's cases")


def test_with_nobody_left_to_validate_on_it_is_refused(cohort, retrained):
    arm = retrained(split={"train": [], "val": [], "test": []})
    pair = replace(cohort, train=cohort.train[:2])
    with pytest.raises(InputError, match="at least one patient to train and one to validate on"):
        check_out_of_fold(arm, pair, ("t2f",), 2)


def test_a_killed_fold_goes_on_with_the_threads_that_it_had(cohort, machines, retrained, tmp_path):
    """`synth3d train` refuses another number, since the weights would not be the same."""
    begun = tmp_path / "oof" / "runs" / "fold-2" / "config.json"
    begun.parent.mkdir(parents=True)
    begun.write_text('{"train": {"threads": 7}}')
    with pytest.raises(FileExistsError):  # the toy training goes on with nothing
        make(retrained(), cohort, tmp_path / "oof", machines)
    trained = [command[-1] for command in machines.commands if command[0] == "train"]
    assert trained == ["1", "7"]
