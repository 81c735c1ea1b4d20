"""A run folder that is damaged, foreign or unfinished is refused with one sentence."""

import json

import pytest
import torch

from synth3d.errors import InputError
from synth3d.files import sha256, write_json
from synth3d.images.intensity import Scale, ScalePrior
from synth3d.models.options import ModelConfig
from synth3d.training.config import RunConfig, build_framework
from synth3d.training.run_folder import (
    FORMAT,
    load_run,
    load_state,
    save_weights,
    write_config,
)

CONFIG = RunConfig(model=ModelConfig(name="resunet", widths=(4, 8), blocks=1))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    write_config(folder, CONFIG)
    save_weights(folder / "weights.safetensors", build_framework(CONFIG, training=False).generator)
    write_json(folder / "scales.json", ScalePrior([{"t2f": Scale(0, 9)}]).to_list())
    digest = sha256(folder / "weights.safetensors")
    write_json(folder / "done.json", {"finished": True, "format": FORMAT, "weights_sha256": digest})
    return folder


def edit(path, **changes):
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps(value))


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "config.json").unlink(), "is not a run folder"),
        (lambda r: cut(r / "config.json"), "not valid JSON"),
        (lambda r: edit(r / "config.json", dim=2), "data.patch must be 2 numbers, as dim is 2"),
        (lambda r: edit(r / "config.json", colour="red"), "unknown key.* train it again"),
        (lambda r: (r / "done.json").unlink(), "not finished"),
        (lambda r: edit(r / "done.json", format=99), "run format 99, this version reads"),
        (lambda r: (r / "done.json").write_text("[]"), "done.json is damaged"),
        (lambda r: cut(r / "weights.safetensors"), "damaged or belong to another model"),
        (lambda r: (r / "weights.safetensors").unlink(), "one file of weights"),
        (lambda r: edit(r / "config.json", sources=["t1n", "t1c"]), "belong to another model"),
        (lambda r: edit(r / "done.json", weights_sha256="0"), "SHA-256 differs"),
        (lambda r: (r / "scales.json").write_text('[{"t2f": {}}]'), "scales.json is damaged"),
    ],
)
def test_every_damage_is_told(run, damage, message):
    assert load_run(run).config == CONFIG
    damage(run)
    with pytest.raises(InputError, match=message):
        load_run(run)


def test_a_state_never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("pwned",))

    torch.save({"x": Evil()}, tmp_path / "resume.pt")
    with pytest.raises(InputError, match="is damaged"):
        load_state(tmp_path / "resume.pt")
