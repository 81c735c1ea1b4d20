"""Claims about completed cohorts: what is written, where, on which grid and scale, and when."""

import json
import pickle
import shutil

import nibabel as nib
import numpy as np
import pytest

import synth3d
from synth3d.cohort import find_cases
from synth3d.completion import CompleteRequest, InThisProcess
from synth3d.completion import run as module
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.frameworks import FRAMEWORKS
from synth3d.images.intensity import Scale, ScalePrior
from synth3d.images.volumes import read

WHOLE, LACKING = "Brats18_X_0_1", "Brats18_X_2_1"
SOURCES = ("t1n", "t1c", "t2w")


@pytest.fixture
def complete(ready, tmp_path):
    """Complete the cohort of ``ready`` into ``out``, unless told otherwise."""

    def run(out=tmp_path / "out", **settings):
        given = {"run": ready / "run", "data": ready / "in", "device": "cpu"}
        return synth3d.complete(out=out, **given | settings)

    return run


def snapshot(folder):
    """Every file with its bytes and its time of change."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (sha256(path), path.stat().st_mtime_ns) for path in files}


def receipt_of(out, name=LACKING):
    return json.loads((out / name / f"{name}.receipt.json").read_text())


def test_real_files_are_the_same_bytes_and_the_input_is_only_read(ready, complete, tmp_path):
    shutil.copytree(ready / "in", tmp_path / "in")
    before = snapshot(tmp_path / "in")
    done = complete(data=tmp_path / "in")
    assert [one.state for one in done] == ["whole", "whole", "made", "made"]
    assert [one.made for one in done] == [(), (), ("t2f",), ("t2f",)]
    assert all(path.is_file() for one in done for path in (*one.paths.values(), one.receipt))
    assert snapshot(tmp_path / "in") == before
    for path in (ready / "in").rglob("*.nii.gz"):
        assert sha256(tmp_path / "out" / path.relative_to(ready / "in")) == sha256(path)
    assert all(not case.missing() and case.label for case in find_cases(tmp_path / "out"))


def inodes(folder):
    return {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def test_no_file_of_the_output_is_one_of_the_input_unless_links_were_asked_for(
    ready, complete, tmp_path
):
    for number, settings in enumerate(({}, {"format": "nnunet"}, {"overwrite": True})):
        complete(out=tmp_path / str(number), **settings)
        assert not inodes(tmp_path / str(number)) & inodes(ready / "in")
    complete(out=tmp_path / "links", link=True)
    assert len(inodes(tmp_path / "links") & inodes(ready / "in")) > 4


@pytest.mark.parametrize(
    "files", [{}, {"../../secret": "0"}, {"/etc/passwd": "0"}, {"x\0": "0"}, [], None, {"a": 5}]
)
def test_a_receipt_that_lists_other_files_proves_nothing(complete, tmp_path, files):
    out = tmp_path / "again"
    complete(out=out, cases=[LACKING])
    path = out / LACKING / f"{LACKING}.receipt.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": files}))
    assert complete(out=out, cases=[LACKING], overwrite=True)[0].state == "made"


def test_a_synthetic_file_has_its_siblings_header_and_a_picture_in_the_brain_alone(completed):
    made = nib.load(completed / LACKING / f"{LACKING}_flair.nii.gz")
    real = nib.load(completed / LACKING / f"{LACKING}_t2.nii.gz")
    np.testing.assert_array_equal(made.affine, real.affine)
    for key in ("datatype", "dim", "pixdim", "qform_code", "sform_code", "xyzt_units"):
        np.testing.assert_array_equal(made.header[key], real.header[key])
    assert made.header["descrip"].item().startswith(b"synthetic t2f by synth3d")
    picture, brain = made.get_fdata(), real.get_fdata() > 0
    assert not picture[~brain].any()
    assert picture[brain].std() > 1
    assert picture.min() >= 0


def test_the_receipt_tells_everything_that_decided_the_picture(ready, completed):
    receipt = receipt_of(completed)
    assert receipt["synthetic"] is True
    assert receipt["identity"]["made"] == ["t2f"]
    source = ready / "in" / LACKING / f"{LACKING}_t1ce.nii.gz"
    expected = {"file": source.name, "sha256": sha256(source)}
    assert receipt["identity"]["inputs"]["t1c"] == expected
    how = receipt["identity"]["how"]
    assert how["weights_sha256"] == sha256(ready / "run" / "weights.safetensors")
    assert how["patch"] == [8, 8, 8]
    assert "seed" not in {*how, *receipt}  # nothing is drawn
    assert receipt["versions"].keys() == {"synth3d", "torch", "python"}
    assert receipt["targets"]["t2f"]["scale"]["high"] == pytest.approx(1.4 * 800, rel=0.2)
    assert receipt["device"] == {"name": "cpu", "rolling": "torch"}
    assert "tf32" not in how
    assert receipt["seconds"] >= 0
    assert receipt["peak_memory_mb"]["process"] > 0
    assert str(ready) not in json.dumps(receipt)  # no path of this machine
    sidecar = json.loads((completed / LACKING / f"{LACKING}_flair.json").read_text())
    assert sidecar["Synthetic"] is True
    assert receipt_of(completed, WHOLE)["synthetic"] is False


@pytest.mark.parametrize("form", ["brats", "nnunet"])
def test_new_files_are_named_where_they_are_few_and_else_by_their_pattern(
    ready, complete, write_case, tmp_path, capsys, form
):
    done = complete(format=form)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("new: ")]
    assert told == [f"new: {one.paths['t2f']}" for one in done if one.state == "made"]
    complete(format=form)
    assert "new: " not in capsys.readouterr().out
    for number in range(4):
        write_case(tmp_path / "in", number, SOURCES)
    done = complete(tmp_path / "more", data=tmp_path / "in", format=form)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("new: ")]
    assert len(told) == 1
    pattern = told[0].split()[-1]
    assert [pattern.replace("CASE", one.case) for one in done] == [
        str(one.paths["t2f"]) for one in done
    ]


def test_a_second_run_changes_nothing(complete, completed):
    before = snapshot(completed)
    assert [one.state for one in complete(completed)] == ["whole", "whole", "done", "done"]
    assert snapshot(completed) == before


@pytest.mark.parametrize("form", ["brats", "nnunet"])
def test_cases_that_the_input_has_no_more_are_named_and_kept(
    ready, complete, tmp_path, capsys, form
):
    shutil.copytree(ready / "in", tmp_path / "in")
    complete(data=tmp_path / "in", format=form)
    assert "any more" not in capsys.readouterr().out
    before = snapshot(tmp_path / "out")
    for name in (WHOLE, LACKING):
        shutil.rmtree(tmp_path / "in" / name)
    complete(data=tmp_path / "in", cases=["Brats18_X_3_1"], format=form)
    assert "any more" not in capsys.readouterr().out  # nobody asked for the others
    done = complete(data=tmp_path / "in", format=form)
    told = [line for line in capsys.readouterr().out.splitlines() if "any more" in line]
    assert len(told) == 1
    assert told[0].endswith(f"{WHOLE}, {LACKING}")
    assert [one.state for one in done] == ["whole", "done"]
    assert snapshot(tmp_path / "out") == before


def test_other_settings_and_a_tampered_picture_are_refused_without_overwrite(complete, tmp_path):
    path = complete(cases=[LACKING])[0].paths["t2f"]
    before = receipt_of(tmp_path / "out")
    for damage in (0, 9):
        path.write_bytes(path.read_bytes()[: path.stat().st_size - damage])
        again = {"cases": [LACKING], "precision": "fp32" if damage else "bf16"}
        with pytest.raises(InputError, match=f"{path} is already there; --overwrite"):
            complete(**again)
        complete(**again, overwrite=True)
        assert receipt_of(tmp_path / "out")["identity"] != before["identity"] or damage
        assert complete(**again)[0].state == "done"
        read(path)


def test_hidden_sequences_are_neither_looked_at_nor_linked(ready, complete, tmp_path):
    shutil.copytree(ready / "in" / WHOLE, tmp_path / "in" / WHOLE)
    (one,) = complete(data=tmp_path / "in", missing=["FLAIR"])
    assert receipt_of(tmp_path / "out", WHOLE)["hidden"] == ["t2f"]
    real = tmp_path / "in" / WHOLE / f"{WHOLE}_flair.nii.gz"
    assert sha256(one.paths["t2f"]) != sha256(real)
    real.unlink()  # the picture is the same when the file is really not there
    (again,) = complete(tmp_path / "again", data=tmp_path / "in")
    assert sha256(one.paths["t2f"]) == sha256(again.paths["t2f"])


def test_a_dry_run_prints_the_plan_and_writes_nothing(complete, tmp_path, capsys):
    assert {one.state for one in complete(dry_run=True)} == {"planned"}
    text = capsys.readouterr().out
    assert f"make t2f from t1n+t1c+t2w: 2 cases ({LACKING}, " in text
    assert "2 lack nothing" in text
    assert WHOLE not in text
    assert len(text.splitlines()) <= 15
    assert all(f"{told}: " in text for told in ("memory", "disk", "time", "goes to"))
    assert not (tmp_path / "out").exists()


def test_nnunet_format_has_every_channel_in_order(ready, complete, tmp_path):
    out = tmp_path / "Dataset900_Completed"
    complete(out, format="nnunet", cases=[LACKING])
    names = sorted(path.name for path in (out / "imagesTs").iterdir())
    assert names == [f"{LACKING}_{i:04d}.nii.gz" for i in range(4)]
    channels = json.loads((out / "dataset.json").read_text())["channel_names"]
    assert channels == {"0": "t1n", "1": "t1c", "2": "t2w", "3": "t2f"}
    source = ready / "in" / LACKING / f"{LACKING}_t1ce.nii.gz"
    assert sha256(out / "imagesTs" / names[1]) == sha256(source)
    assert (out / "receipts" / f"{LACKING}.receipt.json").is_file()
    (case,) = find_cases(out)
    assert not case.missing()
    complete(tmp_path / "folders", data=out, missing=["flair"])
    assert find_cases(tmp_path / "folders")[0].naming == "brats2023"


@pytest.mark.parametrize(
    ("dtype", "share"), [(np.int16, 1), (np.float32, 1), (np.uint8, 255 / 1400)]
)
def test_plumbing_gives_back_the_real_picture(write_case, tmp_path, dtype, share):
    name = write_case(tmp_path / "in", 7, dtype=dtype, share=share)
    out = tmp_path / "out"
    (one,) = synth3d.complete(data=tmp_path / "in", out=out, missing=["flair"], plumbing=True)
    made = nib.load(one.paths["t2f"])
    real = nib.load(tmp_path / "in" / name / f"{name}_flair.nii.gz")
    assert made.get_data_dtype() == real.get_data_dtype()
    assert made.header["descrip"].item().startswith(b"re-exported real t2f")
    np.testing.assert_array_equal(made.affine, real.affine)
    tolerance = 0.5 if dtype != np.float32 else 5e-4
    np.testing.assert_allclose(made.get_fdata(), real.get_fdata(), rtol=0, atol=tolerance)
    receipt = receipt_of(out, name)
    assert (receipt["plumbing"], receipt["synthetic"]) == (True, False)


def test_a_run_whose_network_copies_t2_gives_t2_on_the_target_scale(
    ready, complete, monkeypatch, tmp_path
):
    copy_t2 = lambda self, sources, present, wanted, seed=0: sources[:, 2:3]  # noqa: E731
    monkeypatch.setattr(FRAMEWORKS["l1"], "synthesize", copy_t2)
    (one,) = complete(cases=[LACKING])
    t2 = read(ready / "in" / LACKING / f"{LACKING}_t2.nii.gz").data
    own, scale = Scale.fit(t2, t2 > 0), receipt_of(tmp_path / "out")["targets"]["t2f"]["scale"]
    expected = Scale.from_dict(scale).invert(own.apply(t2, t2 > 0), t2 > 0)
    np.testing.assert_allclose(read(one.paths["t2f"]).data, expected, atol=0.51)


def test_absent_sources_are_zeros_and_of_two_targets_the_missing_one_is_made(
    write_case, write_run, complete, tmp_path
):
    name = write_case(tmp_path / "in", 8, ("t2w",))
    complete(data=tmp_path / "in")
    assert receipt_of(tmp_path / "out", name)["absent_sources"] == ["t1n", "t1c"]
    run = write_run(tmp_path / "run", sources=["t1n", "t2w"], targets=["t1c", "t2f"])
    assert complete(run=run, cases=[LACKING])[0].made == ("t2f",)


def test_bright_voxels_are_compressed_into_the_type_not_clamped(
    write_case, complete, tmp_path, monkeypatch
):
    bright = lambda self, tiles, *_, **__: 1 + tiles[:, 2:3].clamp(0, 1)  # noqa: E731
    monkeypatch.setattr(FRAMEWORKS["l1"], "synthesize", bright)
    write_case(tmp_path / "in", 9, SOURCES)
    large = Scale(10.0, 30000.0)
    monkeypatch.setattr(ScalePrior, "estimate", lambda self, target, sources: large)
    (one,) = complete(data=tmp_path / "in")
    made = read(one.paths["t2f"]).data
    assert made.max() == 32767
    assert (made == 32767).sum() <= 20


@pytest.fixture
def unit(ready, tmp_path):
    """Plan as ``precision`` has it: the request, the identity as JSON, and the jobs."""

    def plan(precision):
        place = {"data": ready / "in", "out": tmp_path / "out", "run": ready / "run"}
        request = CompleteRequest(**place, precision=precision, device="cpu")
        jobs, _, identity, _ = module._plan(request, InThisProcess())
        return request, identity, jobs

    return plan


def test_the_unit_of_work_needs_nothing_but_what_it_is_given(unit):
    """It can be sent to another machine: a request, the maker's identity and a job, pickled."""
    request, identity, jobs = unit("fp32")
    sent = pickle.loads(pickle.dumps((request, identity, False, jobs[2])))
    assert module.complete_case(*sent) == ("made", "")
    assert module.complete_case(*sent) == ("theirs", "")  # done again, it finds itself done
    other = json.dumps(json.loads(identity) | {"patch": [16, 16, 16]})
    with pytest.raises(InputError, match="changed"):
        module.complete_case(request, other, False, jobs[3])


