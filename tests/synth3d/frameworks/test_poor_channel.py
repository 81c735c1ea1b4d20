"""A poor source that is the target as well is one more channel, whatever the framework."""

from dataclasses import replace

import pytest
import torch

from synth3d.data.options import DegradeConfig
from synth3d.errors import InputError
from synth3d.frameworks import FRAMEWORKS
from synth3d.training.config import build_framework
from synth3d.training.trainer import Trainer


def restoring(config, name="t2f"):
    degrade = DegradeConfig(name, (1, 1, 2))
    return replace(config, sources=("t1n", name), targets=(name,), degrade=degrade)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("framework", sorted({*FRAMEWORKS} - {"mmgan", "fgdl"}))
def test_each_learns_of_a_poor_channel(framework, dim, make_config, make_batch):
    """But fgdl, which has a way of its own (its own tests), and mmgan, which hides sources."""
    trainer = Trainer(restoring(make_config(framework, dim)), torch.device("cpu"))
    before = [weight.clone() for weight in trainer.framework.generator.parameters()]
    trainer.advance(make_batch(dim))
    after = trainer.framework.generator.parameters()
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    made = trainer.framework.eval().synthesize(
        make_batch(dim).sources, *(torch.ones(2, n, dtype=torch.bool) for n in (2, 1))
    )
    assert made.shape == (2, 1, *[16] * dim)


def test_a_framework_that_hides_sources_is_refused(make_config):
    with pytest.raises(InputError, match="mmgan hides sources and cannot restore t2f; able: .'ddp"):
        build_framework(restoring(make_config("mmgan")))
