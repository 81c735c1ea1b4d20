"""--from RUN: the fusion of one run begins with the encoder and decoder of another."""

import dataclasses
import json

import pytest
import torch

from synth3d.errors import InputError
from synth3d.files import sha256, write_json
from synth3d.training import TrainRequest, load_run, resolve, train_run
from synth3d.training.config import RunConfig
from synth3d.training.run_folder import load_weights, save_weights
from synth3d.training.start import begun
from synth3d.training.trainer import Trainer

SMALL = (
    "model.widths=[4,8]", "model.blocks=1", "model.banks=2", "data.patch=[16,16]", "data.batch=2",
    "data.overlap=[0,0]", "data.queue=8", "data.workers=0", "data.validation_cases=1",
    "train.checkpoint_every=2", "train.validate_every=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def request_of(phantom_cohort, tmp_path_factory):
    """(fields) → a small training of slices for any gap."""
    work = tmp_path_factory.mktemp("work")

    def make(name: str, assign: tuple[str, ...] = (), **fields) -> TrainRequest:
        return TrainRequest(
            data=phantom_cohort, recipe="tsf-cpu", assign=(*SMALL, *assign), threads=1,
            device="cpu", work=work, name=name, **{"steps": 4} | fields,
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def seq2seq(request_of):
    """A run of Seq2Seq alone."""
    return train_run(request_of("seq2seq", ("train.tsf.pretrain=1.0",)))


def parts(run) -> dict[str, dict[str, torch.Tensor]]:
    net = load_run(run).framework.generator
    names = ("encoder", "decoder", "fusion")
    return {name: getattr(net, name).state_dict() for name in names}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_the_fusion_begins_where_seq2seq_ended(request_of, seq2seq):
    run = train_run(request_of("fused", start=seq2seq))
    before, after = parts(seq2seq), parts(run)
    assert same(before["encoder"], after["encoder"])
    assert not same(before["decoder"], after["decoder"])
    assert not same(before["fusion"], after["fusion"])
    config = load_run(run).config
    assert config.train.start == str(seq2seq.resolve())
    assert config.train.start_sha256 == load_run(seq2seq).weights_sha256
    assert (config.train.steps, config.train.tsf.pretrain) == (4, 0)
    losses = [json.loads(line).get("loss") for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(loss.keys() == {"target", "plain"} for loss in losses if loss)


def test_without_steps_it_has_those_of_the_second_stage(seq2seq, tmp_path):
    config = load_run(seq2seq).config
    tsf = dataclasses.replace(config.train.tsf, pretrain=0.75)
    whole = dataclasses.replace(config, train=dataclasses.replace(config.train, tsf=tsf, steps=100))
    assert begun(whole, seq2seq, None).train.steps == 25
    assert begun(whole, seq2seq, 7).train.steps == 7
    assert begun(whole, None, None) == whole
    rerun = begun(whole, seq2seq, None)
    assert begun(rerun, None, None) == rerun, "the resolved configuration reruns the run"


@pytest.mark.parametrize(
    ("fields", "assign", "words"),
    [
        ({}, ("model.widths=[4,6]",), "widths 4-8, here 4-6"),
        ({}, ("model.banks=3",), "banks 2, here 3"),
        ({"sources": "t1,t2"}, (), "sources t1n-t1c-t2w-t2f, here t1n-t2w"),
        ({"target": "t2f"}, (), "mode any, here fixed"),
        ({"framework": "l1"}, (), "--from is for train.framework=tsf"),
    ],
)
def test_other_sequences_or_another_shape_are_refused(fields, assign, words, request_of, seq2seq):
    with pytest.raises(InputError, match=words):
        begun(resolve(request_of("refused", assign, **fields), "cpu"), seq2seq, None)


def test_what_is_no_run_of_tsf_is_refused(request_of, seq2seq, tmp_path, write_run):
    config, other = load_run(seq2seq).config, write_run(tmp_path / "other")
    with pytest.raises(InputError, match="is not a run folder"):
        begun(config, tmp_path, None)
    with pytest.raises(InputError, match="is one of l1"):
        begun(config, other, None)
    fusion = resolve(request_of("refused", ("train.tsf.pretrain=0.0",)), "cpu")
    with pytest.raises(InputError, match=r"pretrain=0 would freeze an encoder .* --from"):
        begun(fusion, None, None)


def test_a_run_that_was_trained_anew_is_not_gone_on_from(seq2seq, tmp_path):
    config: RunConfig = begun(load_run(seq2seq).config, seq2seq, 4)
    trainer = Trainer(config, torch.device("cpu"))
    start = load_run(seq2seq).framework.generator.encoder.state_dict()
    assert same(start, trainer.framework.generator.encoder.state_dict())
    anew = tmp_path / "anew"
    anew.mkdir()
    for file in seq2seq.iterdir():
        if file.is_file():
            (anew / file.name).write_bytes(file.read_bytes())
    moved = dataclasses.replace(config.train, start=str(anew))
    Trainer(dataclasses.replace(config, train=moved), torch.device("cpu"))
    net = load_run(anew).framework
    load_weights(anew / "weights.safetensors", net.generator)
    with torch.no_grad():
        next(net.generator.parameters()).mul_(2)
    save_weights(anew / "weights.safetensors", net.generator)
    done = json.loads((anew / "done.json").read_text())
    write_json(anew / "done.json", done | {"weights_sha256": sha256(anew / "weights.safetensors")})
    with pytest.raises(InputError, match="was trained anew"):
        Trainer(dataclasses.replace(config, train=moved), torch.device("cpu"))
