"""What the benchmark's figures mean: clocks, rounds, bars, the naive form, memory, every row."""

import json
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_ops import (
    bench_clock,
    bench_gpu,
    bench_memory,
    bench_suite,
    kernels,
    roll_kernel,
)
from cuda_ops.bench_cases import Shape, dispatched, laid_out, layer_calls, leaves, naive_roll
from cuda_ops.bench_clock import CpuClock, CudaClock, Taken, compare, interleave
from cuda_ops.bench_rows import Result, Row, Setting, SkipRow, meets, run, timed

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


class FakeClock:
    """A call takes as many seconds as it returns, times what the weather adds in that round."""

    name = "fake seconds"

    def __init__(self, weather: Callable[[int], float] = lambda turn: 1.0) -> None:
        self.weather, self.turns, self.asked = weather, 0, []

    def time(self, call: Callable[[], object], repeats: int) -> Taken:
        self.asked.append((call(), repeats))
        self.turns += 1
        seconds = self.asked[-1][0] * self.weather(self.turns - 1)
        return Taken(seconds, 2 * seconds)


def setting(clock: object | None = None, rounds: int = 3) -> Setting:
    return Setting(CPU, clock or FakeClock(), rounds)


def fake_row(name: str = "a/b", times: tuple[float, float] = (2.0, 1.0), **rest: object) -> Row:
    calls = {"rolling": lambda: times[0], "plain": lambda: times[1]}
    return Row(name, "shape", lambda row, how: [timed(row, how, calls)], **rest)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 9))
def test_every_candidate_has_one_turn_per_round_in_an_order_that_changes(times, rounds, seed):
    clock = FakeClock()
    calls = {str(i): lambda i=i, t=t: (order.append(i), t)[1] for i, t in enumerate(times)}
    order: list[int] = []
    taken = interleave(calls, clock, rounds, seed, least=0.0)
    turns = order[len(order) - rounds * len(times) :]
    for start in range(0, len(turns), len(times)):
        assert sorted(turns[start : start + len(times)]) == list(range(len(times)))
    assert [len(taken[name]) for name in calls] == [rounds] * len(times)
    assert all(turn.clock == times[int(name)] for name in calls for turn in taken[name])
    again: list[int] = []
    calls = {str(i): lambda i=i, t=t: (again.append(i), t)[1] for i, t in enumerate(times)}
    interleave(calls, FakeClock(), rounds, seed, least=0.0)
    assert again == order


def test_the_order_within_rounds_is_shuffled():
    order = []
    calls = {str(i): lambda i=i: (order.append(i), 2.0)[1] for i in range(4)}
    interleave(calls, FakeClock(), 8, seed=0)
    rounds = {tuple(order[i : i + 4]) for i in range(4, len(order), 4)}
    assert len(rounds) > 3


def test_quick_calls_are_repeated_and_slow_ones_warmed_up_once():
    clock = FakeClock()
    interleave({"quick": lambda: 0.01, "slow": lambda: 3.0}, clock, 2, least=0.05)
    assert sorted(clock.asked) == [(0.01, 1)] * 2 + [(0.01, 5)] * 2 + [(3.0, 1)] * 3


def test_a_ratio_is_the_median_of_the_rounds_not_the_ratio_of_medians():
    one = [Taken(t, t) for t in (2.0, 30.0, 4.0)]
    two = [Taken(t, t) for t in (1.0, 10.0, 4.0)]
    assert compare(one, two) == (2.0, 1.0, 2.0)


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=7))
def test_weather_that_lasts_a_round_leaves_ratios_alone(weather):
    def outside(turn: int) -> float:
        return 1.0 if turn < 2 else weather[(turn - 2) // 2]

    calls = {"a": lambda: 6.0, "b": lambda: 4.0}
    taken = interleave(calls, FakeClock(outside), len(weather), least=0.0)
    ratio = compare(taken["a"], taken["b"])
    assert ratio.median == pytest.approx(1.5)
    assert ratio.lowest == pytest.approx(1.5)


def test_the_cpu_clock_counts_work_and_not_sleep():
    taken = CpuClock().time(lambda: __import__("time").sleep(0.02), 2)
    assert taken.wall >= 0.02
    assert taken.clock < taken.wall / 2
    busy = CpuClock().time(lambda: sum(range(300_000)), 2)
    assert busy.clock > 1e-3


class FakeEvent:
    """Of a device that is asleep until it has been told to sleep long enough."""

    slept, needed, recorded = 0, 0, 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        FakeEvent.recorded += 1

    def query(self) -> bool:
        return FakeEvent.slept < FakeEvent.needed

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 6000.0


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda n: setattr(FakeEvent, "slept", n))
    monkeypatch.setattr(FakeEvent, "slept", 0)
    monkeypatch.setattr(FakeEvent, "needed", 0)


