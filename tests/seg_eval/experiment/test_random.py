"""--missing random: each case lacks another sequence, as in BraSyn, and all are one experiment."""

import csv
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_eval.arms.gaps import draw_gaps
from seg_eval.evaluation import evaluate
from seg_eval.experiment.choice import choose
from seg_eval.experiment.request import RunRequest
from synth3d.cohort import MODALITIES, Case
from synth3d.errors import InputError
from synth3d.images import read, write_new


def case(name):
    return Case(name, name, None, {}, None, "table")


@given(st.lists(st.text("abc123", min_size=1), unique=True, max_size=30), st.integers(0, 2**32))
def test_each_sequence_is_drawn_about_as_often_and_order_does_not_matter(names, seed):
    gaps = draw_gaps(map(case, names), seed)
    assert gaps == draw_gaps(map(case, reversed(names)), seed)
    assert gaps.drawn.keys() == {*names}
    counts = Counter(gaps.drawn.values())
    assert all(abs(counts[m] - len(names) / 4) < 1 for m in MODALITIES)
    assert all(gaps.of(case(name)) == (gaps.drawn[name],) for name in names)
    assert {c.name for some in gaps.sets(map(case, names)).values() for c in some} == {*names}


def test_another_seed_draws_other_gaps():
    cases = [case(str(number)) for number in range(20)]
    assert draw_gaps(cases, 0) != draw_gaps(cases, 1)


@pytest.fixture
def ask(toy_cohort, toy_splits, write_run, tmp_path):
    """The experiment with a run for any gap, on the cheapest arms."""
    run = write_run(tmp_path / "any", toy_cohort, *MODALITIES, sources=MODALITIES)

    def of(**more):
        about = {"splits": toy_splits, "run": (run,), "work": tmp_path / "work", "threads": 1}
        return RunRequest("random", toy_cohort, **about | {"arms": ("copy,template",)} | more)

    return of


def test_a_run_of_one_sequence_is_refused_with_what_trains_another(
    ask, toy_cohort, write_run, tmp_path
):
    run = write_run(tmp_path / "one", toy_cohort, "t2f")
    with pytest.raises(InputError, match="synth3d train --target any"):
        choose(request := ask(run=(run,)), request.wanted[0])


def test_one_experiment_in_which_every_case_lacks_its_own(ask, machines, plain_pictures):
    folder = evaluate(ask(), machines.engines()).folder
    config = json.loads((folder / "config.json").read_text())
    drawn = config["drawn"]
    assert drawn.keys() == {*config["test"]}
    assert len({*drawn.values()}) == 3  # of three cases each another
    commands = [c for c in machines.commands if c[0] == "complete" and "--plumbing" not in c]
    told = {c[c.index("--cases") + 1]: c[c.index("--missing") + 1] for c in commands}
    assert told == drawn
    with (folder / "image_scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "copy"]
    assert {row["case"]: row["modality"] for row in rows} == drawn
    summary = json.loads((folder / "summary.json").read_text())
    assert "one sequence" in summary["title"]
    before = len(machines.log)
    assert evaluate(ask(), machines.engines()).folder == folder  # all is done
    assert "predict" not in machines.log[before:]
    other = evaluate(ask(seed=1), machines.engines()).folder
    assert other != folder


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"arms": ("specialist",)}, "specialist train a segmenter for one gap"),
        ({"coupled": 7}, "--coupled teaches one gap"),
    ],
)
def test_what_knows_one_gap_alone_is_refused(ask, more, why):
    with pytest.raises(InputError, match=why):
        ask(**more)


def test_a_run_for_one_sequence_is_refused(ask, write_run, toy_cohort, tmp_path, machines):
    run = write_run(tmp_path / "flair", toy_cohort, sources=["t1n", "t1c", "t2w"])
    with pytest.raises(InputError, match="the run .*flair makes t2f"):
        evaluate(ask(run=(run,)), machines.engines())


def test_another_tools_folder_need_hold_what_each_case_lacks(
    ask, machines, theirs, toy_cohort, plain_pictures
):
    with pytest.raises(InputError, match="lacks [23] synthesised files"):
        evaluate(ask(run=(), completed=(f"cwdm={theirs()}",)), machines.engines())


def test_two_teams_are_held_against_each_other(ask, machines, toy_cohort, tmp_path, plain_pictures):
    """One's images are the real ones in another unit, the other's lie four voxels beside them."""
    for team, shift in (("ours", 0), ("b", 4)):
        shutil.copytree(toy_cohort, tmp_path / team)
        for path in (tmp_path / team).glob("*/*_[tf]*.nii.gz"):
            image = read(path)
            moved = np.roll(2 * image.data, shift, axis=2)
            write_new(path, moved, image.affine, np.float32)
    teams = tuple(f"{name}={tmp_path / name}" for name in ("b", "ours"))
    folder = evaluate(ask(run=(), completed=teams), machines.engines()).folder
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["headline"]["primary"] == "b"
    pair = summary["leads"][0]
    assert (pair["arm"], pair["against"], pair["proven"]) == ("ours", "b", False)
    means = [
        np.mean([region["arms"][team]["dice"] for region in summary["regions"].values()])
        for team in ("ours", "b")
    ]
    assert pair["lead"]["value"] == pytest.approx(means[0] - means[1])
    assert summary["headline"]["sentence"].startswith("ours is ahead of b by ")
