"""A picture that is the mean of mirror images and of several runs, and how far these differ."""

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import synth3d
from synth3d.cli import main
from synth3d.completion import maps_of
from synth3d.completion.made import Members
from synth3d.completion.makers import RunMaker
from synth3d.errors import InputError
from synth3d.files import read_json, write_json
from synth3d.images.volumes import read
from synth3d.training import load_run

LACKING = "Brats18_X_2_1"


@pytest.fixture(scope="module")
def runs(ready, tmp_path_factory, write_run):
    """``run`` and another network, ``wide``, whose training saw FLAIR a fifth brighter."""
    root = tmp_path_factory.mktemp("averages")
    shutil.copytree(ready / "run", root / "run")
    write_run(root / "wide", model={"widths": [8, 8]})
    brighter(root / "wide", 1.2)
    return root


def brighter(run, factor):
    scales = read_json(run / "scales.json")
    for case in scales:
        case["t2f"] = {key: factor * value for key, value in case["t2f"].items()}
    write_json(run / "scales.json", scales)


@pytest.fixture
def complete(ready, runs, tmp_path):
    """Complete the case that lacks FLAIR; the record, the receipt, the picture and its spread."""

    def run(out, *names, **settings):
        given = {"data": ready / "in", "device": "cpu", "cases": [LACKING]}
        folders = [runs / name for name in names]
        (one,) = synth3d.complete(run=folders, out=tmp_path / out, **given | settings)
        spread = maps_of(tmp_path / out, one.case, "t2f").get("spread")
        picture = read(one.paths["t2f"]).data
        return one, read_json(one.receipt), picture, spread and read(spread).data

    return run


def test_a_mirrored_picture_is_the_mean_of_two_and_their_spread_lies_beside_it(complete, tmp_path):
    _, _, plain, nothing = complete("plain", "run")
    one, receipt, picture, spread = complete("out", "run", mirror="x")
    assert nothing is None
    # The file is of integers: the mean is known to 1/2, the other picture therefore to 2.
    other = 2 * picture - plain
    assert np.abs(other - plain).max() > 5
    np.testing.assert_allclose(spread, np.abs(other - plain) / np.sqrt(2), atol=2)
    assert receipt["mirror"] == receipt["identity"]["how"]["mirror"] == "x"
    assert complete("out", "run", mirror="x")[0].state == "done"
    maps_of(tmp_path / "out", one.case, "t2f")["spread"].unlink()
    assert complete("out", "run", mirror="x", overwrite=True)[0].state == "made"
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_runs_are_averaged_in_scanner_units_each_on_its_own_way_back(complete, runs):
    single = [complete(name, name) for name in ("run", "wide")]
    one, receipt, picture, spread = complete("out", "run", "wide")
    first, second = (each[2] for each in single)
    assert np.abs(first - second).max() > 20
    np.testing.assert_allclose(picture, (first + second) / 2, atol=1)
    np.testing.assert_allclose(spread, np.abs(first - second) / np.sqrt(2), atol=1)
    alone = [each[1]["identity"]["how"] for each in single]
    assert receipt["identity"]["how"] == {"runs": alone}
    assert len({how["weights_sha256"] for how in alone}) == 2
    assert receipt["runs"] == ["run", "wide"]
    scales = [each[1]["targets"]["t2f"]["scale"] for each in single]
    for end, value in receipt["targets"]["t2f"]["scale"].items():
        assert value == pytest.approx((scales[0][end] + scales[1][end]) / 2)
    one_, other = (scale["high"] - scale["low"] for scale in scales)
    assert other == pytest.approx(1.2 * one_)
    assert complete("out", "run", "wide")[0].state == "done"


