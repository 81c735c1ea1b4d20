"""Parameter counts of ResUNet and AGI-Net, to the digit (AGI-Net, Table 5 and its sequels)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synth3d.errors import InputError
from synth3d.models import GENERATORS, AGINet, Restormer, ResUNet, options_of
from synth3d.models.agi_net.cagr import CagrConv
from synth3d.models.agi_net.routing import CagrOptions
from synth3d.models.options import ModelConfig
from synth3d.settings import parse, parse_assignment, to_plain
from synth3d.training.config import RunConfig, build_framework


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
    enumerate([17_007_744, 17_032_208, 17_122_080, 17_465_648, 18_808_128, 19_151_696, 19_241_568,
               19_266_032]),
)  # fmt: skip
def test_stages_2d(stages, parameters):
    assert count(AGINet, 1, 1, dim=2, stages=stages) == parameters


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


def restormer_formula(dim, inputs=1, outputs=1):
    """FGDL's synthesis network from its layer list: six levels of two blocks, one that refines."""
    taps, parts = 3**dim, 2**dim

    def block(width, heads):
        hidden = int(2.66 * width)
        attention = 4 * width**2 + 3 * width * taps + heads
        return attention + 3 * width * hidden + 2 * hidden * taps + 4 * width

    once = taps * 48 * (inputs + outputs) + block(48, 1)
    levels = 4 * (block(48, 1) + block(96, 2) + block(192, 4) + 2 * block(384, 4))
    levels += 2 * block(384, 4)
    down = sum(taps * a * 2 * a // parts for a in (48, 96, 192)) + 2 * 192 * taps * 384 // parts
    up = sum(taps * b * parts * b // 2 for b in (96, 192, 384, 384, 384))
    ones = 2 * 384 * 192 + sum(2 * a * a for a in (48, 96, 192))
    return once + levels + down + up + ones


def test_restormer_has_fgdls_size():
    assert count(Restormer, 1, 1, dim=2) == restormer_formula(2) == 30_002_967
    assert count(Restormer, 1, 1, dim=3) == restormer_formula(3) == 75_022_875
    assert count(Restormer, 3, 1, dim=3) == restormer_formula(3, inputs=3)


@pytest.mark.parametrize("groups", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("dim", [2, 3])
def test_what_each_part_adds_to_one_convolution(groups, dim):
    """GR 2·3^d C²/n + (d + 1) n C + 6 C + n, CA 2 C²/n + C."""
    c, n = 32, groups
    plain = c * c * 3**dim
    rolling = 2 * 3**dim * c * c // n + (dim + 1) * n * c + 6 * c + n
    attention = 2 * c * c // n + c
    for module, added in (("gr", rolling), ("ca", attention), ("cagr", rolling + attention)):
        assert count(CagrConv, c, n, dim, CagrOptions(module=module)) == plain + added


@given(st.sets(st.sampled_from(["down1", "down2", "body", "up1", "up2"])))
def test_any_list_of_stages_adds_what_its_stages_add(stages):
    options = {"dim": 2, "widths": (8, 16, 32), "groups": 4}
    plain = count(ResUNet, 1, 1, dim=2, widths=(8, 16, 32))
    alone = [count(AGINet, 1, 1, stages=(s,), **options) - plain for s in sorted(stages)]
    assert count(AGINet, 1, 1, stages=tuple(stages), **options) == plain + sum(alone)


@pytest.mark.parametrize("stages", ['["down1", "body"]', "2", "[]"])
def test_stages_come_from_a_recipe(stages):
    """A TOML list or number, on to the network and through the saved configuration."""
    _, value = parse_assignment(f"model.stages={stages}")
    model = {"stages": value, "widths": [8, 16], "groups": 2}
    config = parse(RunConfig, {"model": model})
    assert parse(RunConfig, to_plain(config)) == config
    net = build_framework(config, training=False).generator
    rolled = [name for name, s in net.stages.items() if isinstance(s[0].first, CagrConv)]
    assert rolled == {"2": ["down1", "body"], "[]": []}.get(stages, ["down1", "body"])


def test_stages_that_are_neither_are_refused_with_their_key():
    with pytest.raises(InputError, match="model.stages: expected int or list, got 'down1'"):
        parse(RunConfig, {"model": {"stages": "down1"}})
    with pytest.raises(InputError, match="unknown stage"):
        build_framework(parse(RunConfig, {"model": {"stages": ["down9"]}}))


def test_every_option_of_every_generator_can_be_configured():
    own = {"time_embedding", "dim", "slices"}  # the framework's, the run's, and only one is fed
    fields = set(ModelConfig.__dataclass_fields__)
    assert all(options_of(name) <= fields | own for name in GENERATORS)
