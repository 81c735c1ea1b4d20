"""What a run ends with on a terminal, and what its report warns of."""

import shlex
from pathlib import Path

import pytest

from seg_eval.cli import main
from seg_eval.report import read_summary, render_ending
from seg_eval.segmenter.cost import STOCK_TOTAL, iterations_of


@pytest.fixture
def summary(run_toy, folder, plain_pictures):
    assert run_toy("--arms", "copy,synthetic") == 0
    return read_summary(folder)


def test_it_is_short_and_has_a_row_for_each_region(summary):
    lines = render_ending(summary, Path("work/eval/t2f-toy")).splitlines()
    spelled = {"WT": "Whole", "TC": "Tumour core", "ET": "Enhancing"}
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 120
    for name, region in summary["regions"].items():
        (row,) = [line for line in lines if line.startswith(f"| {spelled[name]}")]
        for arm in ("full", "zero", "agi", region["best_cheap"]):
            assert f"{region['arms'][arm]['dice']:.2f}" in row


def test_a_failed_check_is_said_before_anything_else(summary):
    failed = {"dice_change": {"WT": 0.1}, "tolerance": 0.002, "passed": False}
    text = render_ending(summary | {"plumbing": failed}, Path("work"))
    assert 0 <= text.index("FAILED") < text.index(summary["headline"]["badge"])


def test_the_command_that_it_ends_with_can_be_typed(summary, folder, capsys):
    last = render_ending(summary, folder).splitlines()[-1]
    program, *words = shlex.split(last)
    assert program == "seg_eval"
    assert main(words) == 0
    assert summary["headline"]["badge"] in capsys.readouterr().out


def test_a_report_by_a_small_segmenter_says_how_small_it_is(summary):
    (warning,) = [text for text in summary["warnings"] if str(STOCK_TOTAL) in text]
    assert str(iterations_of("cpu-small")) in warning
