"""Features of VGG16 and VGG19: from a file of torchvision's kind, and of which slices."""

import pytest
import torch
from torch import nn

from synth3d.errors import InputError
from synth3d.losses.perceptual import (
    feature_distance,
    load_vgg16,
    load_vgg19,
    orthogonal_slices,
    squared_distance,
)


def test_the_file_becomes_vgg16_up_to_relu2_2(vgg16):
    features, state = load_vgg16(vgg16), torch.load(vgg16, weights_only=True)
    x = torch.rand(2, 3, 12, 8)
    y = x
    for layer in (0, 2, 5, 7):
        if layer == 5:
            y = torch.max_pool2d(y, 2)
        kernel, bias = state[f"features.{layer}.weight"], state[f"features.{layer}.bias"]
        y = torch.conv2d(y, kernel, bias, padding=1).relu()
    torch.testing.assert_close(features(x), y)
    assert y.shape == (2, 128, 6, 4)


def test_vgg19_gives_what_every_relu_does_and_pools_by_means(vgg19):
    maps, state = load_vgg19(vgg19), torch.load(vgg19, weights_only=True)
    pictures = torch.rand(2, 20, 16)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    y, expected = (pictures[:, None] - mean) / deviation, []
    for layer in range(30):
        if layer in (4, 9, 18, 27):
            y = torch.nn.functional.avg_pool2d(y, 2)
        elif f"features.{layer}.weight" in state:
            values = (state[f"features.{layer}.{kind}"].float() for kind in ("weight", "bias"))
            y = torch.conv2d(y, *values, padding=1).relu()
            expected.append(y)
    found = maps(pictures)
    assert len(found) == len(expected) == 13
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert len(maps(torch.rand(1, 8, 8))) == 12, "no pixel is left of the last pool"
    assert not any(p.requires_grad for p in maps.parameters())


def test_the_squared_distance_is_a_mean_over_all_stacks_summed_over_maps(vgg19):
    maps = load_vgg19(vgg19)
    made, real = (
        [torch.rand(3, 8, 8), torch.rand(2, 8, 12), torch.rand(0, 8, 8)] for _ in range(2)
    )
    expected = 0
    for layer in range(12):
        pairs = [(maps(a)[layer], maps(b)[layer]) for a, b in zip(made[:2], real[:2], strict=True)]
        total = sum((a - b).square().sum() for a, b in pairs)
        expected += total / sum(a.numel() for a, _ in pairs)
    torch.testing.assert_close(squared_distance(maps, made, real), expected)
    assert squared_distance(maps, made[2:], real[2:]) == 0


def test_orthogonal_slices_cut_across_each_axis():
    volumes = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).float()
    draws = torch.Generator().manual_seed(0)
    across_z, across_y, across_x = orthogonal_slices(volumes, 2, draws)
    assert across_z.shape == (4, 4, 5)
    assert across_y.shape == (4, 3, 5)
    assert across_x.shape == (4, 3, 4)
    assert any(torch.equal(across_z[0], volumes[0, k]) for k in range(3))
    assert any(torch.equal(across_y[1], volumes[1, :, k]) for k in range(4))
    assert any(torch.equal(across_x[3], volumes[1, :, :, k]) for k in range(5))
    (pictures,) = orthogonal_slices(volumes[0], 2, draws)
    assert torch.equal(pictures, volumes[0])
    nothing = [stack[:0] for stack in (across_z, across_y)]
    assert feature_distance(nn.Identity(), nothing, nothing) == 0


def test_a_file_of_something_else_is_told(vgg16, tmp_path):
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(vgg16.read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged"):
        load_vgg16(damaged)
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, other)
    with pytest.raises(InputError, match=r"features.0.weight is \(64, 1, 3, 3\), expected"):
        load_vgg16(other)
    torch.save([1, 2], other)
    with pytest.raises(InputError, match="does not hold torchvision's VGG16"):
        load_vgg16(other)
    with pytest.raises(InputError, match="does not hold torchvision's VGG19"):
        load_vgg19(vgg16)
