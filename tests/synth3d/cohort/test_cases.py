import json
import pickle

import pytest

from synth3d.cohort import (
    MODALITIES,
    are_simulated,
    doubtful_patients,
    find_cases,
    parse_modality,
    patient_of,
    require,
    untold_patients,
)
from synth3d.errors import InputError

BRATS18 = [f"Brats18_CBICA_ALU_1_{m}.nii.gz" for m in ("t1", "t1ce", "t2", "flair", "seg")]
BRATS23 = [f"BraTS-GLI-00008-001-{m}.nii.gz" for m in ("t1n", "t1c", "t2w", "t2f", "seg")]


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def only_case(root):
    (case,) = find_cases(root)
    return case


@pytest.mark.parametrize(
    ("text", "modality"),
    [(name, name) for name in ("t1n", "t1c", "t2w", "t2f")]
    + [("T1ce", "t1c"), ("t1-Gd", "t1c"), ("T1", "t1n"), ("flair", "t2f"), ("T2w", "t2w")]
    + [("T2_FLAIR", "t2f"), ("PD", "pd"), ("T1w", "t1n")],
)
def test_aliases_mean_modalities_and_others_are_refused(text, modality):
    assert parse_modality(text) == modality
    with pytest.raises(InputError, match="'ct' is not a modality; known are t1n"):
        parse_modality("ct")


@pytest.mark.parametrize("grade", ["", "HGG/"])
def test_brats_2018_case_has_all_files_by_name(tmp_path, grade):
    case = only_case(touch(tmp_path, *(f"{grade}Brats18_CBICA_ALU_1/{n}" for n in BRATS18)))
    assert pickle.loads(pickle.dumps(case)) == case  # as it travels between processes
    assert {case: 1}[case] == 1
    about = ("Brats18_CBICA_ALU_1", "CBICA_ALU", "brats2018")
    assert (case.name, case.patient, case.naming) == about
    assert [path.name for path in case.images.values()] == BRATS18[:4]
    assert tuple(case.images) == MODALITIES
    assert case.label.name == BRATS18[4]
    assert case.folder == tmp_path / grade / "Brats18_CBICA_ALU_1"


def test_brats_2023_time_points_share_a_patient(tmp_path):
    touch(tmp_path, *(f"BraTS-GLI-00008-001/{n}" for n in BRATS23))
    touch(tmp_path, "BraTS-GLI-00008-000/BraTS-GLI-00008-000-t1n.nii.gz")
    first, second = find_cases(tmp_path)
    assert first.patient == second.patient == "00008"
    assert first.missing() == ("t1c", "t2w", "t2f")
    assert first.label is None
    assert second.missing() == ()
    assert first.file_name("t2f") == "BraTS-GLI-00008-000-t2f.nii.gz"


@pytest.mark.parametrize("layout", ["{name}", "IXI-{modality}/{name}"])
def test_ixi_is_read_flat_and_by_modality(tmp_path, layout):
    for modality in ("T1", "T2", "PD"):
        name = f"IXI002-Guys-0828-{modality}.nii.gz"
        touch(tmp_path, layout.format(name=name, modality=modality))
    case = only_case(tmp_path)
    assert (case.name, case.patient, case.naming) == ("IXI002-Guys-0828", "IXI002", "ixi")
    assert tuple(case.images) == ("t1n", "t2w", "pd")
    assert case.missing(["t2w", "t2f"]) == ("t2f",)


def test_bids_sessions_are_cases_and_contrast_makes_t1c(tmp_path):
    for name in ("T1w", "acq-mprage_ce-gadolinium_T1w", "FLAIR", "label-lesion_dseg"):
        touch(tmp_path, f"sub-01/ses-a/anat/sub-01_ses-a_{name}.nii.gz")
    for name in ("anat/sub-01_ses-b_T2w", "anat/sub-01_ses-b_PDw", "func/sub-01_ses-b_bold"):
        touch(tmp_path, f"sub-01/ses-b/{name}.nii")
    touch(tmp_path, "derivatives/other/sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz")
    first, second = find_cases(tmp_path)
    assert (first.name, second.name) == ("sub-01_ses-a", "sub-01_ses-b")
    assert first.patient == second.patient == "sub-01"
    assert tuple(first.images) == ("t1n", "t1c", "t2f")
    assert first.label.name == "sub-01_ses-a_label-lesion_dseg.nii.gz"
    assert tuple(second.images) == ("t2w", "pd")
    assert second.file_name("t1c") == "sub-01_ses-b_ce-gadolinium_T1w.nii"


