"""What the integers in a tumour segmentation stand for; never guessed silently."""

from collections.abc import Iterable
from dataclasses import dataclass

from synth3d.errors import InputError


@dataclass(frozen=True)
class LabelScheme:
    """What the integers of a tumour segmentation stand for; 0 and a resection cavity are no tumour.

    Necrosis is all of the non-enhancing core, oedema infiltration, too. Where it is ambiguous, the
    values fit another scheme, and the warning, a sentence for the user, says how.
    """

    name: str
    necrosis: int
    oedema: int
    enhancing: int
    cavity: int | None = None
    ambiguous: bool = False
    warning: str | None = None


def label_scheme(values: Iterable[int], naming: str | None = None) -> LabelScheme:
    """The scheme that explains the label ``values`` of a whole cohort (or of one case).

    {0, 1, 2, 4} is BraTS 2018-2021 and {0, 1, 2, 3} BraTS 2023; 4 beside 3 is a resection cavity
    (BraTS 2024). Values within {0, 1, 2} decide nothing: give the values of all cases together;
    if they still do not, the BraTS 2023 scheme comes back, marked ambiguous, and its enhancing
    label occurs nowhere. Ambiguous too are a 4 without a 3 under ``naming="brats2023"`` and all
    labels under ``naming="nnunet"``.

    Raises:
        InputError: Some value is outside every scheme.
    """
    values = {int(value) for value in values}
    if outside := sorted(values - {0, 1, 2, 3, 4}):
        raise InputError(f"label values {outside} are in no BraTS scheme (0, 1, 2 and 3 or 4)")
    if {3, 4} <= values:
        return LabelScheme("brats2024", 1, 2, 3, cavity=4, warning=_WARNINGS["cavity"])
    doubt = None
    if not values & {3, 4}:
        doubt = _WARNINGS["undecided"]
    elif naming == "nnunet" or (naming == "brats2023" and 4 in values):
        doubt = _WARNINGS[naming]
    name, enhancing = ("brats2018", 4) if 4 in values else ("brats2023", 3)
    return LabelScheme(name, 1, 2, enhancing, ambiguous=doubt is not None, warning=doubt)


_WARNINGS = {
    "cavity": "label 4 beside 3 is the resection cavity of BraTS 2024, not tumour: it is left out "
    "of WT, TC and ET",
    "undecided": "labels 3 and 4 do not occur, so the scheme cannot be told; none is enhancing",
    "brats2023": "label 4 without 3 in files named as in BraTS 2023 and later: taken for enhancing "
    "tumour (BraTS 2018-2021); in BraTS 2024 it would be a resection cavity",
    "nnunet": "labels 1 and 2 of this nnU-Net dataset are taken for necrosis and oedema, as in "
    "BraTS; nnU-Net's own BraTS converters swap them",
}


SCHEMES: dict[str, LabelScheme] = {
    "brats2018": LabelScheme("brats2018", 1, 2, 4),
    "brats2023": LabelScheme("brats2023", 1, 2, 3),
    "brats2024": LabelScheme("brats2024", 1, 2, 3, cavity=4),
}
"""What a table may declare in its column ``labels``."""
