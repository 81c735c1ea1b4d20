"""How wrong a picture may be: the spread, its calibration, the interval, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import synth3d
from synth3d.cli import main
from synth3d.completion import CalibrateRequest, calibrate_run, maps_of
from synth3d.completion.calibration.measuring import errors_of
from synth3d.completion.made import Made
from synth3d.completion.makers.scales import deviation_in_scanner_units, total_spread
from synth3d.errors import InputError
from synth3d.files import read_json, write_json
from synth3d.images import Scale
from synth3d.images.volumes import read

PATIENTS, LACKING = 10, "Brats18_X_2_1"
UNCERTAIN = {"framework": "l1", "l1": {"uncertain": True}}


@pytest.fixture(scope="module")
def known(tmp_path_factory, write_case):
    """Ten whole cases of ten patients, of whom no run has learnt."""
    root = tmp_path_factory.mktemp("known")
    for number in range(20, 20 + PATIENTS):
        write_case(root, number)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_run):
    return write_run(tmp_path_factory.mktemp("uncertain") / "run", train=UNCERTAIN)


@pytest.fixture(scope="module")
def calibrated(run, known, tmp_path_factory):
    """The run with a calibration in its folder."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("calibrated") / "run")
    synth3d.calibrate(run=folder, data=known, device="cpu")
    return folder


@pytest.fixture
def complete(ready, tmp_path):
    """Complete the case that lacks FLAIR; the receipt, the picture, and the maps by name."""

    def make(run, out="out", **settings):
        given = {"data": ready / "in", "device": "cpu", "cases": [LACKING]}
        (one,) = synth3d.complete(run=run, out=tmp_path / out, **given | settings)
        maps = maps_of(tmp_path / out, one.case, "t2f")
        volumes = {name: read(path).data for name, path in maps.items()}
        return read_json(one.receipt), read(one.paths["t2f"]).data, volumes

    return make


def test_variances_between_pictures_and_within_them_add_up():
    """Pictures that differ by 3, of runs that expect 4 and nothing: √(9 + (16 + 0) / 2) = √17."""
    three, four = np.full((2, 2, 2), 3.0, np.float32), np.full((2, 2, 2), 4.0, np.float32)
    assert total_spread(None, [None]) is None
    for between, within, expected in (
        (three, [None, None], 3), (None, [four], 4), (three, [four, None], np.sqrt(17))
    ):  # fmt: skip
        found = total_spread(between, within)
        assert found is not None
        np.testing.assert_allclose(found, np.full((2, 2, 2), expected), rtol=1e-6)


def test_bright_tissue_is_as_uncertain_as_it_is_in_the_file():
    """In the line 0.1 are 100 units of a scale 1000 wide; above 1, where it bends, more."""
    brain = np.ones((1, 1, 3), bool)
    brain[..., 2] = False
    picture = np.array([[[0.5, 1.5, 0.5]]], np.float32)
    found = deviation_in_scanner_units(picture, np.full_like(picture, 0.1), brain, Scale(200, 1200))
    assert found[0, 0, 0] == pytest.approx(100, rel=1e-4)
    assert found[0, 0, 1] > 300
    assert found[0, 0, 2] == 0


def test_an_uncertain_run_writes_a_spread_that_is_no_interval(run, complete, capsys):
    plain = complete(run, "plain")
    receipt, picture, maps = complete(run, uncertainty=True)
    assert "no calibration.json in the run's folder: what is written is a spread" in (
        capsys.readouterr().err
    )
    assert {*plain[2]} == set()
    assert {*maps} == {"spread"}
    np.testing.assert_array_equal(picture, plain[1])
    assert maps["spread"][picture != 0].min() > 0
    assert receipt["uncertainty"] == {"calibrated": False, "note": "the spread is no interval"}
    assert "uncertainty" not in plain[0]


def test_several_pictures_and_what_each_expects_are_one_spread(run, complete):
    alone = complete(run, "alone", uncertainty=True)[2]["spread"]
    between = complete(run, "between", mirror="x")[2]["spread"]
    both = complete(run, "both", mirror="x", uncertainty=True)[2]["spread"]
    np.testing.assert_allclose(both, np.hypot(alone, between), rtol=1e-3, atol=1e-3)


def test_with_a_calibration_the_interval_is_written(calibrated, complete):
    """Half-width = quantile · (spread / width + floor) ^ power · width, and 0 outside the brain."""
    receipt, picture, maps = complete(calibrated, uncertainty=True)
    record = read_json(calibrated / "calibration.json")
    of, at = record["targets"]["t2f"], record["levels"].index(0.9)
    scale = receipt["targets"]["t2f"]["scale"]
    width, brain = scale["high"] - scale["low"], maps["spread"] > 0
    expected = of["quantiles"][at] * (maps["spread"] / width + of["floor"]) ** of["powers"][at]
    np.testing.assert_allclose(maps["interval"], np.where(brain, expected * width, 0), rtol=1e-4)
    assert brain.any()
    assert receipt["uncertainty"]["calibrated"]
    assert receipt["uncertainty"]["level"] == 0.9
    assert receipt["targets"]["t2f"]["units"]["interval"] == "scanner units"


def test_a_calibration_says_of_whom_it_is_and_what_it_covers(calibrated, known):
    record = read_json(calibrated / "calibration.json")
    assert record["cases"] == [f"Brats18_X_{number}_1" for number in range(20, 30)]
    assert (record["patients"], record["shown"]) == (PATIENTS, ["t1n", "t1c", "t2w"])
    assert "voxels of one patient hit or miss together" in record["meaning"]
    for level, found in record["targets"]["t2f"]["coverage"].items():
        # The textures are alike, so nine tell of the tenth; their correction is (9 + 1) / 9.
        assert float(level) - 0.02 < found["brain"] <= min(1.0, float(level) * 10 / 9 + 0.02)
        assert found["tumour"] is not None
    low, high = record["targets"]["t2f"]["quantiles"]
    assert low < high


