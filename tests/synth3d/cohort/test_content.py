"""What contradicts itself is found, and a sound head is left alone; a phantom stands for one."""

import re
from itertools import permutations

import numpy as np
import pytest

from synth3d.cohort import find_cases, findings
from synth3d.images import foreground, grid, read

SOURCES = ("t1n", "t1c", "t2w")
SUSPECTED = "t1n or t1c is not what its name says"


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Two phantoms at 4 mm: ({sequence: volume}, spacing) each."""
    from synth3d.phantom.cohort import make_cohort

    folder = tmp_path_factory.mktemp("heads") / "cohort"
    make_cohort(folder, cases=2, size=48, seed=4)
    cases = find_cases(folder)
    spacing = grid(cases[0].images["t1n"]).spacing_mm
    return [({m: read(case.images[m]).data for m in SOURCES} for case in cases), spacing]


@pytest.fixture(scope="module")
def sound(heads):
    return list(heads[0]), heads[1]


def found(volumes, spacing):
    return [(one.contradiction, one.text) for one in findings(volumes, spacing)]


def test_sound_heads_are_left_alone_in_any_unit_and_no_order_of_them_is_refused(sound):
    cases, spacing = sound
    for volumes in cases:
        assert found(volumes, spacing) == []
        assert found({m: v * 1e-3 for m, v in volumes.items()}, spacing) == []
        assert found({m: v - 1024 for m, v in volumes.items()}, spacing) == []
        for order in permutations(SOURCES):
            names = dict(zip(SOURCES, order, strict=True))
            told = found({m: volumes[names[m]] for m in SOURCES}, spacing)
            assert not any(contradiction for contradiction, _ in told)
            if order == ("t1c", "t1n", "t2w"):
                assert [text.startswith(SUSPECTED) for _, text in told] == [True]


def test_t2_in_the_place_of_t1_is_not_taken_for_t1ce_in_it(sound):
    """The same shows as where T1 and T1ce are exchanged, so no exchange may be advised."""
    cases, spacing = sound
    for volumes in cases:
        ((_, text),) = found(volumes | {"t1n": volumes["t2w"], "t2w": volumes["t1n"]}, spacing)
        assert text.startswith(SUSPECTED)
        assert "with another sequence" in text


def test_another_sequence_that_is_displaced_hides_no_exchange_and_makes_none(sound):
    cases, spacing = sound
    for volumes in cases:
        turned = volumes | {"t2w": volumes["t2w"][::-1].copy()}
        assert not any(text.startswith(SUSPECTED) for _, text in found(turned, spacing))
        both = turned | {"t1n": volumes["t1c"], "t1c": volumes["t1n"]}
        told = [text for _, text in found(both, spacing)]
        assert [text.startswith(SUSPECTED) for text in told] == [True, False]
        assert "flipped" in told[1]


def noise(v):
    drawn = np.random.default_rng(0).normal(500, 90, v.shape).astype(np.float32)
    return np.where(foreground(v), drawn, 0)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v[:, :, ::-1], "flipped .* along x"),
        (lambda v: v[:, ::-1], "flipped .* along y"),
        (lambda v: v[::-1], "flipped .* along z"),
        (lambda v: v.transpose(0, 2, 1), "flipped .*axes exchanged"),
        (noise, "is noise"),
        (lambda v: np.random.default_rng(0).normal(500, 90, v.shape), "is noise"),
        (lambda v: np.full_like(v, 5), "mask: it has one value"),
        (lambda v: (v > 0) * 7.0, "mask: it has one value"),
        (lambda v: np.digitize(v, [1, 300, 900]) * 1.0, "mask: it has . different values"),
        (lambda v: -v, "negative"),
    ],
)
def test_a_contradiction_names_its_sequence(sound, name, change, words):
    volumes, spacing = sound[0][0], sound[1]
    told = found(volumes | {name: np.ascontiguousarray(change(volumes[name]))}, spacing)
    wrong = [text for contradiction, text in told if contradiction]
    assert len(wrong) == 1
    assert wrong[0].split()[0] == name
    assert re.search(words, wrong[0])


@pytest.mark.parametrize("gain", [1, 1000, 0.01])
def test_a_copy_is_found_whatever_its_unit(sound, gain):
    volumes, spacing = sound[0][0], sound[1]
    (told,) = found(volumes | {"t2w": volumes["t1n"] * gain}, spacing)
    assert told[0]
    assert {"t1n", "t2w"} <= set(told[1].split())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: np.roll(v, (3, 2), (0, 1)), "t2w is not registered to t1n"),
        (lambda v: v - 1024, "differ in what their background is"),
    ],
)
def test_suspicions_are_no_contradictions(sound, change, words):
    volumes, spacing = sound[0][0], sound[1]
    told = found(volumes | {"t2w": change(volumes["t2w"])}, spacing)
    assert [contradiction for contradiction, _ in told] == [False]
    assert words in told[0][1]


def test_a_skull_is_noticed_by_volume_or_by_contact(sound):
    volumes, spacing = sound[0][0], sound[1]
    (large,) = found(volumes, [1.3 * edge for edge in spacing])
    assert "skull-stripped" in large[1]
    head = foreground(volumes["t1n"])
    middle = int(np.argwhere(head)[:, 0].mean())
    (cut,) = found({m: np.ascontiguousarray(v[middle:]) for m, v in volumes.items()}, spacing)
    assert "of a face of its box" in cut[1]
    assert findings(volumes, [1.3 * edge for edge in spacing], stripped=False) == []


def test_too_little_to_tell_is_left_alone():
    tiny = {m: np.random.default_rng(1).integers(1, 9, (6, 7, 8)) * 1.0 for m in SOURCES}
    assert found(tiny, (1, 1, 1)) == []
    assert found({}, (1, 1, 1)) == []


def test_of_thick_slices_a_flip_is_suspected_and_of_the_others_it_is_told_all_the_same(sound):
    cases, spacing = sound
    for name in SOURCES:
        volumes = dict(cases[0]) | {name: cases[0][name][:, :, ::-1]}
        assert found(volumes, spacing)[0][0]
        (one,) = findings(volumes, spacing, poor=[name])
        assert not one.contradiction
        assert name in one.text.split()
        other = next(each for each in SOURCES if each != name)
        assert findings(volumes, spacing, poor=[other])[0].contradiction
