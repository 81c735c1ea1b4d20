"""Which label scheme a case follows, and what tells: for each case by itself, never for a cohort.

In this order: what the user declared; the names in the dataset.json of an nnU-Net dataset; the
case's name; the values, as far as anatomy and the picture after contrast bear them out. Where two
readings are left, or what tells is contradicted, the case is refused and both are named.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from synth3d.cohort.cases import Case
from synth3d.cohort.labels.names import dataset_scheme, painted_codes
from synth3d.cohort.labels.plausibility import (
    LEAST_OF_BOX,
    contrast,
    covers_too_much,
    enhances,
    necrosis_in_rim,
    oedema_is_inside,
)
from synth3d.cohort.labels.schemes import SCHEMES, LabelScheme, parse_scheme, values_in
from synth3d.errors import InputError
from synth3d.files import read_json
from synth3d.images import LABEL_TOLERANCE, Volume, foreground, read, read_rounded_label

Evidence = Literal["declared", "dataset", "name", "values", "siblings"]

REMEDY = "say which with --labels or in the column labels of a table of cases"

_NAMES = (
    (re.compile(r"BraTS-GLI-\d+-1\d\d", re.I), "brats2024"),  # after treatment
    (re.compile(r"BraTS-PEDs?-.+", re.I), "ped"),
    (re.compile(r"(BraTS-(GLI|METS?|MEN|SSA)-(?!RT-).+|Phantom-\d+-\d+)", re.I), "brats2023"),
    (re.compile(r"(Brats(1[78]|19|20|2021)_.+)", re.I), "brats2018"),
    (re.compile(r"BRATS_\d{3}"), "msd"),  # Task01 of the Decathlon
    (re.compile(r"(UCSF-PDGM|UPENN-GBM|TCGA-\d\d)-.+", re.I), "brats2018"),
)
"""What the names of public releases say."""

_RIVALS = {"ped": "brats2023", "brats2024": "brats2018", "brats2023": "msd"}
"""What a case named for the one is in other hands: BraTS-PED was coded as adults are in 2023, 4 of
treated gliomas would be enhancing, and nnU-Net's converters swap 1 and 2."""

CAVITY = (
    "label 4 beside 3 is the resection cavity of BraTS 2024, not tumour: it is left out of WT, TC "
    "and ET"
)
NO_NAMES = "the nnU-Net dataset does not name its labels: they are taken as {scheme}"
ENHANCES = "label 4 without 3 is taken for enhancing tumour (BraTS 2018-2021): {why}"
IS_CAVITY = "label 4 without 3 is taken for a resection cavity (BraTS 2024): {why}"
IS_OEDEMA = "label 4 without 3 is taken for oedema (BraTS-PED): 1 is what enhances"
ROUNDED = f"labels are not quite whole numbers and were rounded (by less than {LABEL_TOLERANCE})"


@dataclass(frozen=True)
class Reading:
    """How the label of a case is read.

    Attributes:
        scheme: What its integers stand for.
        evidence: What tells: ``declared``, ``dataset``, ``name`` or ``values``; ``siblings`` where
            these leave the scheme open, though not the tissues, and the other cases have one.
        values: The integers that occur, ascending.
        notes: Sentences for the user, of what was not plain.
        rounded: Whether values were not quite whole numbers.
        firm: Whether another reading was ruled out; by ``values`` one may just be unusual.
    """

    scheme: LabelScheme
    evidence: Evidence
    values: tuple[int, ...]
    notes: tuple[str, ...] = ()
    rounded: bool = False
    firm: bool = True

    @property
    def has_tumour(self) -> bool:
        """Whether a voxel is no background."""
        return bool({*self.values} - {0})


def scheme_of_name(case: str) -> LabelScheme | None:
    """The scheme of the public release that a case's name belongs to, if any."""
    return next((SCHEMES[name] for known, name in _NAMES if known.fullmatch(case)), None)


def read_segmentation(case: Case, declared: str | None = None) -> tuple[Volume, Reading]:
    """The label of ``case``, int16 (D, H, W), and what its integers stand for.

    Args:
        case: One with a label.
        declared: A scheme that the user named for all cases; ``case.scheme`` is that of the case.

    Raises:
        InputError: The file is no segmentation, or no tumour, or can be read in two ways or none;
            the sentence names the file and what to do.
    """
    if case.label is None:
        raise InputError(f"case {case.name} has no label")
    volume, off = read_rounded_label(case.label)
    try:
        reading = _read(case, volume, declared)
    except InputError as error:
        text = str(error)
        raise InputError(text if str(case.label) in text else f"{case.label}: {text}") from error
    if off:
        reading = replace(reading, notes=(ROUNDED, *reading.notes), rounded=True)
    return volume, reading


