"""How critics' scores become losses: by hand, and sample by sample."""

import math

import pytest
import torch

from synth3d.losses import feature_matching, relativistic


def test_a_relativistic_score_is_how_far_it_lies_above_the_others_mean():
    """By hand: scores 1 and 3 beside others of mean 1 are logits 0 and 2."""
    scores = torch.tensor([[[1.0, 3.0]]])
    others = torch.tensor([[[0.0, 2.0, 1.0]]])
    real = (math.log(2) + math.log1p(math.exp(-2))) / 2
    made = (math.log(2) + math.log1p(math.exp(2))) / 2
    assert relativistic(scores, others, 1.0).tolist() == pytest.approx([real])
    assert relativistic(scores, others, 0.0).tolist() == pytest.approx([made])
    shifted = relativistic(scores + 7, others + 7, 1.0)
    torch.testing.assert_close(shifted, relativistic(scores, others, 1.0))


def test_no_sample_is_judged_by_others_of_its_batch():
    draws = torch.Generator().manual_seed(0)
    scores, others = (torch.randn(3, 1, 4, 4, generator=draws) for _ in range(2))
    together = relativistic(scores, others, 1.0)
    alone = [relativistic(scores[[n]], others[[n]], 1.0) for n in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
    maps = [torch.randn(3, c, 4, 4, generator=draws) for c in (2, 5)]
    goals = [torch.randn(3, c, 4, 4, generator=draws) for c in (2, 5)]
    apart = feature_matching(maps, goals)
    for n in range(3):
        one = [(a[n] - b[n]).abs().mean() for a, b in zip(maps, goals, strict=True)]
        torch.testing.assert_close(apart[n], sum(one) / 2)


def test_both_sides_of_a_relativistic_score_learn_and_a_goal_does_not():
    scores, others = (torch.zeros(1, 3, requires_grad=True) for _ in range(2))
    relativistic(scores, others, 1.0).sum().backward()
    torch.testing.assert_close(scores.grad, torch.full((1, 3), -1 / 6))
    torch.testing.assert_close(others.grad, torch.full((1, 3), 1 / 6))
    goal = torch.ones(1, 2, 3, requires_grad=True)
    made = torch.zeros(1, 2, 3, requires_grad=True)
    feature_matching([made], [goal]).sum().backward()
    assert goal.grad is None
    torch.testing.assert_close(made.grad, torch.full((1, 2, 3), -1 / 6))
