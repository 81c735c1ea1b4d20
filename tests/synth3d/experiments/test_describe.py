"""Parameters, operations and memory counted without running a model; a budget's proposal."""

import functools
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from synth3d.cli import main
from synth3d.errors import InputError
from synth3d.experiments import describe as describe_module
from synth3d.experiments.describe import (
    DescribeRequest,
    Memory,
    count_flops,
    describe,
    parse_size,
)
from synth3d.models import (
    GENERATORS,
    AGINet,
    DeformableConv,
    HyperConv,
    Mix,
    Restorer,
    ResUNet,
    RotatingConv,
    SuperResolution,
    saved_bytes,
)
from synth3d.settings import parse
from synth3d.training import RunConfig, build_framework, random_batch

# AGI-Net, Table 5: GFLOP of one 256 x 256 slice, one channel in and out.
GROUPS = {1: 238.84, 2: 190.52, 4: 166.36, 8: 154.28, 16: 148.24}
STAGES = {1: 144.46, 2: 146.95, 3: 149.40, 4: 151.83, 5: 154.28, 6: 156.76, 7: 159.31}


class Coded(nn.Module):
    """A HyperConv that is told a code of ones."""

    def __init__(self, layer: HyperConv) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, torch.ones(len(x), 4))


def gigaflops(model=AGINet, inputs=1, dim=2, side=256, **options) -> float:
    with torch.device("meta"):
        network = model(inputs, 1, dim=dim, **options)
        return count_flops(network, (1, inputs, *[side] * dim)) / 1e9


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ({"model": ResUNet}, 141.91),
        ({"groups": 8, "routing": "parallel"}, GROUPS[8]),  # both wirings cost the same
        *(({"groups": groups}, printed) for groups, printed in GROUPS.items()),
        *(({"stages": stages}, printed) for stages, printed in STAGES.items()),
    ],
)
def test_flops_are_the_papers(options, printed):
    assert gigaflops(**options) == pytest.approx(printed, rel=1e-3)


@pytest.mark.parametrize(("options", "printed"), [({"model": ResUNet}, 858.6), ({}, 921.3)])
def test_flops_of_volumes_are_the_specifications(options, printed):
    found = gigaflops(**options, inputs=2, dim=3, side=64)
    assert found == pytest.approx(printed, rel=1e-3)


def test_the_dictionary():
    result = describe(DescribeRequest(in_channels=2))
    assert result["parameters"] == 55_535_376
    assert result["flops_input"] == [1, 2, 64, 64, 64]
    assert (result["groups"], result["stages"]) == (8, 5)
    assert {"model", "dim", "widths", "in_channels", "out_channels"} <= result.keys()
    assert json.loads(json.dumps(result)) == result


def test_activations_are_a_line_in_the_voxels():
    """3.39 kB per voxel at 4 times the widths, and nothing besides, for the plain network."""
    widths = (16, 32, 64, 128)
    plain = describe(DescribeRequest("resunet", widths=widths, in_channels=2, side=32))
    assert plain["saved_bytes_per_voxel"] == pytest.approx(3388 / 4, rel=0.02)
    assert plain["saved_bytes_constant"] == 0
    agi = describe(DescribeRequest(widths=widths, in_channels=2, side=128))
    assert agi["saved_bytes_per_voxel"] > 1.8 * plain["saved_bytes_per_voxel"]
    assert agi["recomputed_bytes_per_voxel"] < 1.05 * plain["saved_bytes_per_voxel"]


