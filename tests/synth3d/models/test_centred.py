import torch
from torch import nn

from synth3d.models.blocks import ResBlock
from synth3d.models.centred import CENTRE, GAIN, Centred
from synth3d.models.options import ModelConfig
from synth3d.training.config import RunConfig, build_framework


class Spy(nn.Module):
    """Returns its first input channel and remembers what it was fed."""

    def forward(self, x, present=None, wanted=None):
        self.seen = x
        return x[:, :1]


def test_worked_example():
    spy = Spy()
    x = torch.tensor([[0.0, 0.5, 0.75], [0.0, 0.25, 0.0]]).view(1, 2, 1, 1, 3)
    out = Centred(spy)(x)
    assert spy.seen.flatten().tolist() == [0, 0, 1, 0, -1, -2]
    assert out.flatten().tolist() == [0.5, 0.5, 0.75]


def test_absent_sources_are_at_the_level_of_healthy_tissue():
    spy = Spy()
    x = torch.full((1, 2, 2, 2, 2), 0.9)
    x[:, 1] = 0
    Centred(spy)(x, torch.tensor([[True, False]]))
    assert (spy.seen[:, 0] != 0).all()
    assert not spy.seen[:, 1].any()


def test_the_configuration_asks_for_it():
    shape = {"name": "resunet", "widths": (4, 8), "blocks": 1}
    plain = build_framework(RunConfig(model=ModelConfig(**shape)), training=False).generator
    both = ModelConfig(**shape, centred=True, residual_init="zero")
    wrapped = build_framework(RunConfig(model=both), training=False).generator
    assert isinstance(wrapped, Centred)
    count = [sum(p.numel() for p in m.parameters()) for m in (plain, wrapped)]
    assert count[0] == count[1]
    blocks = [m for m in wrapped.modules() if isinstance(m, ResBlock)]
    assert blocks
    z = torch.rand(1, 4, 4, 4, 4)
    for block in blocks[:1]:
        assert torch.equal(block(z), z)
    assert (CENTRE, GAIN) == (0.5, 4.0)
