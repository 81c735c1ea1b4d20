"""Shared by the tests of synth3d."""

import warnings
from pathlib import Path

import pytest
import torch

from synth3d.files import sha256, write_json
from synth3d.images.intensity import Scale, ScalePrior
from synth3d.training import build_framework
from synth3d.training.run_folder import FORMAT, read_config, save_weights

LEVELS = {"t1n": 700, "t1c": 900, "t2w": 500, "t2f": 800}


@pytest.fixture(scope="session")
def vgg16(tmp_path_factory) -> Path:
    """Random weights under the names and shapes of torchvision's first four convolutions."""
    state, channels = {}, (3, 64, 64, 128, 128)
    draws = torch.Generator().manual_seed(0)
    for layer, inputs, outputs in zip((0, 2, 5, 7), channels, channels[1:], strict=False):
        kernel = torch.randn(outputs, inputs, 3, 3, generator=draws)
        state[f"features.{layer}.weight"] = kernel * (2 / (9 * inputs)) ** 0.5
        state[f"features.{layer}.bias"] = 0.1 * torch.randn(outputs, generator=draws)
    state["classifier.6.bias"] = torch.zeros(1000)
    path = tmp_path_factory.mktemp("weights") / "vgg16-random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def vgg19(tmp_path_factory) -> Path:
    """Random weights, in half precision, of torchvision's first thirteen convolutions."""
    layers = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
    channels = (3, 64, 64, 128, 128, *[256] * 4, *[512] * 5)
    state, draws = {}, torch.Generator().manual_seed(0)
    for layer, inputs, outputs in zip(layers, channels, channels[1:], strict=False):
        kernel = torch.randn(outputs, inputs, 3, 3, generator=draws) * (2 / (9 * inputs)) ** 0.5
        state[f"features.{layer}.weight"] = kernel.half()
        state[f"features.{layer}.bias"] = 0.1 * torch.randn(outputs, generator=draws).half()
    path = tmp_path_factory.mktemp("weights") / "vgg19-random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def alexnet(tmp_path_factory) -> Path:
    """An AlexNet with random weights, saved as torchvision saves its own, where it would be."""
    import torchvision

    with torch.random.fork_rng([]), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        state = torchvision.models.alexnet(weights=None).state_dict()
    kept = {name: value for name, value in state.items() if name.startswith("features")}
    path = tmp_path_factory.mktemp("hub") / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir()
    torch.save(kept, path)
    return path


@pytest.fixture(scope="session")
def write_run():
    """Write an untrained but complete run folder of a tiny network."""

    def write(folder, dropout=0.1, train=None, model=(), **config):
        shape = {"name": "resunet", "widths": [4, 8], "blocks": 1, "groups": 2, "stages": 1}
        shape |= dict(model)
        data = {"patch": [8, 8, 8], "overlap": [4, 4, 4], "source_dropout": dropout}
        train = train or {"framework": "l1"}
        folder.mkdir(parents=True)
        write_json(folder / "config.json", config | {"model": shape, "data": data, "train": train})
        torch.manual_seed(0)
        framework = build_framework(read_config(folder), training=False)
        save_weights(folder / "weights.safetensors", framework.generator)
        scales = {name: Scale(0.1 * level, 1.4 * level) for name, level in LEVELS.items()}
        write_json(folder / "scales.json", ScalePrior([scales] * 3).to_list())
        digest = sha256(folder / "weights.safetensors")
        write_json(folder / "done.json", {"format": FORMAT, "weights_sha256": digest})
        return folder

    return write
