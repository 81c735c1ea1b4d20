"""``synth3d status`` and ``verify``, failures that are kept, and parts of a cohort."""

import json
import os
import shutil

import pytest
import torch

from synth3d.cli import main
from synth3d.completion import Layout, states_of, verify
from synth3d.errors import InputError
from synth3d.files import claim
from synth3d.frameworks import FRAMEWORKS

NAMES = [f"Brats18_X_{number}_1" for number in range(4)]


def states(out):
    return {one.case: one.state for one in states_of(out)}


@pytest.mark.parametrize("form", ["brats", "nnunet"])
def test_parts_add_up_and_are_counted(complete, tmp_path, capsys, form):
    out = tmp_path / "out"
    for number, state in ((1, "missing"), (2, "done")):
        out.mkdir(exist_ok=True)
        left = [out / f".partial-1-{name}" for name in ("cohort.json", "dataset.json")]
        for path in left:  # of a process that was killed
            path.write_text("{")
        one, two = complete(part=f"{number}/2", format=form)
        assert [path.exists() for path in left] == [False, form == "brats"]
        assert [one.case, two.case] == NAMES[number - 1 :: 2]
        assert states(out) == {n: "done" if n in NAMES[::2] else state for n in NAMES}
        assert main(["status", str(out)]) == (1 if number == 1 else 0)
    assert capsys.readouterr().out.splitlines()[-1] == f"4 cases in {out}: 4 done"
    assert main(["verify", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"4 cases in {out}: 4 verified"
    assert {one.state for one in complete(format=form)} == {"whole", "done"}
    assert set(states(out).values()) == {"verified"}


def test_what_is_being_made_is_told(complete, tmp_path):
    complete(cases=NAMES[:2])
    with claim(Layout(tmp_path / "out", "brats").lock(NAMES[1])):
        assert states(tmp_path / "out") == {NAMES[0]: "done", NAMES[1]: "working"}
        verify(tmp_path / "out")
    assert states(tmp_path / "out") == {NAMES[0]: "verified", NAMES[1]: "done"}


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda image, receipt: cut(image), "_flair.nii.gz is not what was written"),
        (lambda image, receipt: image.unlink(), "_flair.nii.gz is gone"),
        (lambda image, receipt: cut(receipt), "is not valid JSON"),
        (lambda image, receipt: receipt.write_text("[]"), "holds no JSON object"),
        (lambda image, receipt: change(receipt, files={}), "fewer images"),
        (lambda image, receipt: change(receipt, files={"../x.nii": "0"} | many()), "cannot name"),
        (lambda image, receipt: change(receipt, identity=[]), "is damaged"),
        (lambda image, receipt: change(receipt, format=0), "another version"),
    ],
)  # fmt: skip
def test_verify_names_what_is_not_as_it_was_written(complete, tmp_path, capsys, damage, reason):
    out = tmp_path / "out"
    complete(cases=NAMES[1:3])
    assert {one.state for one in verify(out)} == {"verified"}
    receipt = out / NAMES[2] / f"{NAMES[2]}.receipt.json"
    damage(out / NAMES[2] / f"{NAMES[2]}_flair.nii.gz", receipt)
    assert states(out)[NAMES[2]] != "verified"
    capsys.readouterr()
    assert main(["verify", str(out), "--json"]) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert (good["state"], bad["state"]) == ("verified", "damaged")
    assert reason in bad["reason"]


def many():
    return {f"{NAMES[2]}/{number}.nii.gz": "0" for number in range(9)}


def change(receipt, **values):
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | values))


def test_a_file_that_was_touched_since_is_no_longer_verified(complete, tmp_path):
    out = tmp_path / "out"
    (one,) = complete(cases=NAMES[2:3])
    verify(out)
    os.utime(one.paths["t2f"], (1, 1))
    assert states(out) == {NAMES[2]: "done"}


def test_what_failed_is_told_with_its_reason_and_tried_again_when_asked_for(
    complete, tmp_path, capsys, monkeypatch
):
    out, calls = tmp_path / "out", []

    def broken(self, tiles, present, wanted, seed=0):
        calls.append(1)
        return tiles[:, :1] * torch.nan

    with monkeypatch.context() as patch:
        patch.setattr(FRAMEWORKS["l1"], "synthesize", broken)
        with pytest.raises(InputError, match="2 of 4 cases could not be completed"):
            complete()
    assert states(out) == dict(zip(NAMES, ["done", "done", "failed", "failed"], strict=True))
    assert main(["status", str(out)]) == 1
    told = capsys.readouterr().out
    assert "2 done, 2 failed" in told
    assert f"failed: {NAMES[2]}: the network gives NaN" in told
    with pytest.raises(InputError, match="failed before, --retry-failed tries it: the network"):
        complete()
    assert {one.state for one in complete(retry_failed=True)} == {"whole", "made"}
    assert set(states(out).values()) == {"done"}
    assert not (out / "failed").exists()


def test_other_files_are_another_matter_than_those_that_failed(
    ready, complete, tmp_path, monkeypatch
):
    shutil.copytree(ready / "in", tmp_path / "in")
    broken = lambda self, tiles, present, wanted, seed=0: tiles[:, :1] * torch.nan  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(FRAMEWORKS["l1"], "synthesize", broken)
        with pytest.raises(InputError, match="NaN"):
            complete(data=tmp_path / "in", cases=NAMES[2:3])
    for token in ("t1", "t1ce", "t2"):
        source, target = (f"{name}/{name}_{token}.nii.gz" for name in (NAMES[1], NAMES[2]))
        shutil.copy(ready / "in" / source, tmp_path / "in" / target)
    (one,) = complete(data=tmp_path / "in", cases=NAMES[2:3])
    assert one.state == "made"


def test_a_folder_of_others_or_a_damaged_list_is_refused(tmp_path, complete, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "no folder that synth3d complete has worked in" in capsys.readouterr().err
    complete(cases=NAMES[2:3])
    for text in ("{", "[]", '{"cases": [1]}', '{"cases": "x"}'):
        (tmp_path / "out" / "cohort.json").write_text(text)
        assert main(["status", str(tmp_path / "out")]) == 2
