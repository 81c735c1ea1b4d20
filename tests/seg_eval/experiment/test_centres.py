"""Centres that the table of cases names: patients of one are a cluster."""

import json

import pytest

from tests.seg_eval.conftest import NAMES, SUFFIX

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.fixture
def judged(own_cohort, run_toy, folder):
    """The summary of an experiment on a table with these centres of the test cases F, G and H."""

    def run(*centres):
        where = dict(zip(NAMES[5:], centres, strict=True))
        lines = ["case,patient,t1n,t1c,t2w,t2f,seg,centre"]
        for name in NAMES:
            files = [f"{name}/{name}_{SUFFIX[one]}.nii.gz" for one in SUFFIX]
            lines.append(",".join([name, name, *files, f"{name}/{name}_seg.nii.gz",
                                   where.get(name, "elsewhere")]))  # fmt: skip
        table = own_cohort / "cases.csv"
        table.write_text("\n".join(lines) + "\n")
        assert run_toy("--arms", "copy", data=table) == 0
        return json.loads((folder / "summary.json").read_text())

    return run


def test_centres_of_a_table_cluster_its_patients(judged):
    found = judged("north", "south", "north")
    assert found["intervals"]["centres"] == {"north": 2, "south": 1}
    assert sum("2 centres" in each for each in found["warnings"]) == 1


def test_where_only_some_cases_have_a_centre_it_is_said_and_nobody_is_clustered(judged):
    found = judged("north", "", "south")
    assert "centres" not in found["intervals"]
    (said,) = [each for each in found["warnings"] if "centre" in each]
    assert NAMES[6] in said
