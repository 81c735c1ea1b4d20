"""Every naming that is read, from which docs/names.md is written.

After a change of what is read write the page anew, and read the difference:

    REGENERATE=1 python -m pytest tests/synth3d/cohort/naming/test_names.py && git diff docs
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from synth3d.cohort import MODALITIES, find_cases, survey_cohort
from synth3d.errors import InputError

PAGE = Path(__file__).parents[4] / "docs" / "names.md"


@dataclass(frozen=True)
class Layout:
    """A naming with an example: what is read of each file, as ``case (patient): role``.

    What stands for no role is not used.
    """

    title: str
    about: str
    files: dict[str, str]
    dataset: dict = field(default_factory=dict)
    naming: str = ""


def named(folder, case, tokens, patient=None, ending=".nii.gz"):
    """Files of one case in ``folder``: {token: role}."""
    says = f"{case} ({patient})" if patient else case
    return {f"{folder}/{t.format(case)}{ending}": r and f"{says}: {r}" for t, r in tokens.items()}


LAYOUTS = [
    Layout(
        "BraTS 2018 to 2021", "Endings `.nii.gz` or `.nii`, in small or capital letters.",
        named("HGG/Brats18_CBICA_ALU_1", "Brats18_CBICA_ALU_1", {"{}_t1": "t1n", "{}_t1ce": "t1c",
              "{}_t2": "t2w", "{}_flair": "t2f", "{}_seg": "label"}, "CBICA_ALU")
        | named("BraTS2021_00008", "BraTS2021_00008", {"{}_t1": "t1n", "{}_flair": "t2f"}, "00008",
                ".NII.GZ"),
        naming="brats2018",
    ),
    Layout(
        "BraTS 2023 and later", "The last number is the visit.",
        named("BraTS-GLI-00008-001", "BraTS-GLI-00008-001", {"{}-t1n": "t1n", "{}-t1c": "t1c",
              "{}-t2w": "t2w", "{}-t2f": "t2f", "{}-seg": "label"}, "00008")
        | named("BraTS-GLI-00008-000", "BraTS-GLI-00008-000", {"{}-t1n": "t1n"}, "00008"),
        naming="brats2023",
    ),
    Layout(
        "Kaggle's mirrors", "Every file is a folder; the folder carries case and sequence.",
        {"A/BraTS-GLI-00001-000-t1n.nii/00000057_brain_t1.nii": "BraTS-GLI-00001-000 (00001): t1n",
         "A/BraTS-GLI-00001-000-t2f.nii/anything.nii": "BraTS-GLI-00001-000 (00001): t2f",
         "A/BraTS-GLI-00001-000-seg.nii/00000057_final_seg.nii":
         "BraTS-GLI-00001-000 (00001): label"},
        naming="brats2023",
    ),
    Layout(
        "UPENN-GBM", "`_11` is before the operation, `_21` after; unstripped heads are second "
        "choice, and so are automatic segmentations.",
        named("structural", "UPENN-GBM-00001_11", {"{}_T1": "t1n", "{}_T1GD": "t1c", "{}_T2": "t2w",
              "{}_FLAIR": "t2f"}, "UPENN-GBM-00001")
        | named("unstripped", "UPENN-GBM-00001_11", {"{}_T1_unstripped": ""})
        | named("perfusion", "UPENN-GBM-00001_11", {"{}_DSC_ap-rCBV": "", "{}_DTI_FA": ""})
        | named("segm", "UPENN-GBM-00001_11", {"{}_segm": "label"}, "UPENN-GBM-00001")
        | named("segm", "UPENN-GBM-00001_11", {"{}_automated_approx_segm": ""})
        | named("structural", "UPENN-GBM-00001_21", {"{}_T1": "t1n"}, "UPENN-GBM-00001"),
    ),
    Layout(
        "UCSF-PDGM", "Of an image and its bias-corrected form the plain one is taken.",
        named("UCSF-PDGM-0429_FU003d_nifti", "UCSF-PDGM-0429_FU003d", {"{}_T1": "t1n",
              "{}_T1c": "t1c", "{}_T2": "t2w", "{}_FLAIR": "t2f", "{}_tumor_segmentation": "label"},
              "UCSF-PDGM-0429")
        | named("UCSF-PDGM-0429_FU003d_nifti", "UCSF-PDGM-0429_FU003d", dict.fromkeys((
            "{}_T1_bias", "{}_FLAIR_bias", "{}_ADC", "{}_SWI", "{}_DTI_eddy_FA", "{}_DWI_bias",
            "{}_brain_segmentation", "{}_brain_parenchyma_segmentation"), "")),
        naming="files",
    ),
    Layout(
        "TCGA-GBM and TCGA-LGG", "A date is a visit; a segmentation corrected by hand is taken.",
        named("TCGA-02-0006", "TCGA-02-0006_1996.08.23", {"{}_t1": "t1n", "{}_t1Gd": "t1c",
              "{}_t2": "t2w", "{}_flair": "t2f", "{}_GlistrBoost_ManuallyCorrected": "label"},
              "TCGA-02-0006")
        | named("TCGA-02-0006", "TCGA-02-0006_1996.08.23", {"{}_GlistrBoost": ""}),
        naming="files",
    ),
    Layout(
        "MU-Glioma-Post", "`brain` says that the skull is gone.",
        named("PatientID_0003/Timepoint_1", "PatientID_0003_Timepoint_1", {"{}_brain_t1n": "t1n",
              "{}_brain_t1c": "t1c", "{}_brain_t2w": "t2w", "{}_brain_t2f": "t2f",
              "{}_tumorMask": "label"}, "PatientID_0003")
        | named("PatientID_0003/Timepoint_2", "PatientID_0003_Timepoint_2", {"{}_brain_t1n": "t1n"},
                "PatientID_0003"),
        naming="files",
    ),
    Layout(
        "LUMIERE", "Folders are patient and week; what segmentation tools wrote is not used.",
        named("Patient-001/week-044", "Patient-001_week-044", {"T1": "t1n", "CT1": "t1c",
              "T2": "t2w", "FLAIR": "t2f"}, "Patient-001")
        | {"Patient-001/week-044/DeepBraTumIA-segmentation/atlas/seg_mask.nii.gz": "",
           "Patient-001/week-044/HD-GLIO-AUTO-segmentation/native/segmentation.nii.gz": ""}
        | named("Patient-001/week-000-1", "Patient-001_week-000-1", {"T1": "t1n"}, "Patient-001"),
        naming="folders",
    ),
    Layout(
        "Case folders", "Files without the case's name, as the BrainLesion suite writes them; "
        "folders such as `normalized_bet` or `anat` are looked through.",
        named("patient_0/normalized_bet", "patient_0", {"t1": "t1n", "t1c": "t1c", "t2": "t2w",
              "flair": "t2f"})
        | {"patient_0/segmentation.nii.gz": "patient_0: label",
           "patient_0/masks/t1c_bet_mask.nii.gz": ""}
        | named("patient_1", "patient_1", {"T2_FLAIR": "t2f", "T1-Gd": "t1c"}),
        naming="folders",
    ),
    Layout(
        "Visits in folders", "A visit or a bare number is of the patient above it.",
        {f"P1/{visit}/{name}.nii.gz": f"P1_{visit} (P1): {role}"
         for visit in ("1", "2020-01-31", "V2")
         for name, role in ((f"{visit}_T1", "t1n"), (f"{visit}_FLAIR", "t2f"))}
        | {f"P2/{v}_{m}.nii.gz": f"P2_{v} (P2): {r}" for v in ("2", "preop")
           for m, r in (("T1", "t1n"), ("T2", "t2w"))},
        naming="files",
    ),
    Layout(
        "A folder for each sequence", "At the top, with files called after the case.",
        {"T1/case_a.nii.gz": "case_a: t1n", "T1c/case_a.nii.gz": "case_a: t1c",
         "FLAIR/case_a.nii.gz": "case_a: t2f",
         "seg/case_a.nii.gz": "case_a: label", "T1/case_b.nii.gz": "case_b: t1n"},
        naming="files",
    ),
    Layout(
        "IXI", "Flat or by sequence.",
        {f"IXI-{m}/IXI002-Guys-0828-{m}.nii.gz": f"IXI002-Guys-0828 (IXI002): {r}"
         for m, r in (("T1", "t1n"), ("T2", "t2w"), ("PD", "pd"))},
        naming="ixi",
    ),
    Layout(
        "BIDS", "`ce-`, `acq-`, `desc-` and `rec-` can say contrast agent. A mask or dseg is the "
        "tumour where `label-` or `desc-` says lesion or tumour. `derivatives` and `sourcedata` "
        "are left alone.",
        {f"sub-01/ses-a/anat/sub-01_ses-a_{n}.nii.gz": r and f"sub-01_ses-a (sub-01): {r}"
         for n, r in (("acq-mprage_T1w", "t1n"), ("acq-mprage_ce-gadolinium_T1w", "t1c"),
                      ("T2w", "t2w"), ("run-1_FLAIR", "t2f"), ("label-lesion_mask", "label"),
                      ("dseg", ""), ("label-GM_probseg", ""), ("desc-brain_mask", ""))}
        | {"sub-01/ses-b/anat/sub-01_ses-b_acq-postcontrast_T1w.nii": "sub-01_ses-b (sub-01): t1c",
           "sub-01/ses-b/anat/sub-01_ses-b_ce-none_T1w.nii": "sub-01_ses-b (sub-01): t1n",
           "sub-01/ses-b/func/sub-01_ses-b_bold.nii": ""},
        naming="bids",
    ),
    Layout(
        "nnU-Net raw", "`channel_names` of `dataset.json` says what the numbers are.",
        {"imagesTr/A_0000.nii.gz": "A: t1c", "imagesTr/A_0001.nii.gz": "A: t2f",
         "labelsTr/A.nii.gz": "A: label", "imagesTs/B_0001.nii.gz": "B: t2f"},
        {"channel_names": {"0": "T1Gd", "1": "FLAIR"}, "labels": {"background": 0}},
        naming="nnunet",
    ),
]  # fmt: skip


def touch(root, names, dataset=None):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if dataset:
        (root / "dataset.json").write_text(json.dumps(dataset))
    return root


def readings(root):
    """What is read of each file, as a layout says it."""
    survey = survey_cohort(root)
    assert (survey.ambiguous, survey.unread, survey.unrecognised) == ((), (), ())
    found = {path.relative_to(root).as_posix(): "" for path, _ in survey.unused}
    for case in survey.cases:
        says = case.name if case.patient == case.name else f"{case.name} ({case.patient})"
        files = {**case.images} | ({"label": case.label} if case.label else {})
        for role, path in files.items():
            found[path.relative_to(root).as_posix()] = f"{says}: {role}"
    return found


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_a_layout_is_read_as_the_page_says_and_official_names_join_it(layout, tmp_path):
    root = touch(tmp_path / "in", layout.files, layout.dataset)
    assert readings(root) == layout.files
    cases = find_cases(root)
    assert not layout.naming or {case.naming for case in cases} == {layout.naming}
    if layout.naming == "nnunet":
        return
    for case in cases:  # completed as `synth3d complete` does it, it is the same cohort
        names = [case.file_name(modality) for modality in MODALITIES]
        touch(tmp_path / "out" / case.name, names + ([case.label_name()] if case.label else []))
    again = find_cases(tmp_path / "out")
    assert [(c.name, c.patient) for c in again] == [(c.name, c.patient) for c in cases]
    assert [c.label is None for c in again] == [c.label is None for c in cases]
    assert not any(case.missing() for case in again)


def test_the_page_is_as_the_layouts_are():
    text = [(Path(__file__).with_name("names_head.md")).read_text("utf-8")]
    for layout in LAYOUTS:
        width = max(map(len, layout.files))
        lines = [f"{n:<{width}}  {r or 'not used'}" for n, r in sorted(layout.files.items())]
        block = "\n".join(lines)
        text.append(f"## {layout.title}\n\n{layout.about}\n\n```text\n{block}\n```\n")
    page = "\n".join(text)
    if os.environ.get("REGENERATE"):
        PAGE.write_text(page, encoding="utf-8")
    assert page == PAGE.read_text(encoding="utf-8")


CASE = ["A/A_t1.nii.gz", "A/A_t2.nii.gz"]
OTHERS = ["B/B_t1.nii.gz", "C/C_t1.nii.gz"]


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["A/A_flare.nii.gz"], "A_flare.nii.gz"),  # may be the FLAIR that would be made
        (["A/more/x.nii"], "more/x.nii"),
        (["A/A_post_t1.nii.gz"], "post-contrast or post-operative"),
        (["A/A_t1_flair.nii.gz"], 'both "t1" and "flair"'),
        (["A/A_flair.mha"], "convert it"),
        (["A/D_seg.nii.gz"], "case D and its folder case A"),
        (["E_nifti/E_t1.nii.gz", "E_nifti/A_flair.nii.gz"], "case A and its folder case E"),
        (["A/D_flair.nii.gz"], "case D and its folder case A"),
        (["A/A_brain_t1.nii.gz"], "two files for t1n"),
        (["A/A_T1.nii"], "two files for t1n"),
        (["A/A_seg.nii.gz", "A/A_tumor_mask.nii.gz"], "two files for label"),
        (["A/A_flair_unstripped.nii.gz"], "several kinds"),
        (["A/A_t2_t1c.nii/A_flair.nii"], "its folder says t1c and its own name t2f"),
        (["A_other.nii.gz"], "A_other.nii.gz"),  # called after a case, wherever it lies
        (["P/1_T1.nii.gz", "P/2_FLAIR.nii.gz"], "of one, numbered"),
    ],
)
def test_what_could_mean_two_things_or_nothing_is_refused_by_name(tmp_path, extra, named):
    root = touch(tmp_path, CASE + OTHERS)
    assert len(find_cases(root)) == 3
    touch(root, extra)
    if "t2_t1c.nii" in extra[0]:
        (root / "A/A_t2_t1c.nii").rename(root / "A/A_t1c.nii")
    with pytest.raises(InputError, match="A") as caught:
        find_cases(root)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("role", "entities"),
    [
        ("t1c", "acq-T1c acq-mprageCE acq-3DCE acq-withGd desc-postcontrast rec-gad ce-Gadovist"),
        ("t1n", "acq-SPACE acq-slice acq-mpragePreContrast acq-unenhanced acq-noGd acq-postRT"),
        ("t1n", "desc-preproc ce-no ce-without ce-nongd acq-postop"),
    ],
)
def test_entities_of_bids_say_whether_there_was_contrast_agent(tmp_path, role, entities):
    for number, entity in enumerate(entities.split()):
        touch(tmp_path, [f"sub-{number}/anat/sub-{number}_{entity}_T1w.nii.gz"])
    assert {entities.split()[int(c.name[4:])]: [*c.images] for c in find_cases(tmp_path)} == {
        entity: [role] for entity in entities.split()
    }


def test_an_unknown_image_beside_the_case_folders_is_only_listed(tmp_path):
    root = touch(tmp_path, [*CASE, *OTHERS, "old.nii.gz", "A/A_ADC.nii.gz"])
    assert [path.name for path in survey_cohort(root).unrecognised] == ["old.nii.gz"]
    assert len(find_cases(root)) == 3


def test_a_dangling_link_is_called_so(tmp_path):
    root = touch(tmp_path, CASE)
    (root / "A/A_flair.nii.gz").symlink_to(tmp_path / "annex/key")
    with pytest.raises(InputError, match="dangling link, to .*annex/key"):
        find_cases(root)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["a/scan_flare.nii.gz"], 'nearest is "flair"'),
        (["x_0000.nii.gz"], "dataset.json"),
        (["readme.pdf"], "readme.pdf"),
        ([], "it is empty"),
        (["x_ADC.nii.gz"], '"adc"'),
        (["raw/dataset.json"], "raw may be the nnU-Net dataset"),
    ],
)
def test_no_cases_says_what_was_seen(tmp_path, files, named):
    with pytest.raises(InputError, match="no cases under") as caught:
        find_cases(touch(tmp_path, files))
    assert named in str(caught.value)


def listing(file, case="A"):
    return {"dataset": {case: {"images": [file]}}}


MSD = {"modality": {"0": "FLAIR"}, "training": [], "labels": {}}


@pytest.mark.parametrize(
    ("dataset", "named"),
    [
        (listing(r"imagesTr\A_0000.nii.gz"), 'with / instead of .*remove the key "dataset"'),
        (listing("/old/imagesTr/A_0000.nii.gz"), "correct the paths, or remove the key"),
        (MSD, "version 1, .*FLAIR.*4-D.*nnUNetv2_convert_MSD_dataset"),
        (listing("imagesTr/A_0000.nii.gz", "../x"), "'../x' has / in it"),
        (listing(3), "files that are no text"),
    ],
)
def test_a_dataset_json_that_cannot_be_used_is_told_apart(tmp_path, dataset, named):
    names = {} if dataset is MSD else {"channel_names": {"0": "T1"}}
    touch(tmp_path, ["imagesTr/A_0000.nii.gz", "labelsTr/A.nii.gz"], names | dataset)
    with pytest.raises(InputError, match=named):
        find_cases(tmp_path)
