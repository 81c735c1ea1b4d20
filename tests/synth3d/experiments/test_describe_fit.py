"""Patch and batch for a memory budget, and the command that prints them."""

import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synth3d.experiments.describe_fit import fit, parse_size

from synth3d.cli import main
from synth3d.errors import InputError
from synth3d.experiments import describe_fit

WIDTHS = (8, 16, 32)
SMALL = {"dim": 3, "widths": WIDTHS, "groups": 2, "stages": 5}


@pytest.fixture
def light(monkeypatch):
    """No bytes for the process, so that small networks meet small budgets."""
    monkeypatch.setattr(describe_fit, "PROCESS", 0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("8g", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("512MiB", 2**29), ("7", 7),
     ("2 kb", 2000)],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "8 TB", "-1GB", "8x", "8 GB of"])
def test_what_is_no_size(text):
    with pytest.raises(InputError, match="expected a size as in 8GB"):
        parse_size(text)


@settings(max_examples=8, deadline=None)
@given(st.integers(60, 3000))
def test_a_proposal_fits_and_is_a_patch_the_network_takes(megabytes):
    before, describe_fit.PROCESS = describe_fit.PROCESS, 0
    try:
        found = fit(megabytes * 10**6, "resunet", 2, 1, {"dim": 3, "widths": WIDTHS})
    finally:
        describe_fit.PROCESS = before
    assert found["bytes"] <= megabytes * 10**6
    assert found["patch"][0] % 4 == 0
    assert 32 <= found["patch"][0] <= 128


def test_more_memory_never_means_less(light):
    found = [fit(b * 10**7, "agi-net", 2, 1, SMALL) for b in (6, 30, 270)]
    sizes = [f["patch"][0] ** 3 * f["batch"] for f in found]
    assert sizes == sorted(sizes)
    assert found[0]["batch"] <= 2
    assert found[-1]["patch"] == [128] * 3
    assert found[-1]["batch"] >= 2


def test_the_routing_is_recomputed_only_where_the_patch_needs_it(light):
    plenty = fit(10**11, "agi-net", 2, 1, SMALL)
    assert (plenty["batch"], plenty["recompute_routing"]) == (16, False)
    little = fit(2 * 10**8, "agi-net", 2, 1, SMALL)
    assert little["recompute_routing"]
    kept = fit(2 * 10**8, "agi-net", 2, 1, {**SMALL, "checkpoint_routing": False})
    assert not kept["recompute_routing"]
    assert kept["patch"][0] < little["patch"][0]
    assert not fit(10**9, "resunet", 2, 1, {"dim": 3, "widths": WIDTHS})["recompute_routing"]


def test_bfloat16_allows_more(light):
    full, half = (fit(2 * 10**8, "agi-net", 2, 1, SMALL, p) for p in ("fp32", "bf16"))
    assert half["patch"][0] > full["patch"][0]


def test_slices(light):
    found = fit(10**9, "agi-net", 2, 1, {**SMALL, "dim": 2})
    assert found["patch"] == [256, 256]
    assert found["batch"] > 2


def test_too_little_is_refused_with_what_is_needed(light):
    with pytest.raises(InputError, match="needs 0.0[0-9] GB and the budget is 0.00 GB"):
        fit(10**6, "resunet", 2, 1, {"dim": 3, "widths": WIDTHS})


def test_the_command_prints_a_proposal(capsys):
    arguments = ["describe", "--widths", "8,16", "--groups", "2", "--side", "16", "--fit", "2GB"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert re.search(r"2.00 GB allow --patch (\d+),\1,\1 --batch 2 in fp32", text)
    assert "no critic" in text
    assert main([*arguments, "--json", "--dim", "2d"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fit"]["patch"] == [256, 256]
    assert found["stages"] == 3


def test_the_command_takes_named_stages_and_further_options(capsys):
    arguments = ["describe", "--widths", "8,16", "--groups", "2", "--side", "16", "--json"]
    assert main([*arguments, "--stages", "down1,body", "--set", "module=gr"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stages"], found["module"]) == (["down1", "body"], "gr")


@pytest.mark.parametrize(
    ("arguments", "claim"),
    [
        (["--fit", "8x"], "expected a size"),
        (["--set", "widths=3"], "give it as --widths"),
        (["--set", "depth"], "--set takes key=value"),
        (["--model", "arc-resunet"], "exists in 2-D only"),
        (["--stages", "down9"], "unknown stage"),
        (["--model", "vit"], "unknown model"),
    ],
)
def test_what_the_command_refuses(arguments, claim, capsys):
    assert main(["describe", "--widths", "8,16", "--side", "16", *arguments]) == 2
    assert claim in capsys.readouterr().err


STEPS = """
import json, sys, torch
from synth3d.models import GENERATORS
what = json.loads(sys.argv[1])
torch.set_num_threads(1)
net = GENERATORS[what["model"]](2, 1, **what["options"], checkpoint_routing=what["recompute"])
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
    options = {"dim": 3, "widths": (16, 32, 64, 128), "groups": 4}
    budget = 1_700_000_000
    found = fit(budget, "agi-net", 2, 1, options)
    task = {"model": "agi-net", "options": options, "recompute": found["recompute_routing"]}
    task |= {"batch": found["batch"], "patch": found["patch"]}
    run = subprocess.run(
        [sys.executable, "-c", STEPS, json.dumps(task)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found["bytes"] - 2**30 < int(run.stdout) <= budget
