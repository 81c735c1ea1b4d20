"""Every valid generator × framework, in 2-D and 3-D, learns on a phantom and makes a volume."""

import dataclasses
import re

import pytest
import torch

from synth3d.cohort import find_cases
from synth3d.data.batch import Batch
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.frameworks import FRAMEWORKS, build
from synth3d.frameworks.diffusion import DDPMOptions, IDDPMOptions
from synth3d.images.intensity import Scale, foreground
from synth3d.images.volumes import read
from synth3d.inference.volume import SynthesisOptions, synthesize_volume
from synth3d.models import GENERATORS
from synth3d.training.config import build_framework
from synth3d.training.run_folder import load_state, save_state
from synth3d.training.trainer import Trainer

SOURCES, TARGET = ("t1n", "t1c", "t2w"), "t2f"
STEPS, SIDE = 20, {2: 16, 3: 8}
CPU = torch.device("cpu")

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
def cell_config(make_config, vgg16):
    """(generator, framework, dim) → what is trained here."""

    def make(generator, framework, dim):
        options = {"critic_layers": 2 if framework == "fgdl" else 1,
                   "sampling_steps": 3, "validation_steps": 2,
                   "perceptual_weight": 100.0 if framework == "pgan" else 0.0,
                   "perceptual_weights": str(vgg16)}  # fmt: skip
        known = FRAMEWORKS[framework].Options
        options = {key: value for key, value in options.items() if hasattr(known, key)}
        train = {"steps": STEPS, "learning_rate": 1e-2, "critic_learning_rate": 1e-3,
                 "betas": (0.9, 0.999)}  # fmt: skip
        model = {"name": generator}
        return make_config(framework, dim, SIDE[dim], model, train, SOURCES, **options)

    return make


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


def plain_for(framework: str) -> str:
    """The plainest generator that ``framework`` can use."""
    return "resunet" if FRAMEWORKS[framework].needs <= GENERATORS["resunet"].offers else "tsf"


@torch.no_grad()
def measure(trainer: Trainer, batch: Batch) -> float:
    """The generator's leading term over six steps' draws, the same whenever it is asked."""
    losses = [trainer.framework.generator_loss(batch, step) for step in range(6)]
    return sum(next(iter(terms.values())).item() for terms in losses) / 6


@pytest.mark.parametrize(("generator", "framework", "dim"), CELLS)
def test_every_cell_learns_and_makes_a_finite_volume(
    generator, framework, dim, phantom, cell_config
):
    """On the same draws the loss ends under 0.6 of where it began; MM-GAN's, which learns many
    tasks at once, and restormer's, whose branches of few channels grow slowly, under 0.75.
    """
    trainer = Trainer(cell_config(generator, framework, dim), CPU)
    batch = patches(phantom, dim)
    before = measure(trainer, batch)
    for _ in range(STEPS):
        terms = trainer.advance(batch)
        assert ("critic" in terms) == ("critic" in trainer.players)
    share = 0.75 if framework == "mmgan" or generator == "restormer" else 0.6
    assert measure(trainer, batch) < share * before
    sources, _, brain = phantom
    volume = synthesize_volume(
        trainer.framework.eval(),
        sources[:, :9, :12],
        torch.tensor([True, True, True]),
        torch.tensor([True]),
        SynthesisOptions((SIDE[dim],) * dim, (4,) * dim),
        brain[0, :9, :12],
    )
    assert volume.shape == (1, 9, 12, 16)
    assert volume.isfinite().all()
    assert (volume[brain[:, :9, :12]] != 0).any()


def test_there_is_a_cell_for_every_pair_but_those_that_cannot_be():
    """arc-resunet has no 3-D form, tsf and restormer are told no time, only tsf is explained."""
    plain = [name for name in FRAMEWORKS if not FRAMEWORKS[name].needs]
    told = [name for name in FRAMEWORKS if FRAMEWORKS[name].needs == {"time"}]
    others = len(GENERATORS) - 2
    assert len(CELLS) == (2 * others - 1) * (len(plain) + len(told)) + 2 * 2 * len(plain) + 2


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_what_cannot_be_built_is_refused_by_name(framework, cell_config, monkeypatch):
    config = cell_config("agi-net", framework, 2)
    if "explanation" not in FRAMEWORKS[framework].needs:
        with pytest.raises(InputError, match=r"arc-resunet .* 2-D only, got dim 3"):
            build_framework(cell_config("arc-resunet", framework, 3))
    else:
        config = cell_config("tsf", framework, 2)
    either = Task(2, SOURCES, SOURCES, "any")
    monkeypatch.setattr(FRAMEWORKS[framework], "modes", frozenset({"fixed"}))
    able = re.escape(str(sorted(n for n, f in FRAMEWORKS.items() if "any" in f.modes)))
    if "any" not in FRAMEWORKS[framework].modes:
        with pytest.raises(InputError, match=f"{framework} cannot learn mode any; able: {able}"):
            build(either, config.model, framework, config.train.options)
    if FRAMEWORKS[framework].needs:
        (need,) = FRAMEWORKS[framework].needs
        monkeypatch.setattr(GENERATORS[config.model.name], "offers", frozenset())
        words = rf"{framework} needs \['{need}'\] of {config.model.name}; able: "
        with pytest.raises(InputError, match=words):
            build_framework(config)


@pytest.mark.slow
@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_a_cell_that_learns_longer_beats_the_mean(framework, phantom, cell_config):
    """On what it has learnt from; of a diffusion the sample, not only the loss."""
    config = cell_config(plain_for(framework), framework, 2)
    model = dataclasses.replace(config.model, widths=(8, 16), centred=True)
    quick = {"diffusion_steps": 100, "sampling_steps": 25}
    tables = {"ddpm": DDPMOptions(**quick), "iddpm": IDDPMOptions(**quick)}
    train = dataclasses.replace(config.train, steps=500, decay="cosine", **tables)
    trainer = Trainer(dataclasses.replace(config, model=model, train=train), CPU)
    batch = patches(phantom, 2)
    for _ in range(500):
        trainer.advance(batch)
    made = trainer.framework.eval().synthesize(batch.sources, batch.present, batch.wanted)
    inside = batch.brain.expand_as(made)
    error = (made - batch.targets)[inside].abs().mean()
    constant = (batch.targets[inside] - batch.targets[inside].mean()).abs().mean()
    assert error < 0.75 * constant


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_a_checkpoint_is_everything_that_the_next_step_needs(
    framework, phantom, cell_config, tmp_path
):
    config, batch = cell_config(plain_for(framework), framework, 2), patches(phantom, 2)
    straight = Trainer(config, CPU)
    straight.advance(batch)
    save_state(tmp_path / "resume.pt", straight.state())
    resumed = Trainer(config, CPU)
    torch.manual_seed(99)  # randomness must not come from the global generator
    resumed.load(load_state(tmp_path / "resume.pt"))
    assert straight.advance(batch) == resumed.advance(batch)
    for one, other in zip(straight.state()["averages"].values(),
                          resumed.state()["averages"].values(), strict=True):  # fmt: skip
        assert all(torch.equal(one[key], other[key]) for key in one)
