"""JSON of our own that somebody changed by hand is refused; that nothing breaks is fuzzed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from seg_eval.records import read_config, read_image_scores, read_scores, read_times
from synth3d.errors import InputError

pytestmark = pytest.mark.usefixtures("plain_pictures")


def rows_of(folder: Path, name: str) -> tuple[Path, list[dict[str, Any]], dict[str, str]]:
    """The file, its rows, and the patient of each of its cases."""
    path = folder / "scores" / "copy" / name
    rows = json.loads(path.read_text())
    return path, rows, {row["case"]: row["patient"] for row in rows}


def test_scores_of_other_cases_seeds_or_arms_are_refused(run_toy, folder):
    run_toy("--arms", "copy")
    path, rows, cases = rows_of(folder, "seed0.json")
    fewer = dict(list(cases.items())[1:])
    others = dict.fromkeys(cases, "somebody")
    assert [row.dice for row in read_scores(path, "copy", 0, cases)] == [r["dice"] for r in rows]
    for arm, seed, known in (
        ("copy", 1, cases), ("zero", 0, cases), ("copy", 0, fewer), ("copy", 0, others),
    ):  # fmt: skip
        with pytest.raises(InputError, match="its rows are not those of this arm's cases"):
            read_scores(path, arm, seed, known)
    for damaged in ([*rows, rows[0]], [rows[0] | {"dice": 5.0}, *rows[1:]]):
        path.write_text(json.dumps(damaged))
        with pytest.raises(InputError, match="its rows are not those"):
            read_scores(path, "copy", 0, cases)
    for value, expected in ((None, "float, got None"), (math.nan, "a finite number, got nan")):
        path.write_text(json.dumps([rows[0] | {"dice": value}, *rows[1:]]))
        with pytest.raises(InputError, match=rf"seed0.json\[0\].dice: expected {expected}"):
            read_scores(path, "copy", 0, cases)


def test_image_scores_of_other_cases_or_without_a_score_are_refused(run_toy, folder):
    run_toy("--arms", "copy")
    path, rows, cases = rows_of(folder, "images.json")
    flair, other = (dict.fromkeys(cases, [name]) for name in ("t2f", "t1c"))
    assert read_image_scores(path, "copy", cases, flair) == rows
    for known, missing in ((cases, other), (dict.fromkeys(cases, "somebody"), flair)):
        with pytest.raises(InputError, match="its rows are not those"):
            read_image_scores(path, "copy", known, missing)
    shorter = {name: value for name, value in rows[0].items() if name != "psnr_brain@own-scale"}
    for row in (shorter, rows[0] | {"jaccard": 1.0}, rows[0] | {"psnr_brain@own-scale": "x"}):
        path.write_text(json.dumps([row, *rows[1:]]))
        with pytest.raises(InputError, match="its rows are not those"):
            read_image_scores(path, "copy", cases, flair)


@pytest.mark.parametrize("name", ["config.json", "case_files.json", "segmenters.json"])
def test_nobody_is_told_to_remove_what_guards_the_folder(run_toy, folder, name):
    """Without them, an experiment would go on with other files, segmenters or settings."""
    flags = ("--arms", "copy")
    run_toy(*flags)
    (folder / name).write_text("[]")
    with pytest.raises(InputError, match=f"{name} is damaged.*restore it, or give another --name$"):
        run_toy(*flags)


def test_seconds_that_were_lost_are_not_missed(run_toy, folder):
    flags = ("--arms", "copy")
    run_toy(*flags)
    (folder / "times.json").unlink()
    run_toy(*flags)
    assert read_times(folder).seconds.keys() <= {"segmenter frozen"}


def test_a_new_folder_is_about_nothing(tmp_path):
    assert read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"arms": {"zero": 3}}')
    with pytest.raises(InputError, match=r"config.json is damaged: arms.zero: expected a table"):
        read_config(tmp_path)