def test_the_cuda_clock_averages_between_two_events(fake_cuda):
    calls = []
    taken = CudaClock(CPU).time(lambda: calls.append(1), 3)
    assert taken.clock == 2.0
    assert len(calls) == 3
    assert FakeEvent.slept == 0


def test_the_queued_clock_sleeps_longer_until_the_queue_is_full_in_time(fake_cuda):
    FakeEvent.needed = 3 * bench_clock.QUEUE_CYCLES
    calls = []
    taken = CudaClock(CPU, queued=True).time(lambda: calls.append(1), 1000)
    assert FakeEvent.slept == 4 * bench_clock.QUEUE_CYCLES
    assert len(calls) == 3 * bench_clock.QUEUE_LENGTH
    assert taken.clock == 6.0 / bench_clock.QUEUE_LENGTH
    FakeEvent.needed = 10**18
    with pytest.raises(RuntimeError, match="cannot be queued"):
        CudaClock(CPU, queued=True).time(lambda: None, 1)


@given(st.floats(0.01, 10), st.floats(0.01, 10))
def test_a_bar_is_met_up_to_its_own_value(value, bar):
    assert meets(value, bar) == (value <= bar)
    assert meets(value, bar, at_least=True) == (value >= bar)
    assert meets(bar, bar)
    assert meets(bar, bar, at_least=True)
    assert not meets(float("nan"), bar)
    assert not meets(float("nan"), bar, at_least=True)


def test_a_row_is_judged_by_its_bar():
    (result,) = run(fake_row(bar=1.9), setting())
    assert (result.value, result.lowest, result.of_minima, result.met) == (2.0, 2.0, 2.0, False)
    assert result.seconds == {
        "rolling": {"clock": 2.0, "wall": 4.0},
        "plain": {"clock": 1.0, "wall": 2.0},
    }
    assert result.clock == "fake seconds"
    assert run(fake_row(bar=2.0), setting())[0].met
    assert run(fake_row(bar=2.0, at_least=True), setting())[0].met
    assert run(fake_row(), setting())[0].met is None


