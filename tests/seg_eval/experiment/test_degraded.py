"""A sequence that is there with thick slices: what its slices cost, and how much comes back."""

import csv
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from seg_eval.arms import poor
from seg_eval.arms.poor import parse_degraded
from seg_eval.cli import build_parser, main, request_of
from seg_eval.evaluation import evaluate
from seg_eval.experiment.choice import choose
from seg_eval.experiment.request import RunRequest
from synth3d.cli import main as synth3d
from synth3d.errors import InputError
from synth3d.images import coarse, coarse_grid, read
from tests.seg_eval.conftest import NAMES, restores

pytestmark = pytest.mark.usefixtures("plain_pictures")

QUICK = "trilinear,spline,ridge,restored,plumbing"


@pytest.fixture
def ask(toy_cohort, toy_splits, write_run, tmp_path):
    """A request about the toy cohort's FLAIR with a run that restores it by ratio 1, 1, 4."""
    run = restores(write_run(tmp_path / "work" / "runs" / "sr", toy_cohort), (1, 1, 4))

    def ask(*more, degraded="flair=1,1,4", name="poor", arms=QUICK, **changes):
        flags = ["run", "--degraded", degraded, "--data", str(toy_cohort), "--arms", arms]
        flags += ["--splits", str(toy_splits), "--work", str(tmp_path / "work"), "--threads", "1"]
        flags += ["--name", name] if name else []
        asked = request_of(build_parser().parse_args([*flags, "--run", str(run), *more]))
        return replace(asked, **changes)

    return ask


@pytest.fixture
def do(ask, machines):
    """Does it with stand-ins; the folder."""
    return lambda *more, engines=None, **how: (
        evaluate(ask(*more, **how), engines or machines.engines()).folder
    )


