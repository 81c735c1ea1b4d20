"""What a container does not give is told at once, and what gives out later ends in a sentence."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from synth3d import limits
from synth3d.cli import main
from synth3d.data import Batch, DataConfig, MisalignConfig, Stream, Task, check_workers
from synth3d.errors import InputError

ROOT = Path(__file__).parents[2]
TASK = Task(3, ("t1n", "t1c", "t2w"), ("t2f",))
TWO = DataConfig(patch=(96, 96, 96), workers=2)


@pytest.fixture
def shared(monkeypatch):
    """Let shared memory have so many bytes free."""

    def give(free):
        monkeypatch.setattr(
            limits.os, "statvfs", lambda path: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096)
        )

    return give


def test_dockers_shared_memory_is_refused_for_two_workers_and_not_asked_for_without(shared):
    shared(64 << 20)
    with pytest.raises(InputError, match=r"96×96×96 .* has 64 MiB free: .*--shm-size=8g"):
        check_workers(TASK, TWO)
    check_workers(TASK, DataConfig(patch=(96, 96, 96), workers=0))
    check_workers(TASK, DataConfig(patch=(32, 32, 32), workers=1))
    shared(8 << 30)
    check_workers(TASK, TWO)


def test_training_is_refused_before_the_cohort_is_read(shared, tmp_path, capsys):
    shared(1 << 20)
    words = ["train", "--data", tmp_path / "nowhere", "--work", tmp_path, "--recipe", "phantom",
             "--device", "cpu", "--set", "data.workers=2"]  # fmt: skip
    assert main([str(word) for word in words]) == 2
    assert "shared memory" in capsys.readouterr().err


def test_a_soft_limit_of_files_is_raised_and_a_hard_one_told():
    """In a process of its own, which cannot raise its hard limit again."""
    code = """if True:
        import resource
        from synth3d.errors import InputError
        from synth3d.limits import check_descriptors
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300))
        check_descriptors(100)
        assert 200 < resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 300
        try:
            check_descriptors(1000)
        except InputError as error:
            assert "the system allows 300" in str(error)
        else:
            raise AssertionError
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits.check_descriptors(0)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_a_temporary_folder_that_is_not_there_or_too_deep_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", None)
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    with pytest.raises(InputError, match="too long"):
        check_workers(TASK, TWO)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    with pytest.raises(InputError, match="set TMPDIR"):
        check_workers(TASK, TWO)


def small(*_):
    grid = (2, 1, 4, 4, 4)
    one = torch.ones(2, 1, dtype=torch.bool)
    yield Batch(torch.zeros(grid), torch.zeros(grid), one, one, torch.ones(grid) > 0)


def no_room(tensor):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_0>: No space left")


def test_shared_memory_that_is_full_later_ends_in_a_sentence_and_not_in_waiting(monkeypatch):
    """Workers are forked, so that they have what is put in the place of torch here."""
    monkeypatch.setattr(Stream, "draw", small)
    stream = Stream([None] * 4, TASK, DataConfig(batch=2, workers=1), MisalignConfig())
    assert next(stream.batches(0)).sources.shape == (2, 1, 4, 4, 4)
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)
    with pytest.raises(RuntimeError, match="shared memory"):
        next(stream.batches(0))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_two_workers_in_sixty_four_megabytes(phantom_cohort, tmp_path):
    words = ["mount -t tmpfs -o size=64m tmpfs /dev/shm && exec", sys.executable,
             "-m synth3d train --recipe phantom --patch 96,96,96 --set data.workers=2 --device cpu",
             "--data", phantom_cohort, "--work", tmp_path]  # fmt: skip
    told = subprocess.run(
        ["unshare", "-m", "sh", "-c", " ".join(map(str, words))], cwd=ROOT, timeout=30,
        capture_output=True, text=True,
    )  # fmt: skip
    if "Operation not permitted" in told.stderr:
        pytest.skip("this container may not mount")
    assert told.returncode == 2
    assert "shared memory" in told.stderr.splitlines()[-1]


def test_a_home_that_cannot_be_written_is_not_needed(phantom_cohort, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("TMPDIR", "XDG_STATE_HOME")}
    words = ["complete", "--plumbing", "--missing", "flair", "--data", phantom_cohort, "--out",
             tmp_path / "out", "--cases", "Phantom-00000-000"]  # fmt: skip
    told = subprocess.run(
        [sys.executable, "-m", "synth3d", *map(str, words)], cwd=ROOT, capture_output=True,
        text=True, env=environment | {"HOME": "/proc/nobody"},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
