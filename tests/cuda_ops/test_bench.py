"""The benchmark runs, its ratios are what they say, and its table has the rows."""

import json
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import bench, launcher, roll_kernel
from cuda_ops.bench import gpu, memory
from cuda_ops.bench.__main__ import main, rows
from cuda_ops.bench.clock import CpuClock, compare, interleave
from cuda_ops.bench.rows import Row, Setting, Shape, layer_calls, leaves, naive_roll, rated, run

CPU = torch.device("cpu")


class FakeClock:
    """A call takes as many seconds as it returns, times what the weather adds in its round."""

    name = "fake seconds"

    def __init__(self, weather=lambda turn: 1.0) -> None:
        self.weather, self.turns = weather, 0

    def time(self, call, repeats: int) -> float:
        seconds = call() * self.weather(self.turns)
        self.turns += 1
        return seconds


def served(monkeypatch, *words: str, times=(2.0, 1.0)) -> int:
    """The exit code of a benchmark with two rows, one of which has a bar of 1.5."""
    monkeypatch.setattr("cuda_ops.bench.command.CpuClock", FakeClock)
    calls = {"rolling": lambda: times[0], "plain": lambda: times[1]}

    def measure(row: Row, how: Setting) -> list:
        return [rated(row, bench.take(how, calls))]

    made = [
        Row(name, "shape", measure, bar=bar, quick=bar is None)
        for name, bar in (("a/one", 1.5), ("b/two", None))
    ]
    return bench.serve(list(words), "bench", "what", "how", lambda device: made)


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=7))
def test_weather_that_lasts_a_round_leaves_ratios_alone(weather):
    def outside(turn: int) -> float:
        return 1.0 if turn < 2 else weather[(turn - 2) // 2]

    calls = {"a": lambda: 6.0, "b": lambda: 4.0}
    taken = interleave(calls, FakeClock(outside), len(weather), least=0.0)
    assert [len(turns) for turns in taken.values()] == [len(weather)] * 2
    ratio = compare(taken["a"], taken["b"])
    assert ratio.median == pytest.approx(1.5)
    assert ratio.lowest == pytest.approx(1.5)


def test_the_cpu_clock_counts_work_and_not_sleep():
    assert CpuClock().time(lambda: time.sleep(0.02), 2) < 0.01


def test_a_missed_bar_is_told_and_is_the_exit_code_if_asked(monkeypatch, capsys):
    assert served(monkeypatch) == 0
    out = capsys.readouterr()
    assert "0 of 1 bars met; missed: a/one." in out.out
    assert "[1/2] a/one: 2 ×, bar 1.5, MISSED" in out.err
    assert served(monkeypatch, "--check") == 1
    assert served(monkeypatch, "--check", "--quick") == 0
    assert served(monkeypatch, "--check", times=(1.5, 1.0)) == 0


def test_a_row_that_fails_is_a_line_and_ends_nothing():
    def fail(row: Row, how: Setting) -> list:
        raise MemoryError("too large")

    (result,) = run(Row("a", "", fail), Setting(CPU, FakeClock(), 1))
    assert (result.met, result.note) == (False, "failed: MemoryError: too large")


def test_rows_are_listed_and_chosen_by_name_and_json_has_them(monkeypatch, tmp_path, capsys):
    assert served(monkeypatch, "--list") == 0
    assert capsys.readouterr().out == "a/one\nb/two  (quick)\n"
    target = tmp_path / "bench.json"
    assert served(monkeypatch, "--only", "b/*", "--rounds", "2", "--json", str(target)) == 0
    document = json.loads(target.read_text())
    assert [(row["name"], row["value"]) for row in document["rows"]] == [("b/two", 2.0)]
    assert document["environment"]["rounds"] == 2
    table = [line for line in capsys.readouterr().out.split("\n") if line.startswith("|")]
    assert len(table) == 3
    assert len({line.count("|") for line in table}) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "nothing"],
        ["--only", "one", "--quick"],
        ["--rounds", "0"],
        ["--device", "tpu"],
        ["--json", "/nowhere/at/all.json"],
        pytest.param(
            ["--device", "cuda"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_arguments_are_told_in_one_line(words, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        served(monkeypatch, *words)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("dim", [2, 3])
def test_the_naive_form_is_the_roll(dim):
    inputs = leaves(Shape(8, 4, dim=dim, groups=4), CPU)
    found, wanted = naive_roll(*inputs), roll_kernel(*inputs)
    assert torch.allclose(found, wanted, atol=1e-6)
    grads = [torch.autograd.grad((y**3).sum(), inputs) for y in (found, wanted)]
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_every_row_has_its_own_name_and_the_bars_stand_in_them():
    for device in (CPU, torch.device("cuda", 0)):
        names = [row.name for row in rows(device)]
        assert len(names) == len(set(names))
        assert any(row.quick for row in rows(device))
    barred = [row for row in gpu.gpu_rows() if "/bandwidth/" in row.name and row.bar is not None]
    assert [(row.name, row.bar, row.at_least) for row in barred] == [
        ("gpu/bandwidth/3d-4x512/forward/fp32/channels_last", 0.6, True)
    ]
    bars = {row.name: row.bar for row in rows(CPU)}
    assert bars["generate/3d-2x256/forward/contiguous"] == 0.09
    assert bars["generate/3d-4x512/both/channels_last"] == 0.12
    assert bars["layer/64@16^3-b2/fp32/channels_last"] == 1.15
    assert bars["layer/128@8^3-b2/fp32/channels_last"] is None


def test_a_real_run_has_a_real_table(monkeypatch, capsys):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr("cuda_ops.bench.command.keep_memory", lambda: False)
    assert main(["--only", "generate/3d-2x64", "--rounds", "1"]) == 0
    table = capsys.readouterr().out
    assert "| generate/3d-2x64/forward/contiguous |" in table
    assert "not finished" not in table


@pytest.mark.skipif(not memory.STATUS.exists(), reason="needs /proc")
def test_a_layers_memory_is_at_least_its_tensors():
    row = Row("memory/x", "", lambda *_: [])
    (result,) = memory._memory(row, Setting(CPU, CpuClock(), 1), Shape(16, 48))
    least = 4 * 2 * 16 * 48**3 * 4 / 2**20  # x, the result and the gradients of both
    peaks = [float(part.split()[1]) for part in result.note.split(", ")]
    assert all(least < peak < 4 * least for peak in peaks)


def test_rows_for_a_gpu_run_dry_on_the_cpu(monkeypatch):
    """Shapes in small, a clock that needs no device, and CuPy said to be there."""
    monkeypatch.setattr(launcher, "load_cupy", lambda: None)
    monkeypatch.setattr(gpu, "CudaClock", lambda device, queued: CpuClock())
    monkeypatch.setattr(gpu, "device_activities", lambda call: [call(), "b"][1:])
    how = Setting(CPU, CpuClock(), 1, least=0.0)
    for row in gpu.gpu_rows():
        tiny = replace(row.measure.keywords["shape"], channels=8, side=3, batch=2)
        for result in row.measure.func(row, how, shape=tiny):
            assert result.value > 0, row.name
    layer = layer_calls(Shape(8, 3), CPU, "fp32", "channels_last", ["looped", "mixed-input"])
    assert all(call() is None for call in layer.values())
