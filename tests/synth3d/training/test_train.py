"""The loop: one seed one result; that a kill at any moment changes nothing is fuzzed."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from synth3d.cohort import find_cases
from synth3d.cohort.splits import Splits, make_splits
from synth3d.data.cache.packed import pack
from synth3d.data.options import DataConfig, MisalignConfig
from synth3d.data.patches import Stream
from synth3d.data.prepared import prepare
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.frameworks.adversarial import Pix2PixOptions
from synth3d.frameworks.tsf import TSFOptions
from synth3d.images import read, write_new
from synth3d.models.options import ModelConfig
from synth3d.settings import to_plain
from synth3d.training import loop
from synth3d.training.config import RunConfig, TrainConfig
from synth3d.training.loop import leg_seed, train
from synth3d.training.run_folder import load_run, load_state, read_log, save_state
from synth3d.training.trainer import Trainer

ROOT = Path(__file__).parents[3]
FAST = Pix2PixOptions(critic_width=4, critic_layers=2, adversarial_start=5)
TINY = RunConfig(
    model=ModelConfig(widths=(4, 8), groups=2, blocks=1, stages=2),
    data=DataConfig(patch=(16, 16, 16), overlap=(0, 0, 0), batch=2, queue=8, validation_cases=1),
    train=TrainConfig(
        steps=10, learning_rate=2e-3, pix2pix=FAST, average=0.9, checkpoint_every=4,
        validate_every=8, threads=1,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(phantom_cohort, tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    cases = find_cases(phantom_cohort)
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    return train(TINY, cases, make_splits(cases), phantom_cohort, run)


def test_a_finished_run_is_self_describing(undisturbed):
    names = {path.name for path in undisturbed.iterdir() if not path.name.startswith(".")}
    assert names - {"tensorboard"} == {
        "cohort.json", "config.json", "contact.png", "curves.png", "done.json",
        "environment.json", "log.jsonl", "resume.pt", "roles.json",
        "scales.json", "weights.safetensors",
    }  # fmt: skip
    done = json.loads((undisturbed / "done.json").read_text())
    assert done["finished"]
    assert done["targets"] == ["t2f"]
    assert done["with_skulls"] is False
    assert done["weights_sha256"] == sha256(undisturbed / "weights.safetensors")
    log = read_log(undisturbed / "log.jsonl")
    assert [line["step"] for line in log if "validation" in line] == [8, 10]
    assert {"l1", "adversarial", "critic"} == set(log[-2]["loss"])
    environment = json.loads((undisturbed / "environment.json").read_text())
    assert environment["device"] == {"name": "cpu", "rolling": "torch"}
    cohort = json.loads((undisturbed / "cohort.json").read_text())
    assert not set(cohort["test"]) & (set(cohort["train"]) | set(cohort["val"]))
    assert len(json.loads((undisturbed / "scales.json").read_text())) == len(cohort["train"])


def test_a_run_remembers_that_it_learnt_from_heads_too_large_to_be_brains(phantom_cohort, tmp_path):
    for case in find_cases(phantom_cohort):
        for path in (*case.images.values(), case.label):
            volume = read(path)
            affine = volume.affine @ np.diag([1.3, 1.3, 1.3, 1])
            target = tmp_path / "heads" / path.relative_to(phantom_cohort)
            write_new(target, volume.data, affine, np.int16)
    cases = find_cases(tmp_path / "heads")
    config = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, steps=1))
    run = train(config, cases, make_splits(cases), tmp_path / "heads", tmp_path / "run")
    assert json.loads((run / "done.json").read_text())["with_skulls"] is True


def test_a_disk_too_small_for_the_state_is_refused_before_the_first_step(
    phantom_cohort, tmp_path, monkeypatch
):
    cases = find_cases(phantom_cohort)
    config = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, steps=2))
    order = config, cases, make_splits(cases), phantom_cohort
    kept = train(*order, tmp_path / "roomy")  # by now the cases are prepared
    assert kept is not None
    state, weights = ((kept / name).stat().st_size for name in ("resume.pt", "weights.safetensors"))

    def stepped(trainer, batch):
        raise AssertionError("a step was made")

    disk = shutil.disk_usage(tmp_path)
    for room, fits in ((0.8, False), (1.2, True)):
        free = int(room * (state + weights))
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path, free=free: disk._replace(free=free))
            if fits:
                assert train(*order, tmp_path / "small") == tmp_path / "small"
                continue
            patch.setattr(Trainer, "advance", stepped)
            with pytest.raises(InputError, match="MB are free"):
                train(*order, tmp_path / "small")
            assert {path.name for path in (tmp_path / "small").iterdir()} <= {".lock"}


def test_a_finished_run_loads_and_synthesises(undisturbed):
    run = load_run(undisturbed)
    assert run.config == TINY
    assert not any(p.requires_grad for p in run.framework.parameters())
    present, wanted = torch.tensor([[True, False, True]] * 2), torch.ones(2, 1, dtype=torch.bool)
    out = run.framework.synthesize(torch.zeros(2, 3, 16, 16, 16), present, wanted)
    assert out.shape == (2, 1, 16, 16, 16)
    assert run.prior.estimate("t2f", {}).high > 0


def test_test_cases_are_never_opened_and_cases_without_the_target_are_left_out(phantom_cohort):
    cases = find_cases(phantom_cohort)
    names = tuple(case.name for case in cases)
    splits = Splits(train=names[:3], val=names[3:5], test=names[5:])
    gone = dict.fromkeys(TINY.sources + TINY.targets, Path("gone.nii.gz"))
    cases[5] = dataclasses.replace(cases[5], images=gone)
    images = {m: path for m, path in cases[3].images.items() if m != "t2f"}
    cases[3] = dataclasses.replace(cases[3], images=images)
    learn, check = loop.cases_read(TINY, cases, splits)
    assert tuple(one.name for one in learn) == names[:3]
    assert [one.name for one in check] == [names[4]]


def command(config: RunConfig, cohort: Path, work: Path) -> list[str]:
    (work / "recipe.json").write_text(json.dumps(to_plain(config)))
    return [sys.executable, "-m", "synth3d", "train", "--data", str(cohort), "--recipe",
            str(work / "recipe.json"), "--work", str(work), "--name", "run",
            "--device", "cpu"]  # fmt: skip


def kill_after_a_checkpoint(arguments: list[str], run: Path) -> str:
    """Kill -9 a training after its first checkpoint, then let the same command go on; what it
    prints.
    """
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(5):
        process = subprocess.Popen(
            arguments, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not (run / "resume.pt").exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not (run / "done.json").exists():
            break
        shutil.rmtree(run)  # a busy machine let it finish: once more
    else:
        pytest.fail("the run always ended before it could be killed")
    again = subprocess.run(arguments, cwd=ROOT, env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    return again.stdout


def test_slices_drawn_by_a_worker_resume_too_and_as_if_there_were_none(phantom_cohort, tmp_path):
    """At once: a worker that outlived the kill would hold the lock on the folder."""
    data = DataConfig(
        patch=(32, 32), overlap=(0, 0), batch=4, patches_per_case=8, queue=16,
        source_dropout=0.3, validation_cases=1,
    )  # fmt: skip
    model = dataclasses.replace(TINY.model, name="resunet")
    astray = MisalignConfig(source="t2w", shift=2.0, elastic=1.0)
    alone = dataclasses.replace(TINY, dim=2, model=model, data=data, misalign=astray)
    cases = find_cases(phantom_cohort)
    undisturbed = train(alone, cases, make_splits(cases), phantom_cohort, tmp_path / "alone")
    helped = dataclasses.replace(alone, data=dataclasses.replace(data, workers=1))
    run = tmp_path / "runs" / "run"
    assert "going on at step" in kill_after_a_checkpoint(
        command(helped, phantom_cohort, tmp_path), run
    )
    assert sha256(run / "weights.safetensors") == sha256(undisturbed / "weights.safetensors")


def test_workers_draw_for_the_next_leg_before_this_one_ends(phantom_cohort, tmp_path, monkeypatch):
    case = prepare(find_cases(phantom_cohort)[0], TINY.sources, TINY.targets)
    unhelped = Stream([pack(case)], TINY.task, TINY.data)
    helped = dataclasses.replace(unhelped, data=dataclasses.replace(TINY.data, workers=1))
    feed, seed = loop._Feed(helped, TINY.train.seed), leg_seed(TINY.train.seed, 1)
    feed.begin(1)
    torch.manual_seed(5)  # whatever is drawn meanwhile
    first, ahead = next(feed.of(0)), next(feed.of(1))
    after = torch.rand(1)
    alone = next(unhelped.batches(seed))
    assert torch.equal(ahead.sources, alone.sources)
    assert torch.equal(ahead.brain, alone.brain)
    assert not torch.equal(first.sources, ahead.sources)
    torch.manual_seed(seed)
    assert torch.equal(after, torch.rand(1))  # nor do workers draw from the main generator

    begun = []
    monkeypatch.setattr(loop._Feed, "begin", lambda feed, leg: begun.append(leg))
    cases = find_cases(phantom_cohort)
    train(TINY, cases, make_splits(cases), phantom_cohort, tmp_path / "run")
    assert begun == list(range(1, -(-TINY.train.steps // TINY.train.checkpoint_every)))


@pytest.fixture(scope="module")
def cut_short(phantom_cohort, tmp_path_factory):
    """A cohort of its own, and a run on it that ended after its first leg; both to be copied."""
    root = tmp_path_factory.mktemp("cut")
    shutil.copytree(phantom_cohort, root / "cohort")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Record, "finish", lambda record, *rest: None)
        patch.setattr(Trainer, "advance", stopping_at(4))
        with pytest.raises(KeyboardInterrupt):
            go_on(root)
    return root


def stopping_at(step):
    real = Trainer.advance

    def advance(trainer, batch):
        if trainer.step >= step:
            raise KeyboardInterrupt
        return real(trainer, batch)

    return advance


def go_on(root):
    cases = find_cases(root / "cohort")
    return train(TINY, cases, make_splits(cases), root / "cohort", root / "run")


@pytest.fixture(scope="module")
def two_stages(phantom_cohort, tmp_path_factory):
    """A run of TSF-Seq2Seq for any gap, Seq2Seq to step 4, and the encoder after each step."""
    names = ("t1n", "t1c", "t2w", "t2f")
    config = RunConfig(
        dim=2, mode="any", sources=names, targets=names,
        model=ModelConfig("tsf", (4, 8), blocks=1, banks=2, fusion_banks=2),
        data=DataConfig((16, 16), (0, 0), batch=2, queue=8, validation_cases=1),
        train=TrainConfig(
            framework="tsf", steps=8, learning_rate=2e-3, average=0.9, checkpoint_every=2,
            validate_every=4, threads=1, tsf=TSFOptions(pretrain=0.5, perceptual_weight=0.0),
        ),
    )  # fmt: skip
    encoders, real = [], Trainer.advance

    def advance(trainer, batch):
        found = real(trainer, batch)
        encoder = trainer.framework.generator.encoder.state_dict()
        encoders.append({name: value.clone() for name, value in encoder.items()})
        return found

    cases, run = find_cases(phantom_cohort), tmp_path_factory.mktemp("stages") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", advance)
        train(config, cases, make_splits(cases), phantom_cohort, run)
    return config, run, encoders


def test_the_encoder_that_is_kept_is_the_one_the_fusion_was_trained_with(two_stages):
    _, run, encoders = two_stages
    kept = load_file(run / "weights.safetensors")
    kept = {key[8:]: value for key, value in kept.items() if key.startswith("encoder.")}
    for encoder in encoders[3:]:
        torch.testing.assert_close(kept, encoder, rtol=0, atol=0)
    assert any(not torch.equal(kept[key], encoders[2][key]) for key in kept)


@pytest.mark.parametrize("killed", [3, 5, 7])
def test_two_stages_killed_in_either_end_with_the_same_weights(
    killed, two_stages, phantom_cohort, tmp_path, monkeypatch
):
    """In the first, in the second with the last checkpoint on the border, and well inside it."""
    config, straight, _ = two_stages
    cases = find_cases(phantom_cohort)
    given = config, cases, make_splits(cases), phantom_cohort, tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", stopping_at(killed))
        with pytest.raises(KeyboardInterrupt):
            train(*given)
    assert load_state(tmp_path / "run" / "resume.pt")["trainer"]["step"] == killed - 1
    train(*given)
    names = [run / "weights.safetensors" for run in (straight, tmp_path / "run")]
    assert sha256(names[0]) == sha256(names[1])


def rewritten(path, **changes):
    save_state(path, load_state(path) | changes)


def with_step(path, step):
    rewritten(path, trainer=load_state(path)["trainer"] | {"step": step})


def other_way(path, part, key, value):
    origin = load_state(path)["origin"]
    rewritten(path, origin=origin | {part: origin[part] | {key: value}})


def other_voxels(root):
    paths = sorted((root / "cohort").rglob("*-t2f.nii.gz"))
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda r: other_voxels(r), "the files .*/t2f.* changed since"),
        (lambda r: other_way(r / "run/resume.pt", "way", "torch", "1.0"), "torch 1.0, now .*other"),
        (lambda r: other_way(r / "run/resume.pt", "way", "rolling", "cupy"), "rolling cupy, now"),
        (lambda r: other_way(r / "run/resume.pt", "way", "threads", "7"), "threads 7, now 1"),
        (lambda r: rewritten(r / "run/resume.pt", origin=3), "says wrong things of itself"),
        (lambda r: rewritten(r / "run/resume.pt", trainer=3), "another version or model"),
        *[(lambda r, s=s: with_step(r / "run/resume.pt", s), "another version or model")
          for s in (0, -10, 12, 70, "4", 4.0, None)],
        (lambda r: (r / "run/log.jsonl").write_text("[]\n"), "log.jsonl is damaged in line 1"),
    ],
)  # fmt: skip
def test_a_run_goes_on_from_its_own_state_data_and_way_alone(cut_short, tmp_path, harm, told):
    root = shutil.copytree(cut_short, tmp_path / "copy")
    # The data folder is remembered; what is in it counts, not where a test has copied it.
    harm(root)
    before = {path: path.read_bytes() for path in (root / "run").iterdir() if path.is_file()}
    with pytest.raises(InputError, match=told):
        go_on(root)
    assert {p: p.read_bytes() for p in (root / "run").iterdir() if p.is_file()} == before


def test_a_removed_log_and_another_machine_do_no_harm_and_are_kept_in_mind(
    cut_short, undisturbed, tmp_path, capsys
):
    root = shutil.copytree(cut_short, tmp_path / "copy")
    (root / "run" / "log.jsonl").unlink()
    other_way(root / "run" / "resume.pt", "machine", "chip", "abacus")
    environment = json.loads((root / "run" / "environment.json").read_text())
    other = environment | {"cores": 1000}
    (root / "run" / "environment.json").write_text(json.dumps(other))
    run = go_on(root)
    assert "begun with chip abacus" in capsys.readouterr().out
    assert json.loads((run / "environment.json").read_text())["earlier"] == [other]
    assert sha256(run / "weights.safetensors") == sha256(undisturbed / "weights.safetensors")
    assert "psnr" in json.loads((run / "done.json").read_text())["validation"]
    (run / ".partial-1-done.json").write_bytes(b"left by a kill at the last moment")
    assert go_on(root) == run
    assert not list(run.glob(".partial-*"))
    load_run(run)
    scales = run / "scales.json"
    scales.write_text(scales.read_text().replace("1", "2", 1))
    with pytest.raises(InputError, match="scales.json is not the file this run wrote"):
        load_run(run)


@pytest.mark.parametrize(
    ("config", "splits", "wrong"),
    [
        (dataclasses.replace(TINY, sources=("t1n", "pd")), {}, "no training case has pd; say with"),
        (TINY, {"train": ()}, "at least one training and one validation case"),
    ],
)
def test_what_no_training_case_has_is_told(phantom_cohort, config, splits, wrong):
    cases = find_cases(phantom_cohort)
    with pytest.raises(InputError, match=wrong):
        loop.cases_read(config, cases, dataclasses.replace(make_splits(cases), **splits))


def test_legs_have_seeds_of_their_own():
    seeds = {leg_seed(seed, leg) for seed in range(20) for leg in range(20)}
    assert len(seeds) == 400
    assert all(0 <= s < 2**63 for s in seeds)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_that_begins_while_cases_are_prepared_ends_with_the_same_weights(
    phantom_cohort, undisturbed, tmp_path, monkeypatch, workers
):
    monkeypatch.setattr(loop, "AT_ONCE", -1.0)
    config = dataclasses.replace(TINY, data=dataclasses.replace(TINY.data, workers=workers))
    cases = find_cases(phantom_cohort)
    run = train(config, cases, make_splits(cases), phantom_cohort, tmp_path / "run")
    for name in ("weights.safetensors", "scales.json", "roles.json"):
        assert sha256(run / name) == sha256(undisturbed / name)
