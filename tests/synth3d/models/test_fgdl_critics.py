"""FGDL's critics: sizes, the projection of the difference, spectral norms, and small images."""

import pytest
import torch
from torch import nn

from synth3d.models import DifferenceCritic, PlainCritic

KINDS = {"difference": DifferenceCritic, "plain": PlainCritic}


def make(kind, dim, channels=1, layers=3):
    return KINDS[kind](channels, dim, width=4, layers=layers)


def judged(critic, image):
    """Scores as a list, of a difference that is the first channel's square."""
    if isinstance(critic, PlainCritic):
        return [critic(image)]
    return critic(image, image[:, :1].square())


def count(critic, *args):
    with torch.device("meta"):
        return sum(p.numel() for p in critic(*args).parameters())


def test_in_2d_they_have_fgdls_sizes():
    """From the list of layers, with no bias where a normalisation would undo it."""
    widths = [64, 128, 256, 512, 512]
    up = sum(9 * a * b for a, b in zip([1, *widths], widths, strict=False))
    across = sum(256 * each + 256 for each in widths[1:]) + 3 * (9 * 256 * 128 + 128)
    heads = (128 + 1) + (128 * 128 + 128) + (128 + 128)
    assert count(DifferenceCritic, 1, 2) == up + across + heads == 5_171_649
    pairs = zip([1, *widths], widths[:4], strict=False)
    plain = sum(9 * b * (a + b) + 4 * b for a, b in pairs) + 9 * 512 + 1
    assert count(PlainCritic, 1, 2) == plain == 4_690_753
    assert count(DifferenceCritic, 2, 3) > 5_171_649


@pytest.mark.parametrize(("dim", "sides"), [(2, (64, 48)), (2, (33, 50)), (3, (48, 33, 34))])
def test_three_scales_are_judged_at_strides_of_4_8_and_16(dim, sides):
    critic = DifferenceCritic(1, dim, width=2)
    made = judged(critic, torch.rand(2, 1, *sides))
    expected = [(2, 1, *[-(-side // stride) for side in sides]) for stride in (4, 8, 16)]
    assert [tuple(each.shape) for each in made] == expected
    shapes = [each.shape[1:3] for each in critic.features(torch.rand(2, 1, *sides))]
    assert shapes == [(c, -(-sides[0] // s)) for c, s in ((4, 4), (8, 8), (16, 16), (16, 32))]


@pytest.mark.parametrize("dim", [2, 3])
def test_where_nothing_differs_the_score_is_realness_and_what_the_embeddings_bias_says(dim):
    """And it is affine in the pooled difference, so that one that averages to 0 counts nothing."""
    critic, image = make("difference", dim).eval(), torch.rand(2, 1, *[16] * dim)
    heard = []
    critic.projection.register_forward_hook(lambda _, seen, made: heard.append((seen[0], made)))
    nothing = torch.zeros_like(image)
    plain = critic(image, nothing)
    assert len(plain) == 2
    for score, (seen, projected) in zip(plain, heard, strict=True):
        bias = critic.embedding.bias.view(-1, *[1] * dim)
        expected = critic.realness(seen) + (bias * projected).sum(1, keepdim=True)
        torch.testing.assert_close(score, expected)
    one, other = torch.randn_like(image), torch.randn_like(image)
    apart = [critic(image, each) for each in (one, other, one + other)]
    for none, a, b, both in zip(plain, *apart, strict=True):
        torch.testing.assert_close(both - none, (a - none) + (b - none), atol=1e-5, rtol=1e-4)
        assert (a - none).abs().max() > 1e-4
    stripes = nothing.clone()
    stripes[..., ::2], stripes[..., 1::2] = 1, -1
    torch.testing.assert_close(critic(image, stripes), plain)


def test_features_of_one_look_give_the_scores():
    critic, image = make("difference", 2).eval(), torch.rand(1, 1, 16, 16)
    difference = torch.randn_like(image)
    scores = critic.scores(critic.features(image), difference)
    torch.testing.assert_close(scores, critic(image, difference))


def test_kernels_of_the_difference_critic_have_spectral_norm_1():
    """Whatever was learnt, once the iteration has followed; and only training moves it."""
    critic, image = make("difference", 2), torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        for kernel in (layer[0] for layer in critic.halvings):
            kernel.parametrizations.weight.original.normal_(std=3.0)
    for _ in range(30):
        judged(critic, image)
    before = {name: each.clone() for name, each in critic.named_buffers()}
    critic.eval()
    found = judged(critic, image)
    for layer in critic.halvings:
        largest = torch.linalg.matrix_norm(layer[0].weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.01)
    with torch.no_grad():
        for layer in critic.halvings:
            layer[0].parametrizations.weight.original.mul_(7)
    torch.testing.assert_close(judged(critic, image), found)
    assert before
    assert all(torch.equal(each, before[name]) for name, each in critic.named_buffers())


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_is_judged_by_itself(kind, dim):
    critic, image = make(kind, dim).eval(), torch.rand(2, 1, *[12] * dim)
    both, alone = judged(critic, image), [judged(critic, each[None]) for each in image]
    for scores, first, last in zip(both, *alone, strict=True):
        torch.testing.assert_close(scores, torch.cat([first, last]))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_also_under_autocast(kind, dim):
    critic, image = make(kind, dim, channels=2), torch.rand(1, 2, *[24] * dim)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = judged(critic, image)
    exact = judged(critic, image)
    for score, other in zip(made, exact, strict=True):
        torch.testing.assert_close(score.float(), other, atol=0.1, rtol=0.1)
    sum(score.float().square().mean() for score in made).backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_they_judge_what_is_as_small_as_they_say_and_nothing_smaller(kind, dim):
    for layers in (2, 3):
        critic = make(kind, dim, layers=layers)
        made = judged(critic, torch.rand(1, 1, *[critic.smallest] * dim))
        assert all(score.isfinite().all() for score in made)
        with pytest.raises(ValueError, match=f"sides of at least {critic.smallest}"):
            judged(critic, torch.rand(1, 1, critic.smallest - 1, *[critic.smallest] * (dim - 1)))
    assert isinstance(made[0], torch.Tensor)
    for wrong in ({"in_channels": 0, "dim": 2}, {"in_channels": 1, "dim": 4}):
        with pytest.raises(ValueError, match=r"positive|dim 2 or 3"):
            KINDS[kind](**wrong)


def test_a_difference_critic_needs_a_scale_to_judge():
    with pytest.raises(ValueError, match="positive"):
        DifferenceCritic(1, 2, layers=1)
    assert isinstance(DifferenceCritic(1, 2, width=2, layers=2).scales[0], nn.Conv2d)
