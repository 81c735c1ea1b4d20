"""Pictures of what was made, and the page that shows a cohort."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from matplotlib import image

from synth3d.cli import main
from synth3d.cohort import find_cases
from synth3d.completion import Layout
from synth3d.completion.gallery import preview, write_index, write_preview
from synth3d.completion.plan import Job
from synth3d.completion.state import expect
from synth3d.files import sha256, write_json
from synth3d.images.volumes import write_new

NAMES = [f"Brats18_X_{number}_1" for number in range(4)]
LACKING = NAMES[2:]


def looks(paths):
    return {path: (sha256(path), path.stat().st_mtime_ns) for path in paths}


def rows_of(page):
    """The text of each case's row by its name."""
    rows = re.findall(r'<li class="case">.*?</li>\n(?=<li class="case">|</ol>)', page, re.S)
    return {re.findall("<h2>(.*?)</h2>", row)[0]: row for row in rows}


def test_who_lacked_something_has_a_picture_and_every_case_a_row(complete, tmp_path):
    complete()
    out = tmp_path / "out"
    pictures = {path.relative_to(out).as_posix() for path in out.rglob("*.preview.png")}
    assert pictures == {f"{name}/{name}.preview.png" for name in LACKING}
    page = (out / "index.html").read_text()
    rows = rows_of(page)
    assert [*rows] == [*LACKING, *NAMES[:2]], "what was made comes first"
    for name, row in rows.items():
        assert f'href="{name}/{name}.receipt.json"' in row
        assert (f'src="{name}/{name}.preview.png"' in row) == (name in LACKING)
        assert ("nothing was missing" in row) == (name not in LACKING)
        assert (">done<" in row) == (name in LACKING)
    assert not re.findall("<script|https?://", page)


def test_a_rerun_keeps_pictures_and_draws_a_lost_one_without_making_the_case(complete, tmp_path):
    complete()
    kept, lost = (tmp_path / "out" / name / f"{name}.preview.png" for name in LACKING)
    made = [*(tmp_path / "out").rglob("*.nii.gz")]
    before, digest = looks([kept, *made]), sha256(lost)
    lost.rename(half := lost.with_name(f".partial-1-{lost.name}"))  # killed while it was drawn
    assert main(["verify", str(tmp_path / "out")]) == 0  # it proves nothing
    assert {one.state for one in complete()} == {"whole", "done"}
    assert looks([kept, *made]) == before
    assert sha256(lost) == digest
    assert not half.exists()


def test_none_are_drawn_where_none_are_wanted(complete, tmp_path):
    complete(previews=False)
    assert not [*(tmp_path / "out").rglob("*.png")]
    assert not (tmp_path / "out" / "index.html").exists()


def test_what_may_be_wrong_is_a_panel_of_its_own(complete, tmp_path):
    widths = []
    for settings in ({}, {"mirror": "x", "overwrite": True}):
        complete(cases=LACKING[:1], **settings)
        path = tmp_path / "out" / LACKING[0] / f"{LACKING[0]}.preview.png"
        widths.append(image.imread(path).shape[1])
    assert widths[1] > 1.15 * widths[0]


def test_an_nnunet_folder_has_the_pictures_beside_it(complete, tmp_path):
    complete(format="nnunet")
    out = tmp_path / "out"
    assert {path.name for path in (out / "previews").iterdir()} == {f"{n}.png" for n in LACKING}
    assert len(find_cases(out)) == 4
    assert all(f'src="previews/{name}.png"' in (out / "index.html").read_text() for name in LACKING)


def test_cases_that_failed_or_wait_are_told_and_names_are_no_tags(complete, tmp_path):
    complete(cases=LACKING[:1])
    out = tmp_path / "out"
    expect(out, [NAMES[0], "x&y"])
    facts = {"case": NAMES[0], "reason": "has <i>NaN</i>", "failed": "", "identity": {}}
    write_json(out / "failed" / f"{NAMES[0]}.json", facts)
    write_index(Layout(out, "brats"))
    page = (out / "index.html").read_text()
    rows = rows_of(page)
    assert "has &lt;i&gt;NaN" in rows[NAMES[0]]
    assert "not made yet" in rows["x&amp;y"]
    assert "<i>" not in page


def test_warnings_of_a_receipt_stand_in_its_row(complete, tmp_path):
    complete(cases=LACKING)
    out, name = tmp_path / "out", LACKING[0]
    path = out / name / f"{name}.receipt.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"suspicions": ["T1 and T2 look exchanged"]}))
    write_index(Layout(out, "brats"))
    rows = rows_of((out / "index.html").read_text())
    assert "T1 and T2 look exchanged" in rows[name]
    assert 'class="warnings"' not in rows[LACKING[1]]


def test_a_page_that_is_not_ours_is_left_alone(complete, tmp_path):
    (tmp_path / "out").mkdir()
    own = tmp_path / "out" / "index.html"
    own.write_text("my page")
    complete(cases=LACKING[:1])
    assert own.read_text() == "my page"


