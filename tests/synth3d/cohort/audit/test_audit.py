import json
import os
import re
import shutil

import numpy as np
import pytest

from synth3d.cohort.audit.problems import audit
from synth3d.cohort.audit.report import NAMINGS, AuditRequest, audit_json, format_audit, run_audit
from synth3d.cohort.naming import TOKENS
from synth3d.cohort.survey import find_cases
from synth3d.errors import InputError
from synth3d.images.volumes import write_new

SHAPE = (6, 7, 8)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def make_case(root, name, seed=0, labels=(0, 1, 2, 3), without=(), scale=1.0, **replaced):
    """A BraTS-2023-named case; ``replaced`` gives (data, affine) or data for a modality."""
    values = np.random.default_rng(seed)
    head = np.zeros(SHAPE, bool)
    head[1:-1, 1:-1, 1:-1] = True
    seg = np.zeros(SHAPE)
    seg[2, 2, 2 : 2 + len(labels)] = labels
    for modality in ("t1n", "t1c", "t2w", "t2f", "seg"):
        image = head * values.integers(50, 900, SHAPE) * scale
        image[1, 1, 1:-1] = 900 * scale  # the brightest 5 % of the head, so p99 is known
        data = seg if modality == "seg" else image
        data = replaced.get(modality, data)
        affine = AFFINE
        if isinstance(data, tuple):
            data, affine = data
        if modality not in without:
            path = root / name / f"{name}-{modality}.nii.gz"
            write_new(path, data, affine, "int16" if modality != "seg" else "uint8")
    return root / name


def name_of(number, time=0):
    return f"BraTS-GLI-{number:05d}-{time:03d}"


@pytest.fixture
def cohort(tmp_path):
    for number in range(3):
        make_case(tmp_path / "cohort", name_of(number), seed=number)
    return tmp_path / "cohort"


def found(result, severity="error"):
    return [(p.case, p.message) for p in result.problems if p.severity == severity]


def save_splits(tmp_path, **sides):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(sides))
    return path


def test_a_sound_cohort_has_no_problems_and_its_facts_are_told(cohort, capsys):
    assert run_audit(AuditRequest(cohort)) == 0
    assert (
        capsys.readouterr().out
        == f"""\
3 cases of 3 patients in {cohort}, files named like those of BraTS 2023 (CASE-t1n.nii.gz)

sequence  cases  thick slices  missing  intensity (p99 of the head)  part of the head it shows
t1n       3      0             0        900 to 900                   100% to 100%
t1c       3      0             0        900 to 900                   100% to 100%
t2w       3      0             0        900 to 900                   100% to 100%
t2f       3      0             0        900 to 900                   100% to 100%

held                   cases
t1n t1c t2w t2f label  3

grid (z, y, x), mm, axes   cases
6 x 7 x 8, 2 x 1 x 1, LPS  3

labels: in 3 cases, brats2023: 1 necrosis, 2 oedema, 3 enhancing
exchanged sequences other than T1 and T1ce cannot be told in 3 cases: it takes 9 cases \
that share 3 sequences or more, each on one grid and without a graver fault

nothing would break a run, 0 warnings
"""
    )


def test_every_naming_that_is_known_has_words():
    """Those of an extension are told by their key."""
    assert NAMINGS.keys() == {*TOKENS, "nnunet"}


def test_json_holds_the_facts_of_each_case(cohort):
    value = json.loads(audit_json(audit(cohort)))
    assert value["ok"]
    case = value["cases"][1]
    assert case["name"] == name_of(1)
    assert case["patient"] == "00001"
    assert case["shape_zyx"] == list(SHAPE)
    assert case["spacing_zyx_mm"] == [2, 1, 1]
    assert case["orientation"] == "LPS"
    assert case["label_values"] == [0, 1, 2, 3]
    assert case["label_scheme"]["enhancing"] == [3]
    assert case["label_scheme_told_by"] == "name"


