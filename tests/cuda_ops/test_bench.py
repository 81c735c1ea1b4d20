"""The benchmark's command line: choice of rows, table, JSON, exit codes."""

import json
import os
from collections.abc import Iterator

import pytest
import torch

from cuda_ops import bench
from cuda_ops.bench_clock import CpuClock, Taken
from cuda_ops.bench_report import as_document, as_table, write_atomically
from cuda_ops.bench_rows import Result, Row, Setting, run, timed


class FakeClock:
    """A call takes as many seconds as it returns."""

    name = "fake seconds"

    def time(self, call, repeats: int) -> Taken:
        return Taken(call(), 2 * call())


def setting() -> Setting:
    return Setting(torch.device("cpu"), FakeClock(), 3)


def fake_row(name: str, **rest: object) -> Row:
    calls = {"rolling": lambda: 2.0, "plain": lambda: 1.0}
    return Row(name, "shape", lambda row, how: [timed(row, how, calls)], **rest)


def small_suite(device: torch.device) -> list[Row]:
    return [fake_row("a/one", bar=3.0, quick=True), fake_row("a/two", bar=1.5), fake_row("b/three")]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "rows", small_suite)
    monkeypatch.setattr(bench, "CpuClock", FakeClock)
    monkeypatch.setattr(bench, "keep_memory", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)


def test_list_prints_names_and_measures_nothing(fakes, monkeypatch, capsys):
    monkeypatch.setattr(bench, "measure", None)
    assert bench.main(["--list"]) == 0
    assert capsys.readouterr().out.split("\n") == ["a/one  (quick)", "a/two", "b/three", ""]
    assert bench.main(["--list", "--only", "*two", "--only", "a/t", "--only", "*ee"]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "nothing"], "--only nothing: no row has such a name"),
        (["--only", "two", "--quick"], "no row of --quick has"),
        (["--rounds", "0"], "whole number from 1, got '0'"),
        (["--threads", "many"], "whole number from 1, got 'many'"),
        (["--device", "tpu"], "cpu, cuda or cuda:N, got 'tpu'"),
        (["--device", "meta"], "cpu, cuda or cuda:N, got 'meta'"),
        (["--json", "/nowhere/at/all.json"], "a file cannot be written there"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_bad_arguments_are_told_in_one_sentence(words, told, fakes, capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(words)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told_in_one_sentence(capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["--device", "cuda", "--list"])
    assert end.value.code == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err


def test_check_turns_a_missed_bar_into_exit_code_1(fakes, capsys):
    assert bench.main([]) == 0
    out = capsys.readouterr()
    assert "1 of 2 bars met; missed: a/two." in out.out
    assert "[2/3] a/two: 2 ×, bar 1.5, MISSED" in out.err
    assert bench.main(["--check"]) == 1
    assert bench.main(["--check", "--quick"]) == 0
    assert bench.main(["--check", "--only", "b/"]) == 0


def test_check_also_minds_rows_that_fail(fakes, monkeypatch, capsys):
    def fail(row: Row, how: Setting) -> list[Result]:
        raise RuntimeError("broken | in two")

    monkeypatch.setattr(bench, "rows", lambda device: [Row("a", "shape", fail)])
    assert bench.main(["--check"]) == 1
    assert "failed: RuntimeError: broken \\| in two" in capsys.readouterr().out


def test_json_holds_everything_and_is_all_of_the_output(fakes, capsys):
    assert bench.main(["--json", "--rounds", "4", "--seed", "7"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["missed"] == ["a/two"]
    assert document["environment"]["complete"]
    facts = document["environment"]
    assert {"date", "commit", "hardware", "torch", "threads", "allocator", "clock", "load"} <= set(
        facts
    )
    assert (facts["rounds"], facts["seed"], facts["device"]) == (4, 7, "cpu")
    assert facts["command"] == "python -m cuda_ops.bench --json --rounds 4 --seed 7"
    row = document["rows"][1]
    assert (row["name"], row["value"], row["bar"], row["met"]) == ("a/two", 2.0, 1.5, False)
    assert row["seconds"]["plain"]["wall"] == 2.0
    assert {"dtype", "memory_format", "candidate", "baseline", "lowest", "rounds"} <= set(row)


def test_a_json_file_is_written_whole_beside_the_table(fakes, tmp_path, capsys, monkeypatch):
    path = tmp_path / "bench.json"
    assert bench.main(["--json", str(path)]) == 0
    assert "| a/two |" in capsys.readouterr().out
    before = path.read_text()
    assert len(json.loads(before)["rows"]) == 3
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, {})
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_run_keeps_what_it_had(fakes, tmp_path, capsys, monkeypatch):
    def stop(row: Row, how: Setting) -> list[Result]:
        assert json.loads(path.read_text())["rows"][0]["name"] == "a/one"  # a kill loses nothing
        raise KeyboardInterrupt

    path = tmp_path / "a.json"
    monkeypatch.setattr(
        bench, "rows", lambda device: [*small_suite(device)[:1], Row("z", "", stop)]
    )
    assert bench.main(["--json", str(path), "--check"]) == 130
    document = json.loads(path.read_text())
    assert [row["name"] for row in document["rows"]] == ["a/one"]
    assert not document["environment"]["complete"]
    out = capsys.readouterr()
    assert "not finished" in out.out
    assert "interrupted" in out.err


def test_the_table_is_markdown_with_a_line_per_result():
    results = [*run(fake_row("a", bar=3.0), setting()), *run(fake_row("c", bar=1.0), setting())]
    facts = bench.environment(setting(), "default", "cuda_ops.bench", ["--quick"])
    lines = as_table(facts, results).split("\n")
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert len({line.count("|") for line in rows}) == 1
    assert "**no**" in rows[3]
    assert as_document(facts, results)["missed"] == ["c"]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_real_run_measures_real_things(threads, capsys):
    """Two rows of the suite, one round: the whole path without a stand-in."""
    words = ["--only", "generate/3d-2x64/forward", "--only", "dispatch/2d/forward"]
    assert bench.main([*words, "--rounds", "1", "--allocator", "default", "--json"]) == 0
    generate, dispatch = json.loads(capsys.readouterr().out)["rows"]
    assert 0 < generate["value"] < 1
    assert generate["seconds"]["naive"]["clock"] > generate["seconds"]["rolled"]["clock"] > 0
    assert generate["clock"] == CpuClock.name
    assert dispatch["unit"] == "operations"
    assert 0 < dispatch["value"] <= 70
