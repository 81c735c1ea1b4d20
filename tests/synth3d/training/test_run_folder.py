"""A run folder that is damaged, foreign or unfinished is refused with one sentence."""

import dataclasses
import json
import resource

import pytest
import torch

from synth3d.cohort import ALL_MODALITIES, Splits
from synth3d.errors import InputError
from synth3d.files import sha256, write_json
from synth3d.images.intensity import Scale, ScalePrior
from synth3d.models.options import ModelConfig
from synth3d.training.config import RunConfig, build_framework
from synth3d.training.run_folder import (
    FORMAT,
    check_same_run,
    load_run,
    load_state,
    read_log,
    run_name,
    save_state,
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
        (lambda r: edit(r / "done.json", scales_sha256="0"), "scales.json is not the file"),
        (lambda r: edit(r / "done.json", spacings_mm=[[1, 1]]), "spacings_mm has others than 3"),
        (lambda r: edit(r / "done.json", spacings_mm=[[1, 1, 0]]), "spacings_mm has others"),
        (lambda r: edit(r / "done.json", validation=[1]), "done.json is damaged: .*validation"),
        (lambda r: edit(r / "done.json", orientations="LPS"), "done.json is damaged"),
        (lambda r: edit(r / "done.json", weights_sha256=None), "done.json is damaged"),
    ],
)
def test_every_damage_is_told(run, damage, message):
    assert load_run(run).config == CONFIG
    damage(run)
    with pytest.raises(InputError, match=message):
        load_run(run)


def test_a_setting_that_comes_or_goes_with_its_default_renames_no_run(run, monkeypatch):
    """Else a training that was begun would be begun anew by the same command, without a word."""
    splits = Splits(("a",), ("b",), ("c",))

    def called(config):
        return run_name(config, run, splits)

    later = dataclasses.make_dataclass(
        "Later", [("novel", int, 0)], bases=(RunConfig,), frozen=True
    )
    same = later(**{one.name: getattr(CONFIG, one.name) for one in dataclasses.fields(CONFIG)})
    other, name = (
        dataclasses.replace(
            CONFIG, mode="any", sources=ALL_MODALITIES[:3], targets=ALL_MODALITIES[:3]
        ),
        called(CONFIG),
    )
    seeds = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, seed=1))
    assert len({name, called(other), called(seeds), run_name(CONFIG, run, Splits((), (), ()))}) == 4
    monkeypatch.setattr("synth3d.training.config.RunConfig", later)
    assert called(same) == name
    assert called(dataclasses.replace(same, novel=1)) != name


LINE = {"step": 2, "loss": {"l1": 1.0}, "seconds": {"data": 0.1, "step": 0.2}}
CHECK = {"step": 2, "validation": {"psnr": 20.0, "ssim": 0.5, "mae": 0.1}}


def test_a_run_that_has_a_key_which_is_gone_is_read_where_nothing_changes_without(run):
    """``model.base``, false in each run of the versions that had it."""
    told = json.loads((run / "config.json").read_text())
    for value in (False, True, 0):
        edit(run / "config.json", model=told["model"] | {"base": value})
        if value is False:
            assert load_run(run).config == CONFIG
            check_same_run(run, CONFIG, run, Splits((), (), ()))
            continue
        with pytest.raises(InputError, match=r"model\.base: this setting is gone"):
            load_run(run)


@pytest.mark.parametrize(
    "lines",
    [
        [5], [None], ["x"], [[]], [{}], [LINE | {"step": "2"}], [LINE | {"step": True}],
        [LINE | {"step": -10}], [LINE | {"step": 0}], [LINE, LINE | {"step": 1}],
        [LINE | {"loss": {"l1": "x"}}], [LINE | {"loss": {"l1": float("nan")}}],
        [LINE | {"loss": 3}], [{"step": 2, "loss": {"l1": 1}}], [LINE | {"colour": 1}],
        [CHECK | {"validation": {"psnr": 20}}], [LINE | CHECK], [CHECK | {"validation": None}],
    ],
)  # fmt: skip
def test_a_log_of_other_values_is_damaged_in_a_line_that_is_named(tmp_path, lines):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [LINE, CHECK]))
    assert read_log(path) == [LINE, CHECK]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=rf"log.jsonl is damaged in line {len(lines)}: .*remove"):
        read_log(path)


def test_every_single_bit_of_a_state_counts(tmp_path):
    path, state = tmp_path / "resume.pt", {"step": 4, "weights": {"a": torch.arange(300.0)}}
    save_state(path, state)
    whole = path.read_bytes()
    assert torch.equal(load_state(path)["weights"]["a"], state["weights"]["a"])
    assert torch.load(path, weights_only=True)["step"] == 4  # a file of torch all the same
    for place in range(0, len(whole), 31):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="resume.pt is damaged: its SHA-256"):
            load_state(path)
    for part in (b"", whole[:-1], whole + b"x", whole[:50], whole[:-72]):
        path.write_bytes(part)
        with pytest.raises(InputError, match="is damaged"):
            load_state(path)


@pytest.mark.parametrize("what", ["weights", "state"])
def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path, what):
    generator = build_framework(CONFIG, training=False).generator
    path, state = tmp_path / "file", {"w": torch.zeros(100_000)}

    def write():
        save_weights(path, generator) if what == "weights" else save_state(path, state)

    write()
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot write .*file: File too large"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("pwned",))

    save_state(tmp_path / "resume.pt", {"x": Evil()})
    with pytest.raises(InputError, match="is damaged"):
        load_state(tmp_path / "resume.pt")
