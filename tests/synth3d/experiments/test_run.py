"""``synth3d ablate`` as a user meets it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synth3d.cli import main
from synth3d.cohort import draw_splits, find_cases
from synth3d.experiments import run as experiment

ROOT = Path(__file__).parents[3]
TINY = [
    "--threads", "1", "--device", "cpu", "--recipe", "phantom",
    "--set", "model.widths=[4,8]", "--set", "model.groups=2", "--set", "model.blocks=1",
    "--set", "model.stages=2", "--set", "data.patch=[16,16,16]", "--set", "data.overlap=[0,0,0]",
    "--set", "data.batch=2", "--set", "train.framework=l1", "--set", "train.checkpoint_every=4",
]  # fmt: skip


def run(*args: object) -> int:
    return main(["ablate", *map(str, args)])


def test_the_list_names_every_table(capsys):
    assert run("--list") == 0
    named = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert named == ["components", "groups", "stages", "convolutions", "frameworks",
                     "translation", "rotation", "elastic", "tsf-inputs", "tsf-map",
                     "tsf-parts", "fgdl-misalign", "fgdl-ratio", "shift-probe"]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "say which TABLE to run"),
        (["nothing"], "unknown table 'nothing'"),
        (["components", "--seeds", "0"], "--seeds and --workers must be at least 1"),
        (["components", "--budget", "soon"], "--budget takes steps"),
        (["components", "--data", "nowhere"], "no folder nowhere"),
        (["translation", "--move", "pd"], "--move pd: the sources are t1n, t1c, t2w"),
        (["fgdl-misalign", "--move", "t2"], "--move t2: the targets are t2f"),
        (["fgdl-ratio", "--target", "t1ce,flair"], "restores one sequence; give one --target"),
        (["components", "--convention", "brasyn"], "must have a PSNR"),
        (["components", "--convention", "mine"], "no convention is called mine"),
        (["components", "--set", "train.stpes=3"], "unknown key(s) ['stpes']"),
        (["components", "--budget", "4", "--set", "train.steps=3"], "not both"),
        (
            ["components", "--target", "any"],
            "compares runs of fixed targets; give --target",
        ),
        (["tsf-map"], "this table compares runs for any gap; give --target any, or a recipe"),
    ],
)
def test_mistakes_are_told_in_one_sentence(args, message, phantom_cohort, tmp_path, capsys):
    data = [] if "--data" in args else ["--data", phantom_cohort]
    assert run(*args, *data, "--recipe", "phantom", "--work", tmp_path, "--device", "cpu") == 2
    assert message in capsys.readouterr().err


def test_a_stage_without_a_step_is_refused_before_anything_is_written(
    phantom_cohort, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(experiment, "estimate", lambda *items: "")
    command = ("tsf-inputs", "--data", phantom_cohort, "--work", tmp_path, "--device", "cpu",
               "--recipe", "tsf-cpu", "--only", "tsf-*", "--seeds", 1, "--threads", 1)  # fmt: skip
    assert run(*command, "--budget", 1) == 2
    told = "train.tsf.pretrain=0.5 of 1 steps leaves 0 to Seq2Seq and 1 to the fusion"
    assert told in capsys.readouterr().err
    assert not (tmp_path / "ablate").exists()
    assert run(*command, "--budget", 3, "--dry-run") == 0
    command = (*command, "--set", "train.tsf.pretrain=0.0")
    assert run(*command, "--budget", 3, "--dry-run") == 2
    assert "would freeze an encoder that has learnt nothing" in capsys.readouterr().err


def test_a_dry_run_tells_cells_and_cost_or_what_cannot_be_built_and_writes_nothing(
    phantom_cohort, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    command = ("frameworks", "--data", phantom_cohort, "--work", tmp_path, "--seeds", 2)
    words = ("--only", "l1-agi-net,pgan-resunet", "--dry-run", "--budget", 4, *TINY)
    assert run(*command, *words, "--set", "data.patch=[32,32,32]") == 0
    out = capsys.readouterr().out
    assert "3 of 16 cells × 2 seeds" in out
    assert "6 runs, 0 trained before" in out
    lines = {line.split()[0]: line for line in out.splitlines() if "-seed" in line}
    cells = ("l1-resunet", "l1-agi-net", "pgan-resunet")
    assert lines.keys() == {f"{cell}-seed{seed}" for cell in cells for seed in (0, 1)}
    told = lines["pgan-resunet-seed1"]
    assert "cannot be trained here: pgan compares pictures by VGG16" in told
    assert "of training with --workers 1" in out
    assert not (tmp_path / "ablate").exists()


def test_a_variation_that_some_cells_may_not_have_is_left_out_of_all_or_refused(
    phantom_cohort, tmp_path, capsys, monkeypatch
):
    planned = []
    monkeypatch.setattr(experiment, "estimate", lambda items, *more: planned.extend(items))
    command = ("frameworks", "--data", phantom_cohort, "--work", tmp_path, "--device", "cpu",
               "--seeds", 1, "--budget", 4, "--only", "l1-resunet,mmgan-resunet", "--dry-run",
               "--threads", 1)  # fmt: skip
    assert run(*command, "--recipe", "cpu") == 0
    assert "mmgan-resunet" in capsys.readouterr().out
    assert {item.config.data.vary for item in planned} == {0.0}
    assert run(*command, "--recipe", "cpu", "--set", "data.vary=0.2") == 2
    assert "data.vary=0.2" in capsys.readouterr().err


def test_the_split_is_drawn_among_cases_that_can_be_learnt_from(phantom_cohort, tmp_path, capsys):
    cohort = tmp_path / "gaps"
    shutil.copytree(phantom_cohort, cohort)
    lacking = sorted(cohort.glob("*/*-t2f.nii.gz"))[::4]
    for path in lacking:
        path.unlink()
    command = ("components", "--data", cohort, "--work", tmp_path, "--only", "cagr", "--dry-run")
    assert run(*command, "--seeds", 1, "--budget", 4, *TINY) == 0
    out = capsys.readouterr().out
    left = len(find_cases(cohort)) - len(lacking)
    splits = draw_splits(find_cases(cohort), lambda case: "t2f" in case.images, "t2f")[0]
    assert len(splits.train) + len(splits.val) + len(splits.test) == left
    assert f"{len(splits.train)} training and {len(splits.test)} test cases" in out
    assert all(path.parent.name in out for path in lacking)


def test_another_table_does_not_overwrite_the_first(phantom_cohort, tmp_path, capsys):
    command = ("components", "--data", phantom_cohort, "--work", tmp_path, "--report", *TINY)
    assert run(*command, "--budget", 4) == 0
    assert run(*command, "--budget", 4, "--only", "gr", "--seeds", 5) == 0
    assert run(*command, "--budget", 6) == 2
    assert "holds a table of other settings (base.train.steps)" in capsys.readouterr().err
    assert run(*command, "--budget", 6, "--name", "longer") == 0


def files(folder: Path) -> dict[str, int]:
    names = ("weights.safetensors", "done.json", "test-*.json")
    return {str(p): p.stat().st_mtime_ns for name in names for p in folder.rglob(name)}


def begin(*words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "synth3d", "ablate", *map(str, words)]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_share_two_cells_and_two_seeds_end_to_end(phantom_cohort, tmp_path, capsys):
    command = ("components", "--data", phantom_cohort, "--work", tmp_path, "--only", "cagr",
               "--seeds", 2, "--budget", 8, *TINY)  # fmt: skip
    with begin(*command) as other:
        assert run(*command) == 0
        assert other.wait(300) == 0
    logs = list((tmp_path / "ablate" / "scores").glob("*/*.log"))
    assert len(logs) == 8
    assert all(log.read_text().count("$ ") == 1 for log in logs)  # each begun once
    assert "Parts of the CAGR module" in capsys.readouterr().out
    folder = tmp_path / "ablate" / "components"
    value = json.loads((folder / "table.json").read_text())
    assert [cell["name"] for cell in value["cells"]] == ["conv", "cagr"]
    assert all(cell["seeds"] == [0, 1] for cell in value["cells"])
    gap = value["cells"][1]["scores"]["psnr_brain@real-scale"]["difference"]
    rows = list(csv.DictReader((folder / "scores.csv").read_text().splitlines()))
    mean = {
        cell: sum(float(r["psnr_brain@real-scale"]) for r in rows if r["cell"] == cell)
        / (len(rows) / 2)
        for cell in ("conv", "cagr")
    }
    assert gap["mean"] == pytest.approx(mean["cagr"] - mean["conv"])
    assert gap["low"] <= gap["mean"] <= gap["high"]
    assert {"psnr_volume@paper-agi", "psnr_tumour@real-scale"} <= set(rows[0])
    before = files(tmp_path)
    assert run(*command, "--workers", 2) == 0
    assert files(tmp_path) == before


@pytest.mark.slow
def test_a_duration_is_turned_into_steps_once(phantom_cohort, tmp_path, capsys):
    command = ("components", "--data", phantom_cohort, "--work", tmp_path, "--budget", "30s",
               "--report", *TINY)  # fmt: skip
    assert run(*command) == 0
    assert "timing 40 steps of conv for the budget" in capsys.readouterr().out
    (timing,) = (tmp_path / "ablate" / "timing").glob("*/timing.json")
    pace = json.loads(timing.read_text())["seconds_per_step"]
    settings = json.loads((tmp_path / "ablate" / "components" / "settings.json").read_text())
    steps = settings["base.train.steps"]
    assert steps % 10 == 0
    assert steps * pace <= 30 < (steps + 10) * pace
    before = timing.stat().st_mtime_ns
    assert run(*command) == 0
    assert "timing" not in capsys.readouterr().out
    assert timing.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_curve_tests_one_run_at_every_level(phantom_cohort, tmp_path):
    command = ("translation", "--data", phantom_cohort, "--work", tmp_path, "--seeds", 1,
               "--budget", 8, "--only", "*-0,*-3", *TINY)  # fmt: skip
    assert run(*command) == 0
    folder = tmp_path / "ablate"
    assert len(list((folder / "runs").iterdir())) == 2
    value = json.loads((folder / "translation" / "table.json").read_text())
    scores = {c["name"]: c["scores"]["psnr_brain@real-scale"]["mean"] for c in value["cells"]}
    assert set(scores) == {"resunet-0", "resunet-3", "agi-net-0", "agi-net-3"}
    assert scores["resunet-0"] != scores["resunet-3"]
    assert (folder / "translation" / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_one_training_for_any_gap_serves_cells_of_several_tables(phantom_cohort, tmp_path):
    small = ("--device", "cpu", "--threads", 1, "--seeds", 1, "--budget", 4,
             *(word for text in ("model.widths=[4,8]", "model.blocks=1", "model.banks=2",
               "data.patch=[32,32]", "data.overlap=[0,0]", "data.workers=0",
               "train.checkpoint_every=4") for word in ("--set", text)))  # fmt: skip
    command = ("--data", phantom_cohort, "--work", tmp_path, *small)
    assert run("tsf-inputs", "--only", "tsf-*", *command) == 0
    runs = list((tmp_path / "ablate" / "runs").iterdir())
    assert len(runs) == 2  # Seq2Seq, the baseline, and TSF-Seq2Seq
    before = files(tmp_path)
    assert run("tsf-map", *command) == 0
    assert files(tmp_path) == before  # not even scored again
    text = (tmp_path / "ablate" / "tsf-map" / "table.md").read_text()
    assert "| PSNR TSEM > P99 (dB) " in text
    assert "18.0 / 28.3 / 27.8" in text
    value = json.loads((tmp_path / "ablate" / "tsf-inputs" / "table.json").read_text())
    scores = {cell["name"]: cell["scores"]["psnr_brain@real-scale"] for cell in value["cells"]}
    # Of two test cases the other three, two and one sequences.
    rows = {"tsf-1": 3, "tsf-plain-2": 2, "tsf-averaged-3": 1}
    cases = scores["tsf-3"]["rows"]
    assert {name: scores[name]["rows"] for name in rows} == {k: n * cases for k, n in rows.items()}
    assert len({scores[f"{row}-3"]["mean"] for row in ("tsf", "tsf-averaged", "seq2seq")}) == 3


SLICES = (
    "--device", "cpu", "--threads", 1, "--budget", 6, "--recipe", "phantom-2d",
    *(word for text in ("model.widths=[4,8]", "model.blocks=1", "model.groups=2",
      "data.patch=[32,32]", "data.overlap=[0,0]", "data.workers=0", "train.checkpoint_every=6",
      "train.critic_layers=2", "train.critic_width=4", "train.adversarial_start=0")
      for word in ("--set", text)),
)  # fmt: skip


@pytest.mark.slow
def test_labels_out_of_place_reach_the_training_alone(phantom_cohort, tmp_path):
    command = ("fgdl-misalign", "--data", phantom_cohort, "--work", tmp_path, "--seeds", 1,
               "--only", "l1-none,l1-high,fgdl-uncorrected-high", *SLICES)  # fmt: skip
    assert run(*command) == 0
    folder = tmp_path / "ablate"
    value = json.loads((folder / "fgdl-misalign" / "table.json").read_text())
    weights = {file.read_bytes() for file in folder.glob("runs/*l1*/weights.safetensors")}
    assert len(weights) == 2
    assert [cell["name"] for cell in value["cells"]] == ["l1-none", "l1-high",
                                                         "fgdl-uncorrected-high"]  # fmt: skip
    text = (folder / "fgdl-misalign" / "table.md").read_text()
    assert "labels of t2f displaced by, in voxels on average and at most: low 0.6 and" in text
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines()]
    (at,) = [n for n, row in enumerate(rows) if row == ["PSNR brain (dB); Δ", "none", "high"]]
    assert [row[0] for row in rows[at + 2 :][:2]] == ["l1", "fgdl-uncorrected"]
    assert rows[at + 3][1] == "–"


@pytest.mark.slow
def test_interpolation_stands_beside_what_restores_and_needs_no_training(phantom_cohort, tmp_path):
    command = ("fgdl-ratio", "--data", phantom_cohort, "--work", tmp_path, "--seeds", 2,
               "--only", "sr-2", *SLICES)  # fmt: skip
    assert run(*command) == 0
    folder = tmp_path / "ablate"
    assert len(list((folder / "runs").iterdir())) == 4  # a run of each seed serves two rows
    value = json.loads((folder / "fgdl-ratio" / "table.json").read_text())
    linear, plain, restored = value["cells"]
    assert (linear["name"], linear["parameters"], linear["seconds_per_step"]) == ("linear-2", 0, 0)
    assert restored["parameters"] > 1000
    assert (plain["against"], restored["against"]) == ("linear-2", "input-2")
    score = linear["scores"]["psnr_brain@real-scale"]
    assert score["sd"] == 0  # no seed has a part in it
    assert 15 < score["mean"] != restored["scores"]["psnr_brain@real-scale"]["mean"]


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(phantom_cohort, tmp_path):
    words = ("components", "--data", phantom_cohort, "--work", tmp_path, "--only", "cagr",
             "--seeds", 1, "--budget", 120, *TINY)  # fmt: skip
    with begin(*words) as process:
        runs = tmp_path / "ablate" / "runs"
        deadline = time.monotonic() + 300
        while not (done := list(runs.glob("*/done.json"))) or not list(
            runs.glob("*agi*/resume.pt")
        ):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    kept = {path: path.stat().st_mtime_ns for path in done}
    assert not list(runs.glob("*agi*/done.json"))
    assert run(*words) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == kept
    (log,) = (tmp_path / "ablate" / "scores").glob("*agi*/train.log")
    assert "going on at step" in log.read_text()
