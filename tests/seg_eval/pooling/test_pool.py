"""``seg_eval pool``: one certificate of experiments whose test patients are different."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_eval import read_summary
from seg_eval.cli import main
from seg_eval.evaluation import power, report
from seg_eval.pooling.fitting import fit
from seg_eval.pooling.fold import Fold
from seg_eval.pooling.pool import clusters_of, merge_rows, pool, shown_of, uncertainty_of
from seg_eval.report import CaseFiles
from synth3d.cohort import SCHEMES
from synth3d.errors import InputError
from tests.seg_eval.analysis.test_summary import ARMS, find, make_scores
from tests.seg_eval.conftest import NAMES

pytestmark = pytest.mark.usefixtures("plain_pictures")
CONFIG = {
    "missing": ["t2f"], "data": "none", "train": [], "preset": "cpu-mini", "segmenter": None,
    "seeds": [0], "empty": "brats", "margin": 0.02, "regions": ["WT"], "nsd_tolerance_mm": 1.0,
    "degraded": None, "arms": {},
}  # fmt: skip


def change(folder, file="summary.json", **config):
    """Make another experiment of a finished one: ``config`` of its summary, by key."""
    path = folder / file
    summary = json.loads(path.read_text())
    summary["config"] |= config
    path.write_text(json.dumps(summary))


def a_fold(name, scores, hashes=(), arms=ARMS, shows=(), **config):
    summary = {
        "config": CONFIG | {"test": sorted({row.case for row in scores})} | config,
        "arms": [{"name": arm.name, "kind": arm.kind} for arm in arms],
        "hashes": {str(i): each for i, each in enumerate(hashes)},
    }
    files = [
        CaseFiles(case, case, "median", "t2f", SCHEMES["brats2023"], "r", "l", (), {})
        for case in shows
    ]
    return Fold(Path("/none") / name, name, summary, scores, [], files)


@given(st.lists(st.booleans(), min_size=8, max_size=8).filter(lambda one: 0 < sum(one) < 8),
       st.integers(1, 3))  # fmt: skip
def test_the_halves_of_an_experiment_mean_together_what_the_whole_means(side, seeds):
    scores = make_scores(cases=8, seeds=seeds)
    parts = [[r for r in scores if side[int(r.case[1:])] is which] for which in (True, False)]
    merged, images = merge_rows(fit([a_fold("a", parts[0]), a_fold("b", parts[1])]))
    assert not images
    assert sorted(merged, key=str) == sorted(scores, key=str)
    whole, pooled = (find(rows).figures["regions"]["WT"] for rows in (scores, merged))
    for name, arm in whole["arms"].items():
        other = pooled["arms"][name]
        assert other["dice"] == pytest.approx(arm["dice"])
        assert other["loss"]["value"] == pytest.approx(arm["loss"]["value"])
        assert other["recovery"]["value"] == pytest.approx(arm["recovery"]["value"])


def test_the_certificate_is_of_all_patients_and_over_folds(finished):
    found = read_summary(finished / "eval" / "cv")
    assert found["config"]["test"] == sorted(NAMES)
    assert found["regions"]["WT"]["patients"] == len(NAMES)
    assert found["intervals"]["over"] == "folds"
    assert found["intervals"]["folds"] == {f"cv-fold{i}": 2 for i in (1, 2, 3, 4)}
    assert [arm["name"] for arm in found["arms"]] == ["full", "zero", "copy", "synthetic"]
    folds = [read_summary(finished / "eval" / f"cv-fold{i}") for i in (1, 2, 3, 4)]
    for arm in ("full", "zero", "copy"):
        mean = sum(one["regions"]["WT"]["arms"][arm]["dice"] for one in folds) / 4
        assert found["regions"]["WT"]["arms"][arm]["dice"] == pytest.approx(mean)
    said = (finished / "eval" / "cv" / "report.md").read_text()
    assert "Each patient was judged once, by networks of its own fold" in said


def test_the_record_of_every_fold_survives(finished):
    found = read_summary(finished / "eval" / "cv")
    for i in (1, 2, 3, 4):
        fold, name = read_summary(finished / "eval" / f"cv-fold{i}"), f"cv-fold{i}"
        assert found["config"]["folds"][name].items() >= fold["config"].items()
        for what, weights in fold["hashes"].items():
            assert found["hashes"][f"{name}: {what}"] == weights
        assert {command.split("  # ")[0] for command in found["commands"]} >= {*fold["commands"]}
        assert any(command.endswith(f"# {name}") for command in found["commands"])
    assert not any("this training alone" in one for one in found["warnings"])
    assert any("trained for" in one and "iterations" in one for one in found["warnings"])


def test_its_folder_reads_back_like_any_experiment(finished, folds, capsys):
    folder, _ = pool(folds, folds[0].parents[1], "all")
    report(folder)
    assert "judged once" in capsys.readouterr().out
    power(folder)
    assert "synthetic" in capsys.readouterr().out
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {*NAMES}
    assert {row["arm"] for row in rows} == {"full", "zero", "copy", "synthetic"}


def test_the_same_folds_give_the_same_certificate_and_other_folds_no_folder_of_it(folds):
    work = folds[0].parents[1]
    first = pool(folds, work, "all")[1]
    assert pool(folds, work, "all")[1] | {"commands": []} == first | {"commands": []}
    with pytest.raises(InputError, match="holds another experiment"):
        pool(folds[:3], work, "all")
    with pytest.raises(InputError, match="holds another experiment"):
        pool(folds, work, "cv-fold1")
    (again, _) = pool([work / "eval" / "cv-fold1", work / "eval" / "cv-fold2"], work, "two")
    assert read_summary(again)["intervals"]["over"] == "patients"
    assert any("2 folds" in one for one in read_summary(again)["warnings"])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"missing": ["t1c"]}, "the missing sequence"),
        ({"preset": "standard"}, "--preset"),
        ({"segmenter": "/mine"}, "--segmenter"),
        ({"empty": "skip"}, "--empty"),
        ({"margin": 0.05}, "--margin"),
        ({"regions": ["WT"]}, "the regions"),
        ({"nsd_tolerance_mm": 2.0}, "--nsd-tolerance"),
        ({"degraded": {"ratio": [1, 1, 4], "profile": "kspace"}}, "the thick slices"),
        ({"data": "/elsewhere"}, "the cohort"),
    ],
)
def test_other_questions_and_judges_are_refused(folds, refused, config, said):
    change(folds[1], **config)
    work = folds[0].parents[1]
    told = refused("pool", *map(str, folds), "--work", str(work), "--name", "all")
    assert said in told
    assert str(folds[1]) in told
    assert not (work / "eval" / "all").exists()


def test_all_troubles_are_told_at_once(folds, refused):
    change(folds[1], margin=0.05)
    mine, theirs = (read_summary(fold)["config"]["test"][0] for fold in (folds[0], folds[2]))
    with (folds[0] / "results.csv").open() as file:
        patient = next(row["patient"] for row in csv.DictReader(file) if row["case"] == mine)
    with (folds[2] / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folds[2] / "results.csv").open("w") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(
            row | ({"patient": patient} if row["case"] == theirs else {}) for row in rows
        )
    told = refused("pool", *map(str, folds[:3]), "--work", str(folds[0].parents[1]))
    assert "--margin" in told
    assert "each is to be judged once" in told
    assert patient in told


def test_fewer_than_two_unfinished_ones_and_other_versions_are_refused(folds, refused):
    assert "two experiments or more" in refused("pool", str(folds[0]))
    assert "given twice" in refused("pool", str(folds[0]), str(folds[0]))
    (folds[1] / "summary.json").unlink()
    old = json.loads((folds[2] / "summary.json").read_text()) | {"schema": 3}
    (folds[2] / "summary.json").write_text(json.dumps(old))
    told = refused("pool", *map(str, folds))
    assert f"{folds[1]} is not a finished experiment" in told
    assert f"{folds[2]} is damaged or of another version" in told


@pytest.mark.parametrize("break_it", [
    lambda rows: rows[:-1],
    lambda rows: [*rows[:-1], rows[-1].replace(",synthetic,", ",other,").replace("fold", "x")],
    lambda rows: ["case,arm", "a,b"],
])  # fmt: skip
def test_damaged_rows_are_one_sentence(folds, refused, break_it):
    path = folds[1] / "results.csv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(break_it(rows)[: 2 if len(break_it(rows)) == 2 else 9]) + "\n")
    assert str(folds[1]) in refused("pool", *map(str, folds))


@pytest.mark.parametrize("key", ["uncertainty", "cases", "arms"])
def test_a_damaged_record_is_one_sentence(folds, refused, key):
    path = folds[1] / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: [{"arm": "nobody"}]}))
    (folds[1] / "volumes.json").write_text("[{}]" if key == "cases" else "[]")
    work = folds[0].parents[1]
    assert str(folds[1]) in refused("pool", *map(str, folds), "--work", str(work), "--name", "all")
    assert not (work / "eval" / "all").exists()


def test_runs_of_other_settings_are_refused_by_name_and_of_other_seeds_are_not(folds, refused):
    def settings(fold, values):
        arms = read_summary(fold)["config"]["arms"].values()
        run = Path(next(arm["run"] for arm in arms if "run" in arm))
        own = fold.parents[1] / run.name
        own.mkdir()
        (own / "config.json").write_text(json.dumps(values))
        text = (fold / "summary.json").read_text().replace(str(run), str(own))
        (fold / "summary.json").write_text(text)

    for i, fold in enumerate(folds[:3]):
        settings(fold, {"train": {"steps": 9, "seed": i}})
    pool(folds[:3], folds[0].parents[1], "alike")
    settings(folds[3], {"train": {"steps": 8, "seed": 0}})
    told = refused("pool", *map(str, folds), "--work", str(folds[0].parents[1]))
    assert "train.steps" in told
    assert "train.seed" not in told


def test_arms_of_other_names_whose_runs_are_gone_are_refused(folds, refused):
    text = (folds[1] / "summary.json").read_text()
    (folds[1] / "summary.json").write_text(text.replace("/work/runs/", "/gone/runs/"))
    assert "nothing says they are trainings of one recipe" in refused("pool", *map(str, folds))


def test_experiments_that_share_a_network_are_one_fold():
    folds = [a_fold("a", [], "xy"), a_fold("b", [], "zw"), a_fold("c", [], "vy")]
    owner, shared = clusters_of(folds)
    assert owner == {"a": "a+c", "b": "b", "c": "a+c"}
    assert shared == [["a", "c"]]


def test_replicates_line_up_by_their_ordinal_and_must_be_as_many():
    def fold(name, cases, runs):
        rows = [
            replace(row, case=f"{name}{row.case}", patient=f"{name}{row.patient}", replicate=run)
            for row in make_scores(cases=cases)
            for run in (runs if row.arm == "agi" else [""])
        ]
        return a_fold(name, rows, replicates={"agi": runs})

    merged, _ = merge_rows(fit([fold("a", 2, ["A0", "A1"]), fold("b", 2, ["B0", "B1"])]))
    assert {row.replicate for row in merged if row.arm == "agi"} == {"agi-1", "agi-2"}
    find(merged)  # an arm of two replicates, in all cases
    with pytest.raises(InputError, match="agi has 2 trainings"):
        fit([fold("a", 2, ["A0", "A1"]), fold("b", 2, ["B0", "B1", "B2"])])


def test_the_cases_shown_are_those_recorded_nearest_to_worst_middle_and_best(tmp_path):
    values = [0.1 * i for i in range(9)]
    scores = [
        replace(row, dice=values[int(row.case[1:])]) if row.arm == "agi" else row
        for row in make_scores(cases=9)
    ]
    for name in "rl":
        (tmp_path / name).touch()

    def fold(name, cases, shows):
        made = a_fold(name, [row for row in scores if row.case in cases], shows=shows)
        return replace(made, folder=tmp_path)

    first = [f"c{i:02d}" for i in (0, 2, 4, 6)]
    second = [f"c{i:02d}" for i in (1, 3, 5, 7, 8)]
    parts = [fold("a", first, ["c00", "c06"]), fold("b", second, ["c01", "c05", "c08"])]
    shown = {each.role: each.case for each in shown_of(fit(parts), scores)}
    assert shown == {"worst": "c00", "median": "c05", "best": "c08"}


def test_the_command_pools_and_says_where(folds, capsys):
    work = folds[0].parents[1]
    assert main(["pool", *map(str, folds), "--work", str(work)]) == 0
    said = capsys.readouterr().out
    assert "4 folds" in said
    (out,) = (work / "eval").glob("*-pooled")
    assert str(out / "report.html") in said


def test_volumes_are_told_as_intervals_where_every_fold_knows_an_uncertainty():
    scores = make_scores(cases=12)

    def fold(name, which, told):
        made = a_fold(name, [r for r in scores if int(r.case[1:]) % 2 == which])
        rows = [{"case": case, "uncertainty": 0.1} for case in sorted(made.patients)]
        maps = [{"arm": "agi", "volumes": rows}] if told else []
        return replace(made, summary={**made.summary, "uncertainty": maps})

    both, one = (fit([fold("a", 0, True), fold("b", 1, told)]) for told in (True, False))
    (found,) = uncertainty_of(both, scores)
    assert (found["arm"], found["patients"], found["level"]) == ("agi", 12, 0.9)
    assert {row["case"] for row in found["volumes"]} == {row.case for row in scores}
    assert uncertainty_of(one, scores) == []