def contents(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.nii.gz")}


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_whole_experiment(do, machines, write_run, toy_cohort, tmp_path):
    before = contents(toy_cohort)
    filling = write_run(tmp_path / "filling", toy_cohort, sources=["t1n", "t1c", "t2w"])
    folder = do("--run", str(filling))
    summary = summary_of(folder)
    named = {arm["name"]: arm["kind"] for arm in summary["arms"]}
    assert list(named) == [
        "full", "degraded", "trilinear", "spline", "ridge", "sr", "filling", "plumbing",
    ]  # fmt: skip
    assert (named["sr"], named["filling"]) == ("restored", "synthetic")
    assert summary["config"]["degraded"] == {"ratio": [1, 1, 4], "profile": "kspace"}
    completing = [words for words in machines.commands if words[0] == "complete"]
    asked = [
        (words[words.index("--data") + 1], "--restore" in words, "--missing" in words)
        for words in completing
    ]
    assert asked == [
        (str(folder / "degraded"), True, False),  # the restoring run sees the thick slices
        (str(toy_cohort), False, True),
        (str(toy_cohort), False, True),  # the check of the export path
    ]
    for region in summary["regions"].values():
        dice = {name: arm["dice"] for name, arm in region["arms"].items()}
        gap = dice["full"] - dice["degraded"]
        assert region["gap"]["value"] == pytest.approx(gap)
        for name, arm in region["arms"].items():
            assert arm["gain"]["value"] == pytest.approx(dice[name] - dice["degraded"])
    assert summary["headline"]["primary"] == "sr"
    assert contents(toy_cohort) == before


def test_scans_are_of_the_files_themselves_and_what_is_made_of_them_is_masked(do, toy_cohort):
    folder = do(arms="trilinear,ridge")
    for name in NAMES[:4] + NAMES[5:]:  # of training cases, too: regression learns from them
        real = read(toy_cohort / name / f"{name}_flair.nii.gz")
        scan = read(folder / "degraded" / name / f"{name}_flair.nii.gz")
        np.testing.assert_allclose(scan.data, coarse(real.data, (1, 1, 4)), rtol=1e-6)
        assert scan.grid.difference(coarse_grid(real.grid, (1, 1, 4))) is None
    name = NAMES[5]
    head = read(toy_cohort / name / f"{name}_t2.nii.gz").data != 0
    for arm in ("degraded", "trilinear", "ridge"):
        assert not read(folder / "arms" / arm / name / f"{name}_flair.nii.gz").data[~head].any()
    # FLAIR is linear in the others, whose voxels are fine: what regression adds to interpolation.
    error = {
        name: scores["mae_brain@own-scale"] for name, scores in summary_of(folder)["images"].items()
    }
    assert error["ridge"] < 0.1 * error["trilinear"] < 0.1 * error["degraded"]


def test_a_killed_experiment_goes_on_and_ends_the_same(do, machines):
    folder = do(arms="trilinear,restored")
    before = (folder / "results.csv").read_bytes()
    machines.log.clear()
    do(arms="trilinear,restored")
    assert machines.log == ["train segmenter frozen 0"]  # which itself finds its work done
    case = NAMES[5]
    (folder / "degraded" / case / f"{case}_flair.nii.gz").unlink()
    (folder / "arms/trilinear" / case / f"{case}_flair.nii.gz").unlink()
    (folder / "predictions/trilinear/seed0" / f"{case}.nii.gz").unlink()
    (folder / "scores/trilinear/seed0.json").unlink()
    do(arms="trilinear,restored")
    assert machines.log.count("predict") == 1
    assert (folder / "results.csv").read_bytes() == before


def test_experiments_of_several_ratios_share_their_judges_and_no_folder(do, machines, tmp_path):
    for ratio in ("1,1,4", "2,1,1"):
        do(degraded=f"flair={ratio}", name=None, arms="spline,specialist")
    found = {path.name for path in (tmp_path / "work/eval").iterdir()}
    assert found == {"t2f-1x1x4-cohort", "t2f-2x1x1-cohort"}
    judges = [(task.kind and task.kind.name, task.own_folder) for task in machines.tasks]
    assert judges[:2] == judges[2:]
    with pytest.raises(InputError, match=r"degraded is 2, 1, 1 by kspace, was 1, 1, 4 by"):
        do(degraded="flair=2,1,1", name="t2f-1x1x4-cohort", arms="spline")


def test_slices_that_cost_nothing_are_said_to_cost_nothing(do, machines):
    def blind(model, threads):
        def predict(channels, spacing):
            found = channels["t1c"] > 1.5 * np.median(channels["t1c"][channels["t1c"] > 0])
            return np.where(found, 3, 0).astype(np.uint8)

        return predict

    summary = summary_of(do(engines=replace(machines.engines(), load_segmenter=blind)))
    for region in summary["regions"].values():
        assert not region["gap_defined"]
        assert all(arm["recovery"] is None for arm in region["arms"].values())
    headline = summary["headline"]
    assert (headline["worth"], headline["likely"]) == ("unclear", "nothing to win")
    assert "no loss" in headline["sentence"]  # of three patients: likely so, not proven
    assert "more patients" in headline["advice"]


def test_a_run_of_other_slices_is_judged_with_a_warning(do, capsys):
    summary = summary_of(do(degraded="flair=1,1,2", arms="restored"))
    assert (
        "learned to restore slices of 1 × 1 × 4 (kspace), not of these" in capsys.readouterr().out
    )
    (told,) = [text for text in summary["warnings"] if "other slices" in text]
    assert told.startswith("sr was trained for other slices than these: 1 × 1 × 4")
    summary = summary_of(do(name="these", arms="restored"))
    assert not any("other slices" in text for text in summary["warnings"])


def test_test_cases_that_are_thick_already_are_named(do, monkeypatch):
    """Toy cases are too small to tell; here each is, along what is made coarser."""
    monkeypatch.setattr(poor, "too_thick", lambda volume, head, ratio: {"x": ratio[2] / 2})
    summary = summary_of(do(arms="spline"))
    (told,) = [text for text in summary["warnings"] if "interpolated from thick slices" in text]
    assert told.startswith("t2f itself is interpolated from thick slices in ")
    assert f"{NAMES[5]} (2 voxels along x), " in told
    monkeypatch.undo()
    assert not any("thick slices in" in text for text in summary_of(do(arms="spline"))["warnings"])


def test_the_ratio_of_a_run_on_slices_is_of_their_rows_and_columns(ask, toy_cohort, tmp_path):
    """In coronal slices a row is one of the volume's z: 1, 4, 1 there is 4, 1, 1 of the file."""
    run = tmp_path / "work" / "runs" / "sr"
    asked = ask(run=(), degraded="flair=4,1,1")
    assert choose(asked, ("t2f",)).training
    config = {"dim": 2, "data": {"plane": "coronal"}}
    config["degrade"] = {"source": "t2f", "ratio": [1, 4, 1], "profile": "kspace"}
    (run / "config.json").write_text(json.dumps(config))
    assert [one.name for one in choose(asked, ("t2f",)).sources] == ["sr"]
    assert choose(ask(run=(), degraded="flair=1,4,1"), ("t2f",)).training


def test_retraining_learns_from_restored_training_cases(do, machines):
    folder = do("--folds", "2", arms="retrained")
    completing = [words for words in machines.commands if words[0] == "complete"]
    held_out = [words for words in completing if NAMES[5] not in words]
    assert {name for words in held_out for name in words if name in NAMES} == {*NAMES[:4]}
    for words in held_out:
        assert "--restore" in words
        assert words[words.index("--data") + 1] == str(folder / "degraded")


def test_without_a_run_the_newest_of_these_very_slices_is_taken_or_one_trained(
    ask, write_run, toy_cohort, machines, tmp_path
):
    write_run(tmp_path / "work/runs/z-filling", toy_cohort, sources=["t1n", "t1c", "t2w"])
    assert [one.name for one in choose(ask(run=()), ("t2f",)).sources] == ["sr"]
    other = ask(run=(), degraded="flair=1,1,8", arms="restored")
    training = choose(other, ("t2f",)).training
    assert training[training.index("--degraded") + 1] == "t2f=1,1,8"
    assert "--target" not in training
    assert (tmp_path / "work/eval") not in evaluate(other, machines.engines()).folder.parents[1:]
    with pytest.raises(InputError, match="no finished run restores t2f from slices of profile"):
        choose(ask("--profile", "slices", run=()), ("t2f",))


def test_what_makes_sense_of_a_missing_sequence_alone_is_there_by_name_only(ask):
    assert ask(arms="all").kinds == (
        "full", "degraded", "trilinear", "spline", "ridge", "boosted", "restored", "synthetic",
        "plumbing", "specialist", "dropout", "retrained",
    )  # fmt: skip
    named = ("full", "zero", "degraded", "copy")
    assert ask(arms="zero,copy", run=()).kinds == named
    assert ask(arms="zero,copy").kinds == (*named, "synthetic")  # of the run that is named


@pytest.mark.parametrize(
    "text", ["flair", "flair=", "flair=4", "flair=1,1", "flair=1,1,1", "flair=1,1,0",
             "flair=1,1,2.5", "flair=1,1,-2", "flair=1,1,1,4", "flair=x,1,2", "=1,1,2"],
)  # fmt: skip
def test_what_is_no_ratio_is_refused(text):
    with pytest.raises(InputError, match=r"says no ratio; expected SEQUENCE=z,y,x|no modality|''"):
        parse_degraded(text)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--missing", "flair", "--degraded", "flair=1,1,4"), "both are given; expected exactly"),
        ((), "neither is given; expected exactly one"),
        (("--degraded", "flair=1,1,19"), "voxels of 19 along x, where case Brats18_TOY_A_1 has 18"),
        (("--degraded", "flair=15,1,1"), "voxels of 15 along z, where case Brats18_TOY_A_1 has 14"),
        (("--degraded", "pd=1,1,2"), "pd cannot be poor"),
        (("--degraded", "dwi=1,1,2"), "'dwi' is not a modality"),
        (("--missing", "flair", "--profile", "slices"), "give it with that"),
        (("--missing", "flair", "--arms", "trilinear"), "trilinear are of a degraded sequence"),
        (("--degraded", "t1ce=1,1,4", "--run", "SR"), "it neither restores t1c nor fills it in"),
        (("--missing", "flair", "--run", "SR"), "makes t2f of its thick slices"),
    ],
)
def test_it_is_refused_in_one_sentence_and_nothing_is_written(
    flags, sentence, toy_cohort, toy_splits, write_run, tmp_path, capsys
):
    run = restores(write_run(tmp_path / "sr", toy_cohort), (1, 1, 4))
    words = [str(run) if word == "SR" else word for word in flags]
    words += ["--data", str(toy_cohort), "--splits", str(toy_splits)]
    words += [] if "--run" in words or "--arms" in words else ["--arms", "ridge"]
    assert main(["run", *words, "--work", str(tmp_path / "work")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error
    assert not (tmp_path / "work").exists()


@pytest.fixture
def several(do, run_toy, tmp_path):
    """Folders of the experiments of two ratios and of the missing sequence."""
    parent = tmp_path / "work" / "eval"
    for ratio in ("4", "2"):
        do(degraded=f"flair=1,1,{ratio}", name=f"by-{ratio}", arms="spline,ridge", run=())
    run_toy("--arms", "ridge,copy")
    return [parent / "by-4", parent / "toy", parent / "by-2"]


def test_a_curve_has_a_point_for_each_ratio_and_ends_where_the_sequence_is_missing(
    several, tmp_path, capsys
):
    before = [contents(folder) for folder in several]
    assert main(["curve", *map(str, several), "--out", str(tmp_path / "curve")]) == 0
    with (tmp_path / "curve" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(row["ratio"] for row in rows)) == ["2", "4", "inf"]
    floor = [(r["ratio"], r["arm"]) for r in rows if (r["line"], r["region"]) == ("as it is", "WT")]
    assert floor == [("2", "degraded"), ("4", "degraded"), ("inf", "zero")]
    for row in rows:
        folder = tmp_path / "work" / "eval" / row["experiment"]
        cell = summary_of(folder)["regions"][row["region"]]["arms"][row["arm"]]
        assert float(row["dice"]) == pytest.approx(cell["dice"])
    printed = capsys.readouterr().out
    assert "| WT Dice" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("| copy")][:1]
    assert [cell.strip() for cell in line.split("|")][2:4] == ["–", "–"]
    assert (tmp_path / "curve" / "curve.png").is_file()
    assert [contents(folder) for folder in several] == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"test": ["another"]}, "differ in test: no curve of both"),
        ({"seeds": [7]}, "differ in seeds"),
        ({"degraded": {"ratio": [1, 1, 2], "profile": "slices"}}, "slices of several profiles"),
        ({"degraded": {"ratio": [2, 1, 1], "profile": "kspace"}}, "along the same axes"),
        ({"degraded": {"ratio": [1, 1, 4], "profile": "kspace"}}, "are of one ratio"),
        ({"hashes": {"segmenter frozen-seed0 fold_0": "0"}}, "differ in the frozen segmenter"),
        ({}, "two experiments or more"),
    ],
)
def test_experiments_that_do_not_belong_on_one_curve_are_refused(
    do, tmp_path, capsys, change, sentence
):
    for ratio in ("4", "2"):
        do(degraded=f"flair=1,1,{ratio}", name=f"by-{ratio}", arms="spline", run=())
    folders = [tmp_path / "work/eval/by-4", tmp_path / "work/eval/by-2"]
    other = summary_of(folders[1])
    other["hashes"] |= change.pop("hashes", {})
    other["config"] |= change
    (folders[1] / "summary.json").write_text(json.dumps(other))
    folders = folders[:1] if "two" in sentence else folders
    assert main(["curve", *map(str, folders), "--out", str(tmp_path / "curve")]) == 2
    assert sentence in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "curve").exists()


