import csv
import json

import numpy as np
import pytest

from seg_eval.cli import main as seg_eval_main
from synth3d.cli import main
from synth3d.cohort import find_cases
from synth3d.errors import InputError
from synth3d.images.volumes import write_new
from tests.synth3d.cohort.naming.test_names import touch

FILES = ["x/a.nii.gz", "x/b.nii.gz", "x/m.nii.gz", "y/c.NII"]


def table(root, text, name="t.csv", encoding="utf-8"):
    path = touch(root, FILES) / name
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    ("between", "encoding"), [(",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-8")]
)
def test_a_table_is_read_whatever_parts_its_columns(tmp_path, between, encoding):
    text = (
        "# a remark\nCase,patient, T1n ,t2f,seg,labels,centre\n"
        "p1,Ann,x/a.nii.gz,x/b.nii.gz,x/m.nii.gz,brats2018,Köln\n\np0,,y/c.NII\n"
    )
    path = table(tmp_path, text.replace(",", between), encoding=encoding)
    first, second = find_cases(path)
    assert (first.name, first.patient, tuple(first.images)) == ("p0", "p0", ("t1n",))
    assert (second.patient, second.scheme, second.centre) == ("Ann", "brats2018", "Köln")
    assert (second.label, second.naming) == (tmp_path / "x/m.nii.gz", "table")
    assert second.file_name("t1n") == "p1-t1n.nii.gz"
    assert second.file_name("t2w") == "p1-t2w.nii.gz"
    assert second.label_name() == "p1-seg.nii.gz"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("case,t1n\na,x/gone.nii.gz\na,x/b.nii.gz\n",
         ["x/gone.nii.gz is not there", "same case as row 1"]),
        ("case,t1n,t2f\na,x/a.nii.gz,x/../x/b.nii.gz\nb,,\n",
         ["leaves the table", "row 2 (b): no sequence"]),
        ("case,t1n\na,x/a.nii.gz\nb,./x/a.nii.gz\n",
         ["x/a.nii.gz is used already in row 1 (a), t1n"]),
        ("case,t1n,flair\na,x/a.nii.gz,x/b.nii.gz\n", ["unknown columns 'flair'; known are case"]),
        ("case,t1n\n../a,x/a.nii.gz\n,/etc/passwd\n",
         ["has / in it", "is empty", "must be a path"]),
        ("case,t1n,labels\na,x/a.nii.gz,mine\n", ["'mine' are no known scheme", "brats2018"]),
        ("case,t1n,unread\na,x/a.nii.gz,x/b.nii.gz\n",
         ["unread is not empty (row 1 (a): x/b.nii.gz)"]),
        ("case,t1n\na,x/a.nii.gz | x/b.nii.gz\n", ["names several files"]),
        ("case,t1n\na,x/a.nii.gz,more\n", ["3 cells for 2 columns"]),
        ("t1n\nx/a.nii.gz\n", ["no column case"]),
        ("case,t1n\n", ["no rows"]),
        ("", ["is empty"]),
    ],
)  # fmt: skip
def test_all_faults_of_a_table_are_told_at_once(tmp_path, text, named):
    with pytest.raises(InputError, match=r"t\.csv") as caught:
        find_cases(table(tmp_path, text))
    assert not [part for part in named if part not in str(caught.value)]


@pytest.mark.parametrize(
    "command",
    [
        ["synth3d", "audit"],
        ["synth3d", "train", "--dry-run"],
        ["synth3d", "ablate", "components", "--dry-run"],
        ["synth3d", "complete", "--plumbing", "--missing", "t1", "--out", "out"],
        ["seg_eval", "run", "--missing", "t1", "--arms", "copy", "--dry-run"],
    ],
)
def test_every_command_takes_a_table_and_says_what_is_wrong_with_it(tmp_path, capsys, command):
    path = table(tmp_path, "case,t1n\na,x/gone.nii.gz\n")
    program = {"synth3d": main, "seg_eval": seg_eval_main}[command[0]]
    assert program([*command[1:], "--cases", str(path)]) == 2
    assert "row 1 (a), t1n: x/gone.nii.gz is not there" in capsys.readouterr().err


