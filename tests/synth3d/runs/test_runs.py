"""Runs have names: they are listed, found by them, and removed whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from synth3d.cli import main
from synth3d.cohort import ALL_MODALITIES
from synth3d.completion import CompleteRequest
from synth3d.errors import InputError
from synth3d.export import ExportRequest
from synth3d.files import lock
from synth3d.models import GENERATORS
from synth3d.runs import (
    coupled_name,
    find_run,
    fold_name,
    is_coined,
    known_run,
    known_runs,
    trained_name,
    without_hash,
)


def write_run(folder: Path, steps=100, at=None, recipe=("cpu", 1400), when=0.0, start="") -> Path:
    """A finished run, or one that has come to the step ``at``."""
    folder.mkdir(parents=True)
    config = {
        "dim": 3, "mode": "fixed", "sources": ["t1n", "t1c"], "targets": ["t2f"],
        "model": {"name": "agi-net"}, "train": {"framework": "l1", "steps": steps, "start": start},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    if recipe:
        about = {"name": recipe[0], "steps": recipe[1]}
        (folder / "recipe.json").write_text(json.dumps(about))
    scores = {"psnr": 27.25, "ssim": 0.5}
    if at is None:
        done = {"format": 1, "finished": True, "steps": steps, "validation": scores}
        (folder / "done.json").write_text(json.dumps(done))
        os.utime(folder / "done.json", (when, when))
    elif at:
        lines = [{"step": at - 1, "validation": scores}, {"step": at, "loss": {}, "seconds": {}}]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        os.utime(folder / "log.jsonl", (when, when))
    return folder


@pytest.fixture
def work(tmp_path):
    """Runs of every state, the newest last, beside what is no run."""
    runs = tmp_path / "work" / "runs"
    write_run(runs / "whole", 1400, when=1000)
    write_run(runs / "short", 60, when=2000)
    write_run(runs / "old", 60, recipe=None, when=500)
    write_run(runs / "killed", 1400, at=300, when=3000)
    (runs / "notes").mkdir()
    (write_run(runs / "broken", when=4000) / "config.json").write_text("{")
    return tmp_path / "work"


def test_a_run_says_how_far_it_is_and_whether_it_is_a_trial(work):
    runs = {run.name: run for run in known_runs(work)}
    assert list(runs) == ["broken", "killed", "short", "whole", "old"]  # the newest first
    states = {name: (run.state, run.step, run.steps) for name, run in runs.items()}
    assert states["whole"] == ("finished", 1400, 1400)
    assert states["killed"] == ("unfinished", 300, 1400)
    assert states["broken"][0] == "damaged"
    assert runs["broken"].fault
    assert {name for name, run in runs.items() if run.is_trial} == {"short"}
    assert "1400" in runs["short"].words
    assert runs["whole"].validation == runs["killed"].validation == {"psnr": 27.25, "ssim": 0.5}
    assert runs["whole"].size == sum(f.stat().st_size for f in runs["whole"].folder.iterdir())
    with lock(work / "runs" / "killed"):
        assert known_run(work / "runs" / "killed").state == "training"
    assert known_runs(work / "nowhere") == []


@pytest.mark.parametrize("written", [False, True])
def test_a_run_that_is_being_trained_is_called_so_whatever_of_it_is_there(
    work, capsys, tmp_path, written
):
    run = work / "runs" / "now"
    if written:
        write_run(run, 1400, at=0)
    run.mkdir(exist_ok=True)
    words = ["complete", "--run", "now", "--work", str(work), "--data", str(tmp_path / "in")]
    with lock(run):
        assert {one.name: one.state for one in known_runs(work)}["now"] == "training"
        assert main(["runs", "--work", str(work)]) == 0
        (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("now")]
        assert "training" in row
        assert main([*words, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
        assert f"the run {run} is being trained" in capsys.readouterr().err
        assert main(["runs", "--work", str(work), "--remove", "now"]) == 2
        assert "is training now" in capsys.readouterr().err
    assert ("now" in {one.name for one in known_runs(work)}) == written
    assert main([*words, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert "being trained" not in capsys.readouterr().err


def test_the_table_and_the_json_name_every_run(work, capsys):
    assert main(["runs", "--work", str(work)]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert {"whole", "short", "old", "killed", "broken"} <= rows.keys()
    assert "t1n+t1c -> t2f, agi-net by l1, 3-D" in rows["whole"]
    assert "300 of 1400 steps, unfinished" in rows["killed"]
    assert "trial" in rows["short"]
    assert "27.25" in rows["whole"]
    assert main(["runs", "--work", str(work), "--json"]) == 0
    listed = {run["folder"].rsplit("/", 1)[1]: run for run in json.loads(capsys.readouterr().out)}
    assert listed["short"]["trial"] is True
    assert listed["killed"]["state"] == "unfinished"
    assert main(["runs", "--work", str(work / "empty")]) == 0
    assert "synth3d train makes one" in capsys.readouterr().out


def test_a_name_is_found_and_a_folder_comes_first(work, tmp_path, monkeypatch, capsys):
    runs = work / "runs"
    assert find_run("whole", work) == runs / "whole"
    assert find_run(runs / "whole", work) == runs / "whole"
    assert find_run("some/where", work) == Path("some/where")  # its reader says what is wrong
    assert find_run("latest", work) == runs / "short"  # not the one that was killed later
    assert "short" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    Path("whole").mkdir()  # a folder without a run in it
    assert find_run("whole", work) == runs / "whole"
    assert find_run("whole") == Path("work/runs/whole")
    write_run(Path("short"))
    assert find_run("short", work) == Path("short")
    for given, named in (("whol", "nearest: whole"), ("x", "short, whole, old")):
        with pytest.raises(InputError, match=named):
            find_run(given, work)
    with pytest.raises(InputError, match="holds none that is finished"):
        find_run("latest", work / "nowhere")


def test_every_request_takes_a_name(work, tmp_path):
    about = {"data": tmp_path / "in", "out": tmp_path / "out", "work": work}
    asked = CompleteRequest(run=["whole", "old"], **about)
    assert asked.runs == (work / "runs" / "whole", work / "runs" / "old")
    with pytest.raises(InputError, match="short, whole, old"):
        CompleteRequest(**about)
    exported = ExportRequest("whole", tmp_path / "out", "brasyn", also=("old",), work=work)
    assert (exported.run, *exported.also) == asked.runs


def test_a_removed_run_is_gone_and_others_stay(work, capsys):
    assert main(["runs", "--work", str(work), "--remove", "short", "broken"]) == 0
    left = {path.name for path in (work / "runs").iterdir()}
    assert left == {"whole", "old", "killed", "notes"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone", "has no run gone"), ("notes", "not a run folder"), ("../runs", "no run's name"),
        ("linked", "is a link"), ("whole", "rest"), ("killed", "a process is training killed"),
    ],
)  # fmt: skip
def test_nothing_is_removed_that_is_in_use_or_no_run(work, name, why, capsys):
    runs = work / "runs"
    (runs / "linked").symlink_to(runs / "whole")
    write_run(runs / "rest", at=5, start=str(runs / "whole"))
    before = sorted(work.rglob("*"))
    with lock(runs / "killed"):
        assert main(["runs", "--work", str(work), "--remove", "old", name]) == 2
    assert why in capsys.readouterr().err
    (runs / "killed" / ".lock").unlink()
    assert sorted(work.rglob("*")) == before


def test_a_removal_that_was_killed_is_ended_by_the_next(work):
    half = work / "runs" / ".removed-1-x"
    write_run(half)
    assert half not in [run.folder for run in known_runs(work)]
    assert main(["runs", "--work", str(work), "--remove", "old"]) == 0
    assert not half.exists()


def test_a_listed_run_says_nothing_to_the_terminal_but_itself(work, capsys):
    run = write_run(work / "runs" / "\x1b[31mred\x07", when=9e9)
    config = json.loads((run / "config.json").read_text())
    config["model"]["name"] = "agi-net\nlatest  forged  row"
    (run / "config.json").write_text(json.dumps(config))
    assert main(["runs", "--work", str(work)]) == 0
    find_run("latest", work)
    told = capsys.readouterr()
    assert all(line.isprintable() for line in (told.out + told.err).splitlines())
    assert not [line for line in told.out.splitlines() if line.startswith("latest")]


def test_a_run_whose_files_vanish_meanwhile_is_listed(work, monkeypatch):
    gone = work / "runs" / "killed" / ".partial-1-resume.pt"
    found = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda path, what: [*found(path, what), gone])
    monkeypatch.setattr(Path, "is_file", lambda path: path == gone or os.path.isfile(path))  # noqa: PTH113
    assert {run.name for run in known_runs(work)} == {"whole", "short", "old", "killed", "broken"}


@pytest.mark.parametrize("name", ["latest", ""])
def test_no_run_is_called_what_means_another(work, name, capsys):
    command = ["train", "--work", str(work), "--name", name, "--dry-run", "--device", "cpu"]
    assert main(command) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("made", [*ALL_MODALITIES, "t1c-t2f", "any", "restored-t2f"])
def test_the_names_that_the_program_gives_are_known_again(made):
    digest = "0a8641bf" + "0" * 56
    for network in GENERATORS:
        name = trained_name(made, network, "my cohort-2", digest)
        assert is_coined(name)
        assert without_hash(name) == f"{network}-my cohort-2"
        assert not is_coined(name.removesuffix("-0a8641bf"))
    if made not in ("any", "restored-t2f"):
        assert is_coined(coupled_name(made, digest))
        assert is_coined(coupled_name(f"{made}-1x1x4-slices", digest))
    assert is_coined(fold_name(12, digest))


@pytest.mark.parametrize(
    "name",
    ["agi-20251130", "my-run-deadbeef", "fold-20251130", "t2f-mine-20251130",
     "t2f-agi-net-20251130", "coupled-20251130"],
)  # fmt: skip
def test_names_with_a_date_or_a_hash_of_their_own_are_a_users(name):
    assert not is_coined(name)
    assert without_hash(name) == name
