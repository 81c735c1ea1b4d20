"""A sequence that is there but poor: what a run that restores it is, and what it is shown."""

from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from synth3d.cohort import find_cases
from synth3d.data.cache.packed import pack
from synth3d.data.cache.store import make
from synth3d.data.degrade import degrade, degraded
from synth3d.data.options import DataConfig, DegradeConfig, MisalignConfig
from synth3d.data.patches import Stream
from synth3d.data.slices import seen
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.experiments.asking import Asker, Question
from synth3d.images.intensity import foreground
from synth3d.images.volumes import read, write_like
from synth3d.training.config import RunConfig

ALL = ("t1n", "t1c", "t2w", "t2f")
POOR = {"sources": ALL, "degrade": DegradeConfig("t2f", (1, 1, 4))}


def test_a_degraded_source_that_is_a_target_is_poor():
    task = RunConfig(**POOR).task
    assert task == Task(3, ALL, ("t2f",), "fixed", ("t2f",), (1, 1, 4))
    flat = DataConfig(patch=(16, 16), overlap=(0, 0))
    assert RunConfig(**POOR, dim=2, data=flat).task.ratio == (1, 4)
    named = RunConfig(sources=("T1", "FLAIR"), targets=("flair",), degrade=POOR["degrade"])
    assert (named.task.poor, named.sources) == (("t2f",), ("t1n", "t2f"))
    assert named.words == "t1n+t2f 1x1x4 as coarse -> t2f"
    # One that is no target is an experiment, as ever.
    assert RunConfig(degrade=DegradeConfig("t2w", (1, 1, 4))).task.poor == ()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"degrade": DegradeConfig("t2f")}, "sources and targets must be disjoint"),
        ({"degrade": DegradeConfig("t1c", (4, 1, 1))}, "sources and targets must be disjoint"),
        ({"sources": ("t2f", "t1n")}, "poor must be the last of"),
        ({"degrade": DegradeConfig("t2f", (1, 1, 4), when="test_only")}, "degrade.when must be tr"),
        ({"mode": "any", "targets": ALL}, "degrade.source must be left out where mode is any"),
        ({"misalign": MisalignConfig("t2f", 2.0, when="train")}, "misalign.source must be ano"),
        ({"data": DataConfig(misregistration=2.0)}, "data.misregistration must be 0 where"),
        ({"data": DataConfig(common_grid="t2f")}, "data.common_grid must be another sequence"),
        (
            {"data": DataConfig((48, 48, 40)), "degrade": DegradeConfig("t2f", (1, 1, 16))},
            r"data.patch\[x\] must be a multiple of 16, as degrade.ratio has it, got 40",
        ),
    ],
)
def test_what_cannot_be_restored_is_refused_by_its_key(settings, words):
    with pytest.raises(InputError, match=words):
        RunConfig(**{**POOR, **settings})


@pytest.mark.parametrize("dim", [2, 3])
def test_what_is_restored_is_scanned_in_scanner_units_and_has_the_scale_of_the_scan(prepared, dim):
    settings = DegradeConfig("t2f", (1, 2, 4) if dim == 2 else (4, 1, 1), "slices")
    task = Task(dim, ALL, ("t2f",), "fixed", ("t2f",), settings.ratio[-dim:])
    found = degrade(prepared, task, DataConfig((8,) * dim, (0,) * dim), settings)
    own, scale, brain = found.scales["t2f"], prepared.scales["t2f"], prepared.brain
    assert own != scale
    # In its own scale the scan's median is 1/2 and its darkest half percent 0.
    scan = found.poor["t2f"]
    assert np.percentile(scan[brain], [0.5, 50]) == pytest.approx([0, 0.5], abs=1e-3)
    assert not scan[~brain].any()
    # And the target in that scale is the file itself.
    inner = brain & (prepared.volumes["t2f"] != 0)
    file = read(prepared.case.images["t2f"]).data
    fine = own.invert(found.volumes["t2f"], brain)
    assert np.allclose(fine[inner], file[inner], rtol=1e-3, atol=1e-3 * own.width)
    if dim == 3:
        raw = np.where(inner, file, np.float32(scale.background))
        expected = degraded(raw, settings, torch.Generator())
        assert np.allclose(own.invert(scan, brain)[brain], expected[brain], atol=1e-3 * own.width)
    for name in ("t1n", "t1c", "t2w"):
        assert found.volumes[name] is prepared.volumes[name]
        assert found.scales[name] == prepared.scales[name]