def test_missing_sequences_and_strange_files_are_named(cohort):
    make_case(cohort, name_of(7), seed=7, without=("t2f", "seg"))
    result = audit(cohort)
    assert found(result, "warning") == [(name_of(7), "lacks t2f, the label")]
    assert not result.errors
    assert f"t1n t1c t2w            1      {name_of(7)}" in format_audit(result)
    for modality in ("t1n", "t1c", "t2w", "t2f"):
        (cohort / name_of(1) / f"{name_of(1)}-{modality}.nii.gz").unlink()
    shutil.copy(cohort / name_of(0) / f"{name_of(0)}-t1n.nii.gz", cohort / "old.nii.gz")
    result = audit(cohort)
    assert found(result) == [(name_of(1), "has no sequence at all")]
    assert (None, "ignored, as their names fit no naming: old.nii.gz") in found(result, "warning")


def test_patients_on_two_sides_and_unknown_cases_are_errors(cohort, tmp_path):
    make_case(cohort, name_of(0, 1), seed=9)
    path = save_splits(tmp_path, train=[name_of(0)], test=[name_of(0, 1), name_of(5)])
    result = audit(cohort, path)
    assert [text for _, text in found(result)] == [
        f"case {name_of(5)} (test) is not in the cohort (nearest: {name_of(2)})",
        f"patient 00000 is in train ({name_of(0)}) and test ({name_of(0, 1)})",
    ]
    assert [case for case, _ in found(result, "warning")] == [name_of(1), name_of(2)]
    assert run_audit(AuditRequest(cohort, path)) == 1


def test_one_case_under_two_names_is_found_by_its_voxels(cohort, tmp_path):
    make_case(cohort, name_of(9), seed=0)
    text = f"has the same voxels as {name_of(0)} in t1n, t1c, t2w, t2f"
    folder = cohort / name_of(1)
    shutil.copy(folder / f"{name_of(1)}-t1n.nii.gz", folder / f"{name_of(1)}-t1c.nii.gz")
    same = (name_of(1), "t1n and t1c have the same voxels")
    assert found(audit(cohort), "warning") == [same, (name_of(9), text)]
    path = save_splits(tmp_path, train=[name_of(0), name_of(1)], test=[name_of(2), name_of(9)])
    assert found(audit(cohort, path)) == [
        (name_of(9), f"{text}, on different sides (test and train)")
    ]


def test_a_sequence_of_part_of_the_head_and_a_label_outside_it_are_named(cohort):
    half = np.zeros(SHAPE)
    half[1:3, 1:-1, 1:-1] = np.arange(60).reshape(2, 5, 6)[:, :, :6] + 5
    seg = np.zeros(SHAPE)
    seg[0, 0, :4] = 1
    make_case(cohort, name_of(4), seed=4, t2f=half, seg=seg)
    texts = [text for case, text in found(audit(cohort), "warning") if case == name_of(4)]
    assert f"{name_of(4)}-t2f.nii.gz shows only 50% of the head" in texts
    assert "100% of the label lies outside the head" in texts


def test_far_scales_and_odd_backgrounds_are_named(cohort):
    make_case(cohort, name_of(4), seed=4, scale=36)
    ramp = np.arange(np.prod(SHAPE)).reshape(SHAPE) - 3.0
    make_case(cohort, name_of(5), seed=5, t1n=ramp)
    texts = {}
    for case, text in found(audit(cohort), "warning"):
        texts.setdefault(case, []).append(text)
    assert "intensities are far from the cohort's median: times t1n 36" in texts[name_of(4)][0]
    assert texts[name_of(5)] == [
        f"{name_of(5)}-t1n.nii.gz has no zero background; is it skull-stripped?",
        f"{name_of(5)}-t1n.nii.gz has negative values, down to -3",
    ]


@pytest.mark.parametrize(
    ("labels", "declared", "severity", "text"),
    [
        ((0, 1, 2, 3, 4), None, "warning", f"resection cavity of BraTS 2024.*{name_of(4)}"),
        ((0, 1, 2, 3, 4), None, "warning", "several label schemes.*: brats2023, brats2024"),
        ((0, 1, 2, 4), None, "error", "brats2018 .* or brats2024 .*: say which with --labels"),
        ((0, 1, 2, 4), "brats2018", "error", r"label values \[3\] are none of brats2018"),
        ((0, 1, 7), None, "error", r"seg\.nii\.gz: label values \[1, 7\] are in no scheme"),
    ],
)
def test_what_labels_mean_is_told_case_by_case(cohort, labels, declared, severity, text):
    make_case(cohort, name_of(4), seed=4, labels=labels)
    result = audit(cohort, labels=declared)
    assert any(re.search(text, message) for _, message in found(result, severity))


