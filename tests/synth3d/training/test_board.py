"""The log in TensorBoard's form: all of it once, also after a kill; none of it where that lacks."""

import sys
import types
from pathlib import Path

import pytest

from synth3d.training.board import Board

LOG = [
    {"step": 2, "loss": {"l1": 0.5, "critic": 1.0}, "seconds": {"data": 0.1, "step": 2.0}},
    {"step": 4, "loss": {"l1": 0.25, "critic": 1.5}, "seconds": {"data": 0.1, "step": 2.0}},
    {"step": 4, "validation": {"psnr": 20.0}},
]


class Writer:
    """Keeps what TensorBoard's own would show: scalars, less those that a restart purges."""

    shown: dict = {}

    def __init__(self, log_dir, purge_step):
        Path(log_dir).mkdir(exist_ok=True)
        for key in [key for key in self.shown if key[1] >= purge_step]:
            del self.shown[key]

    def add_scalar(self, name, value, step):
        assert (name, step) not in self.shown, "told twice"
        self.shown[name, step] = value

    def flush(self):
        self.flushed = dict(self.shown)

    def close(self):
        assert self.flushed == self.shown


@pytest.fixture
def tensorboard(monkeypatch):
    """A stand-in for the package, which is not among ours."""
    monkeypatch.setattr(Writer, "shown", {})
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Writer.shown


EXPECTED = {
    (f"{table}/{name}", line["step"]): value
    for line in LOG
    for table, terms in line.items()
    if table != "step"
    for name, value in terms.items()
}


def test_every_scalar_of_the_log_is_told_once(tmp_path, tensorboard):
    board = Board(tmp_path, 0)
    board.add(LOG[:1])
    board.add(LOG)
    board.close()
    assert tensorboard == EXPECTED


def test_a_run_that_goes_on_takes_back_what_its_lost_leg_told(tmp_path, tensorboard):
    Board(tmp_path, 0).add([*LOG, {"step": 6, "loss": {"l1": 9.0}}])
    board = Board(tmp_path, 4)  # step 6 had reached no checkpoint
    board.add(LOG)
    assert tensorboard == EXPECTED
    board.add([*LOG, {"step": 6, "loss": {"l1": 0.125}}])
    assert tensorboard == EXPECTED | {("loss/l1", 6): 0.125}


def test_what_was_trained_before_tensorboard_was_installed_is_told_too(tmp_path, tensorboard):
    Board(tmp_path, 4).add(LOG)
    assert tensorboard == EXPECTED


@pytest.mark.parametrize("broken", [False, True])
def test_without_a_usable_tensorboard_nothing_is_written(tmp_path, monkeypatch, capsys, broken):
    module = types.ModuleType("torch.utils.tensorboard") if broken else None
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)  # None: not installed
    board = Board(tmp_path, 0)
    board.add(LOG)
    board.close()
    assert not list(tmp_path.iterdir())
    assert ("cannot be used" in capsys.readouterr().out) == broken
