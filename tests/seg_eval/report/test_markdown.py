import csv
import dataclasses
import json
from dataclasses import dataclass

import pytest

from seg_eval.analysis.names import COMMON_NAMES
from seg_eval.analysis.summary import summarise
from seg_eval.report.markdown import render, render_overview, write_image_scores, write_scores
from seg_eval.scoring.image_scores import IMAGE_SCORES
from seg_eval.scoring.scores import Score


@dataclass(frozen=True)
class Arm:
    name: str
    kind: str
    segmenter: str = "frozen"


MEANS = {"full": 0.9, "zero": 0.3, "ridge": 0.6, "agi": 0.75, "plumbing": 0.9, "dropout": 0.8}
ARMS = [Arm(name, "synthetic" if name == "agi" else name) for name in MEANS]


def make_scores(means=MEANS, cases=6, region="WT", seeds=2):
    return [
        Score(
            f"c{i}", f"p{i}", arm, seed, region,
            mean + (0.02 if arm == "agi" else 0.01) * (i % 3 - 1) + 0.002 * seed,
            30 * (1 - mean) + i, mean, mean, 50.0, 1, 1, 0, mean, None, 10.0, 9.0, -1.0, 10, 9,
        )
        for arm, mean in means.items()
        for i in range(cases)
        for seed in range(seeds)
    ]  # fmt: skip


def make_images():
    values = {name: 0.5 for name in IMAGE_SCORES} | {"psnr_tumour": None}
    return [
        {"case": f"c{i}", "patient": f"p{i}", "arm": arm, "modality": "t2f"}
        | values | {"mae_tumour": 0.1 + 0.01 * i}
        for arm in ("ridge", "agi", "plumbing")
        for i in range(6)
    ]  # fmt: skip


def make_summary(scores=None, missing=("t2f",), arms=ARMS, seeds=2, images=(), **means):
    rows = scores or make_scores(MEANS | means, seeds=seeds)
    summary = summarise(rows, images or make_images(), arms, resamples=300, missing=missing) | {
        "config": {
            "missing": list(missing), "test": ["a"] * 6, "train": ["b"] * 9, "data": "COHORT",
            "preset": "cpu-mini", "segmenter": None, "seeds": list(range(seeds)),
        },
        "notes": {"ridge": "fitted on 9 cases", "agi": ""},
    }  # fmt: skip
    return json.loads(json.dumps(summary, allow_nan=False))


def test_the_sentence_stands_on_top():
    summary = make_summary()
    lines = render(summary).splitlines()
    assert lines[0] == "# Dice recovery without FLAIR (t2f)"
    assert lines[2] == f"**{summary['headline']['sentence']}**"
    assert lines[4] == (
        "6 test cases of COHORT; segmenter cpu-mini trained on 9 real cases, seeds 0, 1."
    )


def test_all_parts_are_there():
    text = render(make_summary())
    for part in (
        "75 % [74, 76]", "ceiling", "floor", "Plumbing check passed",
        "Warning: only 6 test cases of 6 patients",
        "WT: blanking it costs 0.600 [0.600, 0.600] Dice over 6 cases of 6 patients.",
        "## Dice of each segmenter seed (0, 1)", "0.750 0.752", "recovered, %", "75 75",
        "HD95 mm (median)", "Lesion-wise Dice", "Volume error mL",
        "## Tests", "p (Holm)", "two-sided",
        "+0.150 (< +0.15", "Spearman", "fitted on 9 cases",
        "- dropout: FLAIR blanked, for a segmenter of its own",
    ):  # fmt: skip
        assert part in text, part


def test_tables_are_readable_at_100_columns():
    regions = [row for name in ("WT", "TC", "ET") for row in make_scores(region=name)]
    text = render(make_summary(scores=regions))
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= 100


def test_every_row_of_a_table_has_the_same_columns():
    lines = [line for line in render(make_summary()).splitlines() if line.startswith("|")]
    for above, below in zip(lines, lines[1:], strict=False):
        if len(above) == len(below):
            assert above.count("|") == below.count("|")