def write_dataset(root, channels, **more):
    value = {"channel_names": channels, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(value | more))


def test_nnunet_channels_are_matched_by_name_not_by_position(tmp_path):
    write_dataset(tmp_path, {"0": "T1Gd", "1": "FLAIR", "2": "T1", "3": "T2"})
    touch(tmp_path, *(f"imagesTr/A_1_000{i}.nii.gz" for i in range(3)), "labelsTr/A_1.nii.gz")
    touch(tmp_path, "imagesTs/B_0003.nii.gz")
    first, second = find_cases(tmp_path)
    assert first.name == "A_1"
    assert first.images["t1c"].name == "A_1_0000.nii.gz"
    assert first.images["t2f"].name == "A_1_0001.nii.gz"
    assert first.missing() == ("t2w",)
    assert first.file_name("t2w") == "A_1_0003.nii.gz"
    assert first.label == tmp_path / "labelsTr/A_1.nii.gz"
    assert tuple(second.images) == ("t2w",)
    with pytest.raises(InputError, match="no channel pd"):
        second.file_name("pd")


def test_nnunet_dataset_key_lists_the_files(tmp_path):
    listed = {"A": {"images": ["x/a.nii.gz", "x/b.nii.gz"], "label": "x/s.nii.gz"}}
    write_dataset(tmp_path, {"0": "t2w", "1": "t1n"}, dataset=listed)
    case = only_case(touch(tmp_path, "x/a.nii.gz", "x/b.nii.gz", "x/s.nii.gz"))
    assert case.images == {"t1n": tmp_path / "x/b.nii.gz", "t2w": tmp_path / "x/a.nii.gz"}
    assert case.label == tmp_path / "x/s.nii.gz"


@pytest.mark.parametrize(
    ("channels", "match"),
    [
        ({"0": "T1", "1": "t1n"}, "mean the same modality"),
        ({"0": "CT"}, "'CT' is not a modality"),
        ({"1": "T1"}, "channel_names must map 0, 1"),
    ],
)
def test_unclear_nnunet_channels_are_refused(tmp_path, channels, match):
    write_dataset(tmp_path, channels)
    with pytest.raises(InputError, match=match):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    "first",
    ["A_1_t1.nii.gz", "A-t1n.nii.gz", "IXI002-Guys-0828-T1.nii.gz", "sub-01/anat/sub-01_T1w.nii"],
)
def test_official_names_are_found_again(tmp_path, first):
    case = only_case(touch(tmp_path, first))
    touch(case.folder, *(case.file_name(modality) for modality in MODALITIES))
    again = only_case(tmp_path)
    assert again.name == case.name
    assert again.missing() == ()


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("BraTS-GLI-00008-001", "00008"),
        ("BraTS-MET-00008-000", "MET-00008"),
        ("BraTS2021_00008", "00008"),
        ("BraTS20_Training_008", "Training_008"),
        ("BraTS19_TCIA01_425_1", "TCIA01_425"),
        ("Brats18_2013_20_1", "2013_20"),
        ("Phantom-00003-000", "Phantom-00003"),
        ("IXI002-Guys-0828", "IXI002"),
        ("sub-01_ses-b", "sub-01"),
        ("anything", "anything"),
        ("TCGA-02-0006_1996.08.23", "TCGA-02-0006"),
        ("TCGA-02-0006", "TCGA-02-0006"),
        ("UPENN-GBM-00510_21", "UPENN-GBM-00510"),
        ("UCSF-PDGM-0429_FU003d", "UCSF-PDGM-0429"),
        ("UCSF-PDGM-0310", "UCSF-PDGM-0310"),
        ("PatientID_0910_Timepoint_2", "PatientID_0910"),
        ("Patient-001_week-000-1", "Patient-001"),
        ("P01_V2", "P01"),
        ("P01_preop", "P01"),
        ("P01_m06", "P01"),
        ("site_m06", "site_m06"),
        ("P01_postop_2019-01-31", "P01"),
        ("P01_2", "P01"),
        ("P01_b", "P01"),
        ("P01b", "P01"),
        ("P01_t1", "P01"),
        ("P01_6months", "P01"),
        ("P01_second", "P01"),
        ("P01_II", "P01"),
        ("P01_2020", "P01"),
        ("P01_2020-07", "P01"),
        ("P01_31.12.2020", "P01"),
        ("P01_20200131_1", "P01"),
        ("OAS30001_MR_d0129", "OAS30001"),
        ("TCIA_2013", "TCIA_2013"),
        ("patient_2", "patient_2"),
        ("case_390", "case_390"),
    ],
)
def test_patient_is_the_name_without_the_time_point(case, patient):
    assert patient_of(case) == patient


