"""Runs `seg_eval run` on the toy cohort with stand-ins that take their time, to be killed.

python slow_machines.py COHORT SPLITS WORK
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import FakeMachines, request

from seg_eval.evaluation import evaluate

engines = FakeMachines().engines()


def load(model, threads):
    predict = engines.load_segmenter(model, threads)
    return lambda channels, spacing: time.sleep(0.02) or predict(channels, spacing)


flags = ["--missing", "flair", "--seeds", "0,1", "--threads", "1", "--name", "toy"]
flags += ["--arms", "copy,ridge,plumbing,specialist"]
where = dict(zip(("data", "splits", "work"), map(Path, sys.argv[1:]), strict=True))
raise SystemExit(evaluate(request(*flags, **where), replace(engines, load_segmenter=load)).code)
