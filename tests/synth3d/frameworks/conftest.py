"""Small configurations and batches, the same for all frameworks."""

from dataclasses import replace

import pytest
import torch

from synth3d.data.batch import Batch
from synth3d.data.degrade import degraded
from synth3d.data.options import DataConfig, DegradeConfig
from synth3d.frameworks import FRAMEWORKS
from synth3d.models.options import ModelConfig
from synth3d.training.config import RunConfig, TrainConfig

SMALL = {
    "critic_width": 4, "critic_layers": 2, "critic_every": 1,
    "perceptual_weight": 0.0, "perceptual_slices": 1,
    "registration_width": 4, "diffusion_steps": 100, "sampling_steps": 10, "validation_steps": 5,
}  # fmt: skip


def with_poor(batch: Batch, ratio: tuple[int, int, int]) -> Batch:
    """``batch`` with a poor image of its first target as the last source, always there."""
    dim, settings = batch.targets.ndim - 2, DegradeConfig("t2f", ratio)
    draws, sides = torch.Generator(), batch.targets.shape[2:]
    volumes = batch.targets[:, 0].reshape(-1, *(1,) * (3 - dim), *sides).numpy()
    poor = [torch.from_numpy(degraded(each, settings, draws, dim)) for each in volumes]
    stacked = torch.stack(poor).reshape(-1, 1, *sides)
    sources = torch.cat([batch.sources, stacked * batch.brain], dim=1)
    present = torch.cat([batch.present, torch.ones_like(batch.present[:, :1])], dim=1)
    return replace(batch, sources=sources, present=present)


@pytest.fixture(scope="session")
def make_config():
    """(framework, ...) → its configuration; further keywords are options of the framework.

    With ``ratio`` (z, y, x) the target is there, but so much coarser.
    """

    def make(framework, dim=2, side=16, model=(), train=(), sources=("t1n", "t2w"), **options):
        both = {"mode": "any", "targets": sources} if options.pop("either", False) else {}
        if ratio := options.pop("ratio", None):
            sources, both = (*sources, "t2f"), {"degrade": DegradeConfig("t2f", ratio)}
        known = FRAMEWORKS[framework].Options
        small = {key: value for key, value in SMALL.items() if hasattr(known, key)}
        name = "tsf" if "explanation" in FRAMEWORKS[framework].needs else "resunet"
        size = {"name": name, "widths": (4, 8), "blocks": 1, "groups": 2, "stages": 2,
                "banks": 2, "fusion_banks": 2}  # fmt: skip
        tables = {framework: known(**small | options)}
        return RunConfig(
            dim=dim,
            sources=sources,
            **both,
            data=DataConfig(patch=(side,) * dim, overlap=(0,) * dim),
            model=ModelConfig(**size | dict(model)),
            train=TrainConfig(framework=framework, **tables, **dict(train)),
        )

    return make


@pytest.fixture(scope="session")
def make_batch():
    """(dim, side, targets) → two samples of two sources; targets follow from them.

    With ``ratio`` (z, y, x) a third source is the target of so much larger voxels.
    """

    def make(dim=2, side=16, targets=1, ratio=None) -> Batch:
        draws = torch.Generator().manual_seed(0)
        brain = torch.ones(2, 1, *[side] * dim, dtype=torch.bool)
        brain[..., :3] = False
        sources = (torch.rand(2, 2, *[side] * dim, generator=draws) + 0.1) * brain
        wanted = [0.6 * sources[:, 0] + 0.3 * sources[:, 1] ** 2, sources.mean(1)]
        masks = torch.ones(2, 2, dtype=torch.bool), torch.ones(2, targets, dtype=torch.bool)
        batch = Batch(sources, torch.stack(wanted[:targets], 1), *masks, brain)
        return with_poor(batch, ratio) if ratio else batch

    return make