def test_hand_counts():
    """At C channels and P positions: head map, reads of 2^d corners, convolution."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
    assert count_flops(net, (1, 2, 4, 5)) == 20 * 3 * (2 * 18 + 1) + 60
    c, p = 8, 16 * 16
    x = (1, c, 16, 16)
    maps = p * 27 * (2 * 9 * c + 1)
    conv = 2 * p * c * 9 * c
    for mode in ("exact", "dcn"):
        assert count_flops(DeformableConv(c, 2, mode), x) == maps + 9 * c * p * 8 + conv
    warp = p * 3 * (2 * 9 * c + 1) + c * p * 8 + conv
    assert count_flops(DeformableConv(c, 2, "warp"), x) == warp
    routing = p * c * (2 * 9 + 5 + 1 + 1) + 2 * (2 * c * 3) + 3
    assert count_flops(RotatingConv(c, 3).eval(), x) == conv + routing
    with pytest.raises(ValueError, match="no counting rule for Bilinear"):
        count_flops(nn.Bilinear(1, 1, 1), (1, 1))


def test_a_generator_of_mixed_kernels_is_described():
    """Its operations as those of plain convolutions of these shapes, up to the codes'."""
    request = DescribeRequest("tsf", "2d", (8, 16), assign=["blocks=1", "banks=2"], side=16,
                              in_channels=2, fit="8GB")  # fmt: skip
    found = describe(request)
    half, whole = 2 * 9 * 64, 2 * 256
    encoder = 2 * (whole * 49 * 8 / 2 + half / 9 * 9 * 8 * 16 / 2 + half / 9 * 2 * 9 * 16 * 16 / 2)
    assert found["flops"] > encoder
    assert min(found["saved_bytes_per_voxel"], found["parameters"], found["fit"]["batch"]) > 0


def test_what_restores_a_poor_sequence_is_described_with_its_branch():
    """Of the synthesis, which learns nothing then, a step keeps nothing."""
    sizes = {"model": "resunet", "dim": "2d", "widths": (4, 8, 16), "side": 32}
    whole = describe(DescribeRequest(**sizes, in_channels=3, degraded=(1, 4)))
    part = describe(DescribeRequest(**sizes, in_channels=2))
    with torch.device("meta"):
        synthesis = ResUNet(2, 1, dim=2, widths=(4, 8, 16))
        branch = SuperResolution(2, (1, 4), (16, 8, 4))
    assert whole["parameters"] - part["parameters"] == sum(p.numel() for p in branch.parameters())
    assert whole["flops_input"] == [1, 3, 32, 32]
    assert whole["degraded"] == [1, 4]
    assert whole["flops"] > part["flops"]
    frozen = Restorer(synthesis, (1, 4))
    again = saved_bytes(frozen, (1, 3, 32, 32))
    frozen.synthesis.requires_grad_(False)
    assert saved_bytes(frozen, (1, 3, 32, 32)) == again
    assert whole["saved_bytes_per_voxel"] > part["saved_bytes_per_voxel"]
    assert describe(DescribeRequest(**sizes, in_channels=3, degraded=(1, 1, 4))) == whole | {
        "degraded": [1, 1, 4]
    }  # as a training of slices has it
    for wrong in ({"degraded": (4,)}, {"degraded": (1, 4), "out_channels": 2}):
        with pytest.raises(InputError, match="--degraded wants 2 numbers, as many as --dim, and"):
            describe(DescribeRequest(**sizes, **wrong))
    with pytest.raises(InputError, match="--degraded wants --in-channels 2 or more, .* got 1"):
        describe(DescribeRequest(**sizes | {"in_channels": 1}, degraded=(1, 4)))
    with pytest.raises(InputError, match="needs features of 4 levels, and there are 3"):
        describe(DescribeRequest(**sizes, degraded=(8, 8)))


@pytest.mark.parametrize("model", ["deform-resunet", "arc-resunet", "agi-net", "resunet"])
def test_every_model_and_the_time_can_be_described(model):
    groups = 2 if model == "agi-net" else None
    timed = DescribeRequest(model, "2d", (8, 16), groups, None, ["time_embedding=true"], side=16)
    found = describe(timed)
    assert min(found["parameters"], found["flops"], found["saved_bytes_per_voxel"]) > 0


@pytest.mark.parametrize("dim", ["2d", "3d"])
def test_tsf_keeps_what_a_step_of_seq2seq_does(dim):
    """By hand at one HyperConv; a step encodes twice and decodes three times."""
    request = DescribeRequest("tsf", dim, (4, 8), None, None, ["blocks=1", "banks=2"], 4, 4, 32)
    found = describe(request)
    assert found["saved_bytes_per_voxel"] > 0
    one = DescribeRequest("tsf", dim, (4, 8), None, None, ["blocks=1", "banks=2"], 1, 1, 32)
    assert describe(one)["saved_bytes_per_voxel"] == found["saved_bytes_per_voxel"]
    assert describe(one)["flops"] < found["flops"]


