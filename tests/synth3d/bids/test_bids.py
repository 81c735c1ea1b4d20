"""The BIDS-App: names and links of a derivative dataset, jobs that share it, the group table."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

import synth3d
from synth3d.bids.command import main
from synth3d.completion import verify
from synth3d.files import sha256

TOKENS = {"t1n": "T1w", "t1c": "ce-gadolinium_T1w", "t2w": "T2w", "t2f": "FLAIR"}
LACKING = {"sub-01": "t2f", "sub-02_ses-a": "t2f", "sub-02_ses-b": None}


@pytest.fixture(scope="module")
def cohort(phantom_cohort, write_run, tmp_path_factory):
    """A BIDS dataset of two participants, the second with two sessions; runs for FLAIR and T1."""
    root = tmp_path_factory.mktemp("bids")
    for case, (name, lacking) in zip(
        synth3d.find_cases(phantom_cohort), LACKING.items(), strict=False
    ):
        folder = root.joinpath("BIDS", *name.split("_"), "anat")
        folder.mkdir(parents=True)
        for modality, path in case.images.items():
            if modality != lacking:
                shutil.copy(path, folder / f"{name}_{TOKENS[modality]}.nii.gz")
    about = {"Name": "heads", "BIDSVersion": "1.10.0", "DatasetDOI": "doi:10.0/heads"}
    (root / "BIDS" / "dataset_description.json").write_text(json.dumps(about))
    write_run(root / "flair")
    write_run(root / "t1", sources=["t1c", "t2w", "t2f"], targets=["t1n"])
    return root


def app(data, out, *words):
    return main([str(word) for word in (data, out, *words)])


def work(root, out, *words, data=None, run="flair"):
    flags = ("--run", root / run, "--device", "cpu")
    return app(data or root / "BIDS", out, "participant", *flags, *words)


def files_in(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def table(out):
    with (out / "group_synth.tsv").open(newline="") as file:
        return {row["participant_id"] + row["session_id"]: row
                for row in csv.DictReader(file, delimiter="\t")}  # fmt: skip


@pytest.fixture(scope="module")
def made(cohort):
    """All participants completed once, in the dataset's own derivatives; read-only."""
    out = cohort / "BIDS" / "derivatives" / "synth3d"
    assert work(cohort, out, "--workers", "2") == 0
    return out


def test_only_what_was_made_is_written_under_derivative_names(made):
    pictures = ("sub-01/anat/sub-01", "sub-02/ses-a/anat/sub-02_ses-a")
    expected = {
        f"{stem}_desc-synth_FLAIR{end}" for stem in pictures for end in (".nii.gz", ".json")
    }
    expected |= {f"receipts/{name}.receipt.json" for name in LACKING}
    expected |= {f"previews/{stem.split('/')[-1]}.png" for stem in pictures}
    assert files_in(made) == expected | {
        "dataset_description.json", ".bidsignore", "cohort.json", "index.html"
    }  # fmt: skip


