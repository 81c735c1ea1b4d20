"""The benchmark of networks runs, and its table has the rows."""

import json

import pytest
import torch

import cuda_ops.bench.command
from cuda_ops.bench.memory import STATUS
from synth3d.experiments import bench
from synth3d.experiments.bench import CASES, NETWORKS, Case

TINY = Case("tiny", (8, 16, 32), 2, 16)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bench, "RECIPE", TINY)
    monkeypatch.setattr(bench, "CASES", (TINY,))
    monkeypatch.setattr(cuda_ops.bench.command, "keep_memory", lambda: False)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)


def test_names_are_unique_and_the_bars_are_those_of_the_recipe():
    names = [row.name for row in bench.rows(torch.device("cpu"))]
    assert len(set(names)) == len(names)
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
@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
def test_peaks_are_those_of_another_process():
    row = bench.memory_row()
    how = cuda_ops.bench.Setting(torch.device("cpu"), cuda_ops.bench.command.CpuClock(), 1)
    found = {result.candidate: result for result in row.measure(row, how)}
    assert found["agi"].value > found["agi-stride2"].value > 1
    assert "MiB" in found["agi"].note