RECIPE = """
[model]
name = "resunet"
widths = [4, 8]

[data]
patch = [8, 8, 8]
overlap = [0, 0, 0]
batch = 2
queue = 8
validation_cases = 1

[train]
framework = "l1"
steps = 2
"""


@pytest.mark.slow
def test_a_run_is_trained_to_restore_and_restores_what_the_experiment_degrades(
    toy_cohort, toy_splits, machines, tmp_path
):
    """Both by the real program: what is handed from one to the other fits."""
    (tmp_path / "tiny.toml").write_text(RECIPE)
    codes = []

    def real(words):
        codes.append(synth3d([*words, "--device", "cpu"]))

    asked = RunRequest(
        degraded="flair=1,1,4", data=toy_cohort, splits=toy_splits, work=tmp_path / "work",
        recipe=str(tmp_path / "tiny.toml"), threads=1, arms=("restored",),
    )  # fmt: skip
    folder = evaluate(asked, replace(machines.engines(), synth3d=real)).folder
    assert codes == [0, 0]
    (arm,) = [a for a in summary_of(folder)["arms"] if a["kind"] == "restored"]
    told = json.loads(next((folder / "arms").glob(f"{arm['name']}/*/*.receipt.json")).read_text())
    assert told["targets"]["t2f"]["restored"]["ratio_asked"] == [1, 1, 4]
    assert told["targets"]["t2f"]["restored"]["ratio_found"] == [1, 1, 3.6]  # 18 voxels in 5
    assert not summary_of(folder)["hashes"].keys() - {f"synthesiser {arm['name']}"}
