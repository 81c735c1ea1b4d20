"""Claims about several workers on one cohort: real processes, kill -9, and odd executors."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

import synth3d
from synth3d.cohort.cases import find_cases
from synth3d.completion import local_executor, makers
from synth3d.completion.receipts import Layout, write_dataset_json
from synth3d.files import claim, sha256

CASES = 6
PATIENCE_S = 120


@pytest.fixture(scope="module")
def expected(phantom_cohort, tmp_path_factory):
    """FLAIR of the phantom cohort sent through, by one process; the files' hashes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    settings = {"data": phantom_cohort, "missing": ["flair"], "plumbing": True}
    synth3d.complete(out=out, **settings)
    return contents(out)


@pytest.fixture
def start(phantom_cohort):
    """Begin ``synth3d complete`` on the phantom cohort in a process of its own."""
    begun = []

    def begin(out, *flags):
        order = [sys.executable, "-m", "synth3d", "complete", "--data", phantom_cohort, "--out",
                 out, "--plumbing", "--missing", "flair", "--threads", "1", *flags]  # fmt: skip
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        begun.append(subprocess.Popen(list(map(str, order)), start_new_session=True, **pipe))
        return begun[-1]

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def contents(out):
    """Hash of every image and of dataset.json; receipts have times in them."""
    names = [path for path in out.rglob("*") if path.name.endswith((".nii.gz", "dataset.json"))]
    return {str(path.relative_to(out)): sha256(path) for path in names}


def wait_for(ready):
    end = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def left_over(out):
    hidden = (path for path in out.rglob(".*") if path.is_file())
    return [path.name for path in hidden]


@pytest.mark.parametrize("form", ["brats", "nnunet"])
def test_two_processes_share_a_cohort_and_wait_for_what_a_third_holds(
    start, expected, tmp_path, form
):
    out = tmp_path / "out"
    held = Layout(out, form).lock("Phantom-00000-000")
    with claim(held) as ours:
        assert ours
        pair = [start(out, "--format", form) for _ in range(2)]
        wait_for(lambda: len(list(out.rglob("*.receipt.json"))) == CASES - 1)
        time.sleep(0.3)
        assert [process.poll() for process in pair] == [None, None]
    told = [process.communicate(timeout=PATIENCE_S)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    made = [int(line.split(": ")[1].split()[0]) for text in told for line in text.splitlines()
            if "completed now" in line]  # fmt: skip
    assert sum(made) == CASES
    assert not left_over(out)
    receipts = [json.loads(path.read_text()) for path in out.rglob("*.receipt.json")]
    assert len(receipts) == CASES
    if form == "brats":
        assert contents(out) == expected
    else:
        assert len(find_cases(out)) == CASES


def test_kill_9_at_any_moment_then_a_rerun_gives_the_same_cohort(start, expected, tmp_path):
    out = tmp_path / "out"
    with claim(Layout(out, "brats").lock("Phantom-00005-000")):  # nobody ends before it is killed
        for files, flags in ((1, ()), (14, ("--jobs", "2"))):
            process = start(out, *flags)
            wait_for(lambda least=files: len(list(out.rglob("*.nii.gz"))) >= least)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    last = start(out)
    last.communicate(timeout=PATIENCE_S)
    assert last.returncode == 0
    assert contents(out) == expected
    assert not left_over(out)


def test_several_processes_of_one_command_make_the_same_cohort(start, expected, tmp_path):
    process = start(tmp_path / "out", "--jobs", "2")
    text = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, text
    assert contents(tmp_path / "out") == expected


class LastFirst(Executor):
    """Keeps what it is given, pickled, until somebody asks; then does it all, the last first."""

    def __init__(self):
        self.kept = []

    def submit(self, fn, /, *args, **kwargs):
        executor, future = self, Future()

        def result(timeout=None):
            while executor.kept:
                waiting, order = executor.kept.pop()
                task, given, named = pickle.loads(order)
                waiting.set_result(task(*given, **named))
            return Future.result(future)

        future.result = result
        self.kept.append((future, pickle.dumps((fn, args, kwargs))))
        return future


@pytest.mark.parametrize("executor", [LastFirst(), ThreadPoolExecutor(2), local_executor(1)])
def test_any_executor_makes_the_same_cohort_and_loads_the_run_once(
    ready, completed, tmp_path, monkeypatch, executor
):
    loaded, begin = [], makers.RunMaker.__init__

    def count(self, *args, **kwargs):
        loaded.append(1)
        begin(self, *args, **kwargs)

    monkeypatch.setattr(makers.RunMaker, "__init__", count)
    done = synth3d.complete(
        run=ready / "run", data=ready / "in", out=tmp_path, device="cpu", executor=executor
    )
    assert [one.state for one in done] == ["linked", "linked", "made", "made"]
    assert contents(tmp_path) == contents(completed)
    assert len(loaded) == 1


def test_two_writers_of_dataset_json_leave_one_file(ready, tmp_path):
    layout, cases, faults = Layout(tmp_path, "nnunet"), find_cases(ready / "in"), []

    def write():
        try:
            for _ in range(20):
                write_dataset_json(layout, cases, overwrite=False)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert json.loads((tmp_path / "dataset.json").read_text())["file_ending"] == ".nii.gz"
    assert not left_over(tmp_path)
