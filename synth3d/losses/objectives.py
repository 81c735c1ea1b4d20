"""How a critic's scores become a loss."""

from collections.abc import Callable

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