def read_classes(case: Case, declared: str | None = None) -> tuple[np.ndarray, Reading]:
    """The tumour of ``case`` in the classes of BraTS 2023, int8 (D, H, W), and how it was read.

    Raises:
        InputError: As :func:`read_segmentation`.
    """
    volume, reading = read_segmentation(case, declared)
    return reading.scheme.classes(volume.data), reading


def _read(case: Case, volume: Volume, declared: str | None) -> Reading:
    values = values_in(volume.data)
    told = _declared(case, declared)
    if told is not None:
        _check(told, values, "was declared")
        return Reading(told, "declared", values, _cavity_note(told, values))
    _refuse_masks(case, volume)
    dataset = dataset_of(case)
    told = None if dataset is None else _of_dataset(dataset, case)
    if dataset is not None and told is not None:
        _check(told, values, f"{dataset} says")
        exchanged = replace(told, necrosis=told.oedema, oedema=told.necrosis)
        odd = not _predicted(dataset, case) and oedema_is_inside(volume.data, told)
        if odd and not oedema_is_inside(volume.data, exchanged):
            raise _two_readings(case.name, told, [exchanged], f"as {dataset} says")
        return Reading(told, "dataset", values, _cavity_note(told, values))
    judged = _Judged(case, volume)
    named = scheme_of_name(case.name)
    if named is not None and named.explains(values):
        return _by_name(judged, named, values)
    reading = _by_values(judged, values, named)
    if case.naming == "nnunet" and named is None and {*values} - {0}:
        note = NO_NAMES.format(scheme=reading.scheme.described)
        reading = replace(reading, notes=(note, *reading.notes))
    return reading


def _declared(case: Case, declared: str | None) -> LabelScheme | None:
    """The scheme that the user named for the case, or for all; one must not gainsay the other."""
    if case.scheme and declared and parse_scheme(case.scheme) != parse_scheme(declared):
        raise InputError(
            f"case {case.name} is {case.scheme} by the table and {declared} by --labels; "
            "take one of them out"
        )
    told = case.scheme or declared
    return parse_scheme(told) if told else None


def dataset_of(case: Case) -> Path | None:
    """The dataset.json that tells what the label of ``case`` holds: its cohort's, or its folder's.

    Beside a label file, or above its folder labelsTr or labelsTs, one counts for a cohort of any
    naming, so that predictions are read as what they are.
    """
    if case.dataset is not None:
        return case.dataset if _names_labels(case.dataset) else None
    assert case.label is not None
    folder = case.label.absolute().parent
    near = folder.parent if folder.name in ("labelsTr", "labelsTs") else folder
    path = near / "dataset.json"
    return path if path.is_file() and _names_labels(path) else None


def _of_dataset(path: Path, case: Case) -> LabelScheme | None:
    """What a dataset.json says of the label of ``case``; of predictions, beside which it lies,
    what is painted."""
    dataset = read_json(path)
    try:
        scheme = dataset_scheme(dataset, path)
        return painted_codes(dataset, path).scheme if scheme and _predicted(path, case) else scheme
    except InputError as error:
        raise InputError(f"{error}; {REMEDY}") from error


def _predicted(path: Path, case: Case) -> bool:
    """Whether the label is a prediction, beside which nnU-Net leaves its dataset.json."""
    assert case.label is not None
    return case.dataset is None and path.parent == case.label.absolute().parent


def _names_labels(path: Path) -> bool:
    value = read_json(path)
    return isinstance(value, dict) and isinstance(value.get("labels"), dict)


def _check(scheme: LabelScheme, values: Iterable[int], who: str) -> None:
    if strange := [value for value in values if value and value not in scheme.tissues]:
        raise InputError(
            f"label values {strange} are none of {scheme.described}, as {who}; correct the "
            "file, or say with --labels what it holds"
        )


def _cavity_note(scheme: LabelScheme, values: Sequence[int]) -> tuple[str, ...]:
    return (CAVITY,) if scheme.cavity == (4,) and {3, 4} <= {*values} else ()


def _refuse_masks(case: Case, volume: Volume) -> None:
    """Stop at what covers the head: a brain mask, or a map of tissues."""
    label = volume.data
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    share = np.count_nonzero(label) / max(label.size, 1)
    head = None
    if share > LEAST_OF_BOX and (image := _image(case, *case.images)) is not None:
        head = foreground(image) if image.shape == label.shape else None
    if said := covers_too_much(label, head, voxel_ml):
        what = "a mask" if len(values_in(label)) == 2 else "a map of tissues or a mask"
        raise InputError(
            f"the label covers {said}, too much for a tumour: it is {what}; take it away, or say "
            "with --labels that it is a tumour all the same"
        )


def _image(case: Case, *names: Any) -> np.ndarray | None:
    """The first of these sequences that can be read; what is wrong with one is told elsewhere."""
    for name in names:
        try:
            return read(case.images[name]).data
        except (InputError, KeyError):
            continue
    return None


