"""--from RUN: the fusion of one run begins with the encoder and decoder of another."""

import dataclasses
import json

import pytest
import torch

from synth3d.cohort import Splits, find_cases
from synth3d.errors import InputError
from synth3d.files import sha256, write_json
from synth3d.settings import parse
from synth3d.training import load_run, resolve, train_run
from synth3d.training.config import RunConfig
from synth3d.training.run_folder import load_weights, save_weights
from synth3d.training.start import begun, refuse_seen, seen_before
from synth3d.training.trainer import Trainer

SMALL = (
    "model.widths=[4,8]", "model.blocks=1", "model.banks=2", "data.patch=[16,16]", "data.batch=2",
    "data.overlap=[0,0]", "data.queue=8", "data.workers=0", "data.validation_cases=1",
    "train.checkpoint_every=2", "train.validate_every=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def request_of(small_requests):
    """(name, settings, fields) → a small training of slices for any gap."""
    return small_requests("tsf-cpu", SMALL)


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
    cohorts = [json.loads((one / "cohort.json").read_text()) for one in (seq2seq, run)]
    assert cohorts[1]["seen_before"] == {side: cohorts[0][side] for side in ("train", "val")}
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
        ({"framework": "l1"}, (), "--from is for training in two stages, train.framework=tsf"),
        ({"plane": "sagittal"}, (), "plane axial, here sagittal"),
        ({}, ("data.slice_size=[32,32]",), "slice_size none, here 32-32"),
        ({}, ("data.intensity=paper",), "intensity median, here paper"),
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


def test_who_was_seen_before_is_neither_tested_nor_chosen_on(
    request_of, phantom_cohort, seq2seq, tmp_path
):
    """Over all runs of a chain; a validation case may be one again."""
    told = json.loads((seq2seq / "cohort.json").read_text())
    one, other, *rest = told["train"]
    val, test = told["val"], told["test"]
    later = tmp_path / "later"  # was begun from it, and learnt from others
    later.mkdir()
    config = json.loads((seq2seq / "config.json").read_text())
    config["train"] |= {"start": str(seq2seq), "start_sha256": "0" * 64}
    write_json(later / "config.json", config)
    write_json(later / "cohort.json", {"train": [one], "val": val, "test": []})
    cases = find_cases(phantom_cohort)
    for run in (seq2seq, later):
        config["train"] |= {"start": str(run)}
        begun_from = parse(RunConfig, config)
        refuse_seen(begun_from, cases, Splits((one,), tuple(val), tuple(test)))
        for side, split in {
            "test": Splits((one,), tuple(test), (other, *val)),
            "validation": Splits((one,), (other,), tuple(test)),
        }.items():
            with pytest.raises(InputError, match=f"has seen {side} cases of this split: {other}"):
                refuse_seen(begun_from, cases, split)
    splits = tmp_path / "splits.json"
    write_json(splits, {"train": [one, *rest], "val": val, "test": [other]})
    with pytest.raises(InputError, match=f"has seen test cases of this split: {other};"):
        train_run(request_of("leak", start=seq2seq, splits=splits))
    assert not (seq2seq.parent / "leak").exists()
    (later / "cohort.json").unlink()
    with pytest.raises(InputError, match="does not say which cases it has seen"):
        seen_before(later)


@pytest.mark.parametrize(
    ("share", "steps", "refused"),
    [(0.0001, 1000, True), (0.9, 4, True), (0.5, 4, False), (1, 1, False), (0.01, 1000, False)],
)
def test_no_stage_is_without_a_step(request_of, share, steps, refused):
    config = resolve(request_of("", (f"train.tsf.pretrain={float(share)}",), steps=steps), "cpu")
    if not refused:
        assert begun(config, None, None) == config
        return
    with pytest.raises(InputError, match=f"pretrain={share} of {steps} steps leaves .* more steps"):
        begun(config, None, None)


@pytest.mark.parametrize(
    ("given", "start", "words"),
    [
        ("train.start=elsewhere", False, r"train.start is not set by hand; say --from RUN"),
        ("train.tsf.pretrain=0.5", True, r"pretrain has no effect with --from"),
    ],
)
def test_what_from_decides_is_not_set_by_hand(request_of, seq2seq, given, start, words):
    with pytest.raises(InputError, match=words):
        train_run(request_of("by-hand", (given,), start=seq2seq if start else None))


def test_a_run_that_was_begun_is_one_of_tsf(request_of, seq2seq):
    config = begun(resolve(request_of("begun"), "cpu"), seq2seq, 4)
    train = dataclasses.replace(config.train, framework="l1")
    other = dataclasses.replace(config, train=train)
    for refused in (lambda: begun(other, None, None), lambda: Trainer(other, torch.device("cpu"))):
        with pytest.raises(InputError, match=r"train.start is what --from writes for .* two"):
            refused()


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
