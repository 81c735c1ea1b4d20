"""Intensities of the sources that vary in training (``data.vary``), each source's by itself."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synth3d.data import DataConfig, Stream, Task, pack, varied
from synth3d.errors import InputError
from synth3d.training import RunConfig

TASK = Task(3, ("t1n", "t1c", "t2w"), ("t2f",))
DATA = DataConfig((16, 12, 8), (8, 6, 4), batch=2, patches_per_case=2, queue=4)


def drawn(prepared, seed=0, coupled="", **changes):
    stream = Stream([pack(prepared)] * 2, TASK, replace(DATA, **changes), coupled=coupled)
    return list(islice(stream.batches(seed), 4))


@settings(max_examples=30)
@given(st.integers(0, 99), st.sampled_from([0.05, 0.3, 1.0]))
def test_order_stays_and_zero_stays_and_nothing_else_becomes_zero(seed, amount):
    draws = torch.Generator().manual_seed(seed)
    volumes = torch.randn(2, 3, 6, 5, 4, generator=draws) * (
        torch.rand(2, 3, 6, 5, 4, generator=draws) > 0.3
    )
    found = varied(volumes, amount, draws)
    assert torch.equal(found == 0, volumes == 0)
    for before, after in zip(volumes.flatten(0, 1), found.flatten(0, 1), strict=True):
        inside = before != 0
        rising = after[inside][before[inside].argsort()].diff()
        assert (rising >= -1e-5).all()
    median = varied(torch.full((1, 1, 1), 0.5), amount, draws)
    assert 0.5 * 2.72**-amount - amount / 2 <= median <= 0.5 * 2.72**amount + amount / 2


def test_each_source_of_each_sample_varies_by_itself_and_the_target_does_not(prepared):
    still, moved = drawn(prepared), drawn(prepared, vary=0.2)
    changes = set()
    for a, b in zip(still, moved, strict=True):
        assert torch.equal(a.sources == 0, b.sources == 0)
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.brain, b.brain)
        assert b.scanned is None
        changes |= {float(x) for x in (b.sources - a.sources).amax((2, 3, 4)).flatten() if x}
    assert len(changes) > 12


def test_the_same_seed_varies_alike_and_another_not(prepared):
    one, same, other = (drawn(prepared, seed, vary=0.2) for seed in (5, 5, 6))
    for a, b, c in zip(one, same, other, strict=True):
        assert torch.equal(a.sources, b.sources)
        assert not torch.equal(a.sources, c.sources)


def test_a_coupled_segmenter_sees_the_sources_as_they_were_scanned(prepared):
    """Its z-scores are those of the file."""
    plain, moved = drawn(prepared, coupled="head"), drawn(prepared, coupled="head", vary=0.2)
    for a, b in zip(plain, moved, strict=True):
        assert b.scanned is not None
        assert torch.equal(a.sources, b.scanned)
        assert not torch.equal(a.sources, b.sources)


def test_what_is_made_of_the_sources_themselves_does_not_vary():
    data = replace(DataConfig(), vary=0.1)
    assert RunConfig(data=data).data.vary == 0.1
    train = replace(RunConfig().train, framework="mmgan")
    with pytest.raises(InputError, match=r"data\.vary must be 0 under mmgan"):
        RunConfig(data=data, train=train)
    with pytest.raises(InputError, match=r"data\.vary must be in \[0, 1\]"):
        DataConfig(vary=2)
    task = Task(3, ("t1n", "t2f"), ("t2f",), poor=("t2f",), ratio=(1, 1, 4))
    with pytest.raises(InputError, match="very scale of its slices"):
        data.check_fits(task)