def test_a_mean_was_taught_by_whoever_taught_one_of_its_runs(runs, complete):
    for seed, name in enumerate(("run", "wide")):
        copy = shutil.copytree(runs / name, runs / f"taught-{name}")
        hashes = {key: str(seed) * 64 for key in ("weights_sha256", "checkpoint_sha256")}
        taught = {"taught_by": [hashes | {"seed": seed}]}
        write_json(copy / "done.json", read_json(copy / "done.json") | taught)
    _, receipt, *_ = complete("taught", "taught-run", "taught-wide")
    assert [one["seed"] for one in receipt["taught_by"]] == [0, 1]
    assert "taught_by" not in complete("untaught", "run", "wide")[1]


def test_draws_mirrors_and_runs_are_averaged_alike(ready, runs, complete):
    """Every picture counts the same, and the spread is over all of them."""
    shutil.copytree(ready / "random", runs / "random", dirs_exist_ok=True)
    _, receipt, picture, spread = complete("out", "run", "random", mirror="x")
    case = next(c for c in synth3d.find_cases(ready / "in") if c.name == LACKING)
    found = []
    for name in ("run", "random"):
        maker = RunMaker(load_run(ready / name))
        content = maker.read(case, ("t2f",))
        found += maker.pictures(case, ("t2f",), content, Members(mirror="x"))["t2f"].volumes
    assert len(found) == 4
    np.testing.assert_allclose(picture, np.mean(found, axis=0), atol=0.6)
    np.testing.assert_allclose(spread, np.std(found, axis=0, ddof=1), rtol=1e-3, atol=1e-2)
    assert receipt["seed"] == 0


def test_from_python_several_runs_are_loaded_as_one(ready, runs, complete):
    _, _, picture, _ = complete("out", "run", "wide", mirror="x")
    run = synth3d.load_run([runs / "run", runs / "wide"], device="cpu")
    case = next(c for c in synth3d.find_cases(ready / "in") if c.name == LACKING)
    made: Any = run.synthesize(case, mirror="x")["t2f"]
    np.testing.assert_allclose(made.get_fdata().T, picture, atol=0.51)
    with pytest.raises(InputError, match="known are x and xyz"):
        run.synthesize(case, mirror="y")
    with pytest.raises(InputError, match="got none"):
        synth3d.load_run([])


@pytest.fixture(scope="module")
def unfit(runs, write_run):
    """Runs that cannot be averaged with ``run``, beside it."""
    for name in ("clipped", "bright"):
        shutil.copytree(runs / "wide", runs / name)
    config = read_json(runs / "clipped" / "config.json")
    config["data"]["intensity"] = "paper"
    write_json(runs / "clipped" / "config.json", config)
    brighter(runs / "bright", 3)
    write_run(runs / "two", sources=["t1n", "t1c"])
    write_run(runs / "t1", model={"widths": [8, 8]}, sources=["t2f", "t1c", "t2w"], targets=["t1n"])


@pytest.mark.parametrize(
    ("other", "settings", "said"),
    [
        ("run", {}, "named twice"),
        ("clipped", {}, "data.intensity = 'paper' and"),
        ("bright", {}, "scales of other units"),
        ("two", {}, "of t1n\\+t1c.*see the same sequences"),
        ("t1", {}, "no sequence that all runs make"),
        ("wide", {"explain": True}, "--explain tells of one picture"),
        ("wide", {"draws": 2}, "same picture of every seed"),
        ("wide", {"plumbing": True, "missing": ("flair",)}, "name one --run"),
        ("wide", {"mirror": "left"}, "unknown mirror"),
    ],
)
def test_what_has_no_mean_is_refused_before_anything_is_written(
    unfit, complete, tmp_path, other, settings, said
):
    with pytest.raises(InputError, match=said):
        complete("out", "run", other, **settings)
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_sagittal_slices_are_not_mirrored_along_themselves(ready):
    maker = RunMaker(load_run(ready / "run"))
    maker.refuse_mirror("x")
    config = maker.config
    maker.config = replace(
        config, dim=2, data=replace(config.data, plane="sagittal", patch=(8, 8), overlap=(4, 4))
    )
    maker.refuse_mirror("xyz")
    with pytest.raises(InputError, match="changes nothing but the order"):
        maker.refuse_mirror("x")
