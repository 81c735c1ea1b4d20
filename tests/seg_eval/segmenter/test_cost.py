"""What training a segmenter takes, told before it."""

import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_plans.presets import PRESETS
from seg_eval.segmenter import cost
from seg_eval.segmenter.cost import cost_of, iterations_of
from synth3d.cohort import find_cases


def test_two_steps_of_nnunets_own_plan_are_timed_and_nothing_stays(
    toy_cohort, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = cost_of("cpu-mini", find_cases(toy_cohort)[0], None, 1, "cpu")
    network = PRESETS["cpu-mini"].network
    assert (found.patch, found.batch) == (network.patch_size, network.batch_size)
    assert found.iterations == iterations_of("cpu-mini") == 1000
    assert 1 < found.seconds < 10**5
    assert found.memory_bytes > 10**7
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp")]


@given(
    st.lists(st.integers(0, 5), min_size=3, max_size=3),
    st.lists(st.integers(2, 10), min_size=3, max_size=3),
    st.integers(1, 4),
)
def test_a_smaller_patch_still_fits_the_network(halvings, coarsest, batch):
    """What does not fit into seconds is timed smaller, and never larger."""
    levels = max(halvings)
    strides = [[2 if level < times else 1 for times in halvings] for level in range(levels)]
    factor = np.array([2**times for times in halvings])
    patch = factor * coarsest
    architecture = {"arch_kwargs": {"strides": [[1, 1, 1], *strides]}}
    plan = {"patch_size": patch.tolist(), "batch_size": batch, "architecture": architecture}
    timed, some = cost._timed_patch(plan, "cpu")
    assert all(side % by == 0 and side >= 2 * by for side, by in zip(timed, factor, strict=True))
    assert all(side <= whole for side, whole in zip(timed, patch, strict=True))
    if np.prod(patch) * batch <= cost.TIMED_ON_A_CPU:
        assert (timed, some) == (tuple(patch), batch)
    assert cost._timed_patch(plan, "cuda") == (tuple(patch), batch)


@pytest.mark.parametrize("preset", PRESETS)
def test_iterations_are_those_of_the_schedule_or_nnunets(preset):
    schedule = PRESETS[preset].schedule
    whole = schedule.get("epochs", 1000) * schedule.get("iterations", 250)
    assert iterations_of(preset) == whole