def test_brightness_of_the_scan_does_not_matter():
    """A scan of other units has the same errors; one of another contrast has not."""
    draws = np.random.default_rng(0)
    brain = np.zeros((8, 8, 8), bool)
    brain[1:-1, 1:-1, 1:-1] = True
    scan = brain * (100 + 100 * draws.random(brain.shape))
    spread = np.ones(brain.shape, np.float32)
    scale = Scale.fit(scan, brain)
    made = Made(scan.astype(np.float32), Path(), scale, "training", spread=spread, brain=brain)
    own, other = (errors_of(made, k * scan, None, "a", "median") for k in (1, 7))
    assert own.error.max() < 1e-4
    np.testing.assert_allclose(own.error, other.error, atol=1e-4)
    flat = errors_of(made, np.where(scan > 150, 150, scan), brain, "a", "median")
    assert flat.error.max() > 0.3
    assert flat.tumour.all()
    np.testing.assert_allclose(flat.spread, 1 / scale.width)


def test_the_same_flags_do_nothing_again_and_others_are_another_job(calibrated, complete):
    complete(calibrated, uncertainty=True)
    receipt = complete(calibrated, uncertainty=True)[0]
    with pytest.raises(InputError, match="already there; --overwrite replaces it"):
        complete(calibrated)
    again = complete(calibrated, overwrite=True)
    assert again[2] == {}
    assert receipt["identity"]["how"]["uncertainty"]


def test_pictures_that_come_about_otherwise_are_refused(calibrated, complete, tmp_path):
    with pytest.raises(InputError, match=r"of other pictures than these, which differ in mirror"):
        complete(calibrated, uncertainty=True, mirror="x")
    record = read_json(calibrated / "calibration.json")
    write_json(tmp_path / "two.json", record | {"shown": ["t1n", "t2w"]})
    with pytest.raises(InputError, match=r"calibrated on cases that show t1n\+t2w"):
        complete(calibrated, uncertainty=tmp_path / "two.json")
    write_json(tmp_path / "t1.json", record | {"targets": {"t1n": record["targets"]["t2f"]}})
    with pytest.raises(InputError, match="wants t2f, which was not calibrated"):
        complete(calibrated, uncertainty=tmp_path / "t1.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 7}, "it has format 7, this version reads 1"),
        ({"levels": [0.8, 0.7]}, r"it has no level 0\.9"),
        ({"cases": 3}, "damaged or of another version"),
        ({"levels": [0.9]}, "one power and one quantile for each level"),
    ],
)
def test_a_damaged_calibration_is_refused(change, words, calibrated, complete, tmp_path):
    record = read_json(calibrated / "calibration.json")
    write_json(tmp_path / "bad.json", record | change)
    with pytest.raises(InputError, match=words):
        complete(calibrated, uncertainty=tmp_path / "bad.json")
    with pytest.raises(InputError, match="is no calibration; make one with synth3d calibrate"):
        complete(calibrated, uncertainty=tmp_path / "none.json")


def test_what_cannot_be_told_is_refused(ready, run, known, complete, tmp_path):
    with pytest.raises(InputError, match=r"makes one picture and does not say .*--mirror x"):
        complete(ready / "run", uncertainty=True)
    with pytest.raises(InputError, match="--uncertainty could tell of"):
        complete(None, uncertainty=True, plumbing=True, missing=("flair",))
    few = tuple(f"Brats18_X_{number}_1" for number in range(20, 28))
    with pytest.raises(InputError, match="90% need 9 patients at the least, .* got 8"):
        calibrate_run(CalibrateRequest((run,), known, cases=few, device="cpu"))
    with pytest.raises(InputError, match=r"Brats18_X_2_1 has no t2f, the truth"):
        calibrate_run(CalibrateRequest((run,), ready / "in", device="cpu"))
    learnt = shutil.copytree(run, tmp_path / "learnt")
    write_json(learnt / "cohort.json", {"train": ["Brats18_X_21_1"], "val": [], "test": []})
    with pytest.raises(InputError, match="case Brats18_X_21_1 was learnt from"):
        calibrate_run(CalibrateRequest((learnt,), known, device="cpu"))
    assert not (learnt / "calibration.json").exists()


def test_the_command_writes_where_it_is_told(run, known, tmp_path, capsys):
    """With splits only the cases of the part count; runs together are one calibration."""
    names = sorted(path.name for path in known.iterdir())
    (tmp_path / "splits.json").write_text(json.dumps({"train": names[:1], "val": names[1:]}))
    words = ["calibrate", "--run", str(run), "--mirror", "x", "--data", str(known)]
    words += ["--splits", str(tmp_path / "splits.json"), "--out", str(tmp_path / "c.json")]
    assert main([*words, "--device", "cpu"]) == 0
    record = read_json(tmp_path / "c.json")
    assert (record["how"]["mirror"], record["cases"]) == ("x", names[1:])
    assert record["targets"]["t2f"]["coverage"]["0.9"] == {"brain": None, "tumour": None}
    assert "one patient more is needed" in capsys.readouterr().out
    assert main([*words, "--part", "test", "--device", "cpu"]) == 2
    assert "lists no case under test" in capsys.readouterr().err