def test_the_steps_of_tsf_keep_what_is_told():
    model = {"name": "tsf", "widths": [8, 16], "blocks": 1, "banks": 2}
    data = {"plane": "axial", "patch": [32, 32], "overlap": [0, 0], "batch": 1}
    every = ["t1n", "t1c", "t2w", "t2f"]
    train = {"framework": "tsf", "steps": 4, "tsf": {"perceptual_weight": 0.0}}
    plain = {"dim": 2, "mode": "any", "sources": every, "targets": every}
    config = parse(RunConfig, {**plain, "model": model, "data": data, "train": train})
    framework, batch = build_framework(config), random_batch(config)
    own = {p.untyped_storage().data_ptr() for p in framework.parameters()}

    def kept(step: int) -> int:
        found: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            terms = framework.generator_loss(batch, step)
        assert terms  # alive until here, so that no address is used twice
        return sum(found.values())

    sizes = ("tsf", "2d", (8, 16), None, None, ["blocks=1", "banks=2"], 4, 4, 32)
    told = describe(DescribeRequest(*sizes))
    expected = told["saved_bytes_per_voxel"] * 32**2 + told["saved_bytes_constant"]
    assert kept(0) == pytest.approx(expected, rel=0.1)
    assert kept(3) < kept(0)


def test_a_mixed_kernel_counts_as_an_ordinary_one():
    layer = HyperConv(2, 3, 5, 3, Mix(code=4, banks=2))
    wrapped = Coded(layer)
    mixing = 2 * 2 * (2 * 4 + 1)  # both linear layers, two banks from a code of four
    assert count_flops(wrapped, (1, 3, 6, 7)) == 42 * 5 * (2 * 3 * 9 + 1) + mixing


@pytest.mark.parametrize(
    ("arguments", "claim"),
    [
        ({"model": "unet"}, "unknown model 'unet'; there are agi-net, resunet"),
        ({"assign": ["depth=4"]}, "agi-net has no option depth"),
        ({"model": "resunet", "groups": 4}, "resunet has no option groups"),
        ({"groups": 7}, "do not split"),
        ({"dim": "4d"}, "dim"),
        ({"model": "resunet", "side": 8}, "sides of at least 16"),
        ({"model": "resunet", "widths": (8, 16), "fit": "8x"}, "expected a size"),
        ({"assign": ["widths=3"]}, "give it as --widths"),
        ({"assign": ["depth"]}, "--set takes key=value"),
        ({"model": "arc-resunet"}, "exists in 2-D only"),
        ({"stages": ("down9",)}, "unknown stage"),
    ],
)
def test_what_is_refused(arguments, claim):
    with pytest.raises(InputError, match=re.escape(claim)):
        describe(DescribeRequest(**arguments))


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("8g", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("512MiB", 2**29), ("7", 7),
     ("2 kb", 2000)],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_size(text) == size
    for wrong in ("", "GB", "8 TB", f"-{text}", f"{text}x", f"{text} of"):
        with pytest.raises(InputError, match="expected a size as in 8GB"):
            parse_size(wrong)


@functools.cache
def memory(*assign: str, **how) -> Memory:
    """The counts of one small AGI-Net, or of the network that ``how`` says; made once."""
    small = {"dim": "3d", "widths": (8, 16, 32), "groups": 2, "in_channels": 2}
    return Memory(DescribeRequest(**small | how, assign=assign))


PLAIN = {"model": "resunet", "groups": None}


@pytest.fixture
def fit(monkeypatch):
    """The proposal for so many MB, of which the process itself takes none."""
    monkeypatch.setattr(describe_module, "PROCESS", 0)
    return lambda megabytes, *assign, **how: memory(*assign, **how).fit(megabytes * 10**6)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(60, 3000))
