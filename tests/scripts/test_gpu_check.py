"""The GPU check, without a GPU: its order, its exit codes, its bars, and a rehearsal of it all."""

import json
import math
import os
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

from cuda_ops.bench.__main__ import rows as layer_rows
from scripts.gpu_check import __main__ as program
from scripts.gpu_check import session as shapes
from scripts.gpu_check import steps as gpu_steps
from scripts.gpu_check import work
from synth3d.errors import InputError
from synth3d.experiments.bench.networks import rows as network_rows

FACTS = {"device": "cuda:0", "torch": "2", "cuda": "13.2", "uuids": ["GPU-a"]}


@pytest.fixture
def session(tmp_path):
    """One that believes in a GPU."""
    return shapes.Session("cuda", False, tmp_path, tmp_path / "logs", FACTS, "step")


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """Runs made-up steps: (exit code, document)."""
    monkeypatch.setattr(program, "machine", lambda session: FACTS)
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)

    def run(steps: dict, *flags: str, **how) -> tuple[int, dict]:
        made = tuple(shapes.Step(name, "", check, **how) for name, check in steps.items())
        monkeypatch.setattr(program, "STEPS", made)
        code = program.main(["--out", str(tmp_path / "out"), *flags])
        return code, json.loads((tmp_path / "out" / "gpu-check.json").read_text())

    return run


@pytest.mark.parametrize(
    ("value", "bar", "at_least", "state"),
    [
        (1.0, 1.0, False, "ok"), (1.1, 1.0, False, "WRONG"), (1.0, 1.0, True, "ok"),
        (0.9, 1.0, True, "WRONG"), (5.0, None, False, "recorded"), (math.nan, 1.0, False, "WRONG"),
        (math.nan, None, False, "WRONG"), (math.inf, 1.0, True, "WRONG"),
        (None, None, False, "WRONG"),
    ],
)  # fmt: skip
def test_a_bar_is_met_or_the_number_is_wrong(value, bar, at_least, state):
    finding = shapes.Finding("a", value, "", bar, at_least)
    assert finding.state == state
    assert json.loads(json.dumps(program.record(finding), allow_nan=False))["state"] == state


def test_the_first_wrong_number_is_the_end_unless_told_otherwise(checked, capsys):
    reached = []
    steps = {
        "good": lambda _: [shapes.Finding("g", 1, "x", 1)],
        "bad": lambda _: [shapes.Finding("b", 2.5, "x", 1), shapes.Finding("c", math.nan)],
        "later": lambda _: reached.append(1) or [shapes.Finding("l", 3)],
    }
    code, found = checked(steps)
    assert (code, found["verdict"], found["not_reached"], reached) == (1, "WRONG", ["later"], [])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("[")][1].endswith("2 WRONG")
    assert any("b 2.5 x" in line for line in lines)
    code, found = checked(steps, "--keep-going", "--allow-missing")
    assert (code, found["verdict"], found["not_reached"], reached) == (1, "WRONG", [], [1])
    code, found = checked(steps, "--only", "good,later")
    assert (code, found["verdict"], len(found["steps"])) == (0, "ok", 2)


@pytest.mark.parametrize("how", [{"needs": ("no_such_module",)}, {"program": "no-such-program"}])
def test_what_is_not_run_is_told_and_not_passed(checked, how, capsys, tmp_path):
    steps = {"a": lambda _: [shapes.Finding("a", 1)]}
    code, found = checked(steps, **how)
    assert (code, found["verdict"]) == (1, "incomplete")
    assert "no" in capsys.readouterr().out
    assert "| not run |" in (tmp_path / "out" / "gpu-check.md").read_text()
    assert checked(steps, "--allow-missing", **how)[0] == 0