def test_many_who_end_at_once_leave_one_page_with_every_case(complete, tmp_path):
    complete(cases=LACKING[:1])
    out = tmp_path / "out"
    layout = Layout(out, "brats")

    def end(number):
        expect(out, [f"case{number:02}"])
        write_index(layout)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(end, range(24)))
    page = (out / "index.html").read_text()
    assert len(rows_of(page)) == 25
    assert page.endswith("</html>")
    assert not [path for path in out.rglob(".partial-*")]


@pytest.mark.parametrize("axes", permutations(range(3)))
def test_it_hangs_the_same_however_the_file_lies(tmp_path, monkeypatch, axes):
    """A bright corner at the patient's left, front and top is at the right, the top, the left."""
    drawn = []
    monkeypatch.setattr(
        preview, "draw_preview", lambda panels, edges, *_: drawn.append((panels, edges))
    )
    body = np.full((20, 22, 24), 100.0, np.float32)  # x to the right, y to the front, z to the top
    body[[0, -1]] = body[:, [0, -1]] = body[:, :, [0, -1]] = 0
    body[3:7, 14:19, 16:21] = 900
    for flips in product((False, True), repeat=3):
        root = tmp_path / f"{flips}"
        turned, affine = body.transpose(axes), np.zeros((4, 4))
        affine[3, 3] = 1
        for new, old in enumerate(axes):
            affine[old, new] = -(1 + old) if flips[new] else 1 + old
            turned = np.flip(turned, new) if flips[new] else turned
        for token, data in (("t1", turned), ("seg", turned > 500)):
            path = root / "in" / "Brats18_Y_1_1" / f"Brats18_Y_1_1_{token}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_new(path, np.ascontiguousarray(data.T), affine, np.int16)
        (case,) = find_cases(root / "in")
        layout = Layout(root / "out", "brats")
        target = layout.image(case, "t2f")
        target.parent.mkdir(parents=True)
        write_new(target, np.ascontiguousarray(turned.T), affine, np.int16)
        identity = {"how": {}, "made": ["t2f"], "inputs": {}}
        write_preview(Job(case, case, (), ("t2f",), identity, False), layout)
        panels, edges = drawn.pop()
        assert edges == {"axial": (2, 1), "coronal": (3, 1), "sagittal": (3, 2)}
        assert [panel.made for panel in panels] == [False, True]
        for panel in panels:
            for slices, right in zip(panel.slices, (True, True, False), strict=True):
                rows, columns = np.nonzero(slices > 500)
                assert rows.mean() < slices.shape[0] / 2
                assert (columns.mean() > slices.shape[1] / 2) == right


def test_a_sibling_on_another_grid_and_a_damaged_label_do_not_stop_it(complete, tmp_path, ready):
    complete(cases=LACKING[:1])
    out = tmp_path / "out"
    (case,) = [one for one in find_cases(ready / "in") if one.name == LACKING[0]]
    coarse = tmp_path / "t1.nii.gz"
    write_new(coarse, np.ones((4, 5, 6), np.float32), np.diag([4.0, 4, 4, 1]), np.float32)
    bad = tmp_path / "seg.nii.gz"
    bad.write_bytes(b"no image")
    case = replace(case, images={**case.images, "t1n": coarse}, label=bad)
    job = Job(case, case, (), ("t2f",), {"how": {}, "made": ["t2f"], "inputs": {}}, True)
    assert write_preview(job, Layout(out, "brats")) == out / case.name / f"{case.name}.preview.png"


def test_the_last_event_counts_every_state(ready, tmp_path, capsys):
    command = ["complete", "--run", str(ready / "run"), "--data", str(ready / "in"), "--out",
               str(tmp_path / "out"), "--device", "cpu", "--json"]  # fmt: skip
    for made, done in ((2, 0), (0, 2)):
        assert main(command) == 0
        end = json.loads(capsys.readouterr().out.splitlines()[-1])
        counted = [end[state] for state in ("made", "done", "whole", "theirs")]
        assert counted == [made, done, 4 - made - done, 0]


@pytest.mark.parametrize("fault", [ValueError("no\x1b font"), MemoryError(), OSError("full")])
def test_what_cannot_be_drawn_is_told_and_the_case_is_done(complete, tmp_path, monkeypatch, fault,
                                                           capsys):  # fmt: skip
    def refuse(*given):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(preview, "draw_preview", refuse)
        assert [one.state for one in complete(cases=LACKING)] == ["made"] * 2
        told = capsys.readouterr().err
        assert all(f"no picture of case {name}" in told for name in LACKING)
        assert all(line.isprintable() for line in told.splitlines())
        assert [one.state for one in complete(cases=LACKING)] == ["done"] * 2
    assert main(["verify", str(tmp_path / "out")]) == 0
    complete(cases=LACKING)
    assert len([*(tmp_path / "out").rglob("*.preview.png")]) == 2
