"""Every scheme maps into one form and back, and what a case holds is read right or refused."""

import dataclasses
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import seg_eval.cli
import synth3d.cli
from synth3d.cohort import SCHEMES, TISSUES, find_cases, parse_scheme
from synth3d.cohort.audit.problems import audit
from synth3d.cohort.labels.evidence import read_classes, read_segmentation
from synth3d.cohort.labels.names import dataset_scheme
from synth3d.cohort.labels.readings import lacks_tissues, notes_of, portable_codes, readings_of
from synth3d.cohort.labels.schemes import nnunet_integers, nnunet_regions
from synth3d.errors import InputError
from synth3d.images import read
from synth3d.images.volumes import write_new

GLI, TREATED, PED = "BraTS-GLI-0001{}-000", "BraTS-GLI-0001{}-100", "BraTS-PED-0001{}-000"
OLD, STUDY = "BraTS20_Training_00{}", "study{}"
SIDE, AFFINE = 24, np.diag([-4.0, -4.0, 4.0, 1.0])
BRIGHT = {"necrosis": 0.5, "oedema": 0.8, "enhancing": 1.8, "cavity": 0.3, "cyst": 0.4}
"""After contrast, healthy brain being 1."""


def head(scheme, leave_out=()):
    """Label and T1 after contrast (D, H, W) of a head: necrosis in a rim in oedema; a cavity or
    cyst beside, where the scheme has one."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
    brain = z**2 + y**2 + x**2 < 0.85
    far = np.sqrt((z - 0.1) ** 2 + y**2 + (x + 0.2) ** 2)
    tissue = np.select([far < 0.2, far < 0.34, far < 0.55], [1, 3, 2], 0)
    block = np.abs(z - 0.1) + np.abs(y - 0.35) + np.abs(x + 0.2)
    for place, name in ((4, "cavity"), (5, "cyst")):
        if getattr(scheme, name):
            tissue[block < 0.25] = place
    for name in leave_out:
        tissue[tissue == TISSUES.index(name) + 1] = 0
    values = np.array([1.0, *(BRIGHT[name] for name in TISSUES)])[tissue]
    noise = 1 + 0.05 * np.random.default_rng(0).standard_normal(tissue.shape)
    return scheme.decode(tissue * brain), np.where(brain, 500 * values * noise, 0)


def write_case(root, name, scheme="brats2023", leave_out=(), without=(), label=None):
    """A case named as in BraTS 2023, each file but its name."""
    drawn, t1c = head(SCHEMES[scheme], leave_out)
    label = drawn if label is None else label
    for token, data in {"t1n": np.minimum(t1c, 550), "t1c": t1c, "seg": label}.items():
        if token not in without:
            kind = np.float32 if label.dtype.kind == "f" else np.int16
            write_new(root / name / f"{name}-{token}.nii.gz", data, AFFINE, kind)
    return drawn


def only(root, **settings):
    (case,) = find_cases(root)
    return read_segmentation(case, **settings)[1]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_laws_of_every_scheme(scheme):
    @given(arrays(np.int16, (3, 4, 5), elements=st.sampled_from([0, *scheme.tissues])))
    def laws(label):
        own = scheme.encode(label)
        np.testing.assert_array_equal(scheme.decode(own), label)  # there and back is no change
        whole, core, enhancing = scheme.regions(label).values()
        assert not (enhancing & ~core).any()
        assert not (core & ~whole).any()
        classes = scheme.classes(label)
        for region, mask in SCHEMES["brats2023"].regions(classes).items():
            np.testing.assert_array_equal(mask, scheme.regions(label)[region])

    laws()


@pytest.mark.parametrize(
    ("name", "values", "classes"),
    [
        ("brats2018", [0, 1, 2, 4], [0, 1, 2, 3]),
        ("brats2023", [0, 1, 2, 3], [0, 1, 2, 3]),
        ("brats2024", [0, 1, 2, 3, 4], [0, 1, 2, 3, 0]),
        ("ped", [0, 1, 2, 3, 4], [0, 3, 1, 1, 2]),
        ("MSD", [0, 1, 2, 3], [0, 2, 1, 3]),
    ],
)
def test_worked_examples(name, values, classes):
    assert parse_scheme(name).classes(np.array(values)).tolist() == classes


@given(st.sets(st.sampled_from(TISSUES[3:])))
def test_a_dataset_of_ours_is_read_as_it_was_written(further):
    numbers = nnunet_integers(further)
    assert sorted(numbers.values()) == list(range(1, len(numbers) + 1))
    found = dataset_scheme(nnunet_regions(further), "dataset.json")
    assert {tissue: number for number, tissue in found.tissues.items()} == numbers


@pytest.mark.parametrize(
    ("name", "scheme", "leave_out", "expected", "evidence"),
    [
        (GLI, "brats2023", (), "brats2023", "name"),
        (PED, "ped", (), "ped", "name"),
        (PED, "ped", ("oedema",), "ped", "name"),
        (PED, "ped", ("oedema", "cyst"), "ped", "name"),
        (TREATED, "brats2024", (), "brats2024", "name"),
        (TREATED, "brats2024", ("enhancing",), "brats2024", "name"),
        *((f"BraTS-{kind}-0001{{}}-000", "brats2023", (), "brats2023", "name")
          for kind in ("MET", "MEN", "SSA")),
        (OLD, "brats2018", (), "brats2018", "name"),
        (GLI, "brats2018", (), "brats2018", "values"),
        (GLI, "brats2024", (), "brats2024", "values"),
        (OLD, "brats2023", (), "brats2023", "values"),
        (STUDY, "brats2018", (), "brats2018", "values"),
        (STUDY, "brats2018", ("necrosis",), "brats2018", "values"),
        (STUDY, "brats2023", (), "brats2023", "values"),
        (STUDY, "brats2023", ("enhancing",), "brats2023", "values"),
        (STUDY, "brats2024", (), "brats2024", "values"),
        (STUDY, "brats2024", ("enhancing",), "brats2024", "values"),
        (STUDY, "ped", (), "ped", "values"),
    ],
)  # fmt: skip
def test_what_a_case_holds_is_told_by_name_or_values(
    tmp_path, name, scheme, leave_out, expected, evidence
):
    label = write_case(tmp_path, name.format(1), scheme, leave_out)
    (case,) = find_cases(tmp_path)
    classes, reading = read_classes(case)
    assert (reading.scheme.name, reading.evidence) == (expected, evidence)
    np.testing.assert_array_equal(classes, SCHEMES[scheme].classes(label))


@pytest.mark.parametrize(
    ("name", "scheme", "leave_out", "without", "both"),
    [
        (STUDY, "msd", (), (), ("brats2023", "msd")),
        (STUDY, "msd", (), ("t1c",), ("brats2023", "msd")),
        (GLI, "msd", (), (), ("brats2023", "msd")),
        (STUDY, "ped", ("oedema",), (), ("brats2023", "ped")),
        (PED, "brats2023", (), (), ("ped", "brats2023")),
        (TREATED, "brats2018", (), (), ("brats2024", "brats2018")),
        (STUDY, "brats2018", ("necrosis",), ("t1c",), ("brats2018", "brats2024")),
        (GLI, "brats2018", ("necrosis",), ("t1c",), ("brats2018", "brats2024")),
    ],
)
def test_where_two_readings_are_possible_both_are_named(
    tmp_path, name, scheme, leave_out, without, both
):
    write_case(tmp_path, name.format(1), scheme, leave_out, without)
    with pytest.raises(InputError, match="--labels") as refusal:
        only(tmp_path)
    assert all(f"{each} (" in str(refusal.value) for each in both)
    assert only(tmp_path, declared=scheme).scheme.name == scheme


def test_a_declaration_decides_and_two_must_agree(tmp_path):
    write_case(tmp_path, GLI.format(1), "ped")
    (case,) = find_cases(tmp_path)
    told = dataclasses.replace(case, scheme="ped")
    assert read_segmentation(told)[1].evidence == "declared"
    with pytest.raises(InputError, match="ped by the table and msd by --labels"):
        read_segmentation(told, "msd")
    with pytest.raises(InputError, match=r"label values \[4\] are none of brats2023"):
        read_segmentation(case, "brats2023")
    with pytest.raises(InputError, match="no label scheme is called 'x'; there are brats2018"):
        read_segmentation(case, "x")


def test_a_dataset_json_whose_labels_look_otherwise_is_refused(tmp_path):
    """Label files of BraTS beside a dataset.json of nnU-Net's converter, which swaps 1 and 2."""
    write_case(tmp_path / "in", GLI.format(1))
    (case,) = find_cases(tmp_path / "in")
    names = {"background": 0, "ED": 1, "NCR": 2, "ET": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names}))
    listed = dataclasses.replace(case, dataset=tmp_path / "dataset.json")
    with pytest.raises(InputError, match=r"1 oedema.* as .*dataset.json says, but .*1 necrosis"):
        read_segmentation(listed)
    assert read_segmentation(listed, "brats2023")[1].evidence == "declared"


