"""Volumes with intervals, whom not to trust, and the curve, on the page and in the terminal."""

import re
from dataclasses import replace

import pytest

from seg_eval.analysis import tell_uncertainty
from seg_eval.report.charts import risk_coverage
from seg_eval.report.outputs import render
from seg_eval.report.viewer import page
from tests.seg_eval.report.conftest import PRIMARY


@pytest.fixture
def told(summary, scores):
    """The summary of 18 cases whose uncertainty is their number; of some a name that is markup."""

    def make(cases=18, spread=0.3):
        names = sorted({row.case for row in scores})[:cases]
        sizes = {name: 0.01 + number / 100 for number, name in enumerate(names)}
        off = {name: 1 + spread * size for name, size in sizes.items()}
        rows = [replace(r, predicted_ml=r.reference_ml * off.get(r.case, 1)) for r in scores]
        return summary | {"uncertainty": [tell_uncertainty(rows, PRIMARY, sizes)]}

    return make


def test_the_page_shows_volumes_flags_and_the_curve(told, scores, images):
    text = page(told(spread=30), scores, images, ())
    assert '<section id="reliance">' in text
    assert re.search(r"intervals of volume that hold for 90 % of\s+new patients", text)
    assert "do not use for ET" in text
    assert re.search(r"Do not use .*enhancing tumour of \d+ cases.*factor of 2", text)
    assert "Dice lost against the real sequence against Share of the cases" in text
    assert text.count('class="case dot g-synthesis"') >= 18
    assert "reliance" not in page(told() | {"uncertainty": []}, scores, images, ())


def test_a_summary_of_before_says_nothing_of_it(summary, scores, images):
    old = {key: value for key, value in summary.items() if key != "uncertainty"}
    assert '<section id="reliance">' not in page(old, scores, images, ())


def test_the_terminal_has_the_volumes_and_says_what_they_are(told):
    text = render(told())
    assert "## Volumes as intervals, and whom to trust" in text
    assert "Uncertainty" in text
    assert "No volume may be off by more than a factor of 2" in " ".join(text.split())
    few = " ".join(render(told(cases=4)).split())
    assert "need at least 5 patients (here 4)" in few


def test_the_curve_lies_where_its_figures_say():
    """Losses 0 and 0.2 of two cases: means 0 and 0.1, and 0.1 in any order."""
    curve = {"cases": ["a", "b"], "kept": [0.5, 1.0], "loss": [0.0, 0.1], "random": 0.1}
    chart = risk_coverage(curve)
    first, last = chart["points"]
    assert (first["x"], last["x"]) == ((chart["left"] + chart["right"]) / 2, chart["right"])
    assert first["y"] == next(rule["y"] for rule in chart["rules"] if rule["text"] == "0")
    assert last["y"] == chart["random"] < first["y"]
