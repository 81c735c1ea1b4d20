"""Decoder pyramids: the image is forward's to the bit, the maps are what the image is made of."""

import pytest
import torch

from synth3d.models import GENERATORS, Centred
from synth3d.models.tsf.network import TSFSeq2Seq

SMALL = {
    "agi-net": {"widths": (8, 16, 24), "blocks": 1, "groups": 2},
    "restormer": {"widths": (8, 16, 16), "blocks": 1},
    "tsf": {"widths": (4, 6, 8), "blocks": 1, "banks": 2},
}
"""What is no ResUNet of widths 8, 16 and 24."""
CELLS = [
    (name, dim)
    for name, made in GENERATORS.items()
    for dim in sorted(made.dims)
    if "pyramid" in made.offers
]


def make(name, dim, targets=1):
    size = SMALL.get(name, {"widths": (8, 16, 24), "blocks": 1})
    return GENERATORS[name](2, targets, dim=dim, **size).eval()


def seen(dim):
    return torch.rand(2, 2, *(16, 8, 24)[-dim:])


def test_every_generator_of_ours_has_one():
    assert {name for name, _ in CELLS} == set(GENERATORS)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("name", "dim"), CELLS)
def test_the_image_is_the_same_and_maps_are_of_all_levels(name, dim, centred):
    network, x = make(name, dim), seen(dim)
    if centred:
        network = Centred(network)
    present = torch.tensor([[True, True], [True, False]])
    image, maps = network.pyramid(x, present)
    assert torch.equal(image, network(x, present))
    shapes = [(2, w, *(s // 2**n for s in x.shape[2:])) for w, n in zip(
        network.pyramid_widths, (2, 1, 0), strict=True)]  # fmt: skip
    assert [tuple(each.shape) for each in maps] == shapes


@pytest.mark.parametrize(("name", "dim"), [cell for cell in CELLS if cell[0] != "tsf"])
def test_the_image_follows_from_every_map(name, dim):
    """None is beside the way: each map makes the next finer one. (Tsf's are means over targets.)"""
    image, maps = make(name, dim).pyramid(seen(dim))
    for coarse, fine in zip(maps, [*maps[1:], image], strict=True):
        (slope,) = torch.autograd.grad(fine.square().sum(), coarse, retain_graph=True)
        assert slope.abs().max() > 0


def test_the_finest_map_is_what_the_last_convolution_reads():
    for name in ("resunet", "restormer"):
        network = make(name, 2)
        image, maps = network.pyramid(seen(2))
        assert torch.equal(network.tail(maps[-1]), image)


def test_tsf_has_those_of_the_wanted_target_and_the_mean_of_several():
    network, x = make("tsf", 2, targets=3), seen(2)
    wanted = torch.tensor([[True, False, True], [False, False, False]])
    image, maps = network.pyramid(x, None, wanted)
    assert torch.equal(image, network(x, None, wanted))
    alone = [
        network.pyramid(x, None, torch.tensor([row, row]))[1]
        for row in ([True, False, False], [False, False, True])
    ]
    for level, first, last in zip(maps, *alone, strict=True):
        torch.testing.assert_close(level[0], (first[0] + last[0]) / 2)
        assert not level[1].any()
        assert not torch.equal(first, last)


def test_tsf_refuses_what_it_would_have_to_pad():
    """Its maps would be larger than the image."""
    network = TSFSeq2Seq(2, 1, dim=2, **SMALL["tsf"])
    for sides in ((16, 18), (4, 16)):
        with pytest.raises(ValueError, match="multiples of 4 and at least 8"):
            network.pyramid(torch.rand(1, 2, *sides))
