"""Recipes ask for bfloat16; machines that would emulate it get float32, unless told otherwise."""

import json

import pytest

from synth3d import machine as precision
from synth3d.cli import main
from synth3d.training.recipes import read_recipe


def resolved(capsys, *flags):
    assert main(["train", "--dry-run", "--device", "cpu", *flags]) == 0
    return json.loads(capsys.readouterr().out)["train"]["precision"]


@pytest.fixture(params=[True, False])
def machine(request, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: request.param)
    return request.param


def test_a_recipe_in_bfloat16_follows_the_machine(machine, capsys):
    assert read_recipe("phantom")["train"]["precision"] == "bf16"
    assert resolved(capsys, "--recipe", "phantom") == ("bf16" if machine else "fp32")
    assert precision.suited("fp32", "cpu") == "fp32"


def test_who_asks_for_a_precision_gets_it(machine, capsys, tmp_path):
    assert resolved(capsys, "--recipe", "phantom", "--precision", "bf16") == "bf16"
    assert resolved(capsys, "--recipe", "phantom", "--set", "train.precision=bf16") == "bf16"
    assert resolved(capsys, "--recipe", "phantom", "--precision", "fp32") == "fp32"
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(read_recipe("phantom")))
    assert resolved(capsys, "--recipe", str(saved)) == "bf16"


def test_a_processor_with_its_instructions_has_bfloat16():
    import torch

    if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        assert precision.has_bfloat16("cpu")
    if not torch.cpu._is_avx512_supported():
        assert not precision.has_bfloat16("cpu")