def test_what_4_is_taken_for_is_said(tmp_path):
    for scheme, said in (("ped", "oedema"), ("brats2018", "enhancing"), ("brats2024", "cavity")):
        gone = {"ped": ("cyst",), "brats2018": (), "brats2024": ("enhancing",)}[scheme]
        write_case(tmp_path / scheme, STUDY.format(1), scheme, gone)
        assert said in only(tmp_path / scheme).notes[0]


def test_a_cohort_of_two_schemes_is_read_case_by_case(tmp_path):
    """No enhancing tumour is lost, whatever the others are like."""
    schemes = ["brats2023", "brats2018"] * 2
    for number, scheme in enumerate(schemes):
        write_case(tmp_path, GLI.format(number), scheme)
    readings = readings_of(find_cases(tmp_path))
    assert [reading.scheme.name for reading in readings.values()] == schemes
    (note,) = notes_of(readings)
    assert "taken for enhancing" in note
    assert note.count("BraTS-GLI") == 2


def test_what_cannot_be_told_of_some_is_told_of_all_at_once(tmp_path):
    whole, odd = np.where(head(SCHEMES["ped"])[1] > 0, 1, 0), np.full((SIDE,) * 3, 0)
    odd[3, 3, 3] = 7
    maps = {1: whole, 2: whole * (1 + np.arange(SIDE) % 3), 3: odd}
    for number, label in maps.items():
        write_case(tmp_path, STUDY.format(number), label=label)
    with pytest.raises(InputError) as refusal:
        readings_of(find_cases(tmp_path))
    one, two, three = str(refusal.value).split("; " + str(tmp_path))
    assert "% of the head, too much for a tumour: it is a mask;" in one
    assert "% of the head, too much for a tumour: it is a map of tissues" in two
    assert "label values [7]" in three


