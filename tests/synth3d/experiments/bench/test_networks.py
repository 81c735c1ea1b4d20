"""The benchmark of networks runs, and its table has the rows."""

import json
from dataclasses import replace

import pytest
import torch

import cuda_ops.bench.command
from cuda_ops.bench.memory import STATUS
from synth3d.experiments.bench import coupling, floors, routing, throughput, volumes
from synth3d.experiments.bench import networks as bench
from synth3d.experiments.bench.networks import CASES, NETWORKS, Case
from synth3d.experiments.bench.ranks import ranks_row
from synth3d.settings import parse
from synth3d.training import RunConfig
from synth3d.training.recipes import read_recipe

ONCE = cuda_ops.bench.Setting(torch.device("cpu"), cuda_ops.bench.command.CpuClock(), 1, least=0)
TINY = Case("tiny", (8, 16, 32), 2, 16)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bench, "RECIPE", TINY)
    monkeypatch.setattr(bench, "CASES", (TINY,))
    monkeypatch.setattr(cuda_ops.bench.command, "keep_memory", lambda: False)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_names_are_unique(kind):
    names = [row.name for row in bench.rows(torch.device(kind, 0))]
    assert len(set(names)) == len(names)


def test_the_bars_are_those_of_the_recipes():
    names = [row.name for row in bench.rows(torch.device("cpu"))]
    recipe = read_recipe("gpu")
    assert [bench.GPU.side] * 3 == recipe["data"]["patch"]
    assert bench.GPU.batch == recipe["data"]["batch"]
    assert [*bench.GPU.widths, bench.GPU.groups] == [
        *recipe["model"]["widths"], recipe["model"]["groups"],
    ]  # fmt: skip
    assert {f"{group}/cpu/{dtype}" for group, dtype in bench.BARS} <= set(names)
    assert all(case.side % 2 ** (len(case.widths) - 1) == 0 for case in CASES)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_be_made_at_the_size_of_its_rows(name, dim):
    case = Case("small", (8, 16, 32), 2, 16, dim)
    assert case.network(name)(case.image()).shape == (2, 1, *[16] * dim)


def test_each_network_is_held_against_the_plain_one(tiny, tmp_path, capsys):
    target = tmp_path / "bench.json"
    words = ["--quick", "--rounds", "1", "--only", "n*/tiny/fp32", "--json", str(target)]
    assert bench.main(words) == 0
    found = json.loads(target.read_text())["rows"]
    assert [(row["name"], row["candidate"], row["bar"]) for row in found[:4]] == [
        (f"{kind}/tiny/fp32", name, bar)
        for kind in ("train", "infer")
        for name, bar in (("agi", None), ("agi-stride2", 1.20))
    ]
    assert all(row["value"] > 0 for row in found[:4])
    assert "infer/tiny" in capsys.readouterr().out


@pytest.mark.slow
def test_a_second_process_is_held_against_the_first_one_alone():
    row = ranks_row(TINY.widths, TINY.groups, TINY.side)
    (found,) = row.measure(row, ONCE)
    assert (found.rounds, found.bar, found.at_least) == (1, 0.85, True)
    assert found.value == pytest.approx(found.seconds["one"] / (2 * found.seconds["two"]))


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
def test_peaks_are_those_of_another_process():
    row = bench.memory_row()
    found = {result.candidate: result for result in row.measure(row, ONCE)}
    assert found["agi"].value > found["agi-stride2"].value > 1
    assert "MiB" in found["agi"].note


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resunet", "tsf"])
def test_a_cohort_is_held_against_half_overlap_and_against_its_convolutions(monkeypatch, network):
    monkeypatch.setattr(volumes, "SHAPE", (40, 64, 72))
    monkeypatch.setattr(volumes, "HEAD", 56)
    row = next(row for row in volumes.volume_rows() if row.name == f"cohort/{network}/fp32")
    former, floor = row.measure(row, ONCE)
    assert (former.baseline, floor.baseline) == ("half", "floor")
    assert floor.value > 1
    assert former.value < 1.5
    assert floor.bar == volumes.FLOOR_BARS[network]
    assert floor.seconds.keys() == {"now", "half", "floor"}


