"""The command line as a user meets it: first lines, exit codes, no traceback."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from synth3d.cli import build_parser, main
from synth3d.training.recipes import recipe_names
from synth3d.training.request import default_recipe
from synth3d.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
TINY = [
    "--widths", "4,8", "--groups", "2", "--patch", "16,16,16", "--steps", "4", "--batch", "2",
    "--threads", "1", "--device", "cpu", "--set", "model.blocks=1", "--set", "model.stages=2",
    "--set", "train.checkpoint_every=4", "--set", "train.framework=l1", "--recipe", "phantom",
    "--set", "data.validation_cases=1",
]  # fmt: skip


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def events_of(capsys, kind: str) -> list[dict]:
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["begin", "end"]
    return [one for one in events if one["event"] == kind]


def test_a_training_ends_with_its_folder_as_an_event_and_quiet(phantom_cohort, tmp_path, capsys):
    command = ("train", "--data", phantom_cohort, "--work", tmp_path, "--name", "a", *TINY)
    assert run(*command, "--json") == 0
    (end,) = events_of(capsys, "end")
    assert (end["exit_code"], end["path"]) == (0, str(tmp_path / "runs" / "a"))
    assert end["validation"]
    assert run(*command, "--json") == 0
    (again,) = events_of(capsys, "end")
    assert again | {"time": 0} == end | {"time": 0}  # it was trained already
    assert run(*command, "--quiet") == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"{tmp_path / 'runs' / 'a'}\n", "")


def test_a_training_that_was_asked_to_stop_says_so(phantom_cohort, tmp_path, monkeypatch, capsys):
    real = Trainer.advance

    def advance(trainer, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(trainer, batch)

    monkeypatch.setattr(Trainer, "advance", advance)
    command = ("train", "--data", phantom_cohort, "--work", tmp_path, "--name", "a", *TINY)
    assert run(*command, "--json") == 0
    (end,) = events_of(capsys, "end")
    assert (end["exit_code"], end["stopped"]) == (0, 1)
    assert "path" not in end
    assert run(*command, "--quiet") == 0
    printed = capsys.readouterr()
    assert printed.out == ""  # else a script would take the run for a finished one
    assert "stopped at step 2" in printed.err


def test_a_dry_run_says_in_few_lines_what_a_training_takes(phantom_cohort, tmp_path, capsys):
    command = ("train", "--data", phantom_cohort, "--work", tmp_path / "w", *TINY, "--dry-run")
    assert run(*command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 15
    told = {line.split(":")[0] for line in lines}
    assert {"recipe", "cases", "steps", "memory", "disk", "time", "goes to"} <= told
    assert run(*command, "--json") == 0
    (plan,) = events_of(capsys, "plan")
    assert plan["steps"] == plan["settings"]["train"]["steps"] == 4
    assert plan["seconds"] == pytest.approx(4 * plan["seconds_per_step"])
    assert plan["memory_bytes"] > 10**7
    assert plan["disk_bytes"] > 0
    assert (plan["state"], plan["left_out"]) == ("new", {})
    assert run(*command, "--quiet") == 0
    assert {line.split(":")[0] for line in capsys.readouterr().out.splitlines()} == told
    assert not (tmp_path / "w").exists()


def test_recipes_are_listed_with_their_size(capsys):
    assert run("train", "--recipe", "list", "--json") == 0
    (told,) = events_of(capsys, "recipes")
    assert [one["name"] for one in told["recipes"]] == recipe_names()
    for one in told["recipes"]:
        assert one["purpose"]
        assert one["steps"] > 0
    cpu = next(one for one in told["recipes"] if one["name"] == "cpu")
    assert (cpu["patch"], cpu["batch"]) == ([48, 48, 48], 2)
    assert cpu["parameters"] > 10**5
    marked = {one["name"]: one["default_for"] for one in told["recipes"] if one["default_for"]}
    cases = product((None, Path("BraTS")), ("cpu", "cuda"), (None, "2d"), (10**9, 10**11))
    found = set()
    for data, device, dim, memory in cases:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("synth3d.training.request.gpu_bytes", lambda _, size=memory: size)
            found.add(name := default_recipe(data, device, dim))
        assert ("2d" in marked[name]) == (dim == "2d")
        assert ("--data" in marked[name]) == (data is None)
    assert {*marked} == found


@pytest.mark.parametrize(
    "args", [["train", "--nope"], ["complete"], ["nope"], ["train", "--json", "--quiet"]]
)
def test_a_wrong_command_line_is_one_line_without_all_there_is(args, capsys):
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert "--help" in line
    assert printed.out == ""


def test_every_command_has_examples_of_its_own_and_a_text_for_every_flag():
    (commands,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    for name, parser in commands.choices.items():
        examples = re.findall(r"^  synth3d (\S+)", parser.epilog or "", re.M)
        assert examples[0] == name
        for action in parser._actions:
            assert action.help, (name, action.dest)


def test_train_then_the_same_command_again(phantom_cohort, tmp_path, capsys):
    command = ("train", "--dim", "3d", "--data", phantom_cohort, "--work", tmp_path, *TINY)
    assert run(*command) == 0
    first = capsys.readouterr().out
    assert "finished:" in first
    assert "contact.png" in first
    assert run(*command) == 0
    assert "already trained:" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_the_saved_configuration_reruns_the_run(phantom_cohort, tmp_path):
    assert run("train", "--data", phantom_cohort, "--work", tmp_path, "--name", "a", *TINY) == 0
    config = tmp_path / "runs" / "a" / "config.json"
    again = ("train", "--data", phantom_cohort, "--work", tmp_path, "--name", "b",
             "--recipe", config, "--device", "cpu")  # fmt: skip
    assert run(*again) == 0
    weights = [tmp_path / "runs" / n / "weights.safetensors" for n in "ab"]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_without_data_the_first_line_names_the_phantoms(tmp_path, monkeypatch, capsys):
    import synth3d.training.request as start

    monkeypatch.setattr(start, "PHANTOM_CASES", 6)
    monkeypatch.setattr(start, "PHANTOM_SIZE", 24)
    assert run("train", "--dim", "3d", "--work", tmp_path, *TINY) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("No --data given: using the built-in phantom cohort")
    assert (tmp_path / "phantom" / "Phantom-00000-000" / "Phantom-00000-000-t2f.nii.gz").is_file()


def test_an_alias_names_a_target_and_the_others_are_sources(phantom_cohort, tmp_path, capsys):
    command = ("train", "--data", phantom_cohort, "--work", tmp_path, "--missing", "T1ce")
    assert run(*command, "--recipe", "phantom", "--dry-run", "--json") == 0
    (plan,) = events_of(capsys, "plan")
    config = plan["settings"]
    assert (config["targets"], config["sources"]) == (["t1c"], ["t1n", "t2w", "t2f"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "--data", "nowhere"], "nowhere"),
        (["train", "--recipe", "cpu2d", "--dry-run"], "(nearest: cpu-2d)"),
        (["train", "--recipe", "nope", "--dry-run"], "unknown recipe 'nope'"),
        (["train", "--target", "ct", "--dry-run"], "ct"),
        (["train", "--set", "train.stpes=3", "--dry-run"], "unknown key(s) ['stpes']"),
        (["train", "--set", "nonsense", "--dry-run"], "--set takes key=value"),
        (["train", "--patch", "30,32,32", "--dry-run"], "data.patch[z] must be a multiple"),
        (["train", "--device", "cuda:7", "--dry-run"], "no usable CUDA device"),
        (["audit", "nowhere"], "nowhere"),
        (["audit", "a" * 300], "File name too long"),
        (["train", "--device", "mps", "--dry-run"], "expected auto, cpu, cuda"),
        (["describe", "--model", "nope"], "unknown model 'nope'"),
        (["describe", "--groups", "7"], "do not split into 7 equal groups"),
        (["phantom", "out", "--size", "3"], "must be 24 to 192 voxels, not 3"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("args", "near"),
    [(["trian"], "nearest: train"), (["complete", "--format", "nnunt"], "nearest: nnunet"),
     (["zzzzzz"], None)],
)  # fmt: skip
def test_what_is_mistyped_is_told_the_nearest_that_there_is(args, near, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(args)
    said = capsys.readouterr().err
    assert (near or "see synth3d --help") in said
    assert ("nearest" in said) == (near is not None)


def test_another_configuration_or_split_is_not_continued(phantom_cohort, tmp_path, capsys):
    command = ("train", "--data", phantom_cohort, "--work", tmp_path, "--name", "a", *TINY)
    assert run(*command) == 0
    (tmp_path / "runs" / "a" / "done.json").unlink()
    assert run(*command, "--set", "train.learning_rate=0.5") == 2
    assert "begun with other settings (train.learning_rate)" in capsys.readouterr().err
    before = json.loads((tmp_path / "runs" / "a" / "cohort.json").read_text())
    swapped = {"train": before["test"], "val": before["val"], "test": before["train"]}
    (tmp_path / "splits.json").write_text(json.dumps(swapped))
    assert run(*command, "--splits", tmp_path / "splits.json") == 2
    assert "other settings (cohort.test, cohort.train)" in capsys.readouterr().err


def test_help_is_instant_and_every_command_has_it(capsys):
    code = """if True:
        import sys
        from synth3d.cli import main
        try:
            main(["--help"])
        finally:
            print(*{"torch", "numpy"} & {*sys.modules})
    """
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert told.returncode == 0
    *_, heavy = told.stdout.split("\n\n")
    assert not {"torch", "numpy"} & {*heavy.split()}
    for command in ("phantom", "audit", "train", "complete", "score", "ablate", "describe"):
        assert command in told.stdout
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert "usage:" in capsys.readouterr().out


def test_without_a_command_it_says_in_a_few_lines_what_there_is(capsys):
    assert main([]) == 2
    told = capsys.readouterr().out
    assert len(told.splitlines()) <= 12
    assert max(map(len, told.splitlines())) <= 100
    (commands,) = [a.choices for a in build_parser()._actions if isinstance(a.choices, dict)]
    assert all(name in told for name in commands)


def test_describe_prints_the_published_count(capsys):
    shape = "--dim 3d --widths 64,128,256,512 --groups 8 --in-channels 2 --out-channels 1"
    assert run("describe", "--model", "agi-net", *shape.split(), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert round(found["parameters"] / 1e6, 2) == 55.54
    assert found["flops"] > 0