def test_cases_that_tell_nothing_are_not_read_against_those_that_do(tmp_path):
    write_case(tmp_path, STUDY.format(1), "ped")
    write_case(tmp_path, STUDY.format(2), "ped", ("necrosis", "oedema", "cyst"), without=("t1c",))
    with pytest.raises(InputError, match="study2 may be brats2023.* as those of study1 are, ped"):
        readings_of(find_cases(tmp_path))


UCSF = "UCSF-PDGM-000{}"


@pytest.mark.parametrize(
    ("name", "others", "alone"),
    [(UCSF, "brats2023", "brats2018"), (STUDY, "brats2018", "brats2023")],
)
def test_what_a_case_leaves_open_is_called_as_in_its_siblings(tmp_path, name, others, alone):
    """Without enhancing tumour all schemes of adults say the same, and audit speaks of one."""
    write_case(tmp_path, name.format(1), others, ("enhancing",))
    assert only(tmp_path).scheme.name == alone
    assert [r.scheme.name for r in readings_of(find_cases(tmp_path)).values()] == [alone]
    label = write_case(tmp_path, name.format(2), others)
    write_case(tmp_path, name.format(3), label=np.zeros_like(label))
    cases = find_cases(tmp_path)
    readings = readings_of(cases)
    assert {reading.scheme.name for reading in readings.values()} == {others}
    assert not audited_schemes(tmp_path)
    for case in cases:  # and means what it means alone
        held = read_segmentation(case)[0].data
        expected = read_classes(case)[0]
        np.testing.assert_array_equal(readings[case.name].scheme.classes(held), expected)


