"""What cases that lack sequences can teach together, and what an audit says of it."""

import json
import shutil

import pytest

from synth3d.cohort import AuditRequest, never_together, run_audit, seen_together

HOLDINGS = [("t1n", "t1c"), ("t1n", "t2f"), ("t2f",)]


def test_pairs_are_counted_and_those_of_no_case_are_named():
    assert seen_together(HOLDINGS) == {("t1n", "t1c"): 1, ("t1n", "t2f"): 1, ("t1c", "t2f"): 0}
    (sentence,) = never_together(HOLDINGS)
    assert "both t1c and t2f:" in sentence
    assert never_together(HOLDINGS, ("t1n", "t2f")) == []
    assert never_together([]) == never_together([("t2f",)]) == []


@pytest.fixture
def gappy(phantom_cohort, tmp_path):
    """Three cases that hold what ``HOLDINGS`` says."""
    cases = sorted(path for path in phantom_cohort.iterdir() if path.is_dir())
    for folder, held in zip(cases, HOLDINGS, strict=False):
        gone = [f"*-{name}.nii.gz" for name in ("t1n", "t1c", "t2w", "t2f") if name not in held]
        shutil.copytree(folder, tmp_path / "in" / folder.name, ignore=shutil.ignore_patterns(*gone))
    return tmp_path / "in"


def test_an_audit_says_what_an_incomplete_cohort_can_teach(gappy, phantom_cohort, capsys):
    assert run_audit(AuditRequest(gappy)) == 0
    said = capsys.readouterr().out
    assert "2 of 3 cases can teach" in said
    assert "t1c with t2f   0" in said
    assert "warning: no case has both t1c and t2f" in said
    run_audit(AuditRequest(gappy, json=True))
    assert json.loads(capsys.readouterr().out)["seen_together"]["t1n t2f"] == 1
    run_audit(AuditRequest(phantom_cohort))
    assert "can teach" not in capsys.readouterr().out
