"""Killed, full, read-only, locked: what is there stays sound, and one sentence says what is up."""

import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from synth3d.files import lock


class Killed(BaseException):
    """Raised instead of a write to the disk."""


def outcome(folder: Path) -> tuple[str, str, dict]:
    """All that an experiment says but for how long it took."""
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("seconds", "peak_memory_mb", "commands", "config", "hashes"):
        summary.pop(key)
    tables = [(folder / name).read_text() for name in ("results.csv", "image_scores.csv")]
    return *tables, summary


@pytest.mark.usefixtures("plain_pictures")
def test_killed_at_any_write_it_ends_as_if_nothing_had_happened(run_toy, folder, monkeypatch):
    """Again and again, before a file takes its place or after it, with half a file left over."""

    def survives(writes: int) -> bool:
        allowed, sync = iter(range(writes)), os.fsync

        def sync_or_die(handle: int) -> None:
            if next(allowed, None) is None:
                raise Killed
            sync(handle)

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", sync_or_die)
            try:
                return run_toy(*flags) == 0
            except Killed:
                for path in folder.rglob("[!.]*.nii.gz"):
                    made.setdefault(path, path.stat().st_mtime_ns)
                (folder / ".partial-1-half.json").write_text("{")
                return False

    flags = ("--arms", "copy,ridge,plumbing,specialist", "--seeds", "0,1")
    run_toy(*flags, name="whole")
    chance, kills = random.Random(0), 0
    made: dict[Path, int] = {}
    while not survives(chance.randrange(5, 40)):
        kills += 1
    assert kills > 5
    assert {path: path.stat().st_mtime_ns for path in made} == made, "what was there is kept"
    assert outcome(folder) == outcome(folder.with_name("whole"))
    assert not list(folder.rglob(".partial*"))


@pytest.fixture
def refused_run(refused, toy_cohort, toy_splits, tmp_path) -> Callable[[], str]:
    flags = ["--data", str(toy_cohort), "--splits", str(toy_splits), "--arms", "copy"]
    return lambda: refused("run", *flags, "--work", str(tmp_path / "w"), "--name", "toy")


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(refused_run, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    assert "No space left on device" in refused_run()
    written = [path for path in (tmp_path / "w").rglob("*") if path.is_file()]
    assert [path.name for path in written if path.name != ".lock"] == []


def test_two_runs_on_one_folder_are_one_sentence(refused_run, tmp_path):
    with lock(tmp_path / "w" / "eval" / "toy"):
        assert "another process works in" in refused_run()
