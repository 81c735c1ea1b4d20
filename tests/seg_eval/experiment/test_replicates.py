"""``--as``: several trainings of one recipe are one arm, and nothing else is."""

import csv
import hashlib
import json

import pytest

from seg_eval.cli import build_parser, request_of
from seg_eval.experiment.choice import choose
from seg_eval.experiment.plan import make_plan
from synth3d.errors import InputError
from tests.seg_eval.conftest import SPLIT

NAMES = ["run-0", "run-1", "run-2"]


@pytest.fixture
def trained(toy_cohort, write_run, tmp_path):
    """Writes a finished run of this name and seed, with further settings; gives its folder."""

    def train(name, seed, split=SPLIT, weights="", **settings):
        folder = write_run(tmp_path / name, toy_cohort, split=split)
        config = {"train": {"seed": seed, "threads": seed + 1, **settings}}
        (folder / "config.json").write_text(json.dumps(config))
        done = json.loads((folder / "done.json").read_text())
        done["weights_sha256"] = hashlib.sha256((weights or name).encode()).hexdigest()
        (folder / "done.json").write_text(json.dumps(done))
        return folder

    return train


@pytest.fixture
def three(trained):
    """Three trainings that differ in their seed, as one arm."""
    return {"run": (), "replicates": {"agi": [trained(name, int(name[-1])) for name in NAMES]}}


@pytest.fixture
def refusal(toy_request):
    """The sentence with which these replicates are refused."""

    def sentence(run=(), **replicates):
        request = toy_request(run=tuple(run), replicates=replicates)
        with pytest.raises(InputError) as caught:
            make_plan(request, ("t2f",), choose(request, ("t2f",)).sources)
        return str(caught.value)

    return sentence


@pytest.mark.usefixtures("plain_pictures")
def test_three_trainings_are_one_arm_with_their_values_behind_it(run_toy, three, folder):
    assert run_toy("--arms", "copy,synthetic", "--seeds", "0,1", **three) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert [arm["name"] for arm in summary["arms"]] == ["full", "zero", "copy", "agi"]
    assert summary["intervals"]["replicates"] == {"agi": {"names": NAMES, "over": "trainings"}}
    assert summary["primary"]["arm"] == "agi"
    assert summary["config"]["replicates"] == {"agi": NAMES}
    assert {*NAMES} < {*summary["config"]["arms"]}
    assert {f"synthesiser {name}" for name in NAMES} <= {*summary["hashes"]}
    cells = summary["regions"]["WT"]["arms"]
    assert len(cells["agi"]["metrics"]["dice"]["per_replicate"]) == 3
    assert len(cells["agi"]["recovery_per_replicate"]) == 3
    assert "recovery_per_replicate" not in cells["copy"]
    pairs = {(row["arm"], row["against"]) for row in summary["leads"]}
    assert pairs == {("agi", "copy")}
    for table, each in (("results.csv", 2 * 3), ("image_scores.csv", 1)):
        rows = list(csv.DictReader((folder / table).read_text().splitlines()))
        own = [row for row in rows if row["arm"] == "agi"]
        assert {row["replicate"] for row in own} == {*NAMES}
        assert len(own) == 3 * 3 * each  # replicates, cases, then seeds and regions
        assert {row["replicate"] for row in rows if row["arm"] != "agi"} == {""}
    text = (folder / "report.md").read_text()
    assert all(name in text for name in NAMES)


@pytest.mark.usefixtures("plain_pictures")
def test_a_single_run_has_no_column_and_no_key_more(run_toy, folder):
    assert run_toy("--arms", "copy,synthetic") == 0
    said = json.loads((folder / "summary.json").read_text())["warnings"]
    assert sum("agi" in each and "--as NAME" in each for each in said) == 1
    for name in ("results.csv", "image_scores.csv"):
        assert "replicate" not in (folder / name).read_text().splitlines()[0]
    for name in ("summary.json", "config.json"):
        text = (folder / name).read_text()
        assert not any(key in text for key in ('"replicates"', '"per_replicate"', '"leads"'))


@pytest.mark.usefixtures("plain_pictures")
def test_a_further_training_joins_and_what_was_scored_is_not_scored_again(
    run_toy, three, trained, folder, machines
):
    assert run_toy("--arms", "synthetic", **three) == 0
    before = len(machines.log)
    more = {"agi": [*three["replicates"]["agi"], trained("run-3", 3)]}
    assert run_toy("--arms", "synthetic", run=(), replicates=more) == 0
    assert machines.log[before:].count("complete") == 1
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["intervals"]["replicates"]["agi"]["names"] == [*NAMES, "run-3"]


@pytest.mark.usefixtures("plain_pictures")
def test_the_arm_in_question_may_get_replicates_and_no_other_may_take_its_place(
    run_toy, three, folder
):
    first, second, _ = three["replicates"]["agi"]
    assert run_toy("--arms", "synthetic", run=(first,)) == 0
    with pytest.raises(InputError, match="primary is 'run-1', was 'run-0'"):
        run_toy("--arms", "synthetic", run=(second,))
    assert run_toy("--arms", "synthetic", **three) == 0
    assert json.loads((folder / "summary.json").read_text())["primary"]["arm"] == "agi"
    said = json.loads((folder / "summary.json").read_text())["warnings"]
    assert not any("--as NAME" in each for each in said)


def test_each_as_takes_the_runs_since_the_last_one():
    words = ["run", "--missing", "flair"]
    for name in ("a", "b"):
        words += ["--run", f"{name}0", "--run", f"{name}1@x", "--as", name]
    request = request_of(build_parser().parse_args([*words, "--run", "c"]))
    merged = {name: [*map(str, runs)] for name, runs in request.replicates.items()}
    assert merged == {"a": ["a0", "a1@x"], "b": ["b0", "b1@x"]}
    assert [*map(str, request.run)] == ["a0", "a1@x", "b0", "b1@x", "c"]
    with pytest.raises(SystemExit):
        build_parser().parse_args([*words, "--as", "b"])


def test_mirrored_runs_are_replicates_of_mirrored_runs_alone(toy_request, trained, refusal):
    first, second = trained("a", 0), trained("b", 1)
    request = toy_request(run=(), replicates={"flat": [f"{first}@x", f"{second}@x"]})
    plan = make_plan(request, ("t2f",), choose(request, ("t2f",)).sources)
    assert plan.replicates == {"flat": ("a@x", "b@x")}
    assert "mirrors" in refusal(flat=[f"{first}@x", second])


def test_all_that_keeps_runs_from_being_replicates_is_named(trained, refusal):
    alone = refusal(alone=[trained("only", 0)])
    assert "there is one" in alone
    other = SPLIT | {"train": SPLIT["train"][:3]}
    runs = [
        trained("a", 0, steps=10, l1={"weight": 1}),
        trained("b", 1, steps=20, l1={"weight": 2}),
        trained("c", 2, split=other, steps=10, l1={"weight": 1}),
    ]
    said = refusal(mixed=runs)
    assert "train.l1.weight, train.steps" in said
    assert "the training cases" in said
    assert "train.threads" not in said
    same = [trained("d", 4, weights="w"), trained("e", 5, weights="w"), trained("f", 5)]
    said = refusal(same=same)
    assert "the same weights" in said
    assert "train.seed 5" in said


def test_a_merged_arm_has_a_name_of_its_own(trained, refusal):
    runs = [trained("a", 0), trained("b", 1)]
    for name in ("zero", "a"):
        assert f"{name} is the name of another arm" in refusal(**{name: runs})
    assert "begins with" in refusal(**{".hidden": runs})