@pytest.mark.parametrize(
    "check", [lambda _: [], lambda _: 1 / 0, lambda s: s.python("-c", "raise SystemExit(3)")]
)
def test_a_step_that_finds_nothing_or_breaks_is_wrong(checked, check):
    code, found = checked({"a": check})
    assert (code, found["steps"][0]["findings"][0]["state"]) == (1, "WRONG")


def test_a_step_that_hangs_is_killed_with_its_children(checked, tmp_path):
    code = (
        "import subprocess, sys, time, pathlib; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(p.pid)); time.sleep(60)"
    )
    begin = time.monotonic()
    rc, found = checked({"hangs": lambda session: session.python("-c", code)}, limit=3)
    assert (rc, time.monotonic() - begin < 30) == (1, True)
    assert "took too long" in found["steps"][0]["findings"][0]["note"]
    child = Path("/proc") / (tmp_path / "pid").read_text() / "stat"
    assert not child.exists() or child.read_text().split(") ")[1][0] == "Z"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)
    assert program.main(["--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no usable CUDA device" in said
    assert said.count("\n") == 1
    assert program.main(["--only", "nothing"]) == 2
    assert program.main(["--quick", "--list"]) == 0
    assert "segmenter" not in capsys.readouterr().out


@pytest.mark.parametrize("quick", [False, True])
def test_every_row_that_a_step_asks_for_exists(session, monkeypatch, quick):
    asked = []
    monkeypatch.setattr(shapes.Session, "python", lambda self, *words: asked.append(words))
    session.quick = quick
    for device in ("cuda", "cpu"):
        session.device = device
        for step in (
            gpu_steps.launches,
            gpu_steps.bandwidth,
            gpu_steps.layers,
            gpu_steps.routing,
            gpu_steps.network,
        ):
            if device == "cuda" or step is not gpu_steps.bandwidth:
                with pytest.raises(FileNotFoundError):  # nobody measured
                    step(session)
    for words in asked:
        rows = layer_rows if "cuda_ops.bench" in words else network_rows
        names = [row.name for row in rows(torch.device(words[3], 0))]
        for pattern in (words[i + 1] for i, word in enumerate(words) if word == "--only"):
            assert any(fnmatchcase(name, f"*{pattern}*") for name in names), pattern


@pytest.mark.parametrize(
    ("said", "states"),
    [
        ("ERROR SUMMARY: 0 errors", {"ok"}),
        ("RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)", {"ok", "WRONG"}),
        ("nothing of the kind", {"WRONG"}),
    ],
)
def test_the_sanitizers_summary_is_read(session, tmp_path, monkeypatch, said, states):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\necho '{{\"finite\": true}}'\necho '========= {said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    step = next(step for step in gpu_steps.STEPS if step.name == "sanitizer")
    assert {finding.state for finding in step.run(session)} == states


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, None),
        ({"loss": {"l1": math.nan}}, "losses are finite"),
        ({"step": 40}, "logs each step once"),
        ({"seconds": {"data": 1.0, "step": 2.0}}, "waiting for data"),
    ],
)
def test_the_log_of_a_run_is_judged(session, tmp_path, change, wrong):
    quick, slow = {"data": 0.01, "step": 2.0}, {"data": 9.0, "step": 2.0}
    seconds = [slow, quick, slow, quick]  # legs begin with a wait that is not judged
    lines = [
        {"step": step, "loss": {"l1": 1.0}, "seconds": each}
        for step, each in zip((10, 20, 30, 40), seconds, strict=True)
    ]
    lines[1] |= change
    run = tmp_path / "bf16"
    run.mkdir()
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = gpu_steps._logged(session, run, 40, 20)
    assert [f.name.removeprefix("bf16: ") for f in found if f.state == "WRONG"] == (
        [wrong] if wrong else []
    )


@pytest.mark.parametrize(("how", "state"), [("fused", "ok"), ("torch: no CuPy", "WRONG")])
def test_a_training_that_was_not_rolled_by_the_kernel_is_noticed(session, tmp_path, how, state):
    (tmp_path / "environment.json").write_text(json.dumps({"device": {"rolling": how}}))
    assert gpu_steps._rolled(session, tmp_path).state == state


