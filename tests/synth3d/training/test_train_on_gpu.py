"""Training where the network is: a kill and the same command, what is read, what is current."""

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from synth3d.cohort import find_cases
from synth3d.cohort.splits import make_splits
from synth3d.data.batch import Batch
from synth3d.data.options import DataConfig
from synth3d.frameworks.adversarial import Pix2PixOptions
from synth3d.models.options import ModelConfig
from synth3d.training import loop
from synth3d.training.config import RunConfig, TrainConfig
from synth3d.training.loop import Place, train
from synth3d.training.run_folder import read_log
from synth3d.training.trainer import Trainer

CRITIC = Pix2PixOptions(critic_width=4, critic_layers=2, adversarial_start=5)
TINY = RunConfig(
    model=ModelConfig(widths=(8, 16), groups=2, blocks=1, stages=2, routing_stride=2),
    data=DataConfig(patch=(16, 16, 16), overlap=(8, 8, 8), batch=2, queue=8, validation_cases=1),
    train=TrainConfig(
        steps=20, learning_rate=1e-3, pix2pix=CRITIC, average=0.9, checkpoint_every=10,
        validate_every=10, threads=1,
    ),
)  # fmt: skip


class KilledError(Exception):
    """Stands for a kill -9 in the middle of a leg."""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_training_goes_on_and_ends_near_the_undisturbed_one(
    precision, device, phantom_cohort, tmp_path, monkeypatch
):
    """On a CPU with the very weights; cuDNN may round otherwise each time."""
    on_gpu = device.type == "cuda"
    if precision == "bf16" and not on_gpu:
        pytest.skip("many CPUs would emulate it")
    config = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, precision=precision))
    cases = find_cases(phantom_cohort)
    how, where = (config, cases, make_splits(cases), phantom_cohort), Place(str(device))

    def weights(run: Path) -> dict[str, torch.Tensor]:
        return load_file(run / "weights.safetensors")

    undisturbed = train(*how, tmp_path / "undisturbed", where)
    advance, begun = Trainer.advance, []

    def killed(trainer: Trainer, batch: Batch) -> dict[str, float]:
        assert torch.backends.cudnn.benchmark is on_gpu
        assert (on_gpu and batch.sources.is_pinned()) is on_gpu
        begun.append(trainer.step)
        if trainer.step == 13 and begun.count(13) == 1:
            raise KilledError
        return advance(trainer, batch)

    monkeypatch.setattr(loop.Trainer, "advance", killed)
    with pytest.raises(KilledError):
        train(*how, tmp_path / "run", where)
    resumed = train(*how, tmp_path / "run", where)
    assert begun == [*range(14), *range(10, 20)]
    assert torch.backends.cudnn.benchmark is False
    first = Trainer(config, torch.device("cpu")).framework.generator.state_dict()
    last, again = weights(undisturbed), weights(resumed)
    moved, apart = (
        torch.cat([(one[name] - last[name]).flatten() for name in last]).norm()
        for one in (first, again)
    )
    assert apart <= (0.2 * moved if on_gpu else 0)
    steps = [line["step"] for line in read_log(resumed / "log.jsonl") if "validation" in line]
    assert steps == [10, 20]


def test_a_step_waits_once_for_the_gpu(device):
    """Torch tells of a GPU alone; on the CPU the test shows that it runs."""
    fighting = dataclasses.replace(CRITIC, adversarial_start=0)
    train = dataclasses.replace(TINY.train, pix2pix=fighting)
    trainer = Trainer(dataclasses.replace(TINY, train=train), device)
    volumes = torch.rand(2, 3, 16, 16, 16), torch.rand(2, 1, 16, 16, 16)
    masks = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    batch = Batch(*volumes, *masks, volumes[1] > 0.2)
    on_gpu = device.type == "cuda"
    batch = batch.pin_memory() if on_gpu else batch
    trainer.advance(batch)  # kernels are compiled and proved, and buffers made
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn") if on_gpu else None
        try:
            trainer.advance(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default") if on_gpu else None
    waits = [one for one in told if "synchronizing CUDA operation" in str(one.message)]
    assert len(waits) == on_gpu
