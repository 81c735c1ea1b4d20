"""Every valid generator × framework, in 2-D and 3-D, learns on a phantom and makes a volume."""

import dataclasses
from pathlib import Path

import pytest
import torch

from synth3d.cohort.cases import find_cases
from synth3d.config.frameworks import (
    DDPMOptions,
    IDDPMOptions,
    MedSynthOptions,
    MMGanOptions,
    PGanOptions,
    Pix2PixOptions,
)
from synth3d.config.run import DataConfig, ModelConfig, RunConfig, TrainConfig
from synth3d.data.batch import Batch
from synth3d.errors import InputError
from synth3d.frameworks import FRAMEWORKS
from synth3d.frameworks.base import Framework
from synth3d.frameworks.build import build
from synth3d.images.intensity import Scale, foreground
from synth3d.images.volumes import read
from synth3d.inference.volume import synthesize_volume
from synth3d.models import GENERATORS
from synth3d.training.run_folder import load_state, save_state
from synth3d.training.trainer import Trainer

SOURCES, TARGET = ("t1n", "t1c", "t2w"), "t2f"
STEPS, SIDE = 20, {2: 16, 3: 8}
FIRST = {"ddpm": "noise", "iddpm": "noise"}
"""The term that must fall; the other frameworks' is ``l1``."""

CELLS = [
    pytest.param(generator, framework, dim, id=f"{generator}-{framework}-{dim}d")
    for generator in GENERATORS
    for framework in FRAMEWORKS
    for dim in (2, 3)
    if FRAMEWORKS[framework].needs <= GENERATORS[generator].offers
    and (generator, dim) != ("arc-resunet", 3)
]


@pytest.fixture(scope="module")
def phantom(phantom_cohort) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sources (3, 16, 16, 16), target (1, ...) and brain (1, ...) from the middle of a phantom."""
    case = find_cases(phantom_cohort)[0]
    raw = {name: read(case.images[name]).data for name in (*SOURCES, TARGET)}
    brain = foreground(raw["t1n"])
    scaled = {name: Scale.fit(v, brain).apply(v, brain) for name, v in raw.items()}
    middle = (slice(8, 24),) * 3
    stack = torch.stack([torch.from_numpy(scaled[name][middle]) for name in (*SOURCES, TARGET)])
    return stack[:3], stack[3:], torch.from_numpy(brain[middle])[None]


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory) -> Path:
    """Random weights under torchvision's names."""
    state, channels = {}, (3, 64, 64, 128, 128)
    draws = torch.Generator().manual_seed(0)
    for layer, inputs, outputs in zip((0, 2, 5, 7), channels, channels[1:], strict=False):
        kernel = torch.randn(outputs, inputs, 3, 3, generator=draws)
        state[f"features.{layer}.weight"] = kernel * (2 / (9 * inputs)) ** 0.5
        state[f"features.{layer}.bias"] = torch.zeros(outputs)
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(state, path)
    return path


def make_config(generator: str, framework: str, dim: int, vgg16: Path | str = "") -> RunConfig:
    critic = {"critic_width": 4, "critic_layers": 1}
    diffusion = {"diffusion_steps": 100, "sampling_steps": 3, "validation_steps": 2}
    return RunConfig(
        dim=dim,
        sources=SOURCES,
        targets=(TARGET,),
        data=DataConfig(patch=(SIDE[dim],) * dim, overlap=(4,) * dim),
        model=ModelConfig(name=generator, widths=(4, 8), groups=2, blocks=1, stages=2),
        train=TrainConfig(
            framework=framework,
            steps=STEPS,
            pix2pix=Pix2PixOptions(**critic),
            pgan=PGanOptions(perceptual_weights=str(vgg16), perceptual_slices=1, **critic),
            mmgan=MMGanOptions(**critic),
            medsynth=MedSynthOptions(**critic),
            ddpm=DDPMOptions(**diffusion),
            iddpm=IDDPMOptions(**diffusion),
        ),
    )


def patches(phantom, dim: int) -> Batch:
    """Two patches, or two slices, of the phantom."""
    side = SIDE[dim]
    first = (slice(0, side),) * 3 if dim == 3 else (4, slice(0, side), slice(0, side))
    second = (slice(-side, None),) * 3 if dim == 3 else (11, slice(0, side), slice(0, side))
    sources, targets, brain = (
        torch.stack([volume[(slice(None), *where)] for where in (first, second)])
        for volume in phantom
    )
    masks = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    return Batch(sources, targets, *masks, brain)


