"""Exchanged sequences are named, right ones are not; learnt from simulated brains."""

import json
from collections import namedtuple
from itertools import combinations

import numpy as np
import pytest

from synth3d.cohort import Roles, looks
from synth3d.errors import InputError
from synth3d.images import Scale

LEVELS = {"t1n": (0.55, 0.8, 0.25), "t1c": (0.57, 0.82, 0.28), "t2w": (0.6, 0.45, 1.0)}
SOURCES = tuple(LEVELS)
SHAPE = (20, 20, 20)
Head = namedtuple("Head", "volumes brain")
PAIRS = [("t1n", "t2w"), ("t1c", "t2w")]


def brain_of(seed):
    """Grey and white matter, fluid, and a tumour whose rim only t1c brightens."""
    rng = np.random.default_rng(seed)
    tissue = rng.choice(3, SHAPE, p=(0.5, 0.4, 0.1))
    rim = rng.random(SHAPE) < 0.03
    brain, made = np.ones(SHAPE, bool), {}
    for name, levels in LEVELS.items():
        jitter = np.array(levels) * (1 + 0.05 * rng.standard_normal(3))
        volume = jitter[tissue] + 0.05 * rng.standard_normal(SHAPE)
        volume[rim] = {"t1n": 0.45, "t1c": 1.2, "t2w": 0.9}[name]
        gain = rng.uniform(100, 3000)
        made[name] = Scale.fit(volume * gain, brain).apply(volume * gain, brain)
    return Head(made, brain)


def learnt(count):
    return Roles.learn([looks(*brain_of(seed), SOURCES) for seed in range(count)], SOURCES)


def exchanged(roles, case, one, other):
    volumes = dict(case.volumes)
    volumes[one], volumes[other] = volumes[other], volumes[one]
    return roles.exchanged(volumes, case.brain)


@pytest.fixture(scope="module")
def roles(tmp_path_factory):
    path = tmp_path_factory.mktemp("roles") / "roles.json"
    path.write_text(json.dumps(learnt(12).to_dict()))
    return Roles.read(path)


def test_right_orders_are_left_alone_and_exchanges_named(roles):
    for seed in range(100, 120):
        case = brain_of(seed)
        assert roles.exchanged(case.volumes, case.brain) == []
        for pair in PAIRS:
            told = exchanged(roles, case, *pair)
            assert any(text.startswith(f"{pair[0]} and {pair[1]} look exch") for text in told)


def without(case, gone):
    return Head({n: v for n, v in case.volumes.items() if n != gone}, case.brain)


@pytest.mark.parametrize("gappy", [False, True])
def test_two_of_three_are_judged_by_themselves_and_incomplete_cases_teach_it(roles, gappy):
    """In mode any cases lack sequences, in training as in use."""
    if gappy:  # none of 27 cases has all three, and 9 have each pair
        found = [looks(*without(brain_of(n), SOURCES[n % 3]), SOURCES) for n in range(27)]
        roles = Roles.learn(found, SOURCES)
        assert not roles.planes
    named = wrong = 0
    for seed in range(100, 120):
        for gone, pair in zip(("t1c", "t1n"), PAIRS, strict=True):
            case = without(brain_of(seed), gone)
            wrong += len(roles.exchanged(case.volumes, case.brain))
            named += len(exchanged(roles, case, *pair))
    assert (named, wrong) == (40, 0)


def test_t1_and_t1ce_are_left_to_what_contrast_agent_does(roles):
    case = brain_of(100)
    assert exchanged(roles, case, "t1n", "t1c") == []
    told = roles.to_dict()
    assert ["t1n", "t1c"] not in [each["pair"] for key in ("pairs", "alone") for each in told[key]]
    two = Roles.learn([looks(*brain_of(n), SOURCES[:2]) for n in range(12)], SOURCES[:2])
    assert not two.silent
    assert learnt(3).silent


def test_of_few_cases_or_of_one_sequence_nothing_is_said(roles):
    few = learnt(3)
    case = brain_of(5)
    assert exchanged(few, case, "t1n", "t2w") == []
    assert roles.exchanged({"t1n": case.volumes["t1n"]}, case.brain) == []
    assert roles.exchanged(case.volumes, np.zeros(SHAPE, bool)) == []


@pytest.mark.parametrize("damage", ["[]", '{"sources": ["t1n", "t1c"]}', "DROP"])
def test_a_damaged_file_is_refused_and_none_is_none(roles, tmp_path, damage):
    path = tmp_path / "roles.json"
    assert Roles.read(path) is None
    value = roles.to_dict()
    value["pairs"][0]["weights"].pop()
    path.write_text(json.dumps(value) if damage == "DROP" else damage)
    with pytest.raises(InputError, match="damaged"):
        Roles.read(path)


def test_how_a_case_looks_exchanged_is_how_the_exchanged_case_looks():
    case = brain_of(3)
    rows = looks(*case, SOURCES)
    for number, (one, other) in enumerate(combinations(SOURCES, 2), start=1):
        volumes = case.volumes | {one: case.volumes[other], other: case.volumes[one]}
        there = looks(volumes, case.brain, SOURCES)
        assert rows is not None
        assert there is not None
        assert np.array_equal(there[0], rows[number])
        assert np.array_equal(there[number], rows[0])
