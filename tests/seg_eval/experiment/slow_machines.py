"""Runs `seg_eval run` on the toy cohort with stand-ins that take their time, to be killed.

python slow_machines.py COHORT SPLITS WORK
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import FakeMachines

from seg_eval.evaluation import evaluate
from seg_eval.experiment.request import RunRequest


def main(cohort: str, splits: str, work: str) -> int:
    """One call of the command."""
    engines = FakeMachines().engines()

    def load(model, threads):
        predict = engines.load_segmenter(model, threads)

        def slowly(channels, spacing):
            time.sleep(0.02)
            return predict(channels, spacing)

        return slowly

    asked = RunRequest(
        "flair",
        Path(cohort),
        Path(splits),
        work=Path(work),
        name="toy",
        arms=("copy,ridge,plumbing,specialist",),
        seeds="0,1",
        threads=1,
    )
    return evaluate(asked, replace(engines, load_segmenter=load)).code


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