def test_every_broken_file_is_named_and_the_rest_still_looked_at(cohort):
    folder = make_case(cohort, name_of(4), seed=4, t2f=np.zeros(SHAPE))
    moved = AFFINE.copy()
    moved[0, 3] = 5
    data = np.random.default_rng(1).integers(1, 99, SHAPE) * (np.arange(8) > 1)
    make_case(cohort, name_of(5), seed=5, t2w=(data, moved))
    t1n = folder / f"{name_of(4)}-t1n.nii.gz"
    t1n.write_bytes(t1n.read_bytes()[:-20])
    shutil.copy(folder / f"{name_of(4)}-t1c.nii.gz", folder / f"{name_of(4)}-t1c.nii")
    result = audit(cohort)
    texts = [text for _, text in found(result)]
    assert any("has two files for t1c" in text for text in texts)
    assert any("t1n.nii.gz is truncated" in text for text in texts)
    assert any("t2f.nii.gz is zero everywhere" in text for text in texts)
    assert any("t2w.nii.gz differs from" in text and "origin" in text for text in texts)
    assert {case for case, _ in found(result)} == {name_of(4), name_of(5)}
    assert format_audit(result).splitlines()[-1].startswith("5 errors would break a run")
    json.loads(audit_json(result))


def test_a_name_can_forge_no_line_and_command_no_terminal(tmp_path, capsys):
    bad = "A\nerror: forged\x1b[2J"
    for name in ("B", "C", "D\x1b[2J"):
        write_new(tmp_path / f"{name}-t1n.nii.gz", np.ones((4, 4, 4)), np.eye(4), np.int16)
    (tmp_path / f"unknown {bad}.nii.gz").touch()
    assert run_audit(AuditRequest(tmp_path)) == 1
    said = capsys.readouterr().out
    assert "\nerror: forged" not in said
    assert all(line.isprintable() for line in said.splitlines())
    assert "no file can be named after it" in said


def last_lines(folder):
    return format_audit(audit(folder)).splitlines()


def test_a_fault_that_many_cases_share_is_one_line_and_all_of_it_is_in_the_json(tmp_path):
    folder = tmp_path / "cohort"
    for number in range(5):
        whole = np.random.default_rng(number).integers(50, 900, SHAPE)
        make_case(folder, name_of(number), number, t1n=whole, t2w=whole + 1, labels=(0,))
    faults = [line for line in last_lines(folder) if "skull-stripped?" in line]
    (line,) = faults
    assert line.startswith(
        f"warning: 5 cases ({name_of(0)}, {name_of(1)}, {name_of(2)} and 2 more)"
    )
    assert "t1n/t2w" in line
    assert name_of(3) not in line
    assert [line for line in last_lines(folder) if "label is empty" in line]
    told = json.loads(audit_json(audit(folder)))["problems"]
    assert sum("skull-stripped?" in one["message"] for one in told) == 10
    assert {one["case"] for one in told} >= {name_of(number) for number in range(5)}


def test_a_sequence_that_is_sound_in_one_case_is_not_told_with_those_of_others(tmp_path):
    folder = tmp_path / "cohort"
    for number, bad in enumerate([{"t1n", "t2w"}, {"t1n", "t2w"}, {"t1n"}]):
        whole = np.random.default_rng(number).integers(50, 900, SHAPE)
        make_case(folder, name_of(number), number, **dict.fromkeys(bad, whole))
    lines = [line for line in last_lines(folder) if "skull-stripped?" in line]
    assert len(lines) == 2
    both, alone = sorted(lines, key=lambda line: "t2w" not in line)
    assert f"2 cases ({name_of(0)}, {name_of(1)})" in both
    assert name_of(2) in alone
    assert "t2w" not in alone