def test_what_holds_doubtful_visits_together_is_said():
    names = ("P01_1", "P01_2", "P02_1", "P03_V1", "P03_V2", "case_1", "case_2")
    (sentence,) = doubtful_patients({name: patient_of(name) for name in names})
    assert sentence.startswith("P01_1, P01_2 are taken for visits of one patient, P01")
    assert doubtful_patients({"P01_1": "Ann", "P01_2": "Eve"}) == []  # a table has said so


def test_patients_that_names_do_not_tell_are_said():
    assert untold_patients({"A": "Ann", "B": "Ann", "P_1": "x", "Q": "Q"}).count("(A, B)") == 1
    assert untold_patients({"P01_1": "Ann", "P01_2": "Ann", "Q": "Eve"}) == ""


def test_hidden_files_are_not_seen_and_linked_folders_are_followed_once(tmp_path):
    touch(tmp_path, "far/A/A-t1n.nii.gz", "far/A/.partial-7-A-t2f.nii.gz", "far/.t/A-t2w.nii.gz")
    root = tmp_path / "root"
    root.mkdir()
    (root / "A").symlink_to(tmp_path / "far/A")
    (root / ".t").symlink_to(tmp_path / "far/.t")
    (tmp_path / "far/A/loop").symlink_to(root)
    assert (only_case(root).name, tuple(only_case(root).images)) == ("A", ("t1n",))


def test_everything_missing_is_named_at_once(tmp_path):
    cases = find_cases(touch(tmp_path, *BRATS23, "A-t1n.nii.gz", "B-t2f.nii.gz", "B-seg.nii.gz"))
    with pytest.raises(InputError, match="2 of 3 .*: A lacks t2f, the label; B lacks t1n"):
        require(cases, ("t1n", "t2f"), label=True)
    require(cases[2:], MODALITIES, label=True)


@pytest.mark.parametrize(
    ("files", "lacking", "name"),
    [
        (["A/t1.nii.gz", "A/flair.nii.gz", "B/t1.nii.gz"], "B", "flair.nii.gz"),
        (["A/t1.nii", "A/FLAIR.nii", "B/t1.nii.gz"], "B", "FLAIR.nii.gz"),
        (["A_t1.nii.gz", "A_T2FLAIR.nii.gz", "B_t1.nii.gz"], "B", "B_T2FLAIR.nii.gz"),
        (["A/t1.nii.gz", "B/t1.nii.gz"], "B", "t2f.nii.gz"),
        (
            ["A/t1.nii.gz", "A/flair.nii.gz", "B/t1.nii.gz", "C/t1.nii.gz", "C/t2f.nii.gz"],
            "B",
            "t2f.nii.gz",  # as many say one as the other: the official one
        ),
        (["A_t1.nii.gz", "A_flair.nii.gz", "B_t1.nii.gz"], "B", "B_flair.nii.gz"),
    ],
)
def test_a_missing_file_would_be_called_as_most_others_are(tmp_path, files, lacking, name):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    case = next(case for case in find_cases(tmp_path) if case.name == lacking)
    assert case.file_name("t2f") == name


def test_simulated_cases_are_known_by_name_and_only_all_together():
    assert are_simulated(["Phantom-00001-000", "Phantom-00002-000"])
    assert not are_simulated(["Phantom-00001-000", "BraTS-GLI-00001-000"])
    assert not are_simulated([])
