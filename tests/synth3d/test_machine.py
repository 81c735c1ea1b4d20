"""bfloat16 only where it is no emulation, and cuDNN tuned only for as long as it is needed."""

import contextlib
import json

import pytest
import torch

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
    if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        assert precision.has_bfloat16("cpu")
    if not torch.cpu._is_avx512_supported():
        assert not precision.has_bfloat16("cpu")


@pytest.fixture
def cudnn(monkeypatch):
    """cuDNN's flag, off, and the devices that were made torch's current one."""
    current = []
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.cuda, "device", lambda one: contextlib.closing(Current(current, one)))
    return current


class Current:
    def __init__(self, current, device):
        self.current = current
        current.append(str(device))

    def close(self):
        self.current.append("left")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("device", "inside"), [("cpu", False), ("cuda:1", True)])
def test_cudnn_is_tuned_for_a_gpu_and_as_it_was_afterwards(cudnn, device, inside, fails):
    with contextlib.suppress(KeyError), precision.tuned(device):
        assert torch.backends.cudnn.benchmark is inside
        if fails:
            raise KeyError
    assert torch.backends.cudnn.benchmark is False
    assert cudnn == (["cuda:1", "left"] if inside else [])


@pytest.mark.parametrize("first", [0, 1])
def test_several_blocks_at_once_are_left_in_any_order(cudnn, first):
    blocks = [contextlib.ExitStack() for _ in range(2)]
    for block in blocks:
        block.enter_context(precision.tuned("cuda:0"))
    blocks[first].close()
    assert torch.backends.cudnn.benchmark is True
    blocks[1 - first].close()
    assert torch.backends.cudnn.benchmark is False
