"""Claims about completed cohorts: what is written, where, on which grid and scale, and when."""

import dataclasses
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from synth3d.cli import main as command
from synth3d.cohort.cases import find_cases
from synth3d.completion import makers as synthesis
from synth3d.completion.run import complete_cohort
from synth3d.data.options import DataConfig
from synth3d.errors import InputError
from synth3d.files import sha256, write_json
from synth3d.frameworks import FRAMEWORKS
from synth3d.images.intensity import Scale, ScalePrior
from synth3d.images.volumes import read
from synth3d.models.options import ModelConfig
from synth3d.training.config import RunConfig, TrainConfig, build_framework
from synth3d.training.run_folder import FORMAT, save_weights, write_config

SHAPE_XYZ = (19, 21, 13)
OBLIQUE = np.array([[-0.9, 0.1, 0, 9], [0.1, 1.1, 0.3, -7], [0, -0.2, 2.4, 3], [0, 0, 0, 1.0]])
LEVELS = {"t1n": 700, "t1c": 900, "t2w": 500, "t2f": 800}
TOKENS = {"t1n": "_t1", "t1c": "_t1ce", "t2w": "_t2", "t2f": "_flair"}


def write_case(root, name, seed, dtype=np.int16, modalities=tuple(LEVELS)):
    """A BraTS-2018-named case: a textured ellipsoid on an oblique, anisotropic grid."""
    generator = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in SHAPE_XYZ], indexing="ij")
    brain = sum(axis**2 for axis in axes) < 0.8
    for modality in modalities:
        picture = brain * (LEVELS[modality] * (0.5 + generator.random(SHAPE_XYZ)) + 1)
        image = nib.Nifti1Image(picture.astype(dtype), OBLIQUE)
        image.header.set_qform(OBLIQUE, code=1)
        image.header.set_sform(OBLIQUE, code=2)
        image.header.set_xyzt_units("mm", "sec")
        path = root / name / f"{name}{TOKENS[modality]}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
    label = nib.Nifti1Image((brain & (axes[0] > 0.3)).astype(np.uint8) * 2, OBLIQUE)
    nib.save(label, root / name / f"{name}_seg.nii.gz")


def write_run(folder, sources=("t1n", "t1c", "t2w"), targets=("t2f",), dropout=0.1):
    """An untrained but complete run folder of a tiny network."""
    config = RunConfig(
        sources=sources,
        targets=targets,
        model=ModelConfig(name="resunet", widths=(4, 8), blocks=1, groups=2, stages=1),
        data=DataConfig(patch=(8, 8, 8), overlap=(4, 4, 4), source_dropout=dropout),
        train=TrainConfig(framework="l1"),
    )
    torch.manual_seed(0)
    network = build_framework(config, training=False).generator
    folder.mkdir(parents=True)
    write_config(folder, config)
    save_weights(folder / "weights.safetensors", network)
    scales = {name: Scale(0.1 * level, 1.4 * level) for name, level in LEVELS.items()}
    write_json(folder / "scales.json", ScalePrior([scales] * 3).to_list())
    digest = sha256(folder / "weights.safetensors")
    write_json(folder / "done.json", {"format": FORMAT, "weights_sha256": digest})
    return folder


@pytest.fixture(scope="session")
def ready(tmp_path_factory):
    """A cohort of two whole cases and two that lack FLAIR, and a run; read-only."""
    root = tmp_path_factory.mktemp("complete")
    for number in range(4):
        some = tuple(LEVELS) if number < 2 else ("t1n", "t1c", "t2w")
        write_case(root / "in", f"Brats18_X_{number}_1", number, modalities=some)
    write_run(root / "run")
    return root


@pytest.fixture(scope="session")
def completed(ready, tmp_path_factory):
    """The cohort of ``ready`` completed once; read-only."""
    out = tmp_path_factory.mktemp("completed") / "out"
    complete_cohort(ready / "run", ready / "in", out)
    return out