def test_what_cannot_be_measured_is_told_and_ends_nothing():
    def skip(row: Row, how: Setting) -> list[Result]:
        raise SkipRow("no such instructions")

    def fail(row: Row, how: Setting) -> list[Result]:
        raise MemoryError("too large\nwith details")

    (skipped,) = run(Row("a", "", skip, bar=1.0), setting())
    assert (skipped.value, skipped.met, skipped.note) == (
        None,
        None,
        "skipped: no such instructions",
    )
    (failed,) = run(Row("a", "", fail), setting())
    assert (failed.value, failed.met, failed.note) == (
        None,
        False,
        "failed: MemoryError: too large",
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_the_naive_form_is_the_roll(dim):
    inputs = leaves(Shape(8, 4, dim=dim, groups=4), CPU)
    found, wanted = naive_roll(*inputs), roll_kernel(*inputs)
    assert torch.allclose(found, wanted, atol=1e-6)
    grads = [torch.autograd.grad((y**3).sum(), inputs) for y in (found, wanted)]
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_naive_form_grows_with_samples_and_groups_and_ours_does_not():
    def operations(form: Callable[..., torch.Tensor], batch: int, groups: int) -> int:
        inputs = leaves(Shape(16, 4, batch, 3, groups), CPU)
        return dispatched(lambda: form(*inputs))

    assert operations(naive_roll, 3, 4) > 2 * operations(naive_roll, 2, 2) > 200
    assert operations(roll_kernel, 3, 4) == operations(roll_kernel, 2, 2) < 100


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_layers_are_laid_out_as_their_row_says(memory_format):
    inputs = leaves(Shape(8, 4, dim=3), CPU, memory_format)
    last = memory_format == "channels_last"
    assert inputs.weight.is_contiguous(memory_format=torch.channels_last_3d) == last
    assert laid_out(torch.zeros(2, 3, 4, 5), memory_format).is_contiguous() != last
    calls = layer_calls(Shape(8, 4), CPU, "fp32", memory_format)
    assert set(calls) == {"plain", "rolling"}
    for call in calls.values():
        call()


def test_every_row_has_its_own_name_and_the_quick_ones_exist():
    for device in (CPU, torch.device("cuda", 0)):
        names = [row.name for row in bench_suite.rows(device)]
        assert len(names) == len(set(names))
        assert all(row.cost >= 0 for row in bench_suite.rows(device))
    quick = {row.name for row in bench_suite.rows(CPU) if row.quick}
    assert quick == bench_suite.QUICK
    assert {row.group for row in bench_suite.rows(CPU)} == {
        "generate", "dispatch", "layer", "shared", "cliff", "memory",
    }  # fmt: skip


def test_the_bars_are_those_of_the_specification():
    bars = {row.name: row.bar for row in bench_suite.rows(CPU)}
    assert bars["generate/3d-2x256/forward/contiguous"] == 0.09
    assert bars["generate/3d-4x512/both/channels_last"] == 0.12
    assert bars["dispatch/3d/forward"] == 70
    assert bars["layer/32@64^3-b2/fp32/channels_last"] == 1.08
    assert bars["layer/64@16^3-b2/fp32/contiguous"] == 1.08
    assert bars["layer/16@64^3-b2/fp32/contiguous"] == 1.0
    assert bars["layer/128@32^3-b2/fp32/contiguous"] == 1.1
    assert bars["layer/512@8^3-b2/fp32/contiguous"] == 1.6
    assert bars["layer/128@32^3-b2/bf16/contiguous"] is None
    assert bars["cliff/few-voxels/512@4^3-b2/channels_last"] == 1.55
    assert bars["memory/32@64^3-b2/fp32/contiguous"] == 1.15


MEMORY_ROW = Row("memory/x", "", lambda *_: [], bar=1.4)


def test_each_candidates_memory_is_asked_of_a_process_of_its_own(monkeypatch):
    asked = []

    def answer(command: list[str], **rest: object) -> subprocess.CompletedProcess:
        task = json.loads(command[-1])
        asked.append((task["candidate"], task["shape"]["channels"], task["threads"]))
        return subprocess.CompletedProcess(
            command, 0, {"rolling": "300", "plain": "200"}[asked[-1][0]]
        )

    monkeypatch.setattr(bench_memory, "STATUS", Path(__file__))
    monkeypatch.setattr(subprocess, "run", answer)
    (result,) = bench_memory.measure_memory(MEMORY_ROW, setting(), Shape(16, 32))
    assert asked == [("rolling", 16, 1), ("plain", 16, 1)]
    assert (result.value, result.met) == (1.5, False)
    monkeypatch.setattr(
        subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", "x")
    )
    with pytest.raises(RuntimeError, match="ended with x"):
        bench_memory.measure_memory(MEMORY_ROW, setting(), Shape(16, 32))
    monkeypatch.setattr(bench_memory, "STATUS", Path("/nowhere"))
    with pytest.raises(SkipRow, match="lacks"):
        bench_memory.measure_memory(MEMORY_ROW, setting(), Shape(16, 32))


@pytest.mark.slow
def test_a_layers_memory_is_at_least_its_tensors():
    if not bench_memory.STATUS.exists():
        pytest.skip("needs /proc")
    (result,) = bench_memory.measure_memory(MEMORY_ROW, setting(), Shape(16, 48))
    least = 4 * 2 * 16 * 48**3 * 4 / 2**20  # x, the result and the gradients of both
    peaks = [float(part.split()[1]) for part in result.note.split(", ")]
    assert all(least < peak < 4 * least for peak in peaks)


def test_rows_for_a_gpu_run_dry_on_the_cpu(monkeypatch):
    """Shapes in small, a clock that needs no device, and CuPy said to be there."""
    monkeypatch.setattr(kernels, "load_cupy", lambda: None)
    monkeypatch.setattr(bench_gpu, "CudaClock", lambda device, queued: CpuClock())
    monkeypatch.setattr(bench_gpu, "device_activities", lambda call: [call(), "b"][1:])
    how = Setting(CPU, CpuClock(), 1, least=0.0)
    for row in bench_gpu.cuda_rows():
        shape = row.measure.keywords["shape"]
        if row.dtype == "bf16" and row.group == "layer" or row.group == "memory":
            continue
        tiny = replace(shape, channels=8, side=3, batch=2)
        for result in row.measure.func(row, how, shape=tiny):
            assert result.value > 0, row.name
            assert result.unit
