"""What a training takes, told before it: by a few timed steps on random voxels."""

import resource
from dataclasses import dataclass

import torch

from synth3d.data import Batch, only
from synth3d.machine import keep_memory, seconds_of, tuned
from synth3d.training.config import RunConfig
from synth3d.training.trainer import Trainer

FLOAT = 4
"""Bytes."""


@dataclass(frozen=True)
class Cost:
    """What was measured.

    Attributes:
        seconds_per_step: The mean over all steps, stages and late critics among them, without
            reading data.
        memory_bytes: The most that the steps had, with the queue of patches: of the GPU, or of the
            process.
        state_bytes: Of what a run keeps of itself on disk while it is under way.
    """

    seconds_per_step: float
    memory_bytes: int
    state_bytes: int


def cost_of(config: RunConfig, device: str) -> Cost:
    """Build what ``config`` trains, and time a few steps of each kind.

    Raises:
        InputError: It cannot be built on this machine.
        RuntimeError: It needs more memory than there is.
    """
    on_gpu, where = device.startswith("cuda"), torch.device(device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(where)
    with tuned(device):
        keep_memory()
        torch.set_num_threads(config.train.threads)
        trainer, batch = Trainer(config, where), random_batch(config)
        pace = _pace(trainer, batch)
    if on_gpu:
        memory = torch.cuda.max_memory_allocated(where)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        memory += config.data.queue * batch.sources[0].nelement() * FLOAT
    return Cost(pace, memory, trainer.state_bytes)


def _pace(trainer: Trainer, batch: Batch) -> float:
    """Seconds a step: in each stage, with and without a late critic or a late segmenter."""
    config = trainer.config

    def timed(step: int) -> float:
        trainer.step = step
        trainer.advance(batch)
        return min(seconds_of(lambda: trainer.advance(batch)))

    late, steps = getattr(config.train.options, "adversarial_start", 0), config.train.steps
    late = max(late, config.train.coupling.start)
    shares = [stage.share for stage in trainer.framework.stages]
    if len(shares) > 1:
        starts = [round(steps * sum(shares[:number])) for number in range(len(shares))]
        return sum(share * timed(start) for share, start in zip(shares, starts, strict=True))
    share = min(late / steps, 1.0)
    before = timed(0) if share > 0 else 0.0
    return share * before + (1 - share) * (timed(max(late, steps)) if share < 1 else 0.0)


def random_batch(config: RunConfig) -> Batch:
    """What a step of ``config`` learns from, of random voxels without a tumour.

    For any gap one is wanted. Where a segmenter is coupled, it sees voxels as they are.
    """
    size, sides = config.drawn.batch, config.data.patch
    inputs, outputs = len(config.sources), len(config.targets)
    draws = torch.Generator().manual_seed(0)
    present, wanted = (torch.ones(size, n, dtype=torch.bool) for n in (inputs, outputs))
    if config.mode == "any":  # never both
        present[:, -1], wanted[:, :-1] = False, False
    sources = torch.rand(size, inputs, *sides, generator=draws)
    brain, coupled = torch.ones(size, 1, *sides, dtype=torch.bool), config.train.coupling.active
    return Batch(
        targets=torch.rand(size, outputs, *sides, generator=draws),
        sources=only(sources, present),
        present=present,
        wanted=wanted,
        brain=brain,
        label=torch.zeros_like(brain, dtype=torch.int8),
        levels=torch.ones(size, inputs + outputs, 3) if coupled else None,
        region=brain if coupled else None,
    )
