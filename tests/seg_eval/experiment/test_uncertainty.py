"""An experiment reads the maps beside its channels, and says nothing where there are none."""

import json

import numpy as np
import pytest

from seg_eval.arms.synthesisers import completion, read_run
from synth3d.files import read_json, write_json
from synth3d.images import read, write_like

TESTED = [f"Brats18_TOY_{letter}_1" for letter in "FGH"]


@pytest.fixture
def with_maps(theirs, toy_cohort):
    """Another folder's FLAIR with intervals, of which ``share`` are of the picture's median."""

    def make(share=0.5, letters="FGH"):
        folder = theirs()
        (folder / "receipts").mkdir()
        for letter in letters:
            name = f"Brats18_TOY_{letter}_1"
            picture = folder / f"{name}_flair.nii.gz"
            volume = read(picture).data
            middle = np.median(volume[read(toy_cohort / name / f"{name}_t2.nii.gz").data > 0])
            interval = np.where(volume > 0, share * middle, 0).astype(np.float32)
            write_like(picture, interval, folder / f"{name}_flair_interval.nii.gz")
            maps = {"interval": f"{name}_flair_interval.nii.gz"}
            write_json(folder / "receipts" / f"{name}.receipt.json",
                       {"targets": {"t2f": {"maps": maps}}})  # fmt: skip
        return folder

    return make


@pytest.mark.usefixtures("plain_pictures")
def test_maps_of_a_completed_folder_tell_how_uncertain_its_cases_are(with_maps, run_toy, folder):
    assert run_toy("--completed", f"theirs={with_maps()}") == 0
    (told,) = read_json(folder / "summary.json")["uncertainty"]
    assert (told["arm"], told["level"], told["patients"]) == ("theirs", None, 3)
    assert {row["case"] for row in told["volumes"]} == {*TESTED}
    for row in told["volumes"]:
        assert row["uncertainty"] == pytest.approx(0.5, rel=1e-3)
    assert told["curve"]["kept"][-1] == 1


@pytest.mark.usefixtures("plain_pictures")
def test_an_arm_that_lacks_a_map_says_nothing(with_maps, run_toy, folder):
    assert run_toy("--completed", f"theirs={with_maps(letters='FG')}") == 0
    assert read_json(folder / "summary.json")["uncertainty"] == []


@pytest.mark.parametrize(("config", "uncertain"), [
    ({}, False),
    ({"train": {"framework": "l1", "l1": {"uncertain": True}}}, True),
    ({"train": {"framework": "l1"}}, False),
    ({"train": {"framework": "pix2pix", "l1": {"uncertain": True}}}, False),
])  # fmt: skip
def test_an_uncertain_run_is_asked_to_say_it(config, uncertain, write_run, toy_cohort, tmp_path):
    run = write_run(tmp_path / "run", toy_cohort)
    (run / "config.json").write_text(json.dumps(config))
    assert read_run(run).uncertain == uncertain
    words = completion(run, toy_cohort, tmp_path, ("t2f",), ["a"], how="uncertain")
    assert "--uncertainty" in words