def test_what_another_run_wrote_since_the_plan_is_not_replaced(unit, tmp_path):
    plans = [unit(precision) for precision in ("fp32", "bf16")]
    (first, _), (second, why) = (
        module.complete_case(request, identity, False, jobs[2]) for request, identity, jobs in plans
    )
    assert (first, second) == ("made", "failed")
    assert "--overwrite" in why
    assert receipt_of(tmp_path / "out")["identity"]["how"]["precision"] == "fp32"


def test_a_label_keeps_its_meaning_without_the_dataset_that_says_it(complete, ready, tmp_path):
    """As of nnU-Net's own BraTS converter, which swaps necrosis and oedema."""
    data = tmp_path / "data"
    (source,) = [case for case in find_cases(ready / "in") if case.name == WHOLE]
    names = {"channel_names": dict(enumerate(source.images))}
    names["labels"] = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
    for number, path in enumerate(source.images.values()):
        target = data / "imagesTr" / f"{WHOLE}_{number:04d}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (data / "labelsTr").mkdir()
    shutil.copy(source.label, data / "labelsTr" / f"{WHOLE}.nii.gz")
    (data / "dataset.json").write_text(json.dumps(names))
    for _ in range(2):
        complete(data=data)
        (case,) = find_cases(tmp_path / "out")
        np.testing.assert_array_equal(read(case.label).data, read(source.label).data / 2)
