"""What a command tells people, scripts and machines."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth3d import console
from synth3d.errors import InputError, run_guarded
from synth3d.files import progress

ROOT = Path(__file__).parents[2]


class Asked:
    """What a command line gives a command."""

    def __init__(self, manner: str) -> None:
        self.manner, self.words = manner, "synth3d try"


def told(manner, command, capsys):
    """(exit code, standard output, standard error) of a command that tells in a manner."""
    code = run_guarded(lambda args: command(), Asked(manner))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def busy():
    print("one thing")
    print("note: two things", file=sys.stderr)
    print("warning: three things")
    console.step(2, 7, "training", 300)
    for _ in progress(range(3), "counting", unit="case"):
        pass
    console.conclude(path="out/there", cases=3)
    return 0


def test_as_events_every_line_is_an_object_and_the_last_one_is_the_end(capsys):
    code, out, err = told("json", busy, capsys)
    events = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [one["event"] for one in events] == [
        "begin", "message", "message", "message", "step", "progress", "end",
    ]  # fmt: skip
    assert events[0]["command"] == "synth3d try"
    assert [one["level"] for one in events[1:4]] == ["info", "note", "warning"]
    assert events[4] | {"time": 0} == {
        "event": "step", "time": 0, "number": 2, "of": 7, "what": "training", "estimate_s": 300,
    }  # fmt: skip
    assert (events[5]["done"], events[5]["total"], events[5]["unit"]) == (3, 3, "case")
    assert events[-1]["exit_code"] == 0
    assert events[-1]["error"] is None
    assert (events[-1]["path"], events[-1]["cases"]) == ("out/there", 3)


def test_quiet_leaves_warnings_and_last_where_the_result_is(capsys):
    code, out, err = told("quiet", busy, capsys)
    assert (code, out, err) == (0, "out/there\n", "warning: three things\n")


@pytest.mark.parametrize("manner", ["words", "quiet"])
def test_what_was_asked_for_is_printed_quiet_or_not(manner, capsys):
    def plans():
        print("by the way")
        console.answer("two hours\nto be written there")
        return 0

    code, out, err = told(manner, plans, capsys)
    assert (code, err) == (0, "")
    assert out.removeprefix("by the way\n") == "two hours\nto be written there\n"
    assert ("by the way" in out) == (manner == "words")


def test_in_words_a_step_says_how_far_it_is_and_how_long_it_takes(capsys):
    code, out, err = told("words", busy, capsys)
    assert "step 2 of 7: training (about 5 min)" in out
    assert code == 0
    assert "counting" not in err  # it took no time


@pytest.mark.parametrize("manner", ["json", "quiet"])
def test_a_refusal_is_on_standard_error_and_in_the_last_event(manner, capsys):
    def refuses():
        raise InputError("no folder there")

    code, out, err = told(manner, refuses, capsys)
    assert (code, err) == (2, "error: no folder there\n")
    if manner == "json":
        last = json.loads(out.splitlines()[-1])
        assert (last["event"], last["exit_code"]) == ("end", 2)
        assert last["error"] == "no folder there"
    assert console.manner() == "words"  # as before


def test_a_fault_of_ours_is_an_end_too_and_keeps_its_traceback(capsys):
    def fails():
        raise KeyError("ours")

    with pytest.raises(KeyError):
        run_guarded(lambda args: fails(), Asked("json"))
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("end", 1)
    assert "KeyError" in last["error"]


def test_whatever_else_writes_to_standard_output_never_comes_among_events():
    """A program or a library that knows the file descriptor alone."""
    code = """if True:
        import os, subprocess, sys
        from synth3d.errors import run_guarded
        class Asked: manner, words = "json", "try"
        def command(args):
            os.write(1, b"from C\\n")
            subprocess.run(["echo", "from a program"])
            print("from Python")
            return 0
        sys.exit(run_guarded(command, Asked()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == [
        "begin", "message", "end",
    ]  # fmt: skip
    assert "from C" in done.stderr
    assert "from a program" in done.stderr


def test_one_of_several_processes_alone_tells_events(monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "RANK", "1")
    code, out, _ = told("json", busy, capsys)
    assert (code, out) == (0, "")


def test_another_programs_events_are_passed_on_under_its_name(capsys):
    def relays():
        console.relay('{"event": "step", "number": 1}\n', "synth3d train")
        console.relay("no event at all\n", "synth3d train")
        console.relay("[1, 2]\n", "synth3d train")
        return 0

    _, out, _ = told("json", relays, capsys)
    first, second, third = [json.loads(line) for line in out.splitlines()][1:-1]
    assert (first["number"], first["program"]) == (1, "synth3d train")
    assert (second["event"], second["text"]) == ("message", "no event at all")
    assert third["event"] == "message"


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    set_by_hand = Clock()
    monkeypatch.setattr(time, "monotonic", set_by_hand)
    return set_by_hand


def lines_of(clock, capsys, steps, seconds):
    for _ in progress(range(steps), "doing", unit="case"):
        clock.now += seconds
    return [line for line in capsys.readouterr().err.splitlines() if "doing" in line]


def test_a_log_has_nothing_of_what_is_short_and_ever_less_of_what_is_long(clock, capsys):
    assert lines_of(clock, capsys, 40, 0.1) == []
    assert len(lines_of(clock, capsys, 3, 2)) == 1
    assert len(lines_of(clock, capsys, 600, 1)) <= 7  # ten minutes
    assert len(lines_of(clock, capsys, 3600, 10)) <= 70  # ten hours


def test_what_is_left_says_no_more(clock, capsys):
    steps = progress(range(9), "doing")
    next(steps)
    clock.now += 9
    steps.close()
    assert capsys.readouterr().err == ""


def test_a_log_says_at_last_that_all_is_done(clock, capsys):
    first, *_, last = lines_of(clock, capsys, 100, 1)
    assert "left" in first
    assert "doing: 100/100" in last
    assert "left" not in last


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 300), st.integers(0, 5))
def test_all_steps_are_gone_through_in_every_manner(count, left_at):
    for manner in ("words", "quiet", "json"):
        with console.speaking(manner), open(os.devnull, "w") as nowhere:  # noqa: PTH123
            if manner == "json":
                console._NOW[-1].out = nowhere
            assert list(progress(iter(range(count)), "x", total=count)) == list(range(count))
            steps = progress(range(count), "x")
            assert [next(steps, None) for _ in range(left_at)] == [
                n if n < count else None for n in range(left_at)
            ]


def test_durations_and_sizes_in_words():
    words = [console.duration(s) for s in (3, 89.6, 600, 11100, 400000)]
    assert words == ["3 s", "90 s", "10 min", "3 h 05 min", "5 days"]
    assert [console.gigabytes(n) for n in (0, 4e8, 1.2e10)] == ["0.0 GB", "0.4 GB", "12 GB"]
    assert console.named("abc") == "a, b, c"
    assert console.named("abcdefgh") == "a, b, c, d, e, f and 2 more"
