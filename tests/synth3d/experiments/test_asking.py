"""One run, asked in many ways: which inputs, averaged or fused, and PSNR by TSEM."""

import math
from collections import Counter
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synth3d.cohort import find_cases
from synth3d.data import prepare, shown
from synth3d.errors import InputError
from synth3d.experiments.asking import Asker, Question, combination, psnr_apart
from synth3d.inference import synthesize_case
from synth3d.settings import parse
from synth3d.training import RunConfig, build_framework

ALL = ("t1n", "t1c", "t2w", "t2f")
TINY = {
    "dim": 2,
    "mode": "any",
    "sources": ALL,
    "targets": ALL,
    "model": {"name": "tsf", "widths": [4, 8], "blocks": 1, "banks": 2},
    "data": {"plane": "axial", "patch": [32, 32], "overlap": [0, 0]},
    "train": {"framework": "tsf", "steps": 4},
}


def asker(**train: float) -> Asker:
    torch.manual_seed(0)
    config = parse(RunConfig, {**TINY, "train": {**TINY["train"], "tsf": train}})
    framework = build_framework(config, training=False).eval()
    if not train:
        torch.nn.init.normal_(framework.generator.fusion.conv.bank)  # attention has learnt
    run = SimpleNamespace(folder="run", config=config, framework=framework)
    return Asker(run, torch.device("cpu"))


@pytest.fixture(scope="module")
def prepared(phantom_cohort):
    config = parse(RunConfig, TINY)
    return prepare(find_cases(phantom_cohort)[0], ALL, ALL, config.data, "any")


@given(st.integers(1, 3), st.integers(0, 100))
def test_combinations_take_turns_evenly(inputs, first):
    every = Counter(combinations(ALL, inputs))
    turn = [combination(ALL, inputs, first + number) for number in range(len(every))]
    assert Counter(turn) == every


def test_a_run_is_asked_in_several_ways_and_makes_nothing_twice(prepared):
    one = asker()
    config, calls = one.run.config, []
    one.run.framework.generator.encoder.register_forward_hook(lambda *_: calls.append(1))
    one.open(prepared, 0)
    whole = one.answer(Question(2, apart=True), config)
    plain = one.answer(Question(2, "plain"), config)
    given, before = combination(ALL, 2, 0), len(calls)
    assert list(whole.made) == list(plain.made) == [n for n in ALL if n not in given]
    for name, tsem in whole.tsem.items():
        assert tsem.max() > 0
        assert np.array_equal(tsem, np.abs(whole.made[name] - plain.made[name]))
        assert not tsem[~whole.brain].any()
    again = one.answer(Question(2), config)
    assert all(np.array_equal(again.made[name], whole.made[name]) for name in whole.made)
    assert len(calls) == before  # known by now
    mean = one.answer(Question(2, "averaged"), config)
    views = [shown(prepared, (name,)) for name in given]
    with torch.no_grad():
        single = [synthesize_case(one.run.framework, view, config.data) for view in views]
    both = views[0].brain & views[1].brain
    for name, made in mean.made.items():
        where = config.targets.index(name)
        expected = (single[0][where] + single[1][where]) / 2
        np.testing.assert_allclose(made[both], expected[both], atol=1e-6)
        assert not np.allclose(made[both], whole.made[name][both])


def test_a_case_with_too_few_sequences_is_not_asked(prepared):
    one = asker()
    one.open(shown(prepared, ("t1n", "t2w")), 3)
    assert one.answer(Question(2), one.run.config) is None
    (target,) = one.answer(Question(1), one.run.config).made
    assert target in ("t1n", "t2w")


@pytest.mark.parametrize(
    ("question", "train", "message"),
    [
        (Question(), {}, "a run of mode any cannot be asked with all inputs"),
        (Question(1, "plain"), {"pretrain": 1.0}, "fuses nothing that could be left out"),
        (Question(1, apart=True), {"pretrain": 1.0}, "fuses nothing that could be left out"),
    ],
)
def test_what_cannot_be_asked_is_refused(prepared, question, train, message):
    one = asker(**train)
    one.open(prepared, 0)
    with pytest.raises(InputError, match=message):
        one.answer(question, one.run.config)
    with pytest.raises(InputError, match="way must be one of whole, plain, averaged"):
        Question(way="best")


