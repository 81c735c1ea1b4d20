"""How a critic's scores, and what it saw on the way to them, become a loss."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Objective = Callable[[Tensor, Tensor], Tensor]
"""(scores, labels broadcast to them, 1 real and 0 synthetic) → loss per score."""


def least_squares(scores: Tensor, labels: Tensor) -> Tensor:
    """(score − label)², per score (LSGAN, Mao et al. 2017, with a = 0 and b = c = 1)."""
    return (scores - labels).square()


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of scores that are logits, per score."""
    labels = labels.expand_as(scores)
    return F.binary_cross_entropy_with_logits(scores, labels, reduction="none")


OBJECTIVES: dict[str, Objective] = {"lsgan": least_squares, "bce": cross_entropy}


def relativistic(scores: Tensor, others: Tensor, label: float) -> Tensor:
    """(N,): cross-entropy of how far scores (N, ...) lie above the mean of ``others``, per sample.

    The relativistic average of Jolicoeur-Martineau 2019, whose mean is over all others of a batch.
    Here it is over the score map of the same sample, so that no sample's loss depends on which
    others are in its batch; for a batch of one they are the same.
    """
    apart = scores.flatten(1) - others.flatten(1).mean(1, keepdim=True)
    return cross_entropy(apart, torch.full_like(apart, label)).mean(1)


def feature_matching(made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """(N,): mean absolute difference of a critic's feature maps (N, C, ...), then over the maps.

    No gradient reaches ``real`` (Wang et al. 2018).
    """
    apart = [(a - b.detach()).abs().flatten(1).mean(1) for a, b in zip(made, real, strict=True)]
    return torch.stack(apart).mean(0)