class _Judged:
    """What anatomy and the picture after contrast say of readings of one label."""

    def __init__(self, case: Case, volume: Volume) -> None:
        self.case, self.label = case, volume.data
        self._brightness: dict[int, float] | None = None

    @property
    def brightness(self) -> dict[int, float]:
        if self._brightness is None:
            t1c = _image(self.case, "t1c")
            fits = t1c is not None and t1c.shape == self.label.shape
            self._brightness = contrast(self.label, t1c) if fits and t1c is not None else {}
        return self._brightness

    def supports(self, scheme: LabelScheme) -> bool | None:
        """Whether a reading is borne out; False where it is contradicted, None where unclear."""
        if oedema_is_inside(self.label, scheme):
            return False
        return enhances(scheme, self.brightness)


def _by_name(judged: _Judged, named: LabelScheme, values: tuple[int, ...]) -> Reading:
    """The named scheme, unless its known rival fits and it does not."""
    rival = SCHEMES.get(_RIVALS.get(named.name, ""))
    doubted = rival is not None and rival.explains(values) and not rival.agrees(named, values)
    if rival is not None and doubted:
        swapped = rival.name == "msd"  # seen in the label alone, so all cases can afford it
        wrong = oedema_is_inside(judged.label, named) if swapped else False
        wrong = wrong or (not swapped and judged.supports(named) is False)
        if wrong and not oedema_is_inside(judged.label, rival):
            raise _two_readings(judged.case.name, named, [rival])
    return Reading(named, "name", values, _cavity_note(named, values))


def _two_readings(
    case: str, first: LabelScheme, others: Sequence[LabelScheme], by: str = "by name or values"
) -> InputError:
    looks = " or ".join(scheme.described for scheme in others)
    return InputError(
        f"the labels of case {case} would be {first.described} {by}, but they "
        f"look like {looks}: {REMEDY}"
    )


def _by_values(judged: _Judged, values: tuple[int, ...], named: LabelScheme | None) -> Reading:
    """The one scheme that explains the values and is not contradicted; else a refusal."""
    fitting = [scheme for scheme in SCHEMES.values() if scheme.explains(values)]
    if named is not None:  # values of another release of adults
        fitting = [scheme for scheme in fitting if scheme.name != "ped"]
    if not fitting:
        known = "; ".join(scheme.described for scheme in SCHEMES.values())
        raise InputError(
            f"label values {[v for v in values if v]} are in no scheme of {known}; recode the file"
        )
    if not {*values} - {0}:
        return Reading(named or SCHEMES["brats2023"], "values", values)
    usual = _usual(fitting, values)
    readings: list[LabelScheme] = [usual]
    for scheme in fitting:
        if not any(scheme.agrees(other, values) for other in readings):
            readings.append(scheme)
    found = {scheme.name: judged.supports(scheme) for scheme in readings}
    left = [scheme for scheme in readings if found[scheme.name] is not False]
    proved = [scheme for scheme in left if found[scheme.name]]
    return _decide(judged, values, usual, left, proved)


def _usual(fitting: Sequence[LabelScheme], values: Iterable[int]) -> LabelScheme:
    """What such values mean nearly always: 4 without 3 is enhancing, 4 beside 3 a cavity."""
    names = ("brats2024",) if {3, 4} <= {*values} else ("brats2018",) if 4 in values else ()
    return next(s for s in fitting if s.name in (*names, *(() if names else ("brats2023",))))


def _decide(
    judged: _Judged,
    values: tuple[int, ...],
    usual: LabelScheme,
    left: Sequence[LabelScheme],
    proved: Sequence[LabelScheme],
) -> Reading:
    case, four = judged.case.name, 4 in values
    if not left:
        raise InputError(
            f"the labels of case {case} look like no scheme that has the values "
            f"{[v for v in values if v]}, as oedema would lie inside the core, or what "
            f"is bright after contrast would not enhance: recode the file, or {REMEDY} if one fits"
        )
    if not four:  # nearly always the usual one, so nothing less than a declaration overturns it
        if usual not in left:
            raise _two_readings(case, usual, left)
        firm = len(left) == 1 or (3 in values and usual in proved)
        return Reading(usual, "values", values, firm=firm)
    chosen = proved if len(proved) == 1 else left
    why = "it is what enhances" if chosen == [usual] else "nothing enhances"
    if len(chosen) > 1 and 3 not in values and necrosis_in_rim(judged.label, usual):
        chosen, why = [usual], "it surrounds the necrosis"
    if len(chosen) > 1:
        both = " or ".join(scheme.described for scheme in chosen)
        raise InputError(f"the labels of case {case} may be {both}: {REMEDY}")
    notes = _cavity_note(chosen[0], values)
    if 3 not in values:
        said = {"enhancing": ENHANCES, "cavity": IS_CAVITY, "oedema": IS_OEDEMA}
        notes = (said[chosen[0].tissues[4]].format(why=why),)
    return Reading(chosen[0], "values", values, notes)