def audited_schemes(root):
    return [one for one in audit(root).problems if "label schemes" in one.message]


def test_of_siblings_that_differ_none_is_followed(tmp_path):
    write_case(tmp_path, STUDY.format(1), "brats2023", ("enhancing",))
    write_case(tmp_path, STUDY.format(2), "brats2018")
    write_case(tmp_path, STUDY.format(3), "brats2023")
    names = [r.scheme.name for r in readings_of(find_cases(tmp_path)).values()]
    assert names == ["brats2023", "brats2018", "brats2023"]
    assert audited_schemes(tmp_path)


def test_a_case_that_tells_nothing_is_refused_beside_those_that_are_said_to_be_otherwise(tmp_path):
    for number in (1, 2):
        left = ("enhancing",) if number == 2 else ()
        write_case(tmp_path, STUDY.format(number), "msd", left, without=("t1c",))
    one, two = find_cases(tmp_path)
    # Alone the second would be necrosis around oedema; which of both is not seen without a core.
    label = np.where(read_segmentation(two, "msd")[0].data > 0, 1, 0)
    write_case(tmp_path, STUDY.format(2), label=label, without=("t1c",))
    one, two = replace(one, scheme="msd"), find_cases(tmp_path)[1]
    assert readings_of([two])["study2"].scheme.name == "brats2023"
    with pytest.raises(InputError) as refusal:
        readings_of([one, two])
    assert all(words in str(refusal.value) for words in ("study2", "study1", "brats2023", "msd"))
    both = readings_of([one, replace(two, scheme="msd")])
    assert {reading.scheme.name for reading in both.values()} == {"msd"}


def without_contrast(root, name):
    """In the place of T1ce, a T1 of the case in which all of the tumour is dark."""
    label = read(root / name / f"{name}-seg.nii.gz").data
    brain = read(root / name / f"{name}-t1c.nii.gz").data > 0
    dark = np.where(label > 0, 400.0, 500.0) * brain
    write_new(root / name / f"{name}-t1c.nii.gz", dark, AFFINE, np.int16)


@pytest.mark.parametrize(("odd", "others"), [(4, (0, 1, 2, 5)), (0, (1,))])
def test_4_is_not_taken_for_a_cavity_beside_siblings_where_it_enhances(tmp_path, odd, others):
    """T1 and T1ce of one were exchanged, so that nothing of it is bright after contrast."""
    for number in (odd, *others):
        write_case(tmp_path, STUDY.format(number), "brats2018")
    without_contrast(tmp_path, STUDY.format(odd))
    cases = find_cases(tmp_path)
    with pytest.raises(InputError) as refusal:
        readings_of(cases)
    said = str(refusal.value)
    assert all(STUDY.format(number) in said for number in (odd, *others))
    assert all(f"{scheme} (" in said for scheme in ("brats2018", "brats2024"))
    if len(others) > 1:  # the one is doubted, not the many
        assert said.startswith(f"the labels of {STUDY.format(odd)} may be brats2024")
    assert any(STUDY.format(odd) in one.message and one.severity == "error"
               for one in audit(tmp_path).problems)  # fmt: skip
    readings = readings_of(cases, "brats2018")
    assert {reading.scheme.name for reading in readings.values()} == {"brats2018"}


@pytest.mark.parametrize("sure", ["name", "3"])
def test_4_that_seems_to_enhance_is_doubted_beside_cases_that_surely_have_cavities(tmp_path, sure):
    write_case(tmp_path, STUDY.format(1), "brats2018")
    other, gone = (TREATED, ("enhancing",)) if sure == "name" else (STUDY, ())
    write_case(tmp_path, other.format(2), "brats2024", gone)
    with pytest.raises(InputError, match=rf"study1 may be brats2018.*{other.format(2)} are, brats"):
        readings_of(find_cases(tmp_path))


def test_cavities_with_and_without_enhancing_tumour_agree(tmp_path):
    for number, gone in enumerate([(), ("enhancing",), (), ("enhancing",)]):
        write_case(tmp_path, STUDY.format(number), "brats2024", gone)
    assert {r.scheme.name for r in readings_of(find_cases(tmp_path)).values()} == {"brats2024"}