@pytest.mark.parametrize("dim", [2, 3])
def test_a_batch_shows_the_poor_one_and_never_the_answer(prepared, dim):
    settings = DegradeConfig("t2f", (1, 2, 4) if dim == 2 else (4, 1, 1))
    task = Task(dim, ALL, ("t2f",), "fixed", ("t2f",), settings.ratio[-dim:])
    data = DataConfig((8,) * dim, (0,) * dim, batch=4, flip=False, source_dropout=0.9)
    packed = pack(seen(prepared, task, data))
    stream = Stream([packed], task, data, degrade=settings)
    batches = [*islice(stream.batches(0), 5)]
    present = torch.cat([batch.present for batch in batches])
    assert present[:, 3].all()
    assert not present[:, :3].all(1).any()  # the others are hidden as ever, all of them at times
    assert not present[:, :3].any(1).all()
    for batch in batches:
        poor, fine = batch.sources[:, 3], batch.targets[:, 0]
        rough = [volume.diff(dim=1 if dim == 3 else 2).abs().mean() for volume in (poor, fine)]
        assert rough[0] < 0.7 * rough[1]
        assert (poor - fine).abs().mean() < 0.2  # the same place, in one scale
    # With nothing that makes it poor there would be nothing to learn.
    with pytest.raises(ValueError, match="was not made poor"):
        next(Stream([packed], task, data).batches(0))
    with pytest.raises(ValueError, match="was not made poor"):
        seen(prepared, task, data).sources(task)


def test_the_brain_is_that_of_the_others(phantom_cohort, tmp_path):
    """As in completing, where thick slices blur; of a case that has no other it is its own."""
    real = find_cases(phantom_cohort)[0]
    image = read(real.images["t2f"]).data.copy()
    assert not image[:3].any()
    image[1, 10:20, 10:20] = 500
    write_like(real.images["t2f"], image, tmp_path / "t2f.nii.gz")
    case = replace(real, images={**real.images, "t2f": tmp_path / "t2f.nii.gz"})
    task, data = RunConfig(**POOR).task, DataConfig()
    brain = make(case, task, data, whole=True).prepared(case).brain
    heads = [foreground(read(case.images[name]).data) for name in task.guides]
    assert np.array_equal(brain, np.logical_or.reduce(heads))
    lone = replace(case, images={"t2f": case.images["t2f"]})
    own = make(lone, task, data, whole=True).prepared(lone).brain
    assert np.array_equal(own, foreground(image))


def test_what_is_asked_of_a_run_comes_back_in_the_scale_of_the_real_image(prepared):
    """A network that gives the poor channel back: its image is the scan, in whatever scale."""
    task = RunConfig(**POOR).task

    config = RunConfig(**POOR, data=DataConfig((8,) * 3, (0,) * 3))
    network = torch.nn.Module().eval()
    network.task, network.generator = task, torch.nn.Identity()
    network.synthesize = lambda sources, present, wanted, seed: sources[:, 3:]
    run = SimpleNamespace(folder=None, config=config, framework=network)
    asker = Asker(run, torch.device("cpu"))
    asker.open(prepared, 0)
    answer = asker.answer(Question(), config)
    poor = degrade(prepared, task, config.data, config.degrade)
    scan = poor.scales["t2f"].invert(poor.poor["t2f"], prepared.brain)
    found = prepared.scales["t2f"].invert(answer.made["t2f"], prepared.brain)
    assert np.allclose(found, scan, atol=1e-3 * prepared.scales["t2f"].width)