def test_a_region_without_a_gap_says_why_and_what_was_gained():
    text = render(make_summary(zero=0.895))
    assert "WT: no measurable loss: the gap 0.005 is below 0.02. Dice above the floor: agi" in text
    assert "agi -0.145 [-0.15" in text


def test_one_seed_has_no_table_of_seeds():
    text = render(make_summary(seeds=1))
    assert "each segmenter seed" not in text
    assert "seed 0." in text
    assert "Warning: one segmenter seed" in text


def test_a_given_segmenter_is_named():
    summary = make_summary()
    summary["config"]["segmenter"] = "models/brats"
    assert "6 test cases of COHORT; the given segmenter models/brats." in render(summary)


def test_a_broken_export_path_is_shouted():
    lines = render(make_summary(plumbing=0.8)).splitlines()
    first = next(line for line in lines if line.startswith("Warning"))
    assert first.startswith("Warning: Plumbing check FAILED")
    assert first.endswith("(allowed ±0.002).")


def test_references_alone_render_too():
    arms = ARMS[:2]
    summary = make_summary(arms=arms, images=[{"arm": "nobody"}])
    text = render(summary)
    assert "## Tests" not in text
    assert "## As good" not in text
    assert "## Image scores" not in text
    assert "Plumbing" not in text


def test_an_unbounded_interval_is_called_so():
    summary = make_summary()
    summary["regions"]["WT"]["arms"]["agi"]["recovery"] |= {"high": None}
    assert "75 % [74, unbounded]" in render(summary)
    assert "An `unbounded` end: in so\nmany of the draws" in render(summary)


def test_the_overview_has_a_row_for_each_sequence():
    losing = make_summary()
    free = make_summary(missing=("t1n",), zero=0.9)
    pair = make_summary(missing=("t1n", "t2w"), arms=[arm for arm in ARMS if arm.name != "agi"])
    text = render_overview([losing, free, pair])
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == [
        "FLAIR", "WT", "0.600 [0.600, 0.600]", "agi", "75 % [74, 76]", "dropout",
        "83 % [83, 83]", "unclear",
    ]  # fmt: skip
    assert cells[1] == ["T1", *["-"] * 6, "unclear"]
    assert cells[2][0] == "T1+T2"
    assert cells[2][3:5] == ["none", "-"]
    for summary in (losing, free, pair):
        assert summary["headline"]["sentence"] in text


def test_the_overview_shows_the_synthesis_that_its_verdict_is_about():
    arms = [*ARMS, Arm("gan", "synthetic")]
    summary = make_summary(arms=arms, gan=0.85)
    assert summary["headline"]["primary"] == "agi"
    row = [line for line in render_overview([summary]).splitlines() if line.startswith("| FLAIR")]
    assert [cell.strip() for cell in row[0].split("|")][4:6] == ["agi", "75 % [74, 76]"]


def test_the_overview_shows_the_region_that_loses_most():
    scores = [*make_scores(), *make_scores(MEANS | {"zero": 0.2}, region="ET")]
    assert "| FLAIR   |     ET | 0.700" in render_overview([make_summary(scores=scores)])


def test_an_overview_of_nothing_is_only_a_title():
    assert render_overview([]).strip().startswith("# Dice recovery")


def test_results_have_every_column_and_empty_cells(tmp_path):
    rows = make_scores(cases=2)
    write_scores(tmp_path / "results.csv", rows)
    with (tmp_path / "results.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == [field.name for field in dataclasses.fields(Score)]
    assert len(read) == len(rows)
    assert read[0]["precision"] == ""
    assert float(read[0]["dice"]) == rows[0].dice


def test_image_scores_have_every_column(tmp_path):
    write_image_scores(tmp_path / "images.csv", make_images())
    with (tmp_path / "images.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["case", "patient", "arm", "modality", *IMAGE_SCORES]
    assert read[0]["psnr_tumour"] == ""


def test_a_column_that_nobody_expects_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="unknown"):
        write_image_scores(tmp_path / "x.csv", [make_images()[0] | {"unknown": 1}])


def test_names_that_people_use():
    assert COMMON_NAMES["t2f"] == "FLAIR"
