"""A case whose sequences are exchanged is named by what the others of its cohort look like."""

import json
from itertools import combinations

import numpy as np
import pytest

from synth3d.cohort.audit.exchanges import exchanged, look_of
from synth3d.cohort.audit.problems import audit
from synth3d.cohort.audit.report import audit_json, format_audit
from synth3d.images.volumes import write_new

LEVELS = {
    "t1n": (0.55, 0.8, 0.25, 0.45),
    "t1c": (0.57, 0.82, 0.28, 1.2),
    "t2w": (0.6, 0.45, 1.0, 0.9),
    "t2f": (0.65, 0.5, 0.2, 1.0),
}
"""Grey and white matter, fluid, rim of a tumour."""

SHAPE = (22, 22, 22)
PAIRS = [pair for pair in combinations(LEVELS, 2) if pair != ("t1n", "t1c")]


def volumes_of(seed):
    rng = np.random.default_rng(seed)
    tissue = rng.choice(3, SHAPE, p=(0.5, 0.4, 0.1))
    tissue[rng.random(SHAPE) < 0.03] = 3
    made = {}
    for name, levels in LEVELS.items():
        jitter = np.array(levels) * (1 + 0.05 * rng.standard_normal(4))
        volume = rng.uniform(100, 3000) * (jitter[tissue] + 0.05 * rng.standard_normal(SHAPE))
        head = np.pad(np.ones([side - 2 for side in SHAPE], bool), 1)
        made[name] = np.where(head, np.maximum(volume, 1), 0).astype(np.float32)
    return made


def swapped(volumes, one, other):
    return volumes | {one: volumes[other], other: volumes[one]}


def told_of(cases):
    looks = {name: look_of(volumes) for name, volumes in cases.items()}
    return exchanged({name: look for name, look in looks.items() if look is not None})


@pytest.fixture(scope="module")
def cohort():
    return {f"case{seed}": volumes_of(seed) for seed in range(16)}


def test_nobody_is_named_in_a_cohort_as_it_is(cohort):
    found = told_of(cohort)
    assert not found.told
    assert found.judged == cohort.keys()


@pytest.mark.parametrize("pair", PAIRS)
def test_each_exchange_is_named_in_its_case_alone(cohort, pair):
    for case in list(cohort)[::4]:
        told = told_of(cohort | {case: swapped(cohort[case], *pair)}).told
        assert told.keys() == {case}
        assert told[case].startswith(f"{pair[0]} and {pair[1]} look exchanged")


def test_a_few_that_are_wrong_neither_hide_each_other_nor_accuse_the_rest(cohort):
    wrong = {case: swapped(cohort[case], "t2w", "t2f") for case in list(cohort)[:4]}
    assert told_of(cohort | wrong).told.keys() == wrong.keys()


def test_what_is_no_exchange_of_two_is_not_called_one(cohort):
    """T2 as T1, FLAIR as T2 and T1 as FLAIR."""
    v = cohort["case3"]
    turned = v | {"t1n": v["t2w"], "t2w": v["t2f"], "t2f": v["t1n"]}
    told = told_of(cohort | {"case3": turned}).told
    assert told.keys() == {"case3"}
    assert "look exchanged" not in told["case3"]
    assert "not what their names say" in told["case3"]


def test_a_case_is_judged_by_those_that_have_all_that_it_has_if_these_are_enough(cohort):
    """Of what some lack it is told, too; of two sequences alone and by seven others nothing."""
    gappy = {
        case: {m: v for m, v in volumes.items() if m != "t1c" or number % 2}
        for number, (case, volumes) in enumerate(cohort.items())
    }
    found = told_of(gappy | {"case2": swapped(gappy["case2"], "t2w", "t2f")})
    assert found.told.keys() == {"case2"}
    assert found.judged == {case for number, case in enumerate(cohort) if number % 2 == 0}
    few = dict(list(cohort.items())[:8])
    assert not told_of(few | {"case0": swapped(few["case0"], "t2w", "t2f")}).judged
    assert look_of({m: cohort["case0"][m] for m in ("t2w", "t2f")}) is None


def test_of_part_of_the_head_what_is_shown_counts(cohort):
    """A FLAIR of half of the slices is no other sequence."""
    half = cohort["case5"]["t2f"].copy()
    half[: SHAPE[0] // 2] = 0
    assert not told_of(cohort | {"case5": cohort["case5"] | {"t2f": half}}).told


@pytest.mark.parametrize("count", [9, 8])
def test_an_audit_names_the_case_or_says_that_it_cannot_tell(tmp_path, count):
    for number in range(count):
        volumes, name = volumes_of(number), f"BraTS-GLI-{number:05d}-000"
        volumes = swapped(volumes, "t2w", "t2f") if number == 1 else volumes
        for modality, volume in volumes.items():
            path = tmp_path / name / f"{name}-{modality}.nii.gz"
            write_new(path, volume, np.diag([-1.0, -1.0, 1.0, 1.0]), "float32")
    result = audit(tmp_path)
    told = [problem.case for problem in result.problems if "t2w and t2f" in problem.message]
    judged = [case["held_against_others"] for case in json.loads(audit_json(result))["cases"]]
    assert told == (["BraTS-GLI-00001-000"] if count == 9 else [])
    assert judged == [count == 9] * count
    cannot = [line for line in format_audit(result).splitlines() if "cannot be told" in line]
    assert len(cannot) == (count == 8)
