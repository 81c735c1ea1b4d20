"""The words of file names: sequences, segmentations, what changes an image and what does not.

Upper and lower case and the separators ``_``, ``-``, ``.``, ``+`` and blank mean nothing.
"""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from synth3d.errors import InputError

Modality = Literal["t1n", "t1c", "t2w", "t2f", "pd"]
Role = Modality | Literal["label"]
ALL_MODALITIES: tuple[Modality, ...] = get_args(Modality)
MODALITIES: tuple[Modality, ...] = ALL_MODALITIES[:4]
"""The four of BraTS, in its order."""

ENDINGS = (".nii.gz", ".nii")
FOREIGN_ENDINGS = (".nii.bz2", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".hdr", ".dcm")
"""Images too, which have to be converted before they can be read."""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CONTRAST = (
    "c ce gd gad gado gadolinium post postgd postcontrast contrast contrastenhanced withcontrast km"
)
_BEFORE = "ce gd gad gado gadolinium postcontrast contrastenhanced"
_ALIASES: dict[Modality, tuple[str, ...]] = {
    "t1n": (
        "t1n", "t1", "t1w", "t1pre", "t1wpre", "t1native", "t1precontrast", "t1wprecontrast",
        "t1noncontrast", "precontrastt1", "precontrastt1w",
    ),
    "t1c": (
        "t1c", "ct1", "ct1w", "t1cw",
        *(base + word for word in _CONTRAST.split() for base in ("t1", "t1w")),
        *(word + base for word in _BEFORE.split() for base in ("t1", "t1w")),
    ),
    "t2w": ("t2w", "t2"),
    "t2f": ("t2f", "flair", "t2flair", "t2wflair", "flairw"),
    "pd": ("pd", "pdw"),
}  # fmt: skip
_BY_ALIAS: dict[str, Modality] = {
    alias: modality for modality, names in _ALIASES.items() for alias in names
}

SAME = _set(
    "brain bet stripped skullstripped ss reg registered coreg coregistered r2s lps ras rsri sri "
    "sri24 img image scan mri mr vol volume raw 3d 2d ax axial tra cor sag tse fse mprage spgr"
)
"""Words that leave a sequence what it is; of two files that differ in them alone none is chosen."""

CORRECTED = _set("bias biascorrected biascorr n4 n4itk norm normalized normalised zscore")
"""The same image, corrected; where the plain one is there too, that one is taken."""

OTHER = _set("unstripped skull withskull defaced native atlas mni mni152")
"""Another image (with its skull, in another space): all of a case's must be of one kind."""

GENERIC = _set(
    "anat anatomical images nifti nii preproc preprocessed processed structural scans imaging data "
    "seg segm segmentation segmentations labels label"
)
"""What a folder inside a case's folder may be called."""

_SEG = _set("seg segm segmentation segmentations")
_MASK = _set("mask roi label labels dseg annotation")
_TUMOUR = _set("tumor tumour tumors tumours lesion lesions glioma gtv brats")
_BY_HAND = _set("manual manually corrected manuallycorrected reviewed expert")
_BY_MACHINE = _set("auto automated automatic approx approximate predicted")
_ABOUT_LABEL = (
    _set("final combined merged multiclass whole groundtruth gt") | _BY_HAND | _BY_MACHINE
)
_TISSUE = _set(
    "brain parenchyma tissue tissues skull head csf wm gm white grey gray matter ventricle "
    "ventricles anatomy hippocampus lobes"
)
_PART = _set("et tc wt ed edema oedema necrosis necrotic enhancing core ncr netc cavity")
_WHOLE_LABELS = (
    "glistrboost", "tumorseg", "tumourseg", "tumormask", "tumourmask", "lesionmask", "lesionseg",
)  # fmt: skip
"""Beginnings of a last word that says all."""

_OTHER_SCANS = _set(
    "adc dwi dti swi asl dsc dce perf perfusion bold fmri trace noddi qsm mra tof ct pet ktrans "
    "cbf cbv rcbv"
)
_NO_ROLE = _OTHER_SCANS | _set(
    "fa md ad rd l1 l2 l3 mtt ttp tmax psr ph eddy mask brainmask parenchyma warp warped affine "
    "transform transforms xfm dseg probseg t1map t2map t2star t2starw epi sbref m0scan angio "
    "defacemask aseg aparc parcellation roi tsem spread interval"
)
_NO_ROLE_PATTERN = re.compile(r"(?:ap|dwi|dti|dsc|asl)?(?:rcbv|cbf|cbv|adc|b\d{2,4})")


def parse_modality(text: str) -> Modality:
    """The modality ``text`` means: ``t1ce`` and ``T1-Gd`` are ``t1c``, ``FLAIR`` is ``t2f``.

    Upper and lower case and separators do not matter.

    Raises:
        InputError: No modality, or none we know, goes by that name.
    """
    modality = _BY_ALIAS.get(re.sub(r"[\s_.-]", "", text.lower()))
    if modality is None:
        known = "; ".join(f"{m} ({', '.join(names[1:6])})" for m, names in _ALIASES.items())
        raise InputError(f"{text!r} is not a modality; known are {known}")
    return modality