def test_a_folder_too_high_is_told_once_with_the_two_that_are_meant(tmp_path):
    """The same cases in two resolutions, as 1mm/CASE/CASE-t1n.nii.gz and 2mm/CASE/..."""
    for number in range(5):
        make_case(tmp_path / "data" / "1mm", name_of(number), number)
    shutil.copytree(tmp_path / "data" / "1mm", tmp_path / "data" / "2mm")
    make_case(tmp_path / "data" / "2mm", name_of(7), 7)
    (error,) = [line for line in last_lines(tmp_path / "data") if line.startswith("error: ")]
    with pytest.raises(InputError) as raised:
        find_cases(tmp_path / "data")
    for line in (error, str(raised.value)):
        assert "5 cases" in line
        assert f"{tmp_path / 'data'}, 1mm and 2mm" in line
        assert line.count(name_of(0)) == 1
        assert ".nii" not in line
    told = json.loads(audit_json(audit(tmp_path / "data")))["problems"]
    assert {one["case"] for one in told} == {name_of(number) for number in range(5)}


def test_second_files_of_many_cases_are_one_line_in_which_no_path_is_garbled(tmp_path):
    """Beside the first one, below it, or in another folder, which need not be there for all."""
    folder = tmp_path / "cohort"
    for number in range(3):
        made, name = make_case(folder, name_of(number), number), name_of(number)
        (made / "again").mkdir()
        shutil.copy(made / f"{name}-t1n.nii.gz", made / f"{name}_T1.nii.gz")
        shutil.copy(made / f"{name}-t1c.nii.gz", made / "again" / f"{name}-t1c.nii.gz")
    elsewhere = folder / "more" / name_of(0) / f"{name_of(0)}-t2w.nii.gz"
    elsewhere.parent.mkdir(parents=True)
    shutil.copy(folder / name_of(0) / elsewhere.name, elsewhere)
    beside, below, other = sorted(
        (line for line in last_lines(folder) if line.startswith("error: ")),
        key=lambda line: [role in line for role in ("t2w", "t1c", "t1n")],
    )
    assert "3 cases" in beside
    assert " <case>_T1.nii.gz:" in beside
    assert "3 cases" in below
    assert f" again{os.sep}<case>-t1c.nii.gz:" in below
    assert str(elsewhere) in other


def test_faults_that_differ_are_lines_of_their_own_and_one_of_a_single_case_is_told_whole(tmp_path):
    folder = tmp_path / "cohort"
    for number, scale in enumerate((1, 1, 1, 40, 60)):
        without = ("t2f",) if number == 0 else ("t2w",) if number == 1 else ()
        make_case(folder, name_of(number), number, scale=scale, without=without)
    lines = last_lines(folder)
    assert f"warning: {name_of(0)}: lacks t2f" in lines
    assert f"warning: {name_of(1)}: lacks t2w" in lines
    assert lines[-1].endswith(f"{sum(line.startswith('warning: ') for line in lines)} warnings")


def test_what_was_measured_is_told_from_the_least_to_the_greatest(tmp_path):
    folder = tmp_path / "cohort"
    for number, shown in ((0, 4), (1, 3), (2, 5)):
        part = np.zeros(SHAPE)
        part[1:-1, 1:-1, 1:shown] = 500
        make_case(folder, name_of(number), number, t2w=part)
    shares = [m for one in audit(folder).problems if (m := re.search(r"only (\d+)%", one.message))]
    assert len(shares) == 3
    least, most = (f(int(m[1]) for m in shares) for f in (min, max))
    assert least < most
    (line,) = [line for line in last_lines(folder) if "of the head" in line and "warning" in line]
    assert f"t2w shows only {least} to {most}% of the head" in line


def test_a_name_that_is_a_word_or_number_is_no_reason_to_put_faults_together(tmp_path):
    folder = tmp_path / "cohort"
    rows = ["case,patient,t1n,t1c"]
    for name in ("1", "2"):
        paths = [folder / f"{name}_{m}.nii.gz" for m in ("t1n", "t1c")]
        for place, path in enumerate(paths):
            head = np.zeros(SHAPE)
            head[1:-1, 1:-1, 1:-1] = np.random.default_rng(int(name) * 9 + place).integers(
                50, 900, (4, 5, 6)
            )
            write_new(path, head - (int(name) if place else 0), AFFINE, "int16")
        rows.append(f"{name},{name},{','.join(path.name for path in paths)}")
    (folder / "cases.csv").write_text("\n".join(rows))
    lines = [line for line in last_lines(folder / "cases.csv") if "as its background" in line]
    assert len(lines) == 2
    assert any("-1 as its" in line for line in lines)
    assert any("-2 as its" in line for line in lines)
