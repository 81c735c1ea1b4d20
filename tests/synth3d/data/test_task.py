"""What is learnt: fixed, or drawn anew for every batch; what is hidden, and what is wanted."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synth3d.data.batch import Batch
from synth3d.data.cache.packed import pack
from synth3d.data.options import DataConfig
from synth3d.data.patches import Stream
from synth3d.data.task import Task, draw_any, drop_sources
from synth3d.errors import InputError

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
ROWS = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ((4, ("t1n",), ("t2f",)), "dim must be 2 or 3"),
        ((3, ("t1n", "T1"), ("t2f",)), "sources must be distinct names"),
        ((3, ("t1n",), ()), "targets must be distinct names"),
        ((3, ("t1n", "t2f"), ("t2f",)), "sources and targets must be disjoint"),
        ((3, ("t1n", "t2f"), ("t2f", "t1n"), "any"), "sources and targets must be the same list"),
        ((3, ("t1n",), ("t1n",), "any"), "sources and targets must be the same list"),
        ((3, ("t1n",), ("t2f",), "some"), "mode must be fixed or any"),
        ((3, ("t1n",), ("t2f",), "fixed", ("t2f",), (1, 1, 4)), "sources and targets must be disj"),
        ((3, ("t2f", "t1n"), ("t2f",), "fixed", ("t2f",), (1, 1, 4)), "poor must be the last of"),
        ((3, ("t1n", "t2f"), ("t2f",), "fixed", ("t2f",), (1, 4)), "ratio must be 3 whole numbers"),
        ((3, ("t1n",), ("t2f",), "fixed", (), (1, 1, 4)), "ratio must be 0 whole numbers"),
        ((3, ("t1n", "t2f"), ("t1n", "t2f"), "any", ("t2f",), (1, 1, 4)), "poor must be empty"),
    ],
)
def test_tasks_that_nobody_can_learn_are_refused(values, key):
    with pytest.raises(InputError, match=key):
        Task(*values)


def test_a_poor_sequence_outlines_the_brain_only_where_it_is_alone():
    task = Task(2, ("T1", "T2", "FLAIR"), ("FLAIR",), "fixed", ("FLAIR",), (1, 4))
    assert (task.poor, task.guides) == (("t2f",), ("t1n", "t2w"))
    assert task.outlined_by({"t2w", "t2f"}) == ("t1n", "t2w")
    assert task.outlined_by({"t2f"}) == task.sources
    whole = Task(2, ("t1n", "t2w"), ("t2f",))
    assert whole.guides == whole.outlined_by(()) == whole.sources


@given(rows=ROWS, chance=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_dropping_keeps_a_nonempty_subset(rows, chance, seed):
    present = torch.tensor(rows)
    kept = drop_sources(present, chance, seeded(seed))
    assert not (kept & ~present).any()
    assert (kept.any(1) == present.any(1)).all()


def test_dropping_happens_about_as_often_as_asked():
    present = torch.ones(4000, 3, dtype=torch.bool)
    kept = drop_sources(present, 0.25, seeded())
    assert 1 - kept.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert drop_sources(present, 0.0, seeded()).all()


@given(rows=ROWS, seed=st.integers(0, 10**6))
def test_any_task_shows_some_of_what_there_is_and_wants_some_of_the_rest(rows, seed):
    has = torch.tensor(rows)
    has[:, :2] |= has.sum(1, keepdim=True) < 2
    present, wanted = draw_any(has, seeded(seed))
    again = draw_any(has, seeded(seed))
    assert torch.equal(present, again[0])
    assert torch.equal(wanted, again[1])
    assert not (present & wanted).any()
    assert not ((present | wanted) & ~has).any()
    assert present.any(1).all()
    assert wanted.any(1).all()


def test_any_task_comes_upon_every_pair_of_sets():
    present, wanted = draw_any(torch.ones(3000, 3, dtype=torch.bool), seeded())
    pairs = torch.cat([present, wanted], 1).unique(dim=0)
    assert len(pairs) == 12  # 3 of one shown, each with 3 wanted sets, and 3 of two shown
    with pytest.raises(ValueError, match="two sequences or more"):
        draw_any(torch.tensor([[True, False, False]]), seeded())


def test_what_an_any_task_hides_is_zero_and_what_a_case_lacks_never_matters(prepared):
    task, data = Task(3, SEQUENCES, SEQUENCES, "any"), DataConfig((8, 8, 8), (0, 0, 0), queue=8)

    def stream(case):
        batches = Stream([pack(case)], task, data).batches(3)
        return list(islice(batches, 12))

    volumes = {name: volume for name, volume in prepared.volumes.items() if name != "t1c"}
    shown = torch.zeros(4, dtype=torch.bool)
    for batch in stream(replace(prepared, volumes=volumes)):
        shape = (-1, 4, 1, 1, 1)
        assert not (batch.sources * ~batch.present.view(shape)).any()
        assert not (batch.present & batch.wanted).any()
        assert torch.equal((batch.targets * batch.present.view(shape)), batch.sources)
        assert not batch.targets[:, 1].any()
        shown |= batch.present.any(0) | batch.wanted.any(0)
    assert shown.tolist() == [True, False, True, True]


def test_grids_that_differ_are_refused_and_a_label_is_unknown_until_given():
    mask = torch.ones(1, 1, 2, 3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="sources have the grid"):
        Batch(torch.zeros(1, 1, 2, 3, 4), torch.zeros(1, 1, 2, 3, 5), mask, mask, mask)
    batch = Batch(torch.zeros(1, 1, 2, 3, 4), torch.zeros(1, 1, 2, 3, 4), mask, mask, mask)
    assert batch.label.shape == (1, 1, 2, 3, 4)
    assert np.unique(batch.to("cpu").label).tolist() == [-1]


@pytest.mark.parametrize(
    ("has", "sources", "targets", "mode", "taught"),
    [
        (["t1n", "t2f"], ["t1n", "t1c"], ["t2f"], "fixed", True),
        (["t2f"], ["t1n", "t1c"], ["t2f"], "fixed", False),  # made from nothing
        (["t1n", "t1c"], ["t1n", "t1c"], ["t2f"], "fixed", False),  # nothing to compare with
        (["t1n", "t2f"], ["t1n", "t2f"], ["t1n", "t2f"], "any", True),
        (["t1n", "pd"], ["t1n", "t2f"], ["t1n", "t2f"], "any", False),
    ],
)
def test_by_whom_a_task_is_taught(has, sources, targets, mode, taught):
    assert Task(3, tuple(sources), tuple(targets), mode).is_taught_by(has) is taught


def test_what_restores_itself_alone_is_taught_by_itself():
    assert Task(3, ("t2f",), ("t2f",), poor=("t2f",), ratio=(4, 1, 1)).is_taught_by(["t2f"])
