"""Presets are read from their files and refuse networks that cannot work."""

import subprocess
import sys
from dataclasses import replace

import pytest

from nnunet_plans.presets import PRESETS, Network, Preset


def test_the_shipped_presets_are_the_documented_ones():
    assert set(PRESETS) == {"cpu-mini", "cpu-mini-resenc", "cpu-small", "standard", "resenc-m"}
    plain, residual = PRESETS["cpu-mini"], PRESETS["cpu-mini-resenc"]
    assert residual.schedule == plain.schedule
    assert residual.network == replace(plain.network, residual=True)
    for name, planner in (("standard", "ExperimentPlanner"), ("resenc-m", "nnUNetPlannerResEncM")):
        stock = PRESETS[name]
        seldom = {"save_every": 5}  # an epoch takes minutes; no more than five are lost by a kill
        assert stock == Preset(name, "ScheduledTrainer", None, seldom, stock.purpose, planner)


def test_presets_need_neither_torch_nor_nnunet():
    code = (
        "import sys, nnunet_plans.presets; print({'torch', 'nnunetv2', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_network_states_its_architecture_per_stage():
    found = Network((32, 48, 16), 2, (8, 16, 32), (2, 1)).arch_kwargs()
    assert found == {
        "n_stages": 3,
        "features_per_stage": [8, 16, 32],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [1, 1],
    }


def test_a_residual_encoder_has_blocks_in_place_of_convolutions():
    found = Network((16, 16, 16), 2, (4, 8, 8), (1, 2), residual=True).arch_kwargs()
    assert found["n_blocks_per_stage"] == [1, 1, 1]
    assert found["n_conv_per_stage_decoder"] == [2, 2]
    assert "n_conv_per_stage" not in found


@pytest.mark.parametrize(
    ("patch", "features", "claim"),
    [
        ((30, 32, 32), (8, 16, 32), "multiple of 4 and at least 8"),
        ((32, 32, 4), (8, 16, 32), "multiple of 4 and at least 8"),
        ((16, 16, 16), (8, 16), "at least 3 stages"),  # the loss of two would be NaN
    ],
)
def test_networks_that_cannot_work_are_refused(patch, features, claim):
    with pytest.raises(ValueError, match=claim):
        Network(patch, 2, features)
