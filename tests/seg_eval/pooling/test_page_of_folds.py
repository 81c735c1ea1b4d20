"""The page, pictures and 3-D views of a certificate, from volumes that lie in the folds."""

from seg_eval import read_summary
from seg_eval.evaluation import report
from seg_eval.pooling import pool


def test_the_page_shows_patients_of_several_folds(folds, capsys):
    out, summary = pool(folds, folds[0].parents[1], "all")
    page = (out / "report.html").read_text()
    assert "Each patient was judged once" in page
    assert "in each of 4 folds" in page
    shown = [case["case"] for case in summary["cases"]]
    assert [case["role"] for case in summary["cases"]] == ["worst", "median", "best"]
    assert all(case in page for case in shown)
    assert {"dice.png", "slices.png", "volumes.png"} <= {*summary["pictures"]}
    report(out)
    assert (out / "report.html").read_text() == page
    assert read_summary(out)["cases"] == summary["cases"]