def test_the_sanitizer_sees_the_kernel_and_not_torchs_form(session, monkeypatch):
    asked = []
    monkeypatch.setattr(
        shapes.Session, "run",
        lambda self, *words, env: asked.append(env) or "= ERROR SUMMARY: 0 errors",
    )  # fmt: skip
    gpu_steps.sanitizer(session)
    assert {env["CUDA_OPS_BACKEND"] for env in asked} == {"cupy"}


@pytest.mark.parametrize(
    ("said", "states"),
    [
        ("CUDA 13000 13000 13 14.2.0", ["ok", "ok"]),
        ("CUDA 12080 13000 13 14.2.0", ["WRONG", "ok"]),
        ("CUDA 13000 12090 12 14.2.0", ["ok", "WRONG"]),
    ],
)
def test_driver_torch_and_cupy_are_of_one_cuda(session, monkeypatch, said, states):
    monkeypatch.setattr(shapes.Session, "python", lambda self, *words: said)
    assert [finding.state for finding in gpu_steps.environment(session)] == states


@pytest.mark.parametrize(("more", "state"), [(0, "ok"), (400, "WRONG")])
def test_memory_on_the_first_gpu_is_noticed(session, tmp_path, monkeypatch, more, state):
    busy = tmp_path / "busy"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nif [ -f {busy} ]; then echo {10 + more}; else echo 10; fi\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    training = f"import pathlib, time; pathlib.Path({str(busy)!r}).touch(); time.sleep(1)"
    monkeypatch.setattr(gpu_steps, "command", lambda *_, **__: [sys.executable, "-c", training])
    assert gpu_steps._second_gpu(session).state == "not run"
    session.facts = FACTS | {"uuids": ["GPU-a", "GPU-b"]}
    assert gpu_steps._second_gpu(session).state == state


@pytest.mark.parametrize(("cuda", "extra"), [("12.8", "gpu-cuda12"), ("13.2", "gpu")])
def test_a_missing_cupy_is_told_with_the_extra_for_torchs_cuda(session, monkeypatch, cuda, extra):
    monkeypatch.setattr(shapes.Session, "work", lambda *_: FACTS | {"cuda": cuda})
    monkeypatch.setattr(program, "lacks", lambda names: [name for name in names if name == "cupy"])
    with pytest.raises(InputError, match=rf"cupy; install synth3d\[{extra},test\]"):
        program.machine(session)


def test_a_gpu_is_trained_on_by_the_recipe_that_fits_its_memory(session, monkeypatch):
    """As `synth3d train` chooses it; only what tries a fallback is small, as it is on a CPU."""
    monkeypatch.setattr(gpu_steps, "phantoms", lambda session: session.scratch)
    small = gpu_steps.command(session, "name", 2, 2, small=True)
    assert "--recipe" not in gpu_steps.command(session, "name", 2, 2)
    session.device = "cpu"
    on_cpu = gpu_steps.command(session, "name", 2, 2)
    assert [word.replace("cuda", "cpu") for word in map(str, small)] == [*map(str, on_cpu)]


def test_time_that_overlaps_counts_once():
    assert work.busy([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4


@pytest.mark.slow
def test_a_rehearsal_goes_through_every_step_that_needs_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)
    assert program.main(["--rehearse", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu-check.json").read_text())
    steps = {
        step["step"]: {f["name"]: f["value"] for f in step["findings"]} for step in found["steps"]
    }
    assert set(steps) == {step.name for step in gpu_steps.STEPS if not step.cuda}
    assert steps["train"]["fp32: goes on after kill -9"] == steps["train"]["fp32: finishes"] == 1
    assert steps["train"]["fp32: rolled by torch"] == 1
    assert steps["complete"]["a case"] > 0
    table = (tmp_path / "gpu-check.md").read_text()
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
