"""Runs `seg_eval run` on the toy cohort with stand-ins that take their time, to be killed.

python slow_machines.py COHORT SPLITS WORK
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import FakeMachines
from seg_eval.run import run_command

from seg_eval.cli import build_parser


def main(cohort: str, splits: str, work: str) -> int:
    """One call of the command."""
    engines = FakeMachines().engines()

    def load(model, threads):
        segmenter = engines.load_segmenter(model, threads)
        predict = segmenter.predict

        def slowly(channels, spacing):
            time.sleep(0.02)
            return predict(channels, spacing)

        segmenter.predict = slowly
        return segmenter

    flags = ["run", "--missing", "flair", "--data", cohort, "--splits", splits, "--work", work]
    flags += ["--arms", "copy,ridge,plumbing,specialist", "--seeds", "0,1", "--name", "toy"]
    args = build_parser().parse_args([*flags, "--threads", "1"])
    return run_command(args, replace(engines, load_segmenter=load))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
