import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synth3d.data.batch import Batch, drop_sources


@given(rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6),
       chance=st.floats(0, 0.99), seed=st.integers(0, 99))  # fmt: skip
def test_dropping_keeps_a_nonempty_subset(rows, chance, seed):
    present = torch.tensor(rows)
    kept = drop_sources(present, chance, torch.Generator().manual_seed(seed))
    assert not (kept & ~present).any()
    assert (kept.any(1) == present.any(1)).all()


def test_dropping_happens_about_as_often_as_asked():
    present = torch.ones(4000, 3, dtype=torch.bool)
    kept = drop_sources(present, 0.25, torch.Generator().manual_seed(0))
    assert 1 - kept.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert drop_sources(present, 0.0, torch.Generator().manual_seed(0)).all()


def test_grids_that_differ_are_refused():
    mask = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="sources have the grid"):
        Batch(torch.zeros(1, 1, 2, 3, 4), torch.zeros(1, 1, 2, 3, 5), mask, mask, mask)
