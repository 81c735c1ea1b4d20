"""Dice against how thick the slices are, from several finished experiments of one sequence.

Ratio 1 is the real sequence, and a sequence that is missing has slices without end: an experiment
of ``--missing`` is the last point. All must be of the same cases, judged by the same segmenters.
"""

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seg_eval.arms import floor_of
from seg_eval.report.context import Summary, asked
from seg_eval.report.outputs import read_summary
from seg_eval.report.page import fill, say, table
from seg_eval.report.pictures import AS_IT_IS, CurvePoint, draw_curve
from synth3d.errors import InputError
from synth3d.files import write_csv, write_text

COLUMNS = (
    "region", "line", "arm", "ratio", "dice", "low", "high", "recovery", "recovery_low",
    "recovery_high", "experiment",
)  # fmt: skip
ALIKE = ("missing", "data", "train", "test", "preset", "segmenter", "seeds", "empty")
"""Keys of an experiment's configuration in which all must agree."""


def write_curve(folders: Sequence[Path], out: Path) -> str:
    """Write ``curve.csv``, ``curve.png`` and ``curve.md`` of finished experiments; the Markdown.

    Raises:
        InputError: Fewer than two, one that is not finished, or experiments that do not belong on
            one curve; the sentence says why. Nothing is written.
    """
    summaries = {folder: read_summary(folder) for folder in folders}
    if len(summaries) < 2:
        raise InputError("a curve wants two experiments or more, of different ratios")
    _refuse_strangers(summaries)
    ratios = {folder: _ratio(summary) for folder, summary in summaries.items()}
    for ratio, count in Counter(ratios.values()).items():
        if count > 1:
            same = ", ".join(str(folder) for folder in folders if ratios[folder] == ratio)
            raise InputError(f"{same} are of one ratio; give one experiment for each")
    order = sorted(summaries, key=lambda folder: ratios[folder])
    rows = [row for folder in order for row in _rows(folder, summaries[folder], ratios[folder])]
    first = summaries[order[0]]
    text = io.StringIO()
    write_csv(text, rows, COLUMNS)
    groups = {arm["name"]: arm["group"] for each in summaries.values() for arm in each["arms"]}
    title = say("curve", q=asked(first), cases=len(first["config"]["test"]))
    points = [
        CurvePoint(
            r["region"],
            r["line"],
            groups[r["arm"]],
            float(r["ratio"]),
            r["dice"],
            r["low"],
            r["high"],
        )
        for r in rows
    ]
    told = [table("curve", region=region, rows=rows) for region in first["regions"]]
    page = fill("curve.md.j2", {"title": title, "tables": [t for t in told if t]})
    write_text(out / "curve.csv", text.getvalue())
    draw_curve(points, title, out / "curve.png")
    write_text(out / "curve.md", page)
    return page


def _refuse_strangers(summaries: Mapping[Path, Summary]) -> None:
    """Stop at an experiment of another sequence, other cases, other axes or another judge."""
    (first, one), *others = summaries.items()
    for folder, other in others:
        keys = [key for key in ALIKE if one["config"].get(key) != other["config"].get(key)]
        judges = [
            {
                name: value
                for name, value in each["hashes"].items()
                if name.startswith("segmenter frozen-")
            }
            for each in (one, other)
        ]
        if judges[0] != judges[1]:
            keys.append("the frozen segmenter")
        if keys:
            raise InputError(f"{first} and {folder} differ in {', '.join(keys)}: no curve of both")
    thick = [how for each in summaries.values() if (how := asked(each)["degraded"])]
    if len({how["profile"] for how in thick}) > 1:
        raise InputError("the experiments have slices of several profiles; give those of one")
    if len({tuple(by > 1 for by in how["ratio"]) for how in thick}) != 1:
        raise InputError(
            "the experiments are not of thick slices along the same axes; give those of one"
        )


def _ratio(summary: Summary) -> float:
    """The largest of the three; infinite for a sequence that is missing."""
    how = asked(summary)["degraded"]
    return float(max(how["ratio"])) if how else math.inf


def _rows(folder: Path, summary: Summary, ratio: float) -> list[dict[str, Any]]:
    """A row for each region and arm; ``line`` joins the arms of several experiments.

    An arm stands for its kind, or for itself where there are several of it; the floor is one line,
    and the check of the export path is none.
    """
    floor = floor_of(bool(asked(summary)["degraded"]))
    kinds = Counter(arm["kind"] for arm in summary["arms"])
    lines = {
        arm["name"]: arm["kind"] if kinds[arm["kind"]] == 1 else arm["name"]
        for arm in summary["arms"]
        if arm["group"] != "check"
    }
    lines[floor] = AS_IT_IS
    rows = []
    for region, found in summary["regions"].items():
        for arm in lines:
            cell = found["arms"][arm]
            dice, share = cell["metrics"]["dice"], cell["recovery"] or {}
            rows.append({
                "region": region, "line": lines[arm], "arm": arm, "ratio": f"{ratio:g}",
                "dice": cell["dice"], "low": dice["low"], "high": dice["high"],
                "recovery": share.get("value"), "recovery_low": share.get("low"),
                "recovery_high": share.get("high"), "experiment": folder.name,
            })  # fmt: skip
    return rows
