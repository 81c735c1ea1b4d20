"""The benchmark of whole networks: that it measures what it says, not how fast this machine is."""

import dataclasses
import itertools
import json

import pytest
import torch
from torch import nn

import cuda_ops.bench
from cuda_ops import cpu_calls, cpu_library
from cuda_ops.bench_clock import CpuClock
from cuda_ops.bench_memory import ask_a_process
from cuda_ops.bench_rows import Setting, SkipRow
from cuda_ops.cpu_conv import conv_compiled
from synth3d import bench, bench_complete, bench_pages, bench_rows
from synth3d.bench_complete import HEAD_MM, NATIVE, complete_rows, ellipsoid
from synth3d.bench_networks import NETWORKS, ROLL_ONLY, Case, KnownRoll
from synth3d.bench_rows import CASES, rows

TINY = Case("tiny", (8, 16, 32), 2, 16, seconds=0.01)


@pytest.fixture
def setting():
    return Setting(torch.device("cpu"), CpuClock(), rounds=1, least=0.0)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bench_rows, "CASES", (TINY,))
    for name in ("RECIPE", "LARGE", "MIDDLE", "PAPER"):
        monkeypatch.setattr(bench_rows, name, TINY)
    monkeypatch.setattr(bench_rows, "SLICES", Case("flat", (8, 16, 32), 2, 16, dim=2))


def test_names_are_unique_and_quick_ones_exist():
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)
    assert {row.name.split("/")[0] for row in rows() if row.quick} == {"train", "infer"}


@pytest.mark.parametrize("name", [*NETWORKS, ROLL_ONLY])
def test_every_network_can_be_made_at_the_size_of_its_rows(name):
    flat = Case("flat", (8, 16, 32), 2, 16, dim=2)
    case = flat if name == "arc" else TINY
    net = case.network(name)
    assert net(torch.zeros(1, 3, *[16] * case.dim)).shape[:2] == (1, 1)


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("group", ["train", "infer"])
def test_a_row_compares_each_network_with_the_plain_one(setting, group, layout):
    bars = {"agi": 1e9, "agi-stride2": 0.0}
    row = bench_rows._row(group, TINY, ["agi", "agi-stride2"], "fp32", layout, bars)
    first, second = row.measure(row, setting)
    assert (first.candidate, first.met, second.candidate, second.met) == (
        "agi", True, "agi-stride2", False,
    )  # fmt: skip
    assert first.value > 0
    assert set(first.seconds) == {"plain", "agi"}


def test_bfloat16_is_refused_where_it_is_emulated(monkeypatch, setting):
    class Ops:
        _is_mkldnn_bf16_supported = staticmethod(lambda: False)

    monkeypatch.setattr(torch.ops, "mkldnn", Ops)
    with pytest.raises(SkipRow, match="no bfloat16 instructions"):
        bench_rows._refuse_slow_bf16("bf16", torch.device("cpu"))
    bench_rows._refuse_slow_bf16("fp32", torch.device("cpu"))


def test_a_whole_synthesis_is_held_against_its_own_convolutions(setting, monkeypatch):
    """By a clock that ticks when it is read: a synthesis takes 1, and so does each convolution."""
    clock = itertools.count()
    monkeypatch.setattr(bench_complete.time, "process_time", lambda: float(next(clock)))
    three = nn.Sequential(nn.Conv3d(3, 2, 1), nn.ReLU(), nn.Conv3d(2, 2, 1), nn.Conv3d(2, 1, 1))
    monkeypatch.setattr(Case, "network", lambda case, name: three)
    (row,) = complete_rows(TINY, (20, 24, 28))
    found = {result.candidate: result for result in row.measure(row, setting)}
    assert list(found) == ["plain", "agi", "agi-stride2"]
    for result in found.values():  # 12 tiles are 6 calls of 3 convolutions
        assert result.value == 1 / 18
        assert result.note == "12 tiles, 1.0 : 18.0 s"
        assert result.met
    with pytest.raises(SkipRow, match="CPU only"):
        row.measure(row, Setting(torch.device("meta"), CpuClock(), rounds=1))


def test_the_head_of_the_native_volume_is_as_large_as_a_head():
    inside = ellipsoid(NATIVE)
    assert inside.sum().item() / 1e6 == pytest.approx(1.57, abs=0.01)
    for axis, diameter in enumerate(HEAD_MM):
        others = tuple({0, 1, 2} - {axis})
        assert inside.any(others[1]).any(others[0]).sum().item() == pytest.approx(diameter, abs=2)


