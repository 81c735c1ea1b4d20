"""A request is what the command line is, and the same from Python."""

import json

import pytest

from synth3d.cli import build_parser
from synth3d.errors import InputError
from synth3d.training import TrainRequest, train_run

TINY = {
    "widths": (4, 8), "patch": (16, 16, 16), "steps": 2, "threads": 1, "device": "cpu",
    "model": "resunet", "framework": "l1", "recipe": "phantom", "precision": "fp32",
}  # fmt: skip


def test_a_request_has_the_flags_of_the_command_and_their_defaults():
    flags = vars(build_parser().parse_args(["train"]))
    del flags["run_command"]
    assert TrainRequest(**flags | {"assign": tuple(flags["assign"])}) == TrainRequest()


def test_a_run_from_python_ends_in_its_folder(phantom_cohort, tmp_path, capsys):
    request = TrainRequest(phantom_cohort, work=tmp_path, name="run", **TINY)
    run = train_run(request)
    assert run == tmp_path / "runs" / "run"
    assert json.loads((run / "done.json").read_text())["finished"]
    assert train_run(request) == run
    assert "already trained" in capsys.readouterr().out


@pytest.mark.parametrize("known", [True, False])
def test_a_dry_run_writes_nothing_and_refuses_what_cannot_be_trained(known, tmp_path):
    request = TrainRequest(work=tmp_path, dry_run=True, **TINY, assign=("train.l1.l1_weight=3",))
    if known:
        assert train_run(request) is None
    else:
        with pytest.raises(InputError, match=r"train.pgan.l1_weight has no effect"):
            train_run(TrainRequest(assign=("train.pgan.l1_weight=3",), dry_run=True))
    assert not list(tmp_path.iterdir())
