"""How often a sound case is named, and a spoilt one is not, over twenty phantoms."""

import numpy as np
import pytest

from synth3d.cohort import find_cases, findings
from synth3d.cohort.audit.problems import audit
from synth3d.images import grid, read
from synth3d.phantom import make_cohort

SUSPECTED = "t1n or t1c is not what its name says"
SHIFTS = ((3, 0, 0), (0, 3, 0), (0, 0, -3), (0, -3, 0))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """What ``synth3d phantom --cases 20`` writes."""
    folder = tmp_path_factory.mktemp("alarms") / "cohort"
    make_cohort(folder, cases=20)
    return folder


@pytest.fixture(scope="module")
def heads(cohort):
    """{sequence: volume} of each, and the spacing."""
    cases = find_cases(cohort)
    spacing = grid(cases[0].images["t1n"]).spacing_mm
    return [{m: read(path).data for m, path in case.images.items()} for case in cases], spacing


def share(heads, spoil, words):
    """Of the cases spoilt by ``spoil(volumes, number)`` those of which ``words`` alone is said."""
    cases, spacing = heads
    told = [[one.text for one in findings(spoil(v, n), spacing)] for n, v in enumerate(cases)]
    return sum(len(texts) == 1 and texts[0].startswith(words) for texts in told) / len(told)


def test_a_small_phantom_cohort_audits_clean_and_a_spoilt_case_does_not(phantom_cohort):
    assert [problem.message for problem in audit(phantom_cohort).problems] == []
    case = find_cases(phantom_cohort)[0]
    spacing = grid(case.images["t1n"]).spacing_mm
    volumes = {m: read(path).data for m, path in case.images.items()}
    swapped = volumes | {"t1n": volumes["t1c"], "t1c": volumes["t1n"]}
    assert findings(swapped, spacing)[0].text.startswith(SUSPECTED)
    moved = volumes | {"t2w": np.roll(volumes["t2w"], (0, 0, 3), (0, 1, 2))}
    assert "t2w is not registered" in findings(moved, spacing)[0].text


@pytest.mark.slow
def test_a_phantom_cohort_audits_clean(cohort):
    assert [problem.message for problem in audit(cohort).problems] == []


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1, 1e-3])
def test_exchanged_t1_and_t1ce_are_named(heads, unit):
    def spoil(v, _):
        return v | {"t1n": v["t1c"] * unit, "t1c": v["t1n"]}

    assert share(heads, spoil, SUSPECTED) >= 0.9


@pytest.mark.slow
def test_of_t1_alone_or_twice_without_agent_nothing_is_said(heads):
    cases, spacing = heads
    for volumes in cases:
        left = {m: v for m, v in volumes.items() if m != "t1c"}
        assert findings(left, spacing) == []
        rng = np.random.default_rng(0)
        again = volumes["t1n"] * (1 + 0.03 * rng.standard_normal(volumes["t1n"].shape))
        texts = [one.text for one in findings(left | {"t1c": again}, spacing)]
        assert not any("exchanged" in text for text in texts)


@pytest.mark.slow
def test_a_t2_moved_by_three_voxels_is_named_as_moved_and_not_as_flipped(heads):
    def spoil(v, number):
        return v | {"t2w": np.roll(v["t2w"], SHIFTS[number % len(SHIFTS)], (0, 1, 2))}

    assert share(heads, spoil, "t2w is not registered") >= 0.9


@pytest.mark.slow
def test_a_flipped_t2_is_named_as_flipped_and_not_as_moved(heads):
    def spoil(v, number):
        return v | {"t2w": np.flip(v["t2w"], number % 3)}

    assert share(heads, spoil, "t2w is flipped") >= 0.9
