"""A run for any gap, exported: one container for all four, and papers that say what it makes."""

import shutil

import numpy as np
import pytest
import torch

import synth3d
from synth3d.cli import main
from synth3d.export import BundleNetwork
from synth3d.files import read_json, write_json

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


def test_the_card_names_what_was_never_seen_together(either, tmp_path):
    shutil.copytree(either / "any", tmp_path / "any")
    scales = read_json(tmp_path / "any" / "scales.json")[0]
    apart = [{n: s for n, s in scales.items() if n != gone} for gone in ("t2w", "t2f")]
    write_json(tmp_path / "any" / "scales.json", apart)
    card = (export(tmp_path, tmp_path / "model", "folder") / "README.md").read_text()
    assert "no training case had both t2w and t2f." in card
    assert "but not all" not in card


@pytest.mark.parametrize(("to", "models"), [("folder", "."), ("monai", "models")])
def test_an_exported_run_notices_exchanged_sequences_too(either, tmp_path, capsys, to, models):
    """Here one whose discriminant of T1 and T2 finds every pair exchanged."""
    shutil.copytree(either / "any", tmp_path / "any")
    plane = {"pair": ["t1n", "t2w"], "weights": [0.0] * 19, "offset": 0.0, "limit": 1.0}
    roles = {"sources": FOUR, "pairs": [], "alone": [plane]}
    write_json(tmp_path / "any" / "roles.json", roles)
    model = export(tmp_path, tmp_path / "model", to) / models
    assert (model / "roles.json").read_bytes() == (tmp_path / "any" / "roles.json").read_bytes()
    capsys.readouterr()
    case = synth3d.find_cases(either / "in")[0]
    for run, told in ((model, True), (either / "any", False)):
        how = {"data": either / "in", "cases": [case.name], "device": "cpu", "dry_run": True}
        synth3d.complete(run=run, out=tmp_path / "out", **how)
        assert ("t1n and t2w look exchanged" in capsys.readouterr().out) == told


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


def test_a_bundles_network_is_told_what_a_tile_at_the_rim_cannot_show(either, tmp_path):
    """MONAI's inferer hands on what it is given: a case is one, whatever its tiles hold."""
    inferers = pytest.importorskip("monai.inferers")
    bundle = export(either, tmp_path / "bundle", "monai")
    assert "inferer(image, network, present)" in (bundle / "docs" / "README.md").read_text()
    network = BundleNetwork(str(bundle / "models"), "cpu")
    image = torch.rand(1, 4, 8, 8, 16)
    image[:, 3] = image[:, 0, :, :, 8:] = 0  # t2f is missing, t1n ends before the second tile
    present = torch.tensor([True, True, True, False])
    inferer = inferers.SlidingWindowInferer((8, 8, 8), sw_batch_size=3, overlap=0)
    with torch.inference_mode():
        made = inferer(image, network, present)[:, 3]
        masks = present.expand(1, 4), ~present.expand(1, 4)
        tiles = [network.generator(tile, *masks) for tile in image.split(8, 4)]
    torch.testing.assert_close(made, torch.cat(tiles, 4)[:, 3])


def test_a_bundle_of_seq2seq_alone_makes_what_complete_makes(write_run, tmp_path):
    """Whose fusion never learnt: the mean of what each source gives by itself."""
    shape = {"name": "tsf", "widths": [4, 8], "blocks": 1, "banks": 2, "fusion_banks": 2}
    train = {"framework": "tsf", "tsf": {"perceptual_weight": 0.0, "pretrain": 1.0}}
    run = tmp_path / "seq2seq"
    write_run(run, train=train, model=shape, mode="any", sources=FOUR, targets=FOUR)
    assert main(["export", str(run), "--to", "monai", str(tmp_path / "bundle")]) == 0
    network = BundleNetwork(str(tmp_path / "bundle" / "models"), "cpu")
    image, present = torch.rand(1, 4, 8, 8, 8), torch.tensor([[True, True, False, False]])
    image[:, 2:] = 0
    with torch.inference_mode():
        made = network(image)
        torch.testing.assert_close(made, network.generator.averaged(image, present, ~present))
        assert not torch.allclose(made, network.generator(image, present, ~present))
