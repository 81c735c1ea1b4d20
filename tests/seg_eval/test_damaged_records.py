"""JSON of our own that somebody changed by hand: one sentence, or made again, never a traceback."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seg_eval.records import read_config, read_image_scores, read_scores
from seg_eval.start import run_command
from synth3d.files import InputError

pytestmark = pytest.mark.usefixtures("plain_pictures")

RECORDS = (
    "arm.json", "case_files.json", "commands.json", "config.json", "images.json", "seed0.json",
    "segmenters.json", "times.json",
)  # fmt: skip
"""Read back by the next call; ``summary.json`` and the splits are only written."""


def damages(value: Any) -> Iterator[Any]:
    """``value`` as something else, and with its first entry as something else, twice deep."""
    yield from ([], 3) if isinstance(value, dict) else ({}, [3])
    if isinstance(value, dict) and value:
        first = next(iter(value))
        yield {name: kept for name, kept in value.items() if name != first}
        for other in (None, [], "x"):
            yield value | {first: other}
        if isinstance(value[first], dict) and value[first]:
            yield value | {first: value[first] | {next(iter(value[first])): [None]}}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        yield value[1:]
        yield [*value, value[0]]
        for name in ("case", "arm", "patient", "region", "dice", "psnr"):
            if name in value[0]:
                yield [value[0] | {name: []}, *value[1:]]


def test_no_damage_of_a_record_is_a_traceback(toy_arguments, machines, folder):
    args = toy_arguments("--arms", "copy,synthetic")
    run_command(args, machines.engines())
    before = (folder / "results.csv").read_bytes()
    files = [path for path in sorted(folder.rglob("*.json")) if path.name in RECORDS]
    assert {path.name for path in files} == set(RECORDS)
    for path in {path.name: path for path in files}.values():
        sound = path.read_bytes()
        for damaged in damages(json.loads(sound)):
            path.write_text(json.dumps(damaged))
            with contextlib.suppress(InputError):
                run_command(args, machines.engines())
                assert (folder / "results.csv").read_bytes() == before, path
            path.write_bytes(sound)
        run_command(args, machines.engines())


def rows_of(folder: Path, name: str) -> tuple[Path, list[dict[str, Any]]]:
    path = folder / "scores" / "copy" / name
    return path, json.loads(path.read_text())


def test_scores_of_other_cases_seeds_or_arms_are_refused(toy_arguments, machines, folder):
    run_command(toy_arguments("--arms", "copy"), machines.engines())
    path, rows = rows_of(folder, "seed0.json")
    cases = sorted({row["case"] for row in rows})
    assert [row.dice for row in read_scores(path, "copy", 0, cases)] == [r["dice"] for r in rows]
    for arm, seed, names in (("copy", 1, cases), ("zero", 0, cases), ("copy", 0, cases[1:])):
        with pytest.raises(InputError, match="its rows are not those of this arm's cases"):
            read_scores(path, arm, seed, names)
    path.write_text(json.dumps([*rows, rows[0]]))
    with pytest.raises(InputError, match="its rows are not those"):
        read_scores(path, "copy", 0, cases)
    path.write_text(json.dumps([rows[0] | {"dice": None}, *rows[1:]]))
    with pytest.raises(InputError, match=r"seed0.json\[0\].dice: expected float, got None"):
        read_scores(path, "copy", 0, cases)


def test_image_scores_of_other_cases_or_without_a_score_are_refused(
    toy_arguments, machines, folder
):
    run_command(toy_arguments("--arms", "copy"), machines.engines())
    path, rows = rows_of(folder, "images.json")
    pairs = [(row["case"], "t2f") for row in rows]
    assert read_image_scores(path, "copy", pairs) == rows
    with pytest.raises(InputError, match="its rows are not those"):
        read_image_scores(path, "copy", [(case, "t1c") for case, _ in pairs])
    del rows[0]["psnr_brain"]
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match="its rows are not those"):
        read_image_scores(path, "copy", pairs)


def test_a_new_folder_is_about_nothing(tmp_path):
    assert read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"arms": {"zero": 3}}')
    with pytest.raises(InputError, match=r"config.json is damaged: arms.zero: expected a table"):
        read_config(tmp_path)