def test_interpolation_answers_with_the_poor_sequence_as_it_is(phantom_cohort):
    values = {"dim": 2, "sources": ALL, "targets": ALL[3:], "model": {"name": "resunet"},
              "data": {"patch": [32, 32], "overlap": [0, 0]}}  # fmt: skip
    poor = {"source": "t2f", "ratio": [1, 2, 2], "profile": "slices"}
    config = parse(RunConfig, {**values, "degrade": poor})
    case = prepare(find_cases(phantom_cohort)[0], ALL[:3], ALL[3:], config.data)
    one = Asker(SimpleNamespace(folder="run", config=config, framework=None), torch.device("cpu"))
    one.open(case, 0)
    made = one.answer(Question(way="interpolated"), config).made  # no network was asked
    assert list(made) == ["t2f"]
    scanner = case.scales["t2f"].invert(case.volumes["t2f"], case.brain)
    low = case.scales["t2f"].background
    means = torch.nn.functional.avg_pool2d(torch.from_numpy(scanner - low)[:, None], 2)
    size = scanner.shape[1:]
    smooth = torch.nn.functional.interpolate(means, size=size, mode="bilinear")[:, 0].numpy() + low
    shown = case.scales["t2f"].invert(made["t2f"], case.brain)
    far = np.abs(shown - smooth)[case.brain]
    assert far.max() < 0.02 * np.abs(scanner - smooth)[case.brain].max()
    fixed = parse(RunConfig, {**values, "sources": ALL[:3]})
    one = Asker(SimpleNamespace(folder="run", config=fixed, framework=None), torch.device("cpu"))
    with pytest.raises(InputError, match="run restores no sequence that could be interpolated"):
        one.answer(Question(way="interpolated"), fixed)


def test_psnr_by_tsem_by_hand():
    """Ten of a thousand voxels lie above P99; 0.2 and 0.1 off in a range of 2."""
    tsem = np.arange(1000.0).reshape(4, 10, 25)
    real, brain = np.full(tsem.shape, 100.0), np.ones(tsem.shape, bool)
    synthetic = np.where(tsem >= 990, 120.0, 110.0)
    found = psnr_apart(real, synthetic, brain, tsem, "paper-tsf")
    assert found["psnr_above@paper-tsf"] == pytest.approx(20.0)
    assert found["psnr_below@paper-tsf"] == pytest.approx(20 * np.log10(20))
    flat = psnr_apart(real, synthetic, brain, np.zeros(tsem.shape), "paper-tsf")
    assert flat["psnr_above@paper-tsf"] is None
    half = brain & (tsem >= 500)  # five of five hundred
    inside = psnr_apart(real, synthetic, half, np.where(half, tsem, 1e6), "real-scale")
    assert inside["psnr_above@real-scale"] < inside["psnr_below@real-scale"]
    grainy = real + np.arange(1000.0).reshape(tsem.shape) % 7
    twice = psnr_apart(grainy, 2 * grainy, brain, tsem, "own-scale")
    assert set(twice.values()) == {math.inf}


def test_mirrored_is_the_mean_of_the_case_and_of_its_mirror_image(phantom_cohort):
    fixed = {
        **TINY, "mode": "fixed", "sources": ALL[:3], "targets": ALL[3:],
        "model": {"name": "resunet", "widths": [4, 8], "blocks": 1}, "train": {"framework": "l1"},
    }  # fmt: skip
    torch.manual_seed(0)
    config = parse(RunConfig, fixed)
    framework = build_framework(config, training=False).eval()
    run: Any = SimpleNamespace(folder="run", config=config, framework=framework, targets=ALL[3:])
    case = prepare(find_cases(phantom_cohort)[0], ALL[:3], ALL[3:], config.data)
    one = Asker(run, torch.device("cpu"))
    one.open(case, 0)

    def made(way):
        answer = one.answer(Question(way=way), config)
        assert answer is not None
        return answer.made["t2f"]

    axis = 2  # phantoms lie as BraTS does: x of the file is the patient's left-right
    flipped = synthesize_case(framework, case, config.data, mirror=(axis,))[0]
    np.testing.assert_allclose(made("mirrored"), (made("whole") + flipped) / 2, atol=1e-6)
    assert np.abs(flipped - made("whole")).max() > 1e-3
    assert np.abs(made("reflected") - made("mirrored")).max() > 1e-3
    any_gap = asker()
    any_gap.open(case, 0)
    with pytest.raises(InputError, match="runs of fixed targets"):
        any_gap.answer(Question(1, "mirrored"), any_gap.run.config)
