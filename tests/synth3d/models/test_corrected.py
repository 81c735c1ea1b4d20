"""A network that corrects a voxel-wise regression."""

import pytest
import torch
from torch import nn

from synth3d.models import Corrected, fit_regression


class Nothing(nn.Module):
    """Makes 0, of as many targets as it is built for."""

    def __init__(self, targets):
        super().__init__()
        self.targets = targets

    def forward(self, x, present=None, wanted=None):
        return x.new_zeros(len(x), self.targets, *x.shape[2:])


def polynomials(x):
    """Two targets (B, 2, *) that are of second degree in two sources."""
    a, b = x[:, 0], x[:, 1]
    return torch.stack([0.3 + a - 0.5 * b + 0.2 * a * b, 0.7 * b * b - a * a], 1)


@pytest.mark.parametrize("dim", [2, 3])
def test_it_is_what_the_training_voxels_follow(dim):
    torch.manual_seed(0)
    batches = [torch.rand(2, 2, *[6] * dim) for _ in range(4)]
    everywhere = torch.ones(2, 2, *[6] * dim, dtype=torch.bool)
    network = Corrected(Nothing(2), 2, 2)
    assert not network(batches[0]).any()
    network.coefficients.copy_(fit_regression((x, polynomials(x), everywhere) for x in batches))
    x = torch.rand(3, 2, *[5] * dim)
    torch.testing.assert_close(network(x), polynomials(x), atol=5e-3, rtol=0)
    assert not [*network.parameters()]
    assert {*network.state_dict()} == {"coefficients"}


def test_what_does_not_count_teaches_nothing():
    torch.manual_seed(0)
    x, counts = torch.rand(2, 2, 8, 8), torch.rand(2, 2, 8, 8) > 0.5
    spoilt = torch.where(counts, polynomials(x), 1e6)
    found = fit_regression([(x, spoilt, counts)])
    torch.testing.assert_close(found, fit_regression([(x, polynomials(x), counts)]))
    nothing = fit_regression([(x, spoilt, torch.zeros_like(counts))])
    assert nothing.shape == (2, 6)
    assert not nothing.any()


def test_a_constant_source_and_an_absent_one_do_no_harm():
    torch.manual_seed(0)
    x = torch.rand(1, 2, 8, 8)
    x[:, 1] = 0.5
    target = 2 * x[:, :1] + 1
    found = fit_regression([(x, target, torch.ones_like(target, dtype=torch.bool))])
    network = Corrected(Nothing(1), 2, 1)
    network.coefficients.copy_(found)
    torch.testing.assert_close(network(x), target, atol=2e-2, rtol=0)
    spoilt, absent = x.clone(), torch.tensor([[True, False]])
    spoilt[:, 1] = torch.nan
    x[:, 1] = 0
    torch.testing.assert_close(network(spoilt, absent), network(x))
