"""Claims about makers: seeds, draws and spread, and scales that a file can hold."""

import json

import numpy as np
import pytest
import torch

import synth3d
from synth3d.cohort import find_cases
from synth3d.completion.made import Members
from synth3d.completion.makers import PlumbingMaker, RunMaker, trained
from synth3d.completion.makers.scales import storable_scale
from synth3d.errors import InputError
from synth3d.images.intensity import Scale
from synth3d.training.run_folder import load_run, read_config

CASE = 2


@pytest.fixture(scope="module")
def drawn(ready):
    """Draw FLAIR of a case with the run whose pictures are random."""
    maker, case = RunMaker(load_run(ready / "random")), find_cases(ready / "in")[CASE]
    return lambda on_tile=None, **how: maker.make(case, ("t2f",), Members(**how), on_tile=on_tile)[
        "t2f"
    ]


def test_several_draws_give_the_mean_of_the_single_ones_and_their_spread(drawn):
    seeds, told = [5, *np.random.SeedSequence(5).generate_state(2).tolist()], []
    singles = np.stack([drawn(seed=seed).data for seed in seeds])
    np.testing.assert_array_equal(drawn(seed=5).data, singles[0])
    assert np.abs(singles[0] - singles[1]).max() > 1
    made = drawn(seed=5, draws=3, on_tile=lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(made.data, singles.mean(0), atol=1e-3)
    spread = singles.astype(np.float64).std(0, ddof=1)
    np.testing.assert_allclose(made.spread, spread, atol=1e-3)
    assert not made.spread[made.data == 0].any()
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


def test_where_nothing_is_random_several_draws_are_refused(ready):
    case = find_cases(ready / "in")[0]
    plumbing = PlumbingMaker(("t2f",), read_config(ready / "run"))
    for maker in (RunMaker(load_run(ready / "run")), plumbing):
        assert not maker.random
        with pytest.raises(InputError, match="one draw"):
            maker.make(case, ("t2f",), Members(draws=2))
        one, two = (maker.make(case, ("t2f",), Members(seed))["t2f"].data for seed in (0, 1))
        np.testing.assert_array_equal(one, two)


def test_on_a_gpu_the_identity_tells_of_tf32_and_that_gpu_is_made_current(ready, monkeypatch):
    run, current, flags = load_run(ready / "run"), [], {"convolutions": True, "matmuls": False}
    monkeypatch.setattr(type(run.framework), "to", lambda self, *_, **__: self)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(trained, "tf32", lambda device: flags)
    maker = RunMaker(run, precision="fp32", device="cuda:1")
    assert maker.identity["tf32"] == flags
    assert current == [torch.device("cuda", 1)]
    there = RunMaker(run, precision="fp32").identity
    assert {**there, "tf32": flags} == maker.identity


def test_a_maker_says_which_files_it_may_read(ready):
    case = find_cases(ready / "in")[0]
    maker = RunMaker(load_run(ready / "run"))
    assert "t2f" not in maker.readable(case, ("t2f",)).images
    plumbing = PlumbingMaker(("t2f",), read_config(ready / "run"))
    assert "t2f" in plumbing.readable(case, ("t2f",)).images
    assert plumbing.trouble(find_cases(ready / "in")[CASE], ("t2f",))


def test_the_seed_is_part_of_a_receipt_only_where_something_is_random(ready, tmp_path):
    """A receipt without one means 0, so those written before there were seeds still count."""

    def state(run, seed):
        settings = {"run": ready / run, "data": ready / "in", "out": tmp_path / run}
        cases = [f"Brats18_X_{CASE}_1"]
        (one,) = synth3d.complete(**settings, cases=cases, seed=seed, overwrite=True, device="cpu")
        receipt = json.loads(one.receipt.read_text())
        return one.state, receipt["identity"]["how"].get("seed"), receipt.get("seed")

    assert [state("run", seed) for seed in (0, 3)] == [("made", None, None), ("done", None, None)]
    assert state("random", 0) == ("made", None, 0)
    assert state("random", 3) == ("made", 3, 3)
    assert state("random", 3) == ("done", 3, 3)


def test_a_scale_that_the_file_cannot_hold_is_taken_from_the_siblings():
    siblings = [Scale(10, 400), Scale(20, 900)]
    integers, floats = (-32768.0, 32767.0), (-np.inf, np.inf)
    assert storable_scale(Scale(0, 800), siblings, integers) == (Scale(0, 800), "training")
    assert storable_scale(Scale(0, 1), siblings, floats) == (Scale(0, 1), "training")
    for scale, limits in [(Scale(0, 1), integers), (Scale(0, 4000), (0.0, 255.0))]:
        found, origin = storable_scale(scale, siblings, limits)
        assert origin == "siblings"
        assert found.high == pytest.approx(600)


@pytest.mark.parametrize("run", ["run", "random"])
def test_a_case_is_completed_anywhere_alike_and_cudnn_is_tuned_meanwhile(
    ready, run, device, monkeypatch
):
    given = []
    real = trained.tuned
    monkeypatch.setattr(trained, "tuned", lambda device: given.append(device) or real(device))
    case = find_cases(ready / "in")[CASE]
    there, here = (RunMaker(load_run(ready / run), device=str(d)) for d in (device, "cpu"))
    found, expected = (
        maker.make(case, ("t2f",), Members(3))["t2f"].data for maker in (there, here)
    )
    assert given == [device, torch.device("cpu")]
    assert np.abs(found - expected).max() <= (device.type == "cuda") * 1e-3 * expected.max()