def train(cell: Framework, batch: Batch, steps: int, decay: bool = False) -> None:
    """Some steps with Adam on one batch."""
    generator = torch.optim.Adam(cell.generator.parameters(), 1e-2)
    critic = torch.optim.Adam(cell.critic.parameters(), 1e-3) if cell.critic else None
    for step in range(steps):
        terms = cell.generator_loss(batch, step)
        generator.param_groups[0]["lr"] = 1e-2 * (1 - step / steps) if decay else 1e-2
        generator.zero_grad()
        sum(terms.values()).backward()
        assert all(p.grad.isfinite().all() for p in cell.generator.parameters())
        generator.step()
        found = cell.critic_loss(batch, step)
        assert bool(found) == (critic is not None)
        if critic is not None:
            critic.zero_grad()
            sum(found.values()).backward()
            critic.step()


@torch.no_grad()
def measure(cell: Framework, batch: Batch, framework: str) -> float:
    """Its loss over six steps' draws, the same whenever it is asked."""
    term = FIRST.get(framework, "l1")
    return sum(cell.generator_loss(batch, step)[term].item() for step in range(6)) / 6


@pytest.mark.parametrize(("generator", "framework", "dim"), CELLS)
def test_every_cell_learns_and_makes_a_finite_volume(generator, framework, dim, phantom, vgg16):
    """On the same draws the loss ends under 0.6 of where it began; MM-GAN, which learns many
    tasks at once, under 0.75.
    """
    torch.manual_seed(0)
    cell, batch = build(make_config(generator, framework, dim, vgg16)), patches(phantom, dim)
    before = measure(cell, batch, framework)
    train(cell, batch, STEPS)
    share = 0.75 if framework == "mmgan" else 0.6
    assert measure(cell, batch, framework) < share * before
    sources, _, brain = phantom
    volume = synthesize_volume(
        cell.eval(),
        sources[:, :9, :12],
        torch.tensor([True, True, True]),
        torch.tensor([True]),
        (SIDE[dim],) * dim,
        (4,) * dim,
        active=brain[0, :9, :12],
    )
    assert volume.shape == (1, 9, 12, 16)
    assert volume.isfinite().all()
    assert (volume[brain[:, :9, :12]] != 0).any()


def test_there_is_a_cell_for_every_pair_but_those_that_cannot_be():
    assert len(CELLS) == len(GENERATORS) * len(FRAMEWORKS) * 2 - len(FRAMEWORKS)


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_arc_in_3d_is_refused_with_a_sentence(framework):
    with pytest.raises(InputError, match="arc-resunet .* 2-D only, got dim 3"):
        build(make_config("arc-resunet", framework, 3))


@pytest.mark.parametrize("framework", ["ddpm", "iddpm"])
def test_a_generator_that_cannot_be_told_the_time_is_refused_with_a_sentence(
    framework, monkeypatch
):
    monkeypatch.setattr(GENERATORS["agi-net"], "offers", frozenset())
    with pytest.raises(InputError, match=rf"{framework} needs \['time'\] of agi-net; able: .*res"):
        build(make_config("agi-net", framework, 2))


@pytest.mark.slow
@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_a_cell_that_learns_longer_beats_the_mean(framework, phantom, vgg16):
    """On what it has learnt from; of a diffusion the sample, not only the loss."""
    torch.manual_seed(0)
    config = make_config("resunet", framework, 2, vgg16)
    config = dataclasses.replace(
        config,
        model=ModelConfig(name="resunet", widths=(8, 16), blocks=1, centred=True),
        train=dataclasses.replace(
            config.train,
            steps=500,
            ddpm=DDPMOptions(diffusion_steps=100, sampling_steps=25),
            iddpm=IDDPMOptions(diffusion_steps=100, sampling_steps=25),
        ),
    )
    cell, batch = build(config), patches(phantom, 2)
    train(cell, batch, 500, decay=True)
    made = cell.eval().synthesize(batch.sources, batch.present, batch.wanted)
    inside = batch.brain.expand_as(made)
    error = (made - batch.targets)[inside].abs().mean()
    constant = (batch.targets[inside] - batch.targets[inside].mean()).abs().mean()
    assert error < 0.75 * constant


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_a_checkpoint_is_everything_that_the_next_step_needs(framework, phantom, vgg16, tmp_path):
    config, batch = make_config("resunet", framework, 2, vgg16), patches(phantom, 2)
    straight = Trainer(config, torch.device("cpu"))
    straight.advance(batch)
    save_state(tmp_path / "resume.pt", straight.state())
    resumed = Trainer(config, torch.device("cpu"))
    torch.manual_seed(99)  # randomness must not come from the global generator
    resumed.load(load_state(tmp_path / "resume.pt"))
    assert straight.advance(batch) == resumed.advance(batch)
    for a, b in zip(straight.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(a, b)
