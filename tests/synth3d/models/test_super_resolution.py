"""FGDL's super-resolution branch: its size, its plan of levels, and how it begins."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from synth3d.models import GENERATORS, SuperResolution
from synth3d.models.fgdl.alignment import likeness, moving_conv
from synth3d.models.fgdl.modulation import IncrementalModulation
from synth3d.models.fgdl.super_resolution import factors_of
from synth3d.models.moving.deformable import DeformableConv
from synth3d.models.restormer import WIDTHS, heads_of

RATIOS = [(2, 2), (1, 4), (4, 2), (2, 2, 2), (1, 1, 4), (4, 1, 1), (2, 2, 1), (1, 4, 4)]
SMALL = (6, 4, 8)
"""Widths, coarse to fine, of which the last ones serve smaller ratios."""


def widths_of(ratio):
    return SMALL[len(SMALL) - max(ratio).bit_length() :]


def shown(ratio, batch=2, **kind):
    """A coarse image and features of strides max(ratio) to 1 beside it."""
    fine, widths = [4 * r if r > 1 else 4 for r in ratio], widths_of(ratio)
    coarse = torch.rand(batch, 1, *[s // r for s, r in zip(fine, ratio, strict=True)], **kind)
    strides = [2**n for n in reversed(range(len(widths)))]
    features = [
        torch.randn(batch, width, *[s // stride for s in fine], **kind)
        for width, stride in zip(widths, strides, strict=True)
    ]
    return coarse, features


def trained_a_step(network, *seen):
    """One step down the gradient, after which heads that begin at 0 are no longer."""
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    image, _ = network(*seen)
    image.square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def formula_2d(ratio):
    """From the published layers, with a bias where no deformable or Restormer's layer is."""
    widths = WIDTHS[: ratio.bit_length()][::-1]

    def conv(inputs, outputs):
        return 9 * inputs * outputs + outputs

    def dense(width):
        made = [32, 32, 32, 32, width]
        return sum(conv(width + 32 * i, each) for i, each in enumerate(made))

    def level(width):
        both = 2 * width
        hidden = int(2.66 * both)
        aligned = 9 * width**2 + conv(both, 27)
        asking = 9 * both * 3 * both + conv(both, 27) + 9 * 3 * both
        attention = asking + both**2 + heads_of(both)
        block = attention + 3 * both * hidden + 2 * hidden * 9 + 4 * both
        modulation = conv(1, 64) + conv(64, 128) + conv(128, 128) + 2 * conv(128, width)
        return aligned + 2 * block + conv(both, width) + modulation

    ends = conv(1, widths[0]) + conv(48, 48) + conv(48, 24) + conv(24, 1)
    between = sum(conv(a, b) for a, b in zip(widths, widths[1:], strict=False))
    return ends + 6 * dense(widths[0]) + sum(map(level, widths)) + between


