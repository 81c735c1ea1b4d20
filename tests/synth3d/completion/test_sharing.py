"""Claims about several workers on one cohort: real processes, kill -9, and odd executors."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import synth3d
from synth3d.cohort import find_cases
from synth3d.completion import InThisProcess, makers
from synth3d.completion.receipts import Layout, write_dataset_json
from synth3d.files import claim, sha256

PATIENCE_S = 120


@pytest.fixture(scope="module")
def cohort(phantom_cohort, tmp_path_factory):
    """Three of the phantoms."""
    folder = tmp_path_factory.mktemp("three") / "in"
    for case in sorted(phantom_cohort.glob("Phantom-*"))[:3]:
        shutil.copytree(case, folder / case.name)
    return folder


@pytest.fixture(scope="module")
def expected(cohort, tmp_path_factory):
    """FLAIR of the cohort sent through, by one process; the files' hashes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    synth3d.complete(out=out, data=cohort, missing=["flair"], plumbing=True)
    return contents(out)


@pytest.fixture
def start(cohort):
    """Begin ``synth3d complete`` in a process of its own."""
    begun = []

    def begin(out, *flags):
        order = [sys.executable, "-m", "synth3d", "complete", "--data", cohort, "--out", out,
                 "--plumbing", "--missing", "flair", "--threads", "1", *flags]  # fmt: skip
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


@pytest.mark.parametrize("form", ["brats", pytest.param("nnunet", marks=pytest.mark.slow)])
def test_two_processes_share_a_cohort_and_wait_for_what_a_third_holds(
    start, expected, tmp_path, form
):
    out = tmp_path / "out"
    with claim(Layout(out, form).lock("Phantom-00000-000")) as ours:
        assert ours
        pair = [start(out, "--format", form) for _ in range(2)]
        wait_for(lambda: len(list(out.rglob("*.receipt.json"))) == 2)
        time.sleep(0.3)
        assert [process.poll() for process in pair] == [None, None]
    told = "".join(process.communicate(timeout=PATIENCE_S)[0] for process in pair)
    assert [process.returncode for process in pair] == [0, 0]
    assert sum(map(int, re.findall(r"(\d+) completed now", told))) == 3
    assert len(list(out.rglob("*.receipt.json"))) == len(find_cases(out)) == 3
    assert form == "nnunet" or contents(out) == expected
    assert not left_over(out)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("files", [1, 6])
def test_kill_9_at_any_moment_then_a_rerun_gives_the_same_cohort(
    start, cohort, expected, tmp_path, files, workers
):
    out = tmp_path / "out"
    with claim(Layout(out, "brats").lock("Phantom-00002-000")):  # nobody ends before it is killed
        process = start(out, "--workers", workers)
        wait_for(lambda: len(list(out.rglob("*.nii.gz"))) >= files)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    again = synth3d.complete(out=out, data=cohort, missing=["flair"], plumbing=True)
    assert {one.state for one in again} <= {"made", "done"}
    assert contents(out) == expected
    assert not left_over(out)


def workers_of(process):
    """Ids of its worker processes that live."""
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    children = [child for one in threads for child in (one / "children").read_text().split()]
    lines = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [child for child, line in lines.items() if b"spawn_main" in line]


def test_ways_to_share_are_mixed_and_a_worker_is_killed(start, expected, tmp_path):
    out = tmp_path / "out"
    with claim(Layout(out, "brats").lock("Phantom-00002-000")):
        several, part = start(out, "--workers", "2"), start(out, "--part", "2/2")
        wait_for(lambda: len(list(out.rglob("*.receipt.json"))) == 2)
        os.kill(workers_of(several)[0], signal.SIGKILL)
    told = [process.communicate(timeout=PATIENCE_S)[0] for process in (several, part)]
    assert [several.returncode, part.returncode] == [0, 0], told
    # One that had just done its case may die before it can say so.
    assert sum(map(int, re.findall(r"(\d+) completed now", "".join(told)))) in (2, 3)
    assert contents(out) == expected
    assert not left_over(out)


class LastFirst(Executor):
    """Keeps what it is given, pickled, for a moment; then does it all, the last first."""

    def __init__(self):
        self.kept = []

    def submit(self, fn, /, *args, **kwargs):
        if not self.kept:
            threading.Timer(0.3, self.do_all).start()
        self.kept.append((Future(), pickle.dumps((fn, args, kwargs))))
        return self.kept[-1][0]

    def do_all(self):
        while self.kept:
            future, order = self.kept.pop()
            task, given, named = pickle.loads(order)
            future.set_result(task(*given, **named))


@pytest.mark.parametrize("executor", [LastFirst(), ThreadPoolExecutor(2), InThisProcess()])
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
    assert [one.state for one in done] == ["whole", "whole", "made", "made"]
    assert contents(tmp_path) == contents(completed)
    assert len(loaded) == 1


def test_two_writers_of_dataset_json_leave_one_file(ready, tmp_path):
    layout, cases = Layout(tmp_path, "nnunet"), find_cases(ready / "in")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: write_dataset_json(layout, cases, overwrite=False), range(80)))
    assert json.loads((tmp_path / "dataset.json").read_text())["file_ending"] == ".nii.gz"
    assert not left_over(tmp_path)


def test_a_dask_cluster_loses_a_worker_and_no_case(start, expected, tmp_path):
    distributed = pytest.importorskip("distributed")
    out = tmp_path / "out"
    quiet = {"dashboard_address": None, "silence_logs": "CRITICAL"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster:
        with claim(Layout(out, "brats").lock("Phantom-00001-000")):  # nobody ends before the kill
            process = start(out, "--dask", cluster.scheduler_address)
            wait_for(lambda: list(out.rglob("*.nii.gz")))
            pids = [worker.pid for worker in cluster.workers.values()]
            os.kill(pids[0], signal.SIGKILL)
        text = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, text
    assert contents(out) == expected
    assert not left_over(out)


@pytest.mark.parametrize("number", [2, 3])
def test_an_interrupt_in_the_network_lets_go_of_every_case_and_a_rerun_finishes(
    ready, completed, tmp_path, monkeypatch, number
):
    """The next case has been read by then, and the last is being written."""
    calls, real = [], makers.RunMaker.make

    def make(self, case, *args, **kwargs):
        calls.append(case.name)
        if case.name == f"Brats18_X_{number}_1":
            raise KeyboardInterrupt
        return real(self, case, *args, **kwargs)

    monkeypatch.setattr(makers.RunMaker, "make", make)
    how = {"run": ready / "run", "data": ready / "in", "out": tmp_path / "out", "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        synth3d.complete(**how)
    assert len(list(tmp_path.rglob("*.receipt.json"))) == number
    assert not left_over(tmp_path)
    monkeypatch.undo()
    again = synth3d.complete(**how)
    states = ["whole"] * 2 + ["done"] * (number - 2) + ["made"] * (4 - number)
    assert [one.state for one in again] == states
    assert contents(tmp_path / "out") == contents(completed)
