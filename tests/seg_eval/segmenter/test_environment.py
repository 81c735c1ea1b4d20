"""nnU-Net's chatter goes to its log, what it changes is put back, what it dies of is told."""

import contextlib
import errno
import importlib
import logging
import os
import sys
import warnings

import pytest
import torch

from seg_eval.segmenter import environment as module
from seg_eval.segmenter.environment import (
    may_compile,
    nnunet_environment,
    pick_device,
    shown,
    told_plainly,
)
from synth3d.errors import InputError


@pytest.fixture
def log(tmp_path):
    return tmp_path / "nnunet.log"


@pytest.fixture
def told_at_once(monkeypatch):
    """Progress is told of steps that take no time, too."""
    monkeypatch.setattr(importlib.import_module("synth3d.files.progress"), "SHORT", 0.0)


@contextlib.contextmanager
def handler_on(stream):
    logger, handler = logging.getLogger("chatter"), logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)


def test_every_kind_of_chatter_goes_to_the_log_and_ours_to_the_screen(log, capsys, told_at_once):
    from tqdm import tqdm

    with handler_on(sys.stderr) as logger:
        with nnunet_environment(1, log):
            print("a print")
            print("an error", file=sys.stderr)
            list(tqdm(range(3), desc="a bar"))
            logger.warning("a record")
            warnings.warn("a warning", stacklevel=1)
            assert list(shown(range(2), "our steps")) == [0, 1]
        logger.warning("afterwards")
    out, err = capsys.readouterr()
    assert out == ""
    assert "our steps" in err
    assert "afterwards" in err
    said = log.read_text()
    for text in ("a print", "an error", "a bar", "a record", "a warning"):
        assert text in said
        assert text not in err
    assert "our steps" not in said


def test_a_handler_made_inside_writes_to_the_screen_afterwards(log, capsys):
    with contextlib.ExitStack() as stack:
        with nnunet_environment(1, log):
            logger = stack.enter_context(handler_on(sys.stderr))
            logger.warning("inside")
        logger.warning("outside")
    assert "inside" in log.read_text()
    assert "outside" in capsys.readouterr().err


def test_our_progress_is_seen_in_nested_environments_and_in_none(log, capsys, told_at_once):
    with nnunet_environment(1, log), nnunet_environment(1):
        list(shown(range(2), "deep inside"))
    assert list(shown("ab", "letters")) == ["a", "b"]
    printed = capsys.readouterr().err
    assert "deep inside" in printed
    assert "letters" in printed


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_all_is_put_back_whatever_happens(log, monkeypatch, error):
    monkeypatch.setenv("nnUNet_raw", "mine")
    monkeypatch.setenv("nnUNet_extTrainer", "my trainers")
    monkeypatch.delenv("nnUNet_results", raising=False)
    streams = sys.stdout, sys.stderr
    threads, before = torch.get_num_threads(), dict(os.environ)
    state, filters = torch.get_rng_state(), list(warnings.filters)
    folders = {name: log.parent / name for name in ("raw", "preprocessed", "results")}
    with contextlib.suppress(*filter(None, [error])), nnunet_environment(2, log, folders, seed=3):
        now = dict(os.environ)
        assert now["nnUNet_results"] == str(log.parent / "results")
        assert now["nnUNet_extTrainer"] == f"{module.TRAINERS}{os.pathsep}my trainers"
        torch.rand(3)
        if error:
            raise error
    assert dict(os.environ) == before
    assert (sys.stdout, sys.stderr) == streams
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert warnings.filters == filters
    assert not module._SCREEN


CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError(CUDA), "than the GPU has free .*20.00 gib.: buy one; nnU-Net"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "than this machine has free"),
        (MemoryError(), "than this machine has free"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full .while training"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3"), "the disk is full"),
        (RuntimeError("One or more background workers are no longer alive."), "use fewer workers"),
    ],
)
def test_what_gives_out_is_told_in_a_sentence(log, error, sentence):
    with (
        pytest.raises(InputError, match=sentence) as found,
        told_plainly("training", log, "buy one"),
    ):
        raise error
    assert found.value.__cause__ is error
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shape"), PermissionError(13, "")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as found, told_plainly("training"):
        raise error
    assert found.value is error


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    assert pick_device("cpu") == "cpu"
    for wanted in ("cuda", "cuda:1"):
        with pytest.raises(InputError, match=f"{wanted} was asked for, but torch finds no CUDA"):
            pick_device(wanted)
    for wanted in ("gpu", "cuda:", "cuda:x", "cpu:0", ""):
        with pytest.raises(InputError, match="must be auto, cpu, cuda or cuda:N"):
            pick_device(wanted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current, useless = [], []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(module, "why_no_code", lambda device: "; ".join(useless))
    assert [pick_device(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    assert current == [1]
    with pytest.raises(InputError, match="torch finds 2"):
        pick_device("cuda:2")
    useless.append("torch has no code for it")
    assert pick_device("auto") == "cpu"
    with pytest.raises(InputError, match="cuda:1 was asked for, but torch has no code for it"):
        pick_device("cuda:1")


@pytest.mark.parametrize("lacking", ["", "triton", "gcc", "Python.h", "a GPU of 7.0"])
def test_nnunet_compiles_only_where_triton_can_build(monkeypatch, tmp_path, lacking):
    """Else its training would end in the compiler's traceback, as in a slim container."""
    headers, tools = tmp_path / "include", tmp_path / "bin"
    for folder, file in ((headers, "Python.h"), (tools, "gcc")):
        folder.mkdir()
        if file != lacking:
            (folder / file).touch(mode=0o755)
    found = None if lacking == "triton" else "triton"
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(module.sysconfig, "get_path", lambda *_: str(headers))
    capability = (6, 1) if lacking == "a GPU of 7.0" else (7, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tools))
    assert may_compile("cuda") is not bool(lacking)
    assert not may_compile("cpu")
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    assert not may_compile("cuda")
