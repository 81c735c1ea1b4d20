"""--from RUN for fgdl: the branch that restores begins beside what a run has synthesised with."""

import dataclasses
import json

import pytest
import torch

from synth3d.errors import InputError
from synth3d.files import write_json
from synth3d.training import load_run, resolve, train_run
from synth3d.training.run_folder import load_weights
from synth3d.training.start import begun
from synth3d.training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = (
    "model.name=resunet", "model.widths=[4,8,8]", "model.blocks=1", "data.patch=[16,16]",
    "data.overlap=[0,0]", "data.batch=2", "data.queue=8", "data.workers=0",
    "data.validation_cases=1", "train.checkpoint_every=2", "train.validate_every=4",
    "train.fgdl.critic_width=4", "train.fgdl.critic_layers=2", "train.fgdl.critic_every=2",
    "train.fgdl.registration_width=4", "train.fgdl.adversarial_start=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def request_of(small_requests):
    """(name, settings, fields) → a small training of slices."""
    return small_requests("fgdl-cpu", SMALL)


@pytest.fixture(scope="module")
def synthesis(request_of):
    """A run that fills in the sequence."""
    return train_run(request_of("synthesis"))


def state(run) -> dict[str, dict[str, torch.Tensor]]:
    generator = load_run(run).framework.generator
    parts = {"synthesis": generator.synthesis, "branch": generator.branch}
    return {name: part.state_dict() for name, part in parts.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_branch_begins_beside_a_finished_synthesis_of_any_ratio(request_of, synthesis):
    """And so does that of another ratio, from a run that restores."""
    first = train_run(request_of("restored", degraded="flair=1,4,4", start=synthesis))
    second = train_run(request_of("finer", degraded="flair=1,2,1", start=first, steps=2))
    before = load_run(synthesis).framework.generator.state_dict()
    for run in (first, second):
        assert same(before, state(run)["synthesis"])
        config = load_run(run).config
        assert config.train.options.pretrain == 0
        assert (run / "registration.safetensors").read_bytes() == (
            synthesis / "registration.safetensors"
        ).read_bytes()
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert all("distinction" in line["loss"] for line in log if "loss" in line)
    cohorts = [json.loads((one / "cohort.json").read_text()) for one in (synthesis, first)]
    assert cohorts[1]["seen_before"] == {side: cohorts[0][side] for side in ("train", "val")}
    registration = Trainer(load_run(first).config, CPU).framework.correction.registration
    kept = {name: value.clone() for name, value in registration.state_dict().items()}
    load_weights(synthesis / "registration.safetensors", registration)
    assert same(kept, registration.state_dict())


@pytest.mark.parametrize(
    ("fields", "assign", "words"),
    [
        ({"degraded": None}, (), r"--from is for training in two stages, .* t2f by fgdl"),
        ({"sources": "t1,t2"}, (), "sources t1n-t1c-t2w, here t1n-t2w"),
        ({}, ("model.widths=[4,8,6]",), "widths 4-8-8, here 4-8-6"),
        ({}, ("model.centred=false",), "centred True, here False"),
        ({}, ("train.fgdl.cap=4.0",), "cap 8.0, here 4.0"),
        ({"plane": "sagittal"}, (), "plane axial, here sagittal"),
        ({"framework": "pix2pix"}, (), "--from is for training in two stages"),
    ],
)
def test_another_run_is_refused_with_a_sentence(fields, assign, words, request_of, synthesis):
    request = request_of("refused", assign, **{"degraded": "flair=1,4,4"} | fields)
    with pytest.raises(InputError, match=words):
        begun(resolve(request, "cpu"), synthesis, None)


def test_a_synthesis_that_never_learnt_is_not_frozen(request_of):
    request = request_of("", ("train.fgdl.pretrain=0.0",), degraded="flair=1,4,4")
    with pytest.raises(
        InputError, match="freeze a synthesis that has learnt nothing; say with --f"
    ):
        begun(resolve(request, "cpu"), None, None)
    short = dataclasses.replace(request, assign=(*SMALL, "train.fgdl.pretrain=0.1"))
    with pytest.raises(InputError, match="leaves 0 to the synthesis and 4 to the branch"):
        begun(resolve(short, "cpu"), None, None)


def test_what_moves_labels_must_be_there_as_it_was_written(request_of, synthesis, tmp_path):
    request = request_of("", degraded="flair=1,4,4")
    config = begun(resolve(request, "cpu"), synthesis, None)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in synthesis.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    moved = dataclasses.replace(config.train, start=str(copy))
    config = dataclasses.replace(config, train=moved)
    Trainer(config, CPU)
    done = json.loads((copy / "done.json").read_text())
    write_json(copy / "done.json", done | {"registration_sha256": "0" * 64})
    with pytest.raises(InputError, match="registration.safetensors is not the file this run wrote"):
        Trainer(config, CPU)
    with pytest.raises(InputError, match="is not the file this run wrote .* or begin from another"):
        train_run(request_of("damaged", degraded="flair=1,4,4", start=copy))
    assert not (request.work / "runs" / "damaged").exists()
    (copy / "registration.safetensors").unlink()
    with pytest.raises(InputError, match="has no registration.safetensors, .* as one that was exp"):
        Trainer(config, CPU)