def test_rolling_alone_is_that_and_differs_by_sample():
    net = TINY.network(ROLL_ONLY)
    x = TINY.image()[:1].expand(2, -1, -1, -1, -1)
    first, second = net(x)
    assert not torch.allclose(first, second)
    rolled = [m for m in net.modules() if isinstance(m, KnownRoll)]
    assert len(rolled) == 2 * 5
    net(x).sum().backward()
    assert all(m.offsets.grad.abs().min() > 0 and m.scale.grad.abs().min() > 0 for m in rolled)


def test_two_processes_take_turns_and_only_one_keeps_its_memory(setting, monkeypatch):
    asked = []

    def ask(module, task):
        asked.append(task["keep"])
        assert module == "synth3d.bench_pages"
        return 2_000_000_000 if task["keep"] else 4_000_000_000

    monkeypatch.setattr(bench_pages, "ask_a_process", ask)
    (row,) = bench_pages.page_rows(TINY)
    (result,) = row.measure(row, dataclasses.replace(setting, rounds=3))
    assert (result.value, result.met, result.bar) == (0.5, True, 0.90)
    assert asked == [False, True, True, False, False, True]
    with pytest.raises(SkipRow, match="glibc"):
        row.measure(row, Setting(torch.device("meta"), CpuClock(), rounds=1))


@pytest.mark.parametrize("keep", [False, True])
def test_a_process_of_its_own_times_a_step(keep):
    task = {"widths": [8, 16], "groups": 2, "side": 8, "dim": 3, "batch": 2, "threads": 1}
    task["keep"] = keep
    assert 1e5 < ask_a_process("synth3d.bench_pages", task) < 1e11


@pytest.mark.skipif(
    not cpu_library.known_processor(), reason="the compiled convolutions are for x86-64 with AVX2"
)
def test_a_step_without_the_library_is_torchs(setting, monkeypatch):
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")
    steps, real = [], bench_rows.training_step

    def watched(network, x, context):
        step = real(network, x, context)
        return lambda: steps.append(cpu_library.library() is not None) or step()

    monkeypatch.setattr(bench_rows, "training_step", watched)
    monkeypatch.setattr(bench_rows, "RECIPE", TINY)
    (row,) = bench_rows.compiled_rows()
    (result,) = row.measure(row, setting)
    assert result.value > 0
    assert set(result.seconds) == {"agi", "by torch"}
    assert sum(steps) == len(steps) / 2
    monkeypatch.setenv("CUDA_OPS_CPU", "torch")
    with pytest.raises(SkipRow, match="no compiled convolutions"):
        row.measure(row, setting)


@pytest.mark.slow
def test_peaks_are_those_of_another_process(setting):
    row = next(iter(bench_rows.memory_rows()))
    found = {r.candidate: r for r in row.measure(row, setting)}
    assert found["agi"].value > found["agi-recomputed"].value > 1
    assert "MiB" in found["agi"].note


def test_the_command_lists_and_chooses(capsys):
    assert bench.main(["--list", "--only", "train/recipe/"]) == 0
    listed = capsys.readouterr().out.split("\n")[:-1]
    assert listed[0] == "train/recipe/fp32/channels_last  (quick)"
    assert all(line.startswith("train/recipe/") for line in listed)
    with pytest.raises(SystemExit) as stop:
        bench.main(["--only", "nothing"])
    assert stop.value.code == 2
    assert "no row has such a name" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        bench.main(["--rounds", "0"])
    assert stop.value.code == 2


def test_the_command_writes_json(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cuda_ops.bench, "keep_memory", lambda: False)
    target = tmp_path / "bench.json"
    arguments = ["--quick", "--rounds", "1", "--only", "infer", "--json", str(target)]
    assert bench.main(arguments) == 0
    document = json.loads(target.read_text())
    assert document["environment"]["command"].startswith("python -m synth3d.bench --quick")
    assert {row["candidate"] for row in document["rows"]} == {"agi", "agi-stride2"}
    assert "infer/tiny" in capsys.readouterr().out


def test_the_cases_are_sizes_that_networks_can_have():
    assert all(case.side % 2 ** (len(case.widths) - 1) == 0 for case in CASES)


@pytest.mark.skipif(
    not cpu_library.known_processor(), reason="the compiled convolutions are for x86-64 with AVX2"
)
def test_the_floor_of_a_case_counts_compiled_convolutions(monkeypatch):
    monkeypatch.setenv("CUDA_OPS_CPU", "compiled")
    x, kernel = torch.randn(2, 16, 24, 24, 24), torch.randn(16, 16, 3, 3, 3)
    before = cpu_calls.call_convolve
    with torch.inference_mode(), bench_complete._Stopwatch() as watch:
        conv_compiled(x.to(memory_format=torch.channels_last_3d), kernel)
    assert watch.seconds > 1e-4
    assert cpu_calls.call_convolve is before
