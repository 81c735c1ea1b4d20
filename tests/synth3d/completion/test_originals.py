"""What was acquired leaves under its own name and safe from edits in place; gaps are told."""

import json
import shutil

import pytest

import synth3d
from synth3d.cohort import find_cases

PLAIN = {"t1n": "t1", "t1c": "t1c", "t2w": "t2", "t2f": "flair"}


@pytest.fixture
def complete(ready, tmp_path):
    """Complete the cohort in ``data`` into ``out``."""

    def run(data, out=tmp_path / "out", **settings):
        given = {"run": ready / "run", "data": data, "device": "cpu"}
        return synth3d.complete(out=out, **given | settings)

    return run


@pytest.fixture
def plain(ready, tmp_path):
    """The cohort of ``ready`` as a hospital has it: PAT2/t1.nii.gz, and PAT2/mask.nii.gz."""
    for case in find_cases(ready / "in"):
        folder = tmp_path / "plain" / f"PAT{case.name.split('_')[2]}"
        folder.mkdir(parents=True)
        for modality, path in case.images.items():
            shutil.copyfile(path, folder / f"{PLAIN[modality]}.nii.gz")
        shutil.copyfile(case.label, folder / "seg.nii.gz")
    return tmp_path / "plain"


def names(out, case):
    return {path.name for path in (out / case).glob("*.nii.gz")}


ALL = {"t1.nii.gz", "t1c.nii.gz", "t2.nii.gz", "flair.nii.gz", "seg.nii.gz"}


def test_what_is_made_is_called_as_in_the_other_cases(plain, complete, tmp_path):
    complete(plain)
    assert names(tmp_path / "out", "PAT2") == names(tmp_path / "out", "PAT0") == ALL
    assert (tmp_path / "out" / "PAT2" / "flair.json").is_file()
    again = {case.name: case for case in find_cases(tmp_path / "out")}
    assert not again["PAT2"].missing()
    assert again["PAT2"].label


def test_a_listed_dataset_keeps_the_names_that_it_lists(plain, complete, tmp_path):
    channels = {str(number): name for number, name in enumerate(PLAIN)}
    files = [f"{name}.nii.gz" for name in PLAIN.values()]
    listed = {
        case: {"images": [f"{case}/{file}" for file in files], "label": f"{case}/seg.nii.gz"}
        for case in ("PAT2", "PAT3")  # no case has FLAIR: the list alone tells its name
    }
    labels = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}
    about = {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz",
             "numTraining": 2, "dataset": listed}  # fmt: skip
    (plain / "dataset.json").write_text(json.dumps(about))
    complete(plain)
    for case in listed:
        assert names(tmp_path / "out", case) == ALL
    assert [case.missing() for case in find_cases(tmp_path / "out")] == [(), ()]


def test_read_only_holds_for_copies_and_for_what_was_done_before(plain, complete, tmp_path):
    writable = 0o222
    out = tmp_path / "out"
    complete(plain)
    assert all(p.stat().st_mode & writable for p in out.glob("*/*.nii.gz"))
    done = complete(plain, read_only=True)
    assert {one.state for one in done} <= {"whole", "done"}
    complete(plain, out=tmp_path / "new", read_only=True)
    for folder in (out, tmp_path / "new"):
        locked = {p.name for p in (folder / "PAT2").iterdir() if not p.stat().st_mode & writable}
        assert locked == ALL - {"flair.nii.gz"}
    assert all(p.stat().st_mode & writable for p in plain.rglob("*.nii.gz"))
    complete(plain, read_only=True, overwrite=True, cases=("PAT2",), seed=1)
    complete(plain, out=tmp_path / "links", link=True, read_only=True)
    assert not any(p.stat().st_mode & writable for p in plain.rglob("*.nii.gz"))


@pytest.mark.parametrize(("link", "told"), [(False, "copies of"), (True, "hard links")])
def test_it_says_what_the_acquired_files_are(plain, complete, capsys, link, told):
    complete(plain, link=link)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("acquired files")]
    assert told in line


def test_what_is_still_missing_is_told_case_by_case(plain, complete, capsys):
    (plain / "PAT3" / "t1c.nii.gz").unlink()
    complete(plain, dry_run=True)
    planned = capsys.readouterr().out
    complete(plain)
    for told in (planned, capsys.readouterr().out):
        assert [x for x in told.splitlines() if x.startswith("still")] == [
            "still missing: t1c in PAT3"
        ]


def test_what_is_made_from_fewer_sequences_than_the_run_knows_is_told(plain, complete, capsys):
    """The whole cases, and those whose gap is not filled, are not among them."""
    (plain / "PAT2" / "t1c.nii.gz").unlink()
    for dry_run in (True, False):
        complete(plain, dry_run=dry_run)
        told = [x for x in capsys.readouterr().out.splitlines() if "made without t1c" in x]
        assert len(told) == 1
        assert "t2f" in told[0]
        assert told[0].endswith("in PAT2")


def test_what_is_acquired_later_is_called_synthetic_no_more(plain, complete, tmp_path):
    complete(plain, cases=["PAT2"])
    shutil.copyfile(plain / "PAT0" / "flair.nii.gz", plain / "PAT2" / "flair.nii.gz")
    assert [one.state for one in complete(plain, cases=["PAT2"], overwrite=True)] == ["whole"]
    there = tmp_path / "out" / "PAT2"
    assert (there / "flair.nii.gz").read_bytes() == (plain / "PAT2/flair.nii.gz").read_bytes()
    assert not (there / "flair.json").exists()


def test_what_another_run_made_before_does_not_stay_unproven(plain, complete, tmp_path, write_run):
    other = write_run(tmp_path / "other", sources=["t1n", "t1c"], targets=["t2w"])
    how = {"cases": ["PAT2", "PAT3"], "overwrite": True}
    complete(plain, **how)
    changed = tmp_path / "out" / "PAT3" / "flair.nii.gz"
    changed.write_bytes(b"somebody's")
    complete(plain, run=other, missing=["t2"], **how)
    assert names(tmp_path / "out", "PAT2") == ALL - {"flair.nii.gz"}
    assert changed.read_bytes() == b"somebody's"  # what we did not write is not ours to remove
    said = json.loads((tmp_path / "out" / "PAT2" / "t2.json").read_text())
    assert said["Synthetic"]
    assert not (tmp_path / "out" / "PAT2" / "flair.json").exists()