def snapshot(folder):
    """Every file with its bytes and its time of change."""
    return {
        path: (sha256(path), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def receipt_of(out, name):
    return json.loads((out / name / f"{name}.receipt.json").read_text())


def test_every_case_is_complete_and_named_as_its_own_files(completed):
    cases = find_cases(completed)
    assert [case.name for case in cases] == [f"Brats18_X_{i}_1" for i in range(4)]
    assert all(not case.missing() and case.label for case in cases)
    assert (completed / "Brats18_X_2_1" / "Brats18_X_2_1_flair.nii.gz").is_file()


def test_real_files_are_the_same_bytes(ready, completed):
    for path in (ready / "in").rglob("*.nii.gz"):
        assert sha256(completed / path.relative_to(ready / "in")) == sha256(path)


def test_the_header_of_a_synthetic_file_is_its_siblings(completed):
    folder = completed / "Brats18_X_2_1"
    made = nib.load(folder / "Brats18_X_2_1_flair.nii.gz")
    real = nib.load(folder / "Brats18_X_2_1_t2.nii.gz")
    np.testing.assert_array_equal(made.affine, real.affine)
    for key in ("datatype", "dim", "pixdim", "qform_code", "sform_code", "xyzt_units"):
        np.testing.assert_array_equal(made.header[key], real.header[key])
    assert made.header["descrip"].item().startswith(b"synthetic t2f by synth3d")


def test_the_picture_is_zero_outside_the_brain_and_alive_inside(completed):
    folder = completed / "Brats18_X_3_1"
    made = read(folder / "Brats18_X_3_1_flair.nii.gz").data
    brain = read(folder / "Brats18_X_3_1_t1.nii.gz").data > 0
    assert not made[~brain].any()
    assert made[brain].std() > 1
    assert made.min() >= 0


def test_the_receipt_tells_everything_that_decided_the_picture(ready, completed):
    name = "Brats18_X_2_1"
    receipt = receipt_of(completed, name)
    assert receipt["synthetic"] is True
    assert receipt["identity"]["made"] == ["t2f"]
    source = ready / "in" / name / f"{name}_t1ce.nii.gz"
    assert receipt["identity"]["inputs"]["t1c"] == {
        "file": source.name,
        "sha256": sha256(source),
    }
    weights = sha256(ready / "run" / "weights.safetensors")
    assert receipt["identity"]["how"]["weights_sha256"] == weights
    assert receipt["identity"]["how"]["patch"] == [8, 8, 8]
    assert receipt["versions"].keys() == {"synth3d", "torch", "python"}
    assert receipt["targets"]["t2f"]["scale"]["high"] == pytest.approx(1.4 * 800, rel=0.2)
    assert receipt["seconds"] >= 0
    assert receipt["peak_memory_mb"]["process"] > 0
    assert str(ready) not in json.dumps(receipt)  # no path of this machine
    sidecar = json.loads((completed / name / f"{name}_flair.json").read_text())
    assert sidecar["Synthetic"] is True
    assert receipt_of(completed, "Brats18_X_0_1")["synthetic"] is False


def test_the_input_folder_is_only_read(ready, tmp_path):
    shutil.copytree(ready / "in", tmp_path / "in")
    before = snapshot(tmp_path / "in")
    complete_cohort(ready / "run", tmp_path / "in", tmp_path / "out")
    assert snapshot(tmp_path / "in") == before


def test_a_second_run_changes_nothing(ready, completed, capsys):
    before = snapshot(completed)
    jobs = complete_cohort(ready / "run", ready / "in", completed)
    assert all(job.done for job in jobs)
    assert snapshot(completed).items() >= {
        item for item in before.items() if item[0].name != ".lock"
    }
    assert "4 done before" in capsys.readouterr().out


def test_two_runs_write_the_same_bytes(ready, completed, tmp_path):
    name = "Brats18_X_2_1"
    complete_cohort(ready / "run", ready / "in", tmp_path / "out", cases=[name])
    path = Path(name, f"{name}_flair.nii.gz")
    assert sha256(tmp_path / "out" / path) == sha256(completed / path)


def test_other_weights_are_refused_without_overwrite_and_redone_with_it(ready, tmp_path):
    name, out = "Brats18_X_2_1", tmp_path / "out"
    complete_cohort(ready / "run", ready / "in", out, cases=[name])
    with pytest.raises(InputError, match="already there; --overwrite"):
        complete_cohort(ready / "run", ready / "in", out, cases=[name], precision="bf16")
    before = receipt_of(out, name)
    again = {"cases": [name], "precision": "bf16", "overwrite": True}
    complete_cohort(ready / "run", ready / "in", out, **again)
    assert receipt_of(out, name)["identity"] != before["identity"]
    assert complete_cohort(ready / "run", ready / "in", out, **again)[0].done


def test_a_tampered_picture_is_not_done(ready, tmp_path):
    name, out = "Brats18_X_2_1", tmp_path / "out"
    complete_cohort(ready / "run", ready / "in", out, cases=[name])
    path = out / name / f"{name}_flair.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="already there"):
        complete_cohort(ready / "run", ready / "in", out, cases=[name])
    complete_cohort(ready / "run", ready / "in", out, cases=[name], overwrite=True)
    read(path)


@pytest.mark.parametrize("dies_in", ["link_or_copy", "_write_made", "write_json"])
def test_a_killed_run_leaves_nothing_half_written_and_a_rerun_finishes(
    ready, completed, tmp_path, monkeypatch, dies_in
):
    name, out, calls = "Brats18_X_2_1", tmp_path / "out", []
    from synth3d.completion import run as complete

    def dying(*args, **kwargs):
        calls.append(args)
        if len(calls) > 1 or dies_in == "_write_made":
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    real = getattr(complete, dies_in)
    monkeypatch.setattr(complete, dies_in, dying)
    with pytest.raises(KeyboardInterrupt):
        complete_cohort(ready / "run", ready / "in", out, cases=[name])
    monkeypatch.undo()
    assert not (out / name / f"{name}.receipt.json").exists()
    for path in out.rglob("*.nii.gz"):
        read(path)
    (out / name / f".partial-99-{name}_flair.nii.gz").write_bytes(b"half")  # as kill -9 leaves it
    assert not complete_cohort(ready / "run", ready / "in", out, cases=[name])[0].done
    assert {p.name for p in (out / name).iterdir()} == {
        p.name for p in (completed / name).iterdir()
    }
    assert complete_cohort(ready / "run", ready / "in", out, cases=[name])[0].done


def test_hidden_sequences_are_neither_looked_at_nor_linked(ready, completed, tmp_path):
    shutil.copytree(ready / "in" / "Brats18_X_0_1", tmp_path / "in" / "Brats18_X_0_1")
    out, name = tmp_path / "out", "Brats18_X_0_1"
    complete_cohort(ready / "run", tmp_path / "in", out, missing=["FLAIR"])
    assert receipt_of(out, name)["hidden"] == ["t2f"]
    made = out / name / f"{name}_flair.nii.gz"
    real = tmp_path / "in" / name / f"{name}_flair.nii.gz"
    assert sha256(made) != sha256(real)
    real.unlink()  # the picture is the same when the file is really not there
    complete_cohort(ready / "run", tmp_path / "in", tmp_path / "again")
    assert sha256(made) == sha256(tmp_path / "again" / name / f"{name}_flair.nii.gz")


def test_a_dry_run_prints_the_plan_and_writes_nothing(ready, tmp_path, capsys):
    complete_cohort(ready / "run", ready / "in", tmp_path / "out", dry_run=True)
    text = capsys.readouterr().out
    assert "Brats18_X_2_1: make t2f from t1n+t1c+t2w" in text
    assert "Brats18_X_0_1: nothing is missing" in text
    assert not (tmp_path / "out").exists()


def test_nnunet_format_has_every_channel_in_order(ready, tmp_path):
    out = tmp_path / "Dataset900_Completed"
    complete_cohort(ready / "run", ready / "in", out, format="nnunet", cases=["Brats18_X_2_1"])
    names = sorted(path.name for path in (out / "imagesTs").iterdir())
    assert names == [f"Brats18_X_2_1_{i:04d}.nii.gz" for i in range(4)]
    channels = json.loads((out / "dataset.json").read_text())["channel_names"]
    assert channels == {"0": "t1n", "1": "t1c", "2": "t2w", "3": "t2f"}
    source = ready / "in" / "Brats18_X_2_1" / "Brats18_X_2_1_t1ce.nii.gz"
    assert sha256(out / "imagesTs" / names[1]) == sha256(source)
    assert (out / "receipts" / "Brats18_X_2_1.receipt.json").is_file()
    (case,) = find_cases(out)
    assert not case.missing()
    command(["complete", "--run", str(ready / "run"), "--data", str(out), "--missing", "flair",
             "--out", str(tmp_path / "folders")])  # fmt: skip
    assert find_cases(tmp_path / "folders")[0].naming == "brats2023"


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_plumbing_gives_back_the_real_picture(tmp_path, dtype):
    name = "Brats18_X_7_1"
    write_case(tmp_path / "in", name, 7, modalities=tuple(LEVELS))
    for modality, token in TOKENS.items():
        path = tmp_path / "in" / name / f"{name}{token}.nii.gz"
        image = nib.load(path)
        share = 255 / 1400 if dtype == np.uint8 else 1
        data = (np.asarray(image.dataobj) * share).astype(dtype)
        header = image.header.copy()
        header.set_data_dtype(dtype)
        nib.save(nib.Nifti1Image(data, image.affine, header), path)
        assert modality in find_cases(tmp_path / "in")[0].images
    complete_cohort(None, tmp_path / "in", tmp_path / "out", missing=["t2f"], plumbing=True)
    made = nib.load(tmp_path / "out" / name / f"{name}_flair.nii.gz")
    real = nib.load(tmp_path / "in" / name / f"{name}_flair.nii.gz")
    assert made.get_data_dtype() == real.get_data_dtype()
    np.testing.assert_array_equal(made.affine, real.affine)
    tolerance = 1 if dtype != np.float32 else 1e-3
    np.testing.assert_allclose(made.get_fdata(), real.get_fdata(), rtol=0, atol=tolerance * 0.5)
    assert receipt_of(tmp_path / "out", name)["plumbing"] is True


def test_a_run_whose_network_copies_t2_gives_t2_on_the_target_scale(ready, tmp_path, monkeypatch):
    copy_t2 = lambda self, sources, present, wanted, seed=0: sources[:, 2:3]  # noqa: E731
    monkeypatch.setattr(FRAMEWORKS["l1"], "synthesize", copy_t2)
    name = "Brats18_X_2_1"
    complete_cohort(ready / "run", ready / "in", tmp_path / "out", cases=[name])
    made = read(tmp_path / "out" / name / f"{name}_flair.nii.gz").data
    t2 = read(ready / "in" / name / f"{name}_t2.nii.gz").data
    brain = t2 > 0
    own, scale = Scale.fit(t2, brain), receipt_of(tmp_path / "out", name)["targets"]["t2f"]["scale"]
    expected = Scale.from_dict(scale).invert(own.apply(t2, brain), brain)
    np.testing.assert_allclose(made, expected, atol=0.51)


def test_absent_sources_are_zeros_for_a_run_that_learned_to_do_without(ready, tmp_path):
    write_case(tmp_path / "in", "Brats18_X_8_1", 8, modalities=("t2w",))
    complete_cohort(ready / "run", tmp_path / "in", tmp_path / "out")
    receipt = receipt_of(tmp_path / "out", "Brats18_X_8_1")
    assert receipt["absent_sources"] == ["t1n", "t1c"]


def test_a_run_with_two_targets_makes_only_what_is_missing(ready, tmp_path):
    run = write_run(tmp_path / "run", sources=("t1n", "t2w"), targets=("t1c", "t2f"))
    complete_cohort(run, ready / "in", tmp_path / "out", cases=["Brats18_X_2_1"])
    assert receipt_of(tmp_path / "out", "Brats18_X_2_1")["identity"]["made"] == ["t2f"]


def test_a_scale_that_the_file_cannot_hold_is_taken_from_the_siblings():
    siblings = [Scale(10, 400), Scale(20, 900)]
    integers, floats = (-32768.0, 32767.0), (-np.inf, np.inf)
    assert synthesis.storable_scale(Scale(0, 800), siblings, integers) == (
        Scale(0, 800),
        "training",
    )
    assert synthesis.storable_scale(Scale(0, 1), siblings, floats) == (Scale(0, 1), "training")
    for scale, limits in [(Scale(0, 1), integers), (Scale(0, 4000), (0.0, 255.0))]:
        found, origin = synthesis.storable_scale(scale, siblings, limits)
        assert origin == "siblings"
        assert found.high == pytest.approx(600)


def test_bright_voxels_are_compressed_into_the_type_not_clamped(ready, tmp_path, monkeypatch):
    bright = lambda self, tiles, *_, **__: 1 + tiles[:, 2:3].clamp(0, 1)  # noqa: E731
    monkeypatch.setattr(FRAMEWORKS["l1"], "synthesize", bright)
    write_case(tmp_path / "in", "Brats18_X_9_1", 9, modalities=("t1n", "t1c", "t2w"))
    large = Scale(10.0, 30000.0)
    monkeypatch.setattr(ScalePrior, "estimate", lambda self, target, sources: large)
    complete_cohort(ready / "run", tmp_path / "in", tmp_path / "out")
    made = read(next((tmp_path / "out").rglob("*_flair.nii.gz"))).data
    assert made.max() == 32767
    assert (made == 32767).sum() <= 20


def test_jobs_are_plain_values(ready, tmp_path):
    jobs = complete_cohort(ready / "run", ready / "in", tmp_path / "out", dry_run=True)
    assert [dataclasses.astuple(job)[2] for job in jobs] == [(), (), ("t2f",), ("t2f",)]
