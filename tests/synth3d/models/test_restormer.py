"""Restormer: its rearranging of voxels, its attention, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from synth3d.models import ChannelAttention, Restormer
from synth3d.models.restormer import WIDTHS, heads_of, shuffle, unshuffle


def test_in_2d_voxels_are_rearranged_as_torch_does():
    x = torch.randn(2, 8, 4, 6)
    assert torch.equal(unshuffle(x), F.pixel_unshuffle(x, 2))
    assert torch.equal(shuffle(x), F.pixel_shuffle(x, 2))


def test_in_3d_each_channel_becomes_its_eight_corners_and_again_itself():
    x = torch.randn(2, 3, 4, 6, 2)
    parts = unshuffle(x)
    assert parts.shape == (2, 24, 2, 3, 1)
    for corner in range(8):
        z, y, x_ = corner // 4, corner // 2 % 2, corner % 2
        assert torch.equal(parts[:, 8 + corner], x[:, 1, z::2, y::2, x_::2])
    assert torch.equal(shuffle(parts), x)


@pytest.mark.parametrize("dim", [2, 3])
def test_attention_asks_how_alike_channels_are_and_nothing_of_their_strength(dim):
    """Of channels that are alike to themselves alone each stays, of those all alike the mean."""
    attend, x = ChannelAttention(dim, 4), torch.randn(2, 4, *[4] * dim)
    mix, near = attend.qkv
    nn.init.dirac_(near.weight, groups=12)
    mix.weight.data = torch.eye(4).repeat(3, 1).view_as(mix.weight)
    nn.init.dirac_(attend.project.weight)
    attend.temperature.data.fill_(1e4)
    torch.testing.assert_close(attend(x), x)
    attend.temperature.data.fill_(0.0)
    torch.testing.assert_close(attend(x), x.mean(1, keepdim=True).expand_as(x))
    attend.temperature.data.fill_(3.0)
    louder = mix.weight.data.clone()
    louder[:8] *= 7  # of queries and keys only their direction counts
    before = attend(x)
    mix.weight.data = louder
    torch.testing.assert_close(attend(x), before)


def test_heads_are_the_published_ones_and_always_divide():
    assert [heads_of(width) for width in WIDTHS] == [1, 2, 4, 4, 4, 4]
    assert all(width % heads_of(width) == 0 for width in range(1, 400))


def test_what_it_cannot_be_is_refused():
    for widths in ((8,), (8, 10), (0, 8)):
        with pytest.raises(ValueError, match="multiples of 4"):
            Restormer(1, 1, dim=2, widths=widths)
    with pytest.raises(ValueError, match="sides that are multiples of 4"):
        Restormer(1, 1, dim=2, widths=(4, 8, 8))(torch.zeros(1, 1, 8, 6))