_SERIAL = re.compile(r"(?:series|ser|se|scan|im|img)?[\s_.-]*\d{1,4}", re.I)


def is_serial(name: str) -> bool:
    """Whether ``name`` is but a number, as ``SE4`` or ``0012``: of an image, if not of a case."""
    return _SERIAL.fullmatch(name) is not None


def ending_of(name: str) -> str:
    """``.nii.gz`` or ``.nii`` when the file name ends so, in any letters, else an empty text."""
    return next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")


def stem_of(name: str) -> str:
    """``name`` without the ending that :func:`ending_of` tells."""
    return name[: len(name) - len(ending_of(name))]


@dataclass(frozen=True)
class Reading:
    """What a name says of its file.

    Attributes:
        case: What is left of the name; empty where it says the role alone.
        role: A modality, ``label``, or None.
        kind: The words that make it another image than the plain one (``OTHER``).
        rank: Of two files in one role, the one with the lower rank is taken.
        unused: What it is instead, where it is known to be none of ours.
        doubt: Why it is not understood, where that can be said.
    """

    case: str = ""
    role: Role | None = None
    kind: frozenset[str] = field(default=frozenset())
    rank: int = 0
    unused: str = ""
    doubt: str = ""


_WORD = re.compile(r"[^\s_.+-]+")


def words_of(text: str) -> list[str]:
    """The words of ``text``, in small letters."""
    return [word.lower() for word in _WORD.findall(text)]


def read_stem(stem: str) -> Reading:
    """What a file name without its ending, or a folder's name, says.

    The role stands at the end, perhaps with words before or behind it that qualify it; what
    stands before is the case.
    """
    spans = [match.span() for match in _WORD.finditer(stem)]
    words = words_of(stem)
    end = len(words)
    while end and words[end - 1] in SAME | CORRECTED | OTHER:
        end -= 1
    modality, start = _sequence_at(words, end)
    if modality is None:
        return _label(stem, words, spans) or _no_role(words)
    before = start
    while before and words[before - 1] in SAME | CORRECTED | OTHER:
        before -= 1
    qualifiers = {*words[end:], *words[before:start]}
    left = words[before - 1] if before else ""
    if left in ("pre", "post") and modality == "t1n":
        doubt = f'"{left} {words[start]}" may mean {left}-contrast or {left}-operative'
        return Reading(doubt=doubt)
    if left in _BY_ALIAS or left in _OTHER_SCANS:
        return Reading(doubt=f'it names both "{left}" and "{words[start]}"')
    return Reading(
        stem[: spans[before - 1][1]] if before else "",
        modality,
        frozenset(qualifiers & OTHER),
        len(qualifiers & CORRECTED),
    )


def _sequence_at(words: list[str], end: int) -> tuple[Modality | None, int]:
    """The sequence whose words end at ``end``, as many as make one, and where they begin."""
    for size in (4, 3, 2, 1):
        start = end - size
        # "x_c_t1" is the case x_c as likely as contrast.
        if start < 0 or (size > 1 and words[start] == "c"):
            continue
        if found := _BY_ALIAS.get("".join(words[start:end])):
            return found, start
    return None, end


def _label(stem: str, words: list[str], spans: list[tuple[int, int]]) -> Reading | None:
    """A segmentation: of the tumour, or of something else; None where it is none."""
    about = _ABOUT_LABEL | SAME - {"brain"} | OTHER
    end = len(words)
    while end and words[end - 1] in about:
        end -= 1
    last = words[end - 1] if end else ""
    whole = last.startswith(_WHOLE_LABELS)
    if not whole and last not in _SEG | _MASK:
        return None
    start = end - 1
    around = {*words[end:], *({"manual"} if "manual" in last else ())}
    known = about | _TUMOUR | _TISSUE | _PART | {*_BY_ALIAS} | _SEG | {"mask", "ai"}
    while start and words[start - 1] in known:
        around.add(words[start - 1])
        start -= 1
    tumour = whole or bool(around & _TUMOUR)
    if around & _PART:
        return Reading(unused="a mask of one part of the tumour")
    if around & _TISSUE and not tumour:
        return Reading(unused="a segmentation of tissue")
    if last in _MASK and not tumour:
        return Reading(unused="a mask that does not say that it shows the tumour")
    machine = around & _BY_MACHINE or last == "glistrboost"
    rank = 1 + bool(machine) - 2 * bool(around & _BY_HAND)
    case = stem[: spans[start - 1][1]] if start else ""
    return Reading(case, "label", frozenset(), rank)


def _no_role(words: list[str]) -> Reading:
    """A known other scan, map or mask, or nothing."""
    tail = words if len(words) == 1 else words[1:][-4:]
    found = [word for word in tail if word in _NO_ROLE or _NO_ROLE_PATTERN.fullmatch(word)]
    return Reading(unused=f'"{found[-1]}", which is no sequence of ours') if found else Reading()
