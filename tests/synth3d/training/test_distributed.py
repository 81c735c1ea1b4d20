"""Several processes are one training: they end together, and the same command goes on."""

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from synth3d.cohort import find_cases
from synth3d.cohort.splits import make_splits
from synth3d.data.options import DataConfig
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.frameworks.tsf import TSFOptions
from synth3d.models.options import ModelConfig
from synth3d.settings import to_plain
from synth3d.training.config import RunConfig, TrainConfig
from synth3d.training.distributed import ALONE, Ranks, joined, own_device, ranks_here
from synth3d.training.loop import Place, train
from synth3d.training.run_folder import load_state, read_log
from synth3d.training.trainer import Trainer
from tests.ranks import around, free_port

ROOT = Path(__file__).parents[3]
TINY = RunConfig(
    dim=2,
    model=ModelConfig("resunet", (4, 8), blocks=1),
    data=DataConfig((16, 16), (0, 0), queue=8, validation_cases=2),
    train=TrainConfig(
        framework="l1", steps=3000, threads=1, average=0.5, checkpoint_every=6,
        validate_every=10**6,
    ),
)  # fmt: skip
ANY = ("t1n", "t1c", "t2w", "t2f")
STAGES = RunConfig(
    dim=2, mode="any", sources=ANY, targets=ANY,
    model=ModelConfig("tsf", (4, 8), blocks=1, banks=2, fusion_banks=2),
    data=DataConfig((16, 16), (0, 0), batch=2, queue=8, validation_cases=2),
    train=TrainConfig(
        framework="tsf", steps=8, learning_rate=2e-3, average=0.9, checkpoint_every=2,
        clip_norm=1.0, threads=1, tsf=TSFOptions(pretrain=0.5, perceptual_weight=0.0),
    ),
)  # fmt: skip
"""TSF-Seq2Seq, whose encoder is frozen at step 4."""
HANGS = 600.0
"""Seconds after which a process hangs: none of these takes so long on the busiest machine."""


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set"),
        (around(0, 2, 1) | {"RANK": "one"}, "RANK must be a whole number from 0, got 'one'"),
        (around(2, 2, 1), "RANK 2 of WORLD_SIZE 2"),
    ],
)
def test_an_environment_that_makes_no_sense_is_told(told, wrong, monkeypatch):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=wrong):
        ranks_here()


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("cuda:1", ALONE) == "cuda:1"
    assert own_device("cpu", Ranks(1, 2, 1, 2)) == "cpu"
    assert own_device("cuda", Ranks(5, 8, 1, 2)) == "cuda:1"
    with pytest.raises(InputError, match="cuda:0 is one GPU and 2 processes train"):
        own_device("cuda:0", Ranks(1, 2, 1, 2))
    with pytest.raises(InputError, match="3 processes on this machine, which has 2 GPU"):
        own_device("cuda", Ranks(0, 3, 0, 3))