def test_other_encodings_and_lost_tables_are_refused(tmp_path, capsys):
    path = table(tmp_path, "case,centre\nä,ö\n", encoding="latin-1")
    with pytest.raises(InputError, match="as UTF-8 text"):
        find_cases(path)
    assert main(["train", "--cases", str(tmp_path / "gone.csv"), "--dry-run"]) == 2
    assert "gone.csv is not there" in capsys.readouterr().err
    assert main(["train", "--data", str(tmp_path / "x"), "--cases", str(path), "--dry-run"]) == 2
    assert "give one of the two" in capsys.readouterr().err


def test_a_draft_is_refused_until_it_is_corrected(tmp_path, capsys):
    names = [
        "A/A_t1.nii.gz",
        "A/A_T1.nii",
        "A/A_odd.nii",
        "A/A_ADC.nii",
        "B/=B.nii",
        "A/A_flair.nii",
    ]
    draft = touch(tmp_path, names) / "draft.csv"
    assert main(["audit", str(tmp_path), "--write-table", str(draft)]) == 1
    text = draft.read_text()
    assert "# not used: A/A_ADC.nii" in text
    assert "B,B,,,,,,B/=B.nii" in text
    with pytest.raises(InputError, match=r"row 1 \(A\).*A_odd.*row 2 \(B\).*=B.nii"):
        find_cases(draft)
    capsys.readouterr()
    assert main(["audit", str(tmp_path), "--write-table", str(draft)]) == 2  # never replaced
    assert "there already" in capsys.readouterr().err
    text = text.replace("A/A_T1.nii | A/A_t1.nii.gz", "A/A_T1.nii")
    text = text.replace("A/A_t1.nii.gz | A/A_T1.nii", "A/A_T1.nii").replace("A/A_odd.nii", "")
    draft.write_text(text.replace("B,B,,,,,,B/=B.nii", "B,B,B/=B.nii,,,,,"))
    first, second = find_cases(draft)
    assert (tuple(first.images), tuple(second.images)) == (("t1n", "t2f"), ("t1n",))


def test_a_draft_never_puts_two_patients_into_one_row(tmp_path):
    names = ["P1/anat/SE4_T2", "P1/anat/SE5_FLAIR", "P2/anat/SE2_T1", "P2/anat/SE3_T1ce"]
    draft = touch(tmp_path, [f"{name}.nii.gz" for name in names]) / "draft.csv"
    main(["audit", str(tmp_path), "--write-table", str(draft)])
    rows = {row["case"]: row for row in csv.DictReader(draft.read_text().splitlines())}
    assert {name: row["patient"] for name, row in rows.items()} == {
        "P1_anat": "P1",
        "P2_anat": "P2",
    }
    for who, name in (("P1", "P1_anat"), ("P2", "P2_anat")):
        cells = [cell for column, cell in rows[name].items() if column not in ("case", "patient")]
        assert all(cell.startswith(f"{who}/") for cell in cells if cell)


def test_a_draft_of_numbered_images_has_a_row_for_each_folder(tmp_path, capsys):
    """As dcm2niix leaves them: the number is the series, which differs between patients."""
    folders = {"P0": (2, 4, 5, 6), "P1": (2, 4, 5, 6), "P2": (3, 7, 8, 9)}
    words = ("ax_odd", "ax_T2_TSE", "ax_T1_post", "ax_FLAIR")
    names = [
        f"{patient}/SE{number}_{word}.nii.gz"
        for patient, numbers in folders.items()
        for number, word in zip(numbers, words, strict=True)
    ]
    draft = touch(tmp_path, names) / "draft.csv"
    assert main(["audit", str(tmp_path), "--write-table", str(draft)]) == 1
    assert "3 images in it must" in capsys.readouterr().out
    rows = list(csv.DictReader(draft.read_text().splitlines()))
    assert [row["case"] for row in rows] == [row["patient"] for row in rows] == [*folders]
    for row, some in zip(rows, folders.values(), strict=True):
        expected = [f"{row['case']}/SE{n}_{w}.nii.gz" for n, w in zip(some, words, strict=True)]
        assert [row[column] for column in ("unread", "t2w", "t1c", "t2f")] == expected
    columns = dict(zip(("t1n", "unread"), ("unread", "t1n"), strict=True))
    lines = draft.read_text().splitlines()
    lines[0] = ",".join(columns.get(column, column) for column in lines[0].split(","))
    draft.write_text("\n".join(line.rstrip("\n") for line in lines) + "\n")
    assert [len(case.images) for case in find_cases(draft)] == [4, 4, 4]


