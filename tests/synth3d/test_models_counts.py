"""Parameter counts of ResUNet and AGI-Net, to the digit (AGI-Net, Table 5 and its sequels)."""

import pytest
import torch

from synth3d.models import AGINet, ResUNet


def count(make, *args, **keywords) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make(*args, **keywords).parameters())


@pytest.mark.parametrize("routing", ["stacked", "parallel"])
@pytest.mark.parametrize(
    ("groups", "parameters"),
    [(1, 33_579_914), (2, 25_313_300), (4, 21_190_952), (8, 19_151_696), (16, 18_175_904)],
)
def test_groups_2d(groups, parameters, routing):
    assert count(AGINet, 1, 1, dim=2, groups=groups, routing=routing) == parameters


@pytest.mark.parametrize(
    ("stages", "parameters"),
    [
        (0, 17_007_744),
        (1, 17_032_208),
        (2, 17_122_080),
        (3, 17_465_648),
        (4, 18_808_128),
        (5, 19_151_696),
        (6, 19_241_568),
        (7, 19_266_032),
    ],
)
def test_stages_2d(stages, parameters):
    assert count(AGINet, 1, 1, dim=2, stages=stages) == parameters


def test_resunet_2d():
    assert count(ResUNet, 1, 1, dim=2) == 17_007_744


def test_two_sources_2d():
    assert count(ResUNet, 2, 1, dim=2) == 17_008_320
    assert count(AGINet, 2, 1, dim=2) == 19_152_272


def formula_3d(widths, groups, inputs=2, outputs=1):
    """Written from the layer list, not from the code: (ResUNet, AGI-Net), two ResBlocks a stage."""
    rolled = [*widths, *widths[-2:-1]]  # down1..3, body, up1
    every = [*widths, *widths[:-1]]
    plain = 27 * widths[0] * (inputs + outputs)
    plain += sum(4 * 27 * c * c for c in every)
    plain += sum(2 * 8 * a * b for a, b in zip(widths, widths[1:], strict=False))
    n = groups
    added = sum(2 * (54 * c * c // n + 2 * c * c // n + 4 * n * c + 7 * c + n) for c in rolled)
    return plain, plain + added


@pytest.mark.parametrize(
    ("widths", "plain", "printed"),
    [
        ((64, 128, 256, 512), "49.65", {2: "72.85", 4: "61.29", 8: "55.54", 16: "52.72"}),
        ((32, 64, 128, 256), "12.41", {2: "18.22", 4: "15.34", 8: "13.91", 16: "13.22"}),
        ((16, 32, 64, 128), "3.10", {2: "4.56", 4: "3.84", 8: "3.49", 16: "3.33"}),
    ],
)
def test_table_3d(widths, plain, printed):
    assert count(ResUNet, 2, 1, dim=3, widths=widths) == formula_3d(widths, 8)[0]
    assert f"{formula_3d(widths, 8)[0] / 1e6:.2f}" == plain
    for groups, millions in printed.items():
        for routing in ("stacked", "parallel"):
            parameters = count(AGINet, 2, 1, dim=3, widths=widths, groups=groups, routing=routing)
            assert parameters == formula_3d(widths, groups)[1]
            assert f"{parameters / 1e6:.2f}" == millions


def test_agi_net_without_its_parts_is_resunet():
    plain = count(ResUNet, 2, 1, dim=3, widths=(8, 16))
    assert count(AGINet, 2, 1, dim=3, widths=(8, 16), stages=3, module="conv") == plain
    parts = [
        count(AGINet, 2, 1, dim=3, widths=(8, 16), stages=3, module=m) - plain
        for m in ("gr", "ca", "cagr")
    ]
    assert parts[0] + parts[1] == parts[2]
