"""Shared by the tests of synth3d."""

from pathlib import Path

import pytest
import torch


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
