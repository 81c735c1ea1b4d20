"""A run for any gap, exported: one container for all four, and papers that say what it makes."""

import shutil

import numpy as np
import pytest
import torch

import synth3d
from synth3d.cli import main
from synth3d.export import BundleNetwork
from synth3d.files import read_json

FOUR = ("t1n", "t1c", "t2w", "t2f")
LACKING = ("t2f", "t1n", "t1c")


@pytest.fixture(scope="module")
def either(phantom_cohort, write_run, tmp_path_factory):
    """``in``: three cases that lack one sequence each; the run ``any``."""
    root = tmp_path_factory.mktemp("either")
    for case, lacking in zip(synth3d.find_cases(phantom_cohort), LACKING, strict=False):
        gone = shutil.ignore_patterns(f"*{lacking}.nii.gz")
        shutil.copytree(case.folder, root / "in" / case.name, ignore=gone)
    write_run(root / "any", mode="any", sources=FOUR, targets=FOUR)
    return root


def export(either, out, to):
    assert main(["export", str(either / "any"), "--to", to, str(out)]) == 0
    return out


def test_the_card_says_what_is_made_from_what(either, tmp_path):
    card = (export(either, tmp_path / "model", "folder") / "README.md").read_text()
    assert "whatever a brain-tumour case lacks of the MRI sequences **t1n, t1c, t2w, t2f**" in card
    assert "may lack any of them, but not all" in card
    assert synth3d.load_run(tmp_path / "model", "cpu").config.mode == "any"


def test_one_run_answers_for_every_sequence(either, tmp_path):
    from synth3d.export.answers import answer_brasyn

    context = export(either, tmp_path / "context", "brasyn")
    words = [str(either / "in"), str(tmp_path / "out")]
    assert answer_brasyn(context / "app" / "models", words) == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    cases = synth3d.find_cases(either / "in")
    assert made == [f"{c.name}-{gone}.nii.gz" for c, gone in zip(cases, LACKING, strict=True)]


def test_a_bundles_network_takes_what_is_zero_for_absent(either, tmp_path):
    bundle = export(either, tmp_path / "bundle", "monai")
    meta = read_json(bundle / "configs" / "metadata.json")
    assert meta["task"] == "Synthesis of the MRI sequence any of t1n+t1c+t2w+t2f from the rest"
    network = BundleNetwork(str(bundle / "models"), "cpu")
    image = torch.rand(2, 4, 8, 8, 8)
    image[0, 1] = image[1, 2:] = 0
    present = torch.tensor([[True, False, True, True], [True, True, False, False]])
    with torch.inference_mode():
        expected = network.generator(image, present, ~present)
        np.testing.assert_array_equal(network(image), expected)
