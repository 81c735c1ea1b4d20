"""docs/summary-schema.md and a real summary name the same keys, both ways."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from seg_eval.scoring.scores import Score
from tests.seg_eval.report.conftest import PRIMARY

SCHEMA = Path(__file__).parents[3] / "docs" / "summary-schema.md"
FREE_FORM = {
    "config", "notes", "uncertainty", "seconds", "peak_memory_mb", "versions", "hashes", "commands",
    "pictures", "cases", "transfer", "setting",
}  # fmt: skip
PLACEHOLDERS = {
    "regions": "<region>", "arms": "<arm>", "metrics": "<metric>", "replicates": "<arm>",
    "centres": "<centre>",
}  # fmt: skip


def paths_of(value, path=""):
    """Every key of a summary, as the document writes it."""
    if isinstance(value, dict):
        parent = path.rsplit(".", 1)[-1]
        for key, inside in value.items():
            name = PLACEHOLDERS.get(parent, key)
            name = {"images": "<arm>", "dice_change": "<region>"}.get(parent, name)
            name = "<score>" if path == "images.<arm>" else name
            yield from paths_of(inside, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inside in value:
            yield from paths_of(inside, path + "[]")
    else:
        yield path


def documented(section):
    """Keys of the document's tables; "`a.b`, `.c`" stands for a.b and a.c."""
    text = SCHEMA.read_text(encoding="utf-8").split(f"\n## {section}")[1].split("\n## ")[0]
    found = []
    for line in re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE):
        first, *others = re.findall(r"`(.*?)`", line)
        found += [first, *(first.rsplit(".", 1)[0] + other for other in others)]
    return found


@pytest.fixture
def whole(make_scores, make_summary, images):
    """Makes a summary without a null or an empty list: some case lacks the region.

    One arm is two trainings.
    """
    scores = [row for row in make_scores(cases=8, seeds=3) if row.region == "WT"]
    lacks = scores[0].case
    scores = [replace(row, reference_voxels=0) if row.case == lacks else row for row in scores]
    scores = [
        replace(row, replicate=run if row.arm == PRIMARY else "")
        for row in scores for run in (("a", "b") if row.arm == PRIMARY else ("",))
    ]  # fmt: skip
    centres = {row.case: f"centre {int(row.case[9:11]) % 3}" for row in scores}
    return lambda: make_summary(scores, images, centres)


def test_the_document_names_every_key_and_no_other(whole):
    summary = json.loads(json.dumps(whole(), allow_nan=False))
    real = set(paths_of({key: value for key, value in summary.items() if key not in FREE_FORM}))
    named = [key for key in documented("Keys") if key != "plumbing"]  # the object or null
    assert len(named) == len(set(named))
    assert set(named) - FREE_FORM == real
    assert set(named) >= FREE_FORM == summary.keys() - {key.split(".")[0].removesuffix("[]")
                                                        for key in real}  # fmt: skip


def test_the_document_names_every_column_of_the_results():
    assert documented("`results.csv`") == list(Score.__dataclass_fields__)


def test_a_summary_is_plain_json_and_the_same_each_time(whole):
    first, second = (json.dumps(whole(), allow_nan=False) for _ in range(2))
    assert first == second
    assert json.loads(first)["schema"] == 6