@pytest.mark.parametrize(
    ("ratio", "millions"), [(2, "6.9"), (4, "22.5"), (8, "80.0"), (16, "129.5")]
)
def test_in_2d_it_has_fgdls_sizes(ratio, millions):
    with torch.device("meta"):
        network = SuperResolution(2, (ratio, ratio), WIDTHS[: ratio.bit_length()][::-1])
    count = sum(p.numel() for p in network.parameters())
    assert count == formula_2d(ratio)
    assert f"{count / 1e6:.1f}" == millions


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3).filter(any))
def test_every_level_halves_the_largest_ratio_and_others_where_they_have_come_to_it(powers):
    ratio = tuple(2**n for n in powers)
    factors = factors_of(ratio)
    assert factors[0] == ratio
    assert [max(each) for each in factors] == [2**n for n in reversed(range(max(powers) + 1))]
    for coarse, fine in zip(factors, factors[1:], strict=False):
        for axis, (a, b) in enumerate(zip(coarse, fine, strict=True)):
            assert b == (a // 2 if a == max(coarse) else a), axis


@pytest.mark.parametrize("ratio", RATIOS)
def test_it_makes_ratio_times_as_many_voxels_and_says_how_alike_each_level_is(ratio):
    network, (coarse, features) = SuperResolution(len(ratio), ratio, widths_of(ratio)), shown(ratio)
    image, maps = network(coarse, features)
    fine = tuple(s * r for s, r in zip(coarse.shape[2:], ratio, strict=True))
    assert image.shape == (2, 1, *fine)
    for alike, factor in zip(maps, factors_of(ratio), strict=True):
        assert alike.shape == (2, 1, *[s // f for s, f in zip(fine, factor, strict=True)])
        assert alike.abs().max() <= 1 + 1e-6
        assert alike.std() > 0


@pytest.mark.parametrize(("name", "ratio"), [("resunet", (1, 1, 4)), ("restormer", (2, 2))])
def test_it_goes_on_from_a_generators_pyramid(name, ratio):
    dim, steps = len(ratio), max(ratio).bit_length()
    generator = GENERATORS[name](1, 1, dim=dim, widths=(8, 8, 16), blocks=1)
    network = SuperResolution(dim, ratio, generator.pyramid_widths[-steps:])
    _, maps = generator.pyramid(torch.rand(1, 1, *[8] * dim))
    image, _ = network(torch.rand(1, 1, *[8 // r for r in ratio]), maps[-steps:])
    image.sum().backward()
    assert generator.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("ratio", [(4, 2), (1, 2, 2)])
def test_after_one_step_every_parameter_learns(ratio):
    network, seen = SuperResolution(len(ratio), ratio, widths_of(ratio)), shown(ratio)
    trained_a_step(network, *seen)
    image, maps = network(*seen)
    (image.square().mean() + sum(each.square().mean() for each in maps)).backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_in_3d_both_alignments_begin_as_the_same_convolution_and_part_then():
    ratio = (1, 1, 2)
    warped, tapped = (SuperResolution(3, ratio, (4, 2), kind) for kind in ("warp", "deformable"))
    missing = tapped.load_state_dict(
        {k: v for k, v in warped.state_dict().items() if "displacements" not in k}, strict=False
    )
    assert all("displacements" in key for key in missing.missing_keys)
    assert missing.missing_keys
    seen = torch.rand(1, 1, 3, 4, 2), [torch.randn(1, 4, 2, 2, 2), torch.randn(1, 2, 3, 4, 4)]
    torch.testing.assert_close(warped(*seen), tapped(*seen))
    for network in (warped, tapped):
        for module in network.modules():
            if isinstance(module, DeformableConv):
                nn.init.normal_(module.displacements.weight, std=0.3)
    assert not torch.allclose(warped(*seen)[0], tapped(*seen)[0], atol=1e-4)


@pytest.mark.parametrize("dim", [2, 3])
def test_modulation_begins_as_the_identity_and_is_the_published_one(dim):
    modulate, x = IncrementalModulation(dim, 3), 5 + 2 * torch.randn(2, 3, *[4] * dim)
    alike = torch.rand(2, 1, *[4] * dim)
    assert torch.equal(modulate(x, alike), x)
    for head in (modulate.scale, modulate.shift):
        nn.init.normal_(head.weight)
        nn.init.normal_(head.bias)
    read, axes = modulate.guide(alike), tuple(range(2, dim + 2))
    gamma, beta = modulate.scale(read), modulate.shift(read)
    mean, spread = x.mean(axes, keepdim=True), x.std(axes, correction=0, keepdim=True)
    expected = (x - mean) / spread * (spread + gamma) + mean + beta
    torch.testing.assert_close(modulate(x, alike), expected, atol=1e-3, rtol=1e-3)


def test_likeness_is_of_directions_of_features():
    x = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(likeness(x, 3 * x), torch.ones(2, 1, 3, 4))
    torch.testing.assert_close(likeness(x, -x), -torch.ones(2, 1, 3, 4))
    across = torch.stack([x[:, 0], -x[:, 1]], 1).flip(1)
    torch.testing.assert_close(likeness(x[:, :2], across).abs().max(), torch.tensor(0.0))
    assert likeness(0 * x, x).eq(0).all()


def test_a_guide_steers_the_taps_and_not_what_they_read():
    layer = DeformableConv(4, 2, "dcn", outputs=6, guide=3).double()
    other = DeformableConv(4, 2, "exact", outputs=6, guide=3).double()
    nn.init.normal_(layer.displacements.weight, std=0.3)
    other.load_state_dict(layer.state_dict())
    x, guide = (torch.randn(2, c, 5, 7, dtype=torch.float64) for c in (4, 3))
    torch.testing.assert_close(layer(x, guide), other(x, guide))
    torch.testing.assert_close(layer(2 * x, guide), 2 * layer(x, guide))
    torch.testing.assert_close(layer(x, 0 * guide), layer.conv(x))


def test_groups_of_channels_are_each_warped_as_if_alone():
    layer = DeformableConv(4, 3, "warp", groups=2)
    nn.init.normal_(layer.displacements.weight, std=0.5)
    x, parts = torch.randn(2, 4, 4, 5, 6), []
    for half in range(2):
        alone = DeformableConv(2, 3, "warp", outputs=4, guide=4)
        own = slice(2 * half, 2 * half + 2)
        alone.conv.weight.data = layer.conv.weight.data[:, own]
        rows = [*range(3 * half, 3 * half + 3), 6 + half]
        alone.displacements.weight.data = layer.displacements.weight.data[rows]
        parts.append(alone(x[:, own], x))
    torch.testing.assert_close(layer(x), parts[0] + parts[1])
    assert moving_conv(3, 6, "auto").displacements.taps == 2
    for wrong in ({"groups": 3}, {"groups": 2, "mode": "exact"}):
        with pytest.raises(ValueError, match="groups that divide"):
            DeformableConv(4, 3, **{"mode": "warp", **wrong})


@pytest.mark.parametrize("ratio", [(2, 2), (1, 1, 2)])
def test_under_autocast_it_stays_finite_and_near(ratio):
    network, seen = SuperResolution(len(ratio), ratio, widths_of(ratio)), shown(ratio)
    trained_a_step(network, *seen)
    exact, _ = network(*seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, maps = network(*seen)
    assert {each.dtype for each in maps} == {torch.float32}
    torch.testing.assert_close(image.float(), exact, atol=0.05, rtol=0.05)
    image.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("ratio", [(1, 1), (3, 1), (0, 2), (6, 2), (2, -2)])
def test_ratios_that_are_no_doublings_are_refused(ratio):
    with pytest.raises(ValueError, match="powers of 2, one of them above 1"):
        SuperResolution(2, ratio, (4, 4))


def test_what_does_not_fit_is_refused():
    for dim, ratio in ((2, (1, 1, 2)), (3, (2, 2)), (4, (1, 1, 1, 2))):
        with pytest.raises(ValueError, match="as many ratios"):
            SuperResolution(dim, ratio, (4, 4))
    for widths in ((4,), (4, 4, 4), (4, 1)):
        with pytest.raises(ValueError, match="expected 2 widths"):
            SuperResolution(2, (2, 1), widths)
    with pytest.raises(ValueError, match="alignment must be one of"):
        SuperResolution(2, (2, 1), (4, 4), "dcn")
    network, (coarse, features) = SuperResolution(2, (2, 2), (4, 8)), shown((2, 2))
    with pytest.raises(ValueError, match="a coarse image"):
        network(coarse[:, :, None], features)
    for wrong in (features[:1], features[::-1], [features[0], F.pad(features[1], (0, 1))]):
        with pytest.raises(ValueError, match="expected features of"):
            network(coarse, wrong)