def test_labels_of_one_integer_may_be_any_tissue(tmp_path):
    for number, name in enumerate((STUDY, GLI)):
        label = (write_case(tmp_path / name, name.format(1)) > 0).astype(np.uint8)
        write_case(tmp_path / name, name.format(1), label=label)
        found = lacks_tissues(readings_of(find_cases(tmp_path / name)))
        assert (found is None) == bool(number)
    assert "may be the whole tumour" in lacks_tissues(readings_of(find_cases(tmp_path / STUDY)))


@pytest.mark.parametrize(("off", "read"), [(2e-5, True), (0.01, False)])
def test_floats_near_whole_numbers_are_rounded_and_said(tmp_path, off, read):
    label = write_case(tmp_path, GLI.format(1)).astype(np.float32)
    write_case(tmp_path, GLI.format(1), label=label * np.float32(1 - off))
    if read:
        reading = only(tmp_path)
        assert (reading.rounded, "rounded" in reading.notes[0]) == (True, True)
        assert reading.values == (0, 1, 2, 3)
    else:
        with pytest.raises(InputError, match="not within 0.001 of small integers; save the int"):
            only(tmp_path)


NAMED = {
    "regions": {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
    "names": {"edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3},
    "turned": {"1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
}


@pytest.mark.parametrize("labels", NAMED.values(), ids=NAMED)
def test_a_dataset_says_what_its_labels_are(tmp_path, labels):
    """nnU-Net's own BraTS converters swap 1 and 2, whatever the cases are called."""
    label = write_case(tmp_path / "as" / "in", GLI.format(1), "msd")
    folder, files = tmp_path / "data", find_cases(tmp_path / "as" / "in")[0]
    write_new(folder / "labelsTr" / f"{GLI.format(1)}.nii.gz", label, AFFINE, np.uint8)
    for place, path in enumerate(files.images.values()):
        target = folder / "imagesTr" / f"{GLI.format(1)}_000{place}.nii.gz"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    background = {"0": "background"} if "1" in labels else {"background": 0}
    described = {"channel_names": {"0": "T1", "1": "T1ce"}, "labels": background | labels}
    (folder / "dataset.json").write_text(json.dumps(described))
    (case,) = find_cases(folder)
    classes, reading = read_classes(case)
    assert reading.evidence == "dataset"
    np.testing.assert_array_equal(classes, SCHEMES["msd"].classes(label))
    # The same files as labels of another cohort are still what their dataset.json says.
    beside = dataclasses.replace(files, label=case.label)
    np.testing.assert_array_equal(read_classes(beside)[0], classes)
    # Beside predictions, what is painted counts.
    if "whole tumor" in labels:
        shutil.move(case.label, tmp_path / "seg.nii.gz")
        text = json.dumps(described | {"regions_class_order": [2, 1, 3]})
        (tmp_path / "dataset.json").write_text(text)
        predicted = dataclasses.replace(files, label=tmp_path / "seg.nii.gz")
        painted = read_classes(predicted)[0]
        np.testing.assert_array_equal(painted, label)
        shutil.move(predicted.label, case.label)
    # A copy without the dataset.json gets what its name stands for.
    assert portable_codes(case) == {0: 0, 1: 2, 2: 1, 3: 3}
    described["labels"] = {"background": 0, "csf": 1, "grey": 2, "white": 3}
    (folder / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="cannot be told; say which with --labels"):
        read_classes(case)


@pytest.mark.parametrize(
    ("parser", "command"),
    [(synth3d.cli, name) for name in ("audit", "train", "complete", "score")]
    + [(seg_eval.cli, "run")],
)
def test_every_scheme_can_be_declared(parser, command, capsys):
    with pytest.raises(SystemExit):
        parser.build_parser().parse_args([command, "--help"])
    told = re.search(r"--labels SCHEME\s(.*?)\n  -", capsys.readouterr().out, re.S)[1]
    assert re.findall(r"\w+", re.sub(r"\s", "", told).split(";")[0].split(",")[1]) == [*SCHEMES]
