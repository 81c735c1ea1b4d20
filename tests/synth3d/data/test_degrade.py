"""Thick slices: what every degradation keeps, and what a training and a test see of one."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from synth3d.data.cache.packed import pack
from synth3d.data.degrade import degrade, degraded, rician
from synth3d.data.options import DataConfig, DegradeConfig
from synth3d.data.patches import Stream
from synth3d.data.slices import seen
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.training.config import RunConfig


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("profile", ["kspace", "slices"])
def test_a_ratio_of_one_is_the_image_to_the_bit(profile):
    fine = np.random.default_rng(0).random((8, 9, 10), np.float32)
    still = DegradeConfig("t2w", (1, 1, 1), profile)
    assert np.array_equal(degraded(fine, still, draws()), fine)
    assert not still.active


def test_noise_is_rician():
    """E|S + noise|² = S² + 2σ², and where there is no signal it has Rayleigh's mean."""
    noisy = rician(torch.full((100_000,), 3.0), 0.5, draws())
    assert noisy.square().mean().item() == pytest.approx(9 + 2 * 0.25, rel=0.01)
    dark = rician(torch.zeros(100_000), 0.5, draws())
    assert dark.mean().item() == pytest.approx(0.5 * (torch.pi / 2) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("degraded", "words"),
    [
        ({"source": "t2w", "ratio": (3, 1, 1)}, r"degrade.ratio .* three of 1, 2, 4"),
        ({"source": "t2w", "ratio": (4, 1)}, r"degrade.ratio"),
        ({"source": "t2w", "profile": "gauss"}, r"degrade.profile .* kspace or slices"),
        ({"ratio": (4, 1, 1)}, r"degrade.source"),
        ({"source": "t2f", "ratio": (4, 1, 1)}, r"degrade.source .* one of the sources"),
        ({"source": "t2w", "ratio": (4, 1, 1), "noise": -1.0}, r"degrade.noise"),
    ],
)
def test_what_cannot_be_degraded_is_refused_by_its_key(degraded, words):
    with pytest.raises(InputError, match=words):
        RunConfig(degrade=DegradeConfig(**degraded))


def test_slices_get_coarser_within_themselves_only():
    data = DataConfig(patch=(16, 16), overlap=(0, 0))
    with pytest.raises(InputError, match="1 along z where dim is 2"):
        RunConfig(dim=2, data=data, degrade=DegradeConfig("t2w", (4, 1, 1)))
    with pytest.raises(InputError, match=r"data.slice_size .* left out"):
        RunConfig(
            dim=2,
            data=replace(data, slice_size=(32, 32)),
            degrade=DegradeConfig("t2w", (1, 2, 2)),
        )


@pytest.mark.parametrize("dim", [2, 3])
def test_one_source_gets_poorer_and_nothing_else(prepared, dim):
    patch = (8,) * dim
    task = Task(dim, ("t1n", "t1c", "t2w"), ("t2f",))
    data = DataConfig(patch=patch, overlap=(0,) * dim, flip=False, source_dropout=0)
    settings = DegradeConfig("t2w", (1, 2, 4) if dim == 2 else (4, 1, 1))
    poor = degrade(prepared, task, data, settings)
    for name, volume in prepared.volumes.items():
        assert np.array_equal(volume, poor.volumes[name]) == (name != "t2w")
    fine, found = prepared.volumes["t2w"], poor.volumes["t2w"]
    assert not found[~prepared.brain].any()
    axis = 2 if dim == 2 else 0
    rough = [np.abs(np.diff(v, axis=axis))[3:-3].mean() for v in (fine, found)]
    assert rough[1] < 0.6 * rough[0]
    # What a training draws are patches of the very same volumes.
    stream = Stream([pack(seen(prepared, task, data))], task, data, degrade=settings)
    batch = next(islice(stream.batches(0), 1))
    whole = seen(poor, task, data)
    for channel, name in enumerate(task.sources):
        for sample in batch.sources[:, channel].numpy():
            assert _holds(whole.volumes[name], sample if dim == 3 else sample[None])
    late = replace(settings, when="test_only")
    same = Stream([pack(seen(prepared, task, data))], task, data, degrade=late)
    sample = next(same.batches(0)).sources[0, 2].numpy()
    assert _holds(seen(prepared, task, data).volumes["t2w"], sample if dim == 3 else sample[None])


def _holds(volume: np.ndarray, patch: np.ndarray) -> bool:
    """Whether ``patch`` lies somewhere in ``volume``, to rounding; zeros may surround it."""
    padded = np.pad(volume, 8)
    windows = np.lib.stride_tricks.sliding_window_view(padded, patch.shape)
    middle = tuple(side // 2 for side in patch.shape)
    near = np.argwhere(np.abs(windows[(..., *middle)] - patch[middle]) < 1e-4)
    return any(np.allclose(windows[tuple(at)], patch, atol=1e-4) for at in near)
