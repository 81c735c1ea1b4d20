"""Full or locked: what is there stays sound, and one sentence says what is up."""

import errno
import os
from collections.abc import Callable

import pytest

from synth3d.files import lock


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
