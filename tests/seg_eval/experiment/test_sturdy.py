"""Killed, full, read-only, locked: what is there stays sound, and one sentence says what is up."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from seg_eval.cli import main
from synth3d.files import lock

SLOW = Path(__file__).with_name("slow_machines.py")


def run_slowly(log: Path, *words: object, kill_after: float | None = None) -> int:
    """The exit code of one call; ``-SIGKILL`` when it was killed after so many seconds."""
    command = [sys.executable, str(SLOW), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    with (
        log.open("a") as file,
        subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process,
    ):
        try:
            return process.wait(kill_after or 300)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return process.wait()


def outcome(folder: Path) -> tuple[str, str, dict]:
    """All that an experiment says but for how long it took."""
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("seconds", "peak_memory_mb", "commands", "config", "hashes"):
        summary.pop(key)
    tables = [(folder / name).read_text() for name in ("results.csv", "image_scores.csv")]
    return *tables, summary


def test_kill_9_at_any_moment_changes_nothing(toy_cohort, toy_splits, tmp_path):
    """Killed again and again at random moments, it ends as if nothing had happened."""
    log = tmp_path / "log"
    began = time.monotonic()
    assert run_slowly(log, toy_cohort, toy_splits, tmp_path / "whole") == 0, log.read_text()
    seconds = time.monotonic() - began
    chance = random.Random(0)
    codes = []
    while len(codes) < 6 and codes[-1:] != [0]:
        patience = seconds * chance.uniform(0.2, 0.7)
        code = run_slowly(log, toy_cohort, toy_splits, tmp_path / "killed", kill_after=patience)
        assert code in (0, -signal.SIGKILL), log.read_text()
        codes.append(code)
    assert -signal.SIGKILL in codes
    assert run_slowly(log, toy_cohort, toy_splits, tmp_path / "killed") == 0, log.read_text()
    whole_folder, killed_folder = (tmp_path / name / "eval" / "toy" for name in ("whole", "killed"))
    assert outcome(killed_folder) == outcome(whole_folder)
    assert not list(killed_folder.rglob(".partial*"))


def refused(capsys, toy_cohort, toy_splits, work) -> str:
    flags = ["run", "--missing", "flair", "--data", str(toy_cohort), "--splits", str(toy_splits)]
    assert main([*flags, "--arms", "copy", "--work", str(work), "--name", "toy"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(
    capsys, toy_cohort, toy_splits, tmp_path, monkeypatch
):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("synth3d.files.os.fsync", full)
    sentence = refused(capsys, toy_cohort, toy_splits, tmp_path / "w")
    assert "No space left on device" in sentence
    written = [path for path in (tmp_path / "w").rglob("*") if path.is_file()]
    assert [path.name for path in written if path.name != ".lock"] == []


def test_two_runs_on_one_folder_are_one_sentence(capsys, toy_cohort, toy_splits, tmp_path):
    with lock(tmp_path / "w" / "eval" / "toy"):
        sentence = refused(capsys, toy_cohort, toy_splits, tmp_path / "w")
    assert "another process works in" in sentence