@pytest.mark.parametrize("stage", floors.STAGES)
def test_a_step_of_tsf_is_held_against_its_convolutions(stage):
    config = parse(RunConfig, read_recipe(floors.RECIPE))
    small = replace(config, model=replace(config.model, widths=(4, 8), blocks=1),
                    data=replace(config.data, patch=(16, 16), overlap=(0, 0)))  # fmt: skip
    row = next(row for row in floors.floor_rows() if stage in row.name)
    (found,) = row.measure.func(row, ONCE, small, stage)
    assert (found.candidate, found.baseline, found.bar) == ("step", "convolutions", 1.25)
    assert found.seconds["step"] > found.seconds["convolutions"] > 0
    assert found.value > 1


def test_a_coupled_step_is_held_against_one_that_is_not():
    config = parse(RunConfig, read_recipe(coupling.RECIPE))
    size = {"widths": (4, 8), "blocks": 1, "groups": 2, "stages": 2}
    small = replace(config, model=replace(config.model, **size),
                    data=replace(config.data, patch=(16, 16, 16), overlap=(0, 0, 0)))  # fmt: skip
    *_, row = coupling.coupling_rows()
    (found,) = row.measure.func(row, ONCE, small, coupling.TERMS[-1])
    assert (found.candidate, found.baseline) == ("coupled", "alone")
    assert found.seconds.keys() == {"coupled", "alone"}
    assert found.value > 1
    terms = coupling.step_of(replace(small, train=replace(small.train, framework="l1")))()
    assert set(terms) == {"l1"}


@pytest.mark.parametrize(("channels", "tried"), [(16, [8, 1]), (32, [8, 1]), (64, [8, 2, 1])])
def test_the_chosen_merging_is_held_against_the_fastest(channels, tried, monkeypatch):
    assert routing.mergings(channels) == tried
    times = {"chosen": 1.2, "8 groups": 3.0, "2 groups": 1.0, "1 group": 1.15}
    monkeypatch.setattr(routing, "take", lambda _, calls: {n: [times[n]] for n in calls})
    row = next(row for row in routing.routing_rows("cuda") if "fp32" in row.name)
    chosen, *others = row.measure.func(row, ONCE, channels, 2)
    best = min(times[each.candidate] for each in others)
    assert (chosen.value, chosen.met) == (pytest.approx(1.2 / best), best == 1.15)
    assert all(each.met is None for each in others)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_convolution_is_the_same_in_every_merging(dtype):
    row = next(row for row in routing.routing_rows("cpu") if dtype in row.name)
    found = row.measure.func(row, ONCE, 16, 3)
    assert [each.candidate for each in found] == ["chosen", "8 groups", "1 group"]
    assert all(each.value > 0 for each in found)
    layer, x = routing.GroupedConv3d(64, 64, 3, padding=1, groups=8), torch.randn(1, 64, 4, 4, 4)
    for merged in routing.mergings(64):
        assert torch.allclose(routing._merged(layer, x, merged), layer(x), atol=1e-5)


def test_memory_and_norm_on_a_gpu_run_dry_on_the_cpu(monkeypatch):
    calls: list[str] = []
    peaks = iter((100, 150, 120))
    monkeypatch.setattr(bench, "_call", lambda *args: lambda: calls.append(args[2]))
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: next(peaks))
    events = [("vectorized_layer_norm_kernel", 0.0, 1.0), ("conv", 1.0, 4.0)]
    monkeypatch.setattr(bench, "device_events", lambda call: events)
    rows = {row.name: row for row in bench.rows(torch.device("cuda", 0))}
    memory, norm = (
        row.measure(row, ONCE) for row in (rows["memory/gpu/bf16"], rows["norm/gpu/bf16"])
    )
    assert [result.value for result in memory] == [1.5, 1.2]
    assert [result.value for result in norm] == [25.0] * 3
    assert calls == [name for name in NETWORKS for _ in range(2)]


@pytest.mark.slow
def test_a_small_cohort_tells_what_a_case_costs_beside_the_network():
    (found,) = (row := throughput.throughput_row(4)).measure(row, ONCE)
    assert found.value > 0
    assert "network" in found.note
