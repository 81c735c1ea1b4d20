"""Whatever a file holds it is understood or refused, and whenever a program is killed it goes on.

Zero crashes, hangs over 30 s, peaks over 4 GB, half-written files and changed inputs, in 20 000
tries in process, 300 whole commands and 100 kills; a tenth of each by default. A try follows from
its number: ``python -m tests.fuzz.worker readers 123 124 FOLDER`` does number 123 again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_MEMORY = 4 * 2**30


def tries(most: int) -> list:
    """First and last number: a tenth, and the rest only in ``make test-full``."""
    rest = pytest.param(most // 10, most, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])
    return [(0, most // 10), rest]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the corpus is made by the first process that needs it."""
    return tmp_path_factory.mktemp("fuzz")


def run(module: str, *words: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", f"tests.fuzz.{module}", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def sweep(kind: str, first: int, last: int, folder: Path) -> list[str]:
    """What went wrong in the tries ``first`` to ``last``; a process that dies is begun again."""
    faults, report = [], folder / "report"
    while first < last:
        report.unlink(missing_ok=True)
        done = run("worker", kind, first, last, folder)
        text = report.read_text() if report.is_file() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        faults += [f"{kind} {x['number']} {x['kept']}: {x['fault']}" for x in lines if "fault" in x]
        begun = [line["begun"] for line in lines if "begun" in line]
        if not begun:
            return [*faults, done.stderr]
        first = begun[-1] + 1
        if done.returncode:
            faults.append(f"{kind} {begun[-1]} ended all: {done.returncode} {done.stderr[-3000:]}")
        else:
            assert lines[-1]["peak"] < MOST_MEMORY
            assert first == last
    return faults


@pytest.mark.parametrize(("first", "last"), tries(20_000))
def test_every_reader_understands_a_mutated_file_or_refuses_it_in_a_sentence(first, last, folder):
    assert not sweep("readers", first, last, folder)


@pytest.mark.parametrize(("first", "last"), tries(300))
def test_every_command_on_a_mutated_file_ends_well_or_with_one_sentence(first, last, folder):
    assert not sweep("commands", first, last, folder)


@pytest.mark.parametrize(("first", "last"), tries(100))
def test_a_program_killed_at_random_ends_as_if_nothing_had_happened(first, last, folder):
    done = run("kills", last - first, first, folder)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert not told["wrong"]
    assert sum(told["killed"].values()) >= last - first
    assert all(told["killed"].values())