def begin(config: RunConfig, cohort: Path, work: Path, size: int) -> list[subprocess.Popen[str]]:
    """The same ``synth3d train`` in so many processes."""
    work.mkdir(exist_ok=True)
    (work / "recipe.json").write_text(json.dumps(to_plain(config)))
    words = ["train", "--data", str(cohort), "--recipe", str(work / "recipe.json"), "--work",
             str(work), "--name", "run", "--device", "cpu"]  # fmt: skip
    port, alone = free_port(), os.environ | {"OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "synth3d", *words],
            cwd=ROOT,
            env=alone | (around(rank, size, port) if size > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Code, stdout and stderr of each; where one hangs, all are killed and the test fails."""
    try:
        said = [process.communicate(timeout=HANGS) for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
            process.communicate()
        raise
    return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]


def wait_for(path: Path, processes: list[subprocess.Popen[str]]) -> None:
    """Until ``processes`` have written ``path``; they are ended where they do not."""
    until = time.monotonic() + HANGS
    while not path.exists() and time.monotonic() < until:
        if any(process.poll() is not None for process in processes):
            break
        time.sleep(0.01)
    if not path.exists():
        for process in processes:
            process.kill()
        pytest.fail(f"{path.name} was not written: {ends(processes)}")


def test_a_killed_process_ends_all_and_the_same_command_goes_on_with_fewer(
    phantom_cohort, tmp_path
):
    """Until it is asked to stop between two checkpoints; then it goes on once more, to its end."""
    run = tmp_path / "work" / "runs" / "run"
    processes = begin(TINY, phantom_cohort, tmp_path / "work", 2)
    wait_for(run / "resume.pt", processes)
    processes[1].send_signal(signal.SIGKILL)
    since = time.monotonic()
    (first, said, told), (second, *_) = ends(processes)
    assert time.monotonic() - since < 30
    assert (first, second) == (2, -signal.SIGKILL)
    assert "by 2 processes" in said
    assert len(re.findall("^error: ", told, re.M)) == 1
    assert "Traceback" not in told
    reached = load_state(run / "resume.pt")["trainer"]["step"]
    assert reached % TINY.train.checkpoint_every == 0

    (alone,) = begin(TINY, phantom_cohort, tmp_path / "work", 1)
    before = (run / "resume.pt").stat().st_ino
    while (run / "resume.pt").stat().st_ino == before and alone.poll() is None:
        time.sleep(0.01)
    alone.send_signal(signal.SIGUSR1)
    ((code, said, _),) = ends([alone])
    assert code == 0
    assert f"going on at step {reached}" in said
    assert "begun with processes 2, now 1" in said
    stopped = load_state(run / "resume.pt")["trainer"]["step"]
    assert f"stopped at step {stopped}" in said
    assert read_log(run / "log.jsonl")[-1]["step"] == stopped
    assert not (run / "done.json").exists()


def test_two_processes_end_where_one_does(phantom_cohort, tmp_path):
    """From the command, over the same batches, to the validation, which they share."""
    config = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, steps=20))
    two = begin(config, phantom_cohort, tmp_path, 2)
    cases = find_cases(phantom_cohort)
    alone = train(config, cases, make_splits(cases), phantom_cohort, tmp_path / "alone")
    assert [code for code, *_ in ends(two)] == [0, 0]
    assert alone is not None
    logs = [read_log(run / "log.jsonl") for run in (alone, tmp_path / "runs" / "run")]
    for one, both in zip(*logs, strict=True):
        for kind in one.keys() - {"step", "seconds"}:
            assert both[kind] == pytest.approx(one[kind], rel=1e-5)


@pytest.mark.slow
def test_where_one_of_two_is_asked_to_stop_both_do_and_both_go_on(phantom_cohort, tmp_path):
    config = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, steps=400))
    processes, run = begin(config, phantom_cohort, tmp_path, 2), tmp_path / "runs" / "run"
    wait_for(run / "resume.pt", processes)
    processes[1].send_signal(signal.SIGTERM)
    assert [code for code, *_ in ends(processes)] == [0, 0]
    assert not (run / "done.json").exists()
    assert [code for code, *_ in ends(begin(config, phantom_cohort, tmp_path, 2))] == [0, 0]
    assert (run / "done.json").exists()


@pytest.mark.parametrize("leg_ends", [True, False])
def test_stopped_anywhere_and_going_on_ends_with_the_same_weights(
    leg_ends, phantom_cohort, tmp_path, monkeypatch
):
    """Bit for bit, with sources hidden at random and what was drawn before drawn again."""
    cases = find_cases(phantom_cohort)
    config = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, steps=14))
    splits = make_splits(cases)
    train(config, cases, splits, phantom_cohort, tmp_path / "straight")
    real, at = Trainer.advance, 6 if leg_ends else 9

    def advance(trainer, batch):
        found = real(trainer, batch)
        if trainer.step == at:
            signal.raise_signal(signal.SIGTERM)
        return found

    monkeypatch.setattr(Trainer, "advance", advance)
    assert train(config, cases, splits, phantom_cohort, tmp_path / "run") is None
    assert load_state(tmp_path / "run" / "resume.pt")["trainer"]["step"] == at
    assert train(config, cases, splits, phantom_cohort, tmp_path / "run")
    names = [tmp_path / run / "weights.safetensors" for run in ("straight", "run")]
    assert sha256(names[0]) == sha256(names[1])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def train_as(rank: int, port: int, cohort: Path, work: Path, dies: tuple[int, int] | None) -> None:
    """A process of two, in which rank and step say who dies when; without ``dies`` nobody does.

    Before the first death two processes train undisturbed.
    """
    torch.set_num_threads(1)
    os.environ |= around(rank, 2, port)
    ranks, cases, advance = ranks_here(), find_cases(cohort), Trainer.advance

    def until_killed(trainer, batch):
        if dies == (trainer.ranks.rank, trainer.step):
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(trainer, batch)

    given = STAGES, cases, make_splits(cases), cohort
    try:
        with joined(ranks, "cpu"):
            train(*given, work / "straight", Place(ranks=ranks))
            Trainer.advance = until_killed
            train(*given, work / "run", Place(ranks=ranks))
    except InputError:
        sys.exit(2)


def trained(cohort: Path, work: Path, dies: tuple[int, int] | None = None) -> list[int | None]:
    """How each of two processes ends."""
    spawn, port = multiprocessing.get_context("spawn"), free_port()
    processes = [
        spawn.Process(target=train_as, args=(rank, port, cohort, work, dies)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(400)
    return [process.exitcode for process in processes]


@pytest.mark.slow
def test_two_processes_killed_in_both_stages_end_as_if_undisturbed(phantom_cohort, tmp_path):
    """Bit for bit, whoever dies: in Seq2Seq the one that listens, in the fusion the writer."""
    run, killed = tmp_path / "run", -signal.SIGKILL
    assert trained(phantom_cohort, tmp_path, (1, 3)) == [2, killed]
    assert load_state(run / "resume.pt")["trainer"]["step"] == 2
    assert trained(phantom_cohort, tmp_path, (0, 7)) == [killed, 2]
    assert load_state(run / "resume.pt")["trainer"]["step"] == 6
    assert trained(phantom_cohort, tmp_path) == [0, 0]
    straight = tmp_path / "straight"
    names = [folder / "weights.safetensors" for folder in (straight, run)]
    assert sha256(names[0]) == sha256(names[1])
    cases = find_cases(phantom_cohort)
    alone = train(STAGES, cases, make_splits(cases), phantom_cohort, tmp_path / "alone")
    assert alone is not None
    logs = [read_log(folder / "log.jsonl") for folder in (alone, straight, run)]
    one, *both = [[line["loss"] for line in log if "loss" in line] for log in logs]
    assert ["cycle" in terms for terms in one] == [True, True, False, False]
    for log in both:
        for terms, other in zip(one, log, strict=True):
            assert other == pytest.approx(terms, rel=1e-5)
