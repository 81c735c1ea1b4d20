"""The cohort that is multiplied, and memory that is counted once."""

import os
import subprocess
import sys

from synth3d.cohort import find_cases, read_splits
from synth3d.experiments.bench.footprint import memory_of, multiply


def test_a_cohort_is_multiplied_by_links_of_which_one_case_is_on_one_side(phantom_cohort, tmp_path):
    own = find_cases(phantom_cohort)[:3]
    data, path = multiply(own, 7, tmp_path)
    cases = find_cases(data)
    splits = read_splits(path, cases)
    assert (len(cases), len(splits.train), len(splits.val), len(splits.test)) == (7, 5, 2, 0)
    sides = {case.images["t1n"].resolve(): case.name in splits.val for case in cases}
    assert sorted(sides.values()) == [False, False, True]
    assert {path for path in sides} == {case.images["t1n"].resolve() for case in own}
    assert all(len(case.images) == 4 and case.label for case in cases)


def test_the_memory_of_a_process_includes_what_it_started():
    code = "held = bytearray(200_000_000); print(flush=True); input()"
    shell = f"{sys.executable} -c '{code}'; true"  # so that the shell stays
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    before = memory_of(os.getpid())
    with subprocess.Popen(shell, shell=True, **pipes) as program:
        assert program.stdout is not None
        program.stdout.readline()
        within, here = memory_of(program.pid), memory_of(os.getpid())
        program.communicate(b"\n")
    assert 200e6 < within < 400e6
    assert here > before + 190e6