def test_numbers_of_patients_in_one_folder_are_patients(tmp_path):
    names = [f"all/{case}_{name}.nii.gz" for case in ("0012", "0013") for name in ("t1", "t2")]
    draft = touch(tmp_path, names) / "draft.csv"
    assert main(["audit", str(tmp_path), "--write-table", str(draft)]) == 0
    assert [case.name for case in find_cases(draft)] == ["0012", "0013"]


def test_commands_take_a_table_for_a_cohort(tmp_path, capsys):
    image = np.random.default_rng(0).integers(1, 99, (6, 7, 8)).astype(float)
    image[0] = 0
    for name in ("one", "two", "three"):
        write_new(tmp_path / f"x/{name}.nii.gz", image * (1 + len(name)), np.eye(4), "int16")
    path = table(tmp_path, "case,t1n,t1c,t2w\np1,x/one.nii.gz,x/two.nii.gz,x/three.nii.gz\n")
    assert main(["audit", "--cases", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["naming"] == "table"
    out, plumbing = str(tmp_path / "out"), ["complete", "--plumbing", "--missing", "t1c"]
    assert main([*plumbing, "--cases", str(path), "--out", out]) == 0
    made = {file.name for file in (tmp_path / "out" / "p1").glob("*.nii.gz")}
    assert made == {"p1-t1n.nii.gz", "p1-t1c.nii.gz", "p1-t2w.nii.gz"}
    assert main([*plumbing, "--data", str(path), "--cases", "p1", "--out", out]) == 0
    # A case of that name beside the table would be written over its own input.
    (tmp_path / "x").rename(tmp_path / "p1")
    path.write_text(path.read_text().replace("x/", "p1/"))
    assert main([*plumbing, "--cases", str(path), "--out", str(tmp_path), "--overwrite"]) == 2
    assert "only read" in capsys.readouterr().err


def test_a_guess_is_written_in_its_column_and_refused_until_it_is_confirmed(tmp_path, capsys):
    words = ("t1_mpr_sag", "t1_mpr_km", "t2_tse_tra", "t2_tirm_dark-fluid", "odd")
    names = [f"P{n}/{word}_{n}.nii.gz" for n in range(5) for word in words]
    draft = touch(tmp_path, names) / "draft.csv"
    assert main(["audit", str(tmp_path), "--write-table", str(draft)]) == 1
    rows = list(csv.DictReader(draft.read_text().splitlines()))
    for number, row in enumerate(rows):
        expected = [f"P{number}/{word}_{number}.nii.gz" for word in words]
        assert [row[c] for c in ("t1n", "t1c", "t2w", "t2f", "unread")] == expected
        assert row["guessed"].split() == ["t1n", "t1c", "t2w", "t2f"]

    def written(*cleared):
        with draft.open("w") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row | dict.fromkeys(cleared, "") for row in rows)
        capsys.readouterr()
        return draft

    for cleared in ((), ("unread",), ("guessed",)):
        assert main(["audit", "--cases", str(written(*cleared))]) == 2
        said = capsys.readouterr().err
        assert said.count(" is not empty (") == 2 - len(cleared)
        assert "P4" not in said
    assert len(find_cases(written("unread", "guessed"))) == 5


@pytest.mark.parametrize(
    "words", [("t1_tra", "t1_sag"), ("t1_post_pre",), ("t2_star",), ("t1_t2",), ("t2_km",)]
)
def test_what_could_be_two_things_is_not_guessed(tmp_path, words):
    draft = touch(tmp_path, [f"P/{word}_x.nii.gz" for word in words]) / "draft.csv"
    main(["audit", str(tmp_path), "--write-table", str(draft)])
    (row,) = csv.DictReader(draft.read_text().splitlines())
    assert "guessed" not in row
    assert row["unread"]