def test_verify_asks_a_derivative_for_what_was_made_and_for_no_more(made, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(made, out)
    assert {one.state for one in verify(out)} == {"verified"}
    receipt = out / "receipts" / "sub-01.receipt.json"
    proof = json.loads(receipt.read_text())
    proof["files"] = {name: sha for name, sha in proof["files"].items() if name.endswith(".json")}
    receipt.write_text(json.dumps(proof))
    states = {one.case: one.state for one in verify(out)}
    assert states == dict.fromkeys(LACKING, "verified") | {"sub-01": "damaged"}


def test_the_sidecar_and_the_description_lead_back_to_the_raw_files(cohort, made):
    about = json.loads((made / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"][0]["Name"] == "synth3d"
    assert about["SourceDatasets"] == [{"URL": "../..", "DOI": "doi:10.0/heads"}]
    anat = made / "sub-02" / "ses-a" / "anat"
    sidecar = json.loads((anat / "sub-02_ses-a_desc-synth_FLAIR.json").read_text())
    assert sidecar["Synthetic"] is True
    paths = [uri.removeprefix("bids:raw:") for uri in sidecar["Sources"]]
    raw = (made / about["DatasetLinks"]["raw"]).resolve()
    assert {raw / path for path in paths} == set((cohort / "BIDS/sub-02/ses-a/anat").iterdir())
    assert (anat / sidecar["Receipt"]).is_file()


def test_the_picture_is_the_one_that_complete_writes(cohort, made, tmp_path):
    synth3d.complete(run=cohort / "flair", data=cohort / "BIDS", out=tmp_path, device="cpu")
    pair = (made / "sub-01/anat/sub-01_desc-synth_FLAIR.nii.gz",
            tmp_path / "sub-01" / "sub-01_FLAIR.nii.gz")  # fmt: skip
    arrays = [np.asarray(nib.load(path).dataobj) for path in pair]
    np.testing.assert_array_equal(*arrays)


def test_jobs_for_single_participants_and_other_runs_share_a_folder(cohort, made, tmp_path, capsys):
    assert work(cohort, tmp_path, "--participant-label", "01") == 0
    assert work(cohort, tmp_path, "--participant_label", "sub-02", "--session-label", "a") == 0
    two = files_in(tmp_path)
    assert two == files_in(made) - {"receipts/sub-02_ses-b.receipt.json"}
    before = {name: sha256(tmp_path / name) for name in two}
    capsys.readouterr()
    assert work(cohort, tmp_path, "--participant-label", "01") == 0
    assert "1 done before" in capsys.readouterr().out
    assert {name: sha256(tmp_path / name) for name in two} == before
    flags = ("--participant-label", "02", "--session-label", "b", "--missing", "t1")
    assert work(cohort, tmp_path, *flags, run="t1") == 0
    assert (tmp_path / "sub-02/ses-b/anat/sub-02_ses-b_desc-synth_T1w.nii.gz").is_file()
    by = json.loads((tmp_path / "dataset_description.json").read_text())["GeneratedBy"]
    assert [one["Description"] for one in by] == ["run flair", "run t1"]


def test_the_table_says_of_everyone_what_was_made_and_whether_it_still_holds(cohort, tmp_path):
    data, out = tmp_path / "BIDS", tmp_path / "out"
    shutil.copytree(cohort / "BIDS", data, ignore=shutil.ignore_patterns("derivatives"))
    assert work(cohort, out, "--participant-label", "02", data=data) == 0
    assert app(data, out, "group") == 1
    rows = table(out)
    assert {name: row["state"] for name, row in rows.items()} == {
        "sub-01n/a": "missing", "sub-02ses-a": "made", "sub-02ses-b": "complete"
    }  # fmt: skip
    assert rows["sub-02ses-a"]["synthetic"] == "t2f"
    assert rows["sub-02ses-a"]["sources"] == "t1n,t1c,t2w"
    assert rows["sub-02ses-b"]["synthetic"] == "n/a"
    assert json.loads((out / "group_synth.json").read_text()).keys() == rows["sub-01n/a"].keys()
    assert work(cohort, out, data=data) == 0
    assert app(data, out, "group") == 0
    (out / "sub-01/anat/sub-01_desc-synth_FLAIR.nii.gz").write_bytes(b"")
    shutil.copy(
        data / "sub-01/anat/sub-01_T1w.nii.gz", data / "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz"
    )  # noqa: E501
    assert app(data, out, "group") == 1
    states = [row["state"] for row in table(out).values()]
    assert states == ["changed", "outdated", "complete"]


def test_a_participant_with_two_files_for_one_sequence_stops_nobody_else(cohort, tmp_path, capsys):
    data = tmp_path / "BIDS"
    shutil.copytree(cohort / "BIDS", data, ignore=shutil.ignore_patterns("derivatives"))
    anat = data / "sub-02" / "ses-b" / "anat"
    shutil.copy(anat / "sub-02_ses-b_T1w.nii.gz", anat / "sub-02_ses-b_run-2_T1w.nii.gz")
    assert work(cohort, tmp_path / "out", "--participant-label", "01", data=data) == 0
    assert work(cohort, tmp_path / "out", "--participant-label", "02", data=data) == 2
    assert "run-2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("OUT", "participant", "--run", "flair", "--participant-label", "07", "1"), "sub-07"),
        (("OUT", "participant", "--run", "flair", "--session-label", "z"), "ses-z"),
        (("OUT", "participant"), "--run"),
        (("BIDS/sub-03", "participant", "--run", "flair"), "only read"),
        (("BIDS/derivatives", "participant", "--run", "flair"), "only read"),
        (("OUT", "group"), "participant level first"),
        (("OUT", "group", "--missing", "t1"), "no use for --missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    cohort, monkeypatch, capsys, words, told
):
    monkeypatch.chdir(cohort)
    before = files_in(cohort)
    assert app("BIDS", *words) == 2
    assert told in capsys.readouterr().err
    assert files_in(cohort) == before


def test_other_namings_and_other_datasets_are_refused(
    cohort, phantom_cohort, made, tmp_path, capsys
):
    flags = ("participant", "--run", cohort / "flair", "--device", "cpu")
    assert app(phantom_cohort, tmp_path / "out", *flags) == 2
    assert "not as BIDS" in capsys.readouterr().err
    for about in (
        {"DatasetType": "raw"},
        {"DatasetType": "derivative", "DatasetLinks": {"raw": "x"}},
    ):  # noqa: E501
        out = tmp_path / about["DatasetType"]
        out.mkdir()
        (out / "dataset_description.json").write_text(json.dumps(about))
        assert work(cohort, out) == 2
        assert files_in(out) == {"dataset_description.json"}