def test_a_proposal_fits_and_is_a_patch_the_network_takes(fit, megabytes):
    found = fit(megabytes, **PLAIN)
    assert found["bytes"] <= megabytes * 10**6
    assert found["patch"][0] % 4 == 0
    assert 32 <= found["patch"][0] <= 128


def test_more_memory_never_means_less(fit):
    found = [fit(budget) for budget in (60, 300, 2700)]
    sizes = [f["patch"][0] ** 3 * f["batch"] for f in found]
    assert sizes == sorted(sizes)
    assert found[0]["batch"] <= 2
    assert found[-1]["patch"] == [128] * 3
    assert found[-1]["batch"] >= 2


def test_the_routing_is_recomputed_only_where_the_patch_needs_it(fit):
    plenty, little = fit(10**5), fit(200)
    assert (plenty["batch"], plenty["recompute_routing"]) == (16, False)
    assert little["recompute_routing"]
    kept = fit(200, "checkpoint_routing=false")
    assert not kept["recompute_routing"]
    assert kept["patch"][0] < little["patch"][0]
    assert not fit(1000, **PLAIN)["recompute_routing"]


def test_bfloat16_and_slices_allow_more(fit):
    assert fit(200, precision="bf16", **PLAIN)["patch"][0] > fit(200, **PLAIN)["patch"][0]
    flat = fit(1000, dim="2d", **PLAIN)
    assert flat["patch"] == [256, 256]
    assert flat["batch"] > 2


def test_too_little_is_refused_with_what_is_needed(fit):
    with pytest.raises(InputError, match="needs 0.0[0-9] GB and the budget is 0.00 GB"):
        fit(1, **PLAIN)


def test_the_command_prints_figures_and_a_proposal(capsys):
    arguments = ["describe", "--widths", "8,16", "--groups", "2", "--side", "16", "--fit", "2GB"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert re.search(r"2.00 GB allow --patch (\d+),\1,\1 --batch 2 in fp32", text)
    assert main([*arguments, "--json", "--stages", "down1,body", "--set", "module=gr"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stages"], found["module"]) == (["down1", "body"], "gr")
    assert found["fit"]["batch"] == 2
    assert main(["describe", "--model", "vit"]) == 2
    assert "unknown model" in capsys.readouterr().err


STEPS = """
import json, sys, torch
from synth3d.models import GENERATORS
what = json.loads(sys.argv[1])
torch.set_num_threads(1)
net = GENERATORS["agi-net"](2, 1, **what["options"], checkpoint_routing=what["recompute_routing"])
net = net.to(memory_format=torch.channels_last_3d)
x = torch.randn(what["batch"], 2, *what["patch"]).to(memory_format=torch.channels_last_3d)
optimizer = torch.optim.Adam(net.parameters())
for _ in range(2):
    net(x).abs().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
lines = open("/proc/self/status").read().splitlines()
print(1024 * int(next(l for l in lines if l.startswith("VmHWM:")).split()[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_real_training_steps_stay_within_the_budget():
    options, budget = {"dim": 3, "widths": (16, 32, 64, 128), "groups": 4}, 1_700_000_000
    request = DescribeRequest(widths=options["widths"], groups=4, in_channels=2, fit=str(budget))
    found = describe(request)["fit"]
    run = subprocess.run(
        [sys.executable, "-c", STEPS, json.dumps({**found, "options": options})],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found["bytes"] - 2**30 < int(run.stdout) <= budget


@pytest.mark.parametrize(
    "model", [name for name, each in GENERATORS.items() if "pyramid" in each.offers]
)
def test_what_restores_is_described_over_every_generator_that_can_carry_it(model):
    more = {"widths": (8, 16, 16, 16)} if model == "restormer" else {"widths": (8, 16, 16)}
    found = describe(DescribeRequest(model, "2d", groups=2 if model == "agi-net" else None,
                                     degraded=(4, 4), side=64, **more))  # fmt: skip
    alone = describe(DescribeRequest(model, "2d", groups=2 if model == "agi-net" else None,
                                     in_channels=2, side=64, **more))  # fmt: skip
    assert found["parameters"] > alone["parameters"]
    assert found["flops"] > alone["flops"]
