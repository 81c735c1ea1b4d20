"""Claims about where work is done: every item once, whatever dies, holds or ends on the way."""

import importlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth3d.completion import (
    CompleteRequest,
    HeldElsewhere,
    InThisProcess,
    Processes,
    open_executor,
    why_lost,
    work_through,
)
from synth3d.completion.workers import executor as module
from synth3d.errors import InputError

UNITS = """
import os, pathlib, signal, subprocess, sys, time
from synth3d.errors import InputError

def note(folder, name):
    with (pathlib.Path(folder) / name).open("a") as file:
        file.write(f"{os.getpid()}\\n")

def work(folder, name):
    note(folder, name)
    if name == "refused":
        raise InputError("not this one")
    if name == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "unlucky" and len((pathlib.Path(folder) / name).read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    return name.upper()

def wait_for_a_program(folder, name):
    program = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    (pathlib.Path(folder) / name).write_text(str(program.pid))
    try:
        program.wait()
    finally:
        program.terminate()
        program.wait()

class Stubborn(Exception):
    def __init__(self, one, two):
        super().__init__("cannot be sent")

def fail(folder, name):
    raise Stubborn(1, 2)
"""


@pytest.fixture
def units(tmp_path, monkeypatch):
    """A module that worker processes can import."""
    (tmp_path / "units_of_work.py").write_text(UNITS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("units_of_work")
    sys.modules.pop("units_of_work")


def test_a_process_that_dies_takes_only_its_work_along_which_is_done_again(units, tmp_path):
    names = ["a", "deadly", "b", "unlucky", "refused", "c"]
    with Processes(2) as pool:
        found = dict(work_through(pool, partial(units.work, tmp_path), names))
    assert {name: found[name].result() for name in "abc"} == {"a": "A", "b": "B", "c": "C"}
    assert found["unlucky"].result() == "UNLUCKY"
    assert isinstance(found["refused"].exception(), InputError)
    assert str(found["refused"].exception()) == "not this one"
    told = why_lost(found["deadly"].exception())
    assert "SIGKILL" in told
    assert "GiB" in told
    tries = {name: len((tmp_path / name).read_text().split()) for name in names}
    assert tries == {"a": 1, "b": 1, "c": 1, "refused": 1, "unlucky": 2, "deadly": 2}


def test_an_error_that_cannot_be_sent_is_told_all_the_same(units, tmp_path):
    with Processes(1) as pool, pytest.raises(RuntimeError, match="Stubborn: cannot be sent"):
        pool.submit(units.fail, tmp_path, "x").result()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_an_interruption_ends_the_workers_and_their_programs_and_begins_no_more(units, tmp_path):
    names, programs = ["first", "second", "third"], []

    def tick(running, left):
        paths = [tmp_path / name for name in names]
        begun = [text for path in paths if path.exists() and (text := path.read_text())]
        if len(begun) == 2:
            programs.extend(map(int, begun))
            raise KeyboardInterrupt

    unit = partial(units.wait_for_a_program, tmp_path)
    with pytest.raises(KeyboardInterrupt), Processes(2) as pool:
        list(work_through(pool, unit, names, tick))
    assert len(programs) == 2
    assert not any(map(alive, programs))
    assert not (tmp_path / "third").exists()


def test_workers_and_their_programs_end_with_a_process_that_is_killed(units, tmp_path):
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import units_of_work
        from synth3d.completion import Processes
        if __name__ == "__main__":
            with Processes(1) as pool:
                pool.submit(units_of_work.wait_for_a_program, {str(tmp_path)!r}, "pid").result()
    """
    (tmp_path / "program.py").write_text(code)
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py"])
    end = time.monotonic() + 120
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    program, end = int((tmp_path / "pid").read_text()), time.monotonic() + 30
    while alive(program):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("make", [InThisProcess, partial(ThreadPoolExecutor, 3)])
def test_what_another_process_holds_is_done_when_that_has_ended(make, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.01)
    lock, tries, told = threading.Lock(), dict.fromkeys("abcd", 0), []

    def unit(name):
        with lock:
            tries[name] += 1
        if name in "bd" and tries[name] < 3:
            raise HeldElsewhere(name)
        return name * 2

    with make() as pool:
        done = work_through(pool, unit, "abcd", on_held=lambda held: told.append(sorted(held)))
        assert {item: future.result() for item, future in done} == {i: i * 2 for i in "abcd"}
    assert tries == {"a": 1, "b": 3, "c": 1, "d": 3}
    assert told == [["b", "d"]] * 2


def test_leaving_takes_back_what_was_not_begun():
    begun, go = [], threading.Event()

    def unit(number):
        begun.append(number)
        go.wait(20 if number else 0)

    with ThreadPoolExecutor(1) as pool:
        for _ in work_through(pool, unit, range(9)):
            break
        go.set()
    assert len(begun) <= 2


def test_a_cluster_that_is_not_there_is_told_in_a_sentence(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://x", "127.0.0.1:port"):
        with pytest.raises(InputError, match="no Dask scheduler"), open_executor(dask=address):
            pass


@given(st.integers(0, 60), st.integers(1, 70))
def test_the_parts_are_the_whole_and_about_equal(cases, parts):
    def share(number):
        place = {"data": "in", "out": "out", "missing": ("t2f",), "plumbing": True}
        return list(range(cases))[CompleteRequest(**place, part=f"{number}/{parts}").share]

    shares = [share(number) for number in range(1, parts + 1)]
    assert sorted(sum(shares, [])) == list(range(cases))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_signal_that_ends_a_worker_is_named():
    with Processes(1) as pool:
        assert "exit code 3" in why_lost(pool.submit(os._exit, 3).exception())
        assert "SIGABRT" in why_lost(pool.submit(os.abort).exception())
    assert why_lost(ValueError()) == why_lost(None) == ""
