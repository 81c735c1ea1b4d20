"""A generator that corrects a voxel-wise regression: most of the picture is there at once."""

from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn

from synth3d.models.blocks import blank_absent

RIDGE = 1e-4
"""Penalty of all but the constant, beside mean squares of the network's scale (1/4 and more)."""


class Corrected(nn.Module):
    """The sum of ``generator`` and a regression on each voxel's sources, which does not learn.

    The regression is a polynomial of second degree in the sources, as :func:`fit_regression` finds
    it; until then it is 0. Its coefficients are a buffer, so they are kept wherever weights are.

    Args:
        generator: (B, S, *) → (B, T, *), as in ``GENERATORS``; what it makes is a difference.
        sources: How many there are, S.
        targets: T.
    """

    coefficients: Tensor

    def __init__(self, generator: nn.Module, sources: int, targets: int) -> None:
        super().__init__()
        self.generator = generator
        count = 1 + sources + sources * (sources + 1) // 2
        self.register_buffer("coefficients", torch.zeros(targets, count))

    def forward(
        self, x: Tensor, present: Tensor | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """(B, S, *) → (B, T, *), both in the network's scale; background is free.

        ``present`` (B, S), None for all: an absent source counts as 0; ``wanted`` goes on.
        """
        seen = blank_absent(x, present).float()
        weights = self.coefficients.T.reshape(-1, 1, len(self.coefficients), *[1] * (x.ndim - 2))
        made = weights[0]
        for weight, feature in zip(weights[1:], features(seen), strict=True):
            made = made + weight * feature[:, None]
        return self.generator(x, present, wanted) + made


def features(x: Tensor) -> Iterator[Tensor]:
    """Of (B, S, *) each source and each product of two, (B, *) each."""
    for one in x.unbind(1):
        yield one
    for one, other in combinations_with_replacement(x.unbind(1), 2):
        yield one * other


def fit_regression(samples: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The ridge regression (T, F) float32 of what a :class:`Corrected` adds.

    Args:
        samples: (sources (B, S, *), targets (B, T, *), where they count (B, T, *) bool) each, in
            the network's scale; at least one.

    Returns:
        A constant and a number for each of :func:`features`; where nothing counts, zeros.
    """
    squares: list[Tensor] = []
    products: list[Tensor] = []
    for sources, targets, counts in samples:
        rows = torch.stack([torch.ones_like(sources[:, 0]), *features(sources)], -1).double()
        for at in range(targets.shape[1]):
            some, goal = rows[counts[:, at]], targets[:, at][counts[:, at]].double()
            if len(squares) == at:
                squares.append(torch.zeros(rows.shape[-1], rows.shape[-1], dtype=torch.float64))
                products.append(torch.zeros(rows.shape[-1], dtype=torch.float64))
            squares[at] += some.T @ some
            products[at] += some.T @ goal
    found = []
    for square, product in zip(squares, products, strict=True):
        count = square[0, 0].clamp(min=1)
        penalty = torch.full((len(product),), RIDGE, dtype=torch.float64)
        penalty[0] = 1e-12 if square[0, 0] else 1.0
        found.append(torch.linalg.solve(square / count + penalty.diag(), product / count))
    return torch.stack(found).float()
