"""docs/extending-arm.md is done as it is written, in a copy, with stand-ins for the heavy work."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(diff|sh)\n(.*?)^```$", re.M | re.S)
CALL = """
import json, sys
from conftest import FakeMachines, request
from seg_eval.evaluation import evaluate
for flags in json.load(sys.stdin):
    assert evaluate(request(*flags), FakeMachines().engines()).code == 0
"""


def apply(difference: str, folder: Path) -> None:
    """Do an edit whose first line names its file; each part must fit in exactly one place."""
    name, hunks = difference.removeprefix("# ").split("\n", 1)
    path = folder / name
    text = path.read_text("utf-8")
    for hunk in hunks.split("@@\n"):
        old = "".join(f"{line[1:]}\n" for line in hunk.splitlines() if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in hunk.splitlines() if not line.startswith("-"))
        assert text.count(old) == 1, f"this part of an edit fits {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    path.write_text(text, "utf-8")


def test_the_page_is_done_as_it_is_written(toy_cohort, toy_splits, tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / "extending-arm.md").read_text("utf-8"))
    shutil.copytree(ROOT / "seg_eval", tmp_path / "seg_eval")
    for kind, text in blocks:
        if kind == "diff":
            apply(text, tmp_path)
    lines = [shlex.split(text)[2:] for kind, text in blocks if kind == "sh"]
    where = ["--data", str(toy_cohort), "--splits", str(toy_splits), "--work", str(tmp_path / "w")]
    calls = [[*line, *where, "--name", "toy", "--threads", "1"] for line in lines]
    paths = [tmp_path, ROOT, ROOT / "tests" / "seg_eval"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command, given = [sys.executable, "-c", CALL], json.dumps(calls)
    done = subprocess.run(
        command, input=given, env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "w" / "eval" / "toy" / "summary.json").read_text())
    assert {"average", "sieve"} <= {arm["name"] for arm in summary["arms"]}
    assert summary["notes"]["average"] == "the mean of t1n, t1c, t2w"
    assert "the mean of t1n, t1c, t2w" in done.stdout
