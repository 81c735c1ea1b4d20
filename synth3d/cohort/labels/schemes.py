"""What the integers of a tumour segmentation stand for: schemes, tissues, and regions made of them.

Which scheme a case follows is told by :mod:`synth3d.cohort.labels.evidence`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from synth3d.errors import InputError

Tissue = Literal["necrosis", "oedema", "enhancing", "cavity", "cyst"]
TISSUES: tuple[Tissue, ...] = get_args(Tissue)
"""In the order of our own integers, 1 to 5. The first four are those of BraTS 2023 and 2024.

Necrosis is all of the non-enhancing core but cysts, where a scheme tells these apart; oedema is
infiltration, too; a resection cavity is no tumour.
"""
CLASSES: Mapping[Tissue, int] = {
    "necrosis": 1, "oedema": 2, "enhancing": 3, "cavity": 0, "cyst": 1
}  # fmt: skip
"""The tumour classes of BraTS 2023, which every scheme maps into."""

REGIONS: Mapping[str, tuple[Tissue, ...]] = {
    "WT": ("necrosis", "oedema", "enhancing", "cyst"),
    "TC": ("necrosis", "enhancing", "cyst"),
    "ET": ("enhancing",),
}
"""Whole tumour, tumour core, enhancing tumour; each holds the next (Menze et al. 2015, II-C)."""


@dataclass(frozen=True)
class LabelScheme:
    """The integers of each tissue, of which necrosis, oedema and enhancing tumour have one or more.

    0 is background in every scheme. No integer stands for two tissues.
    """

    name: str
    necrosis: tuple[int, ...]
    oedema: tuple[int, ...]
    enhancing: tuple[int, ...]
    cavity: tuple[int, ...] = ()
    cyst: tuple[int, ...] = ()

    @cached_property
    def tissues(self) -> dict[int, Tissue]:
        """Each integer but 0 with its tissue."""
        return {number: tissue for tissue in TISSUES for number in getattr(self, tissue)}

    @property
    def text(self) -> str:
        """``1 necrosis, 2 oedema, 4 enhancing``."""
        return ", ".join(f"{number} {tissue}" for number, tissue in sorted(self.tissues.items()))

    @property
    def described(self) -> str:
        """Name and text."""
        return f"{self.name} ({self.text})"

    def explains(self, values: Iterable[int]) -> bool:
        """Whether every one of ``values`` is 0 or stands for a tissue."""
        return set(values) <= {0, *self.tissues}

    def agrees(self, other: "LabelScheme", values: Iterable[int]) -> bool:
        """Whether both schemes read ``values`` as the same tissues."""
        return all(self.tissues.get(value) == other.tissues.get(value) for value in values)

    def encode(self, label: np.ndarray) -> np.ndarray:
        """``label`` in our own integers, uint8 of its shape: 0, or the place in ``TISSUES``.

        Raises:
            InputError: A value stands for nothing in this scheme.
        """
        numbers = {number: TISSUES.index(name) + 1 for number, name in self.tissues.items()}
        return recode(label, {0: 0} | numbers)

    def classes(self, label: np.ndarray) -> np.ndarray:
        """``label`` as in BraTS 2023, int8 of its shape; a cavity is 0, a cyst core, 1.

        Raises:
            InputError: As :meth:`encode`.
        """
        numbers = {number: CLASSES[name] for number, name in self.tissues.items()}
        return recode(label, {0: 0} | numbers).astype(np.int8)

    @property
    def painted(self) -> dict[int, int]:
        """Our own integers → those of this scheme; of several for a tissue the first.

        What the scheme has no integer for is core (a cyst) or background (a cavity).
        """
        own = {name: (*getattr(self, name), 0)[0] for name in TISSUES}
        own["cyst"] = own["cyst"] or own["necrosis"]
        return {0: 0} | {place: own[name] for place, name in enumerate(TISSUES, start=1)}

    def decode(self, label: np.ndarray) -> np.ndarray:
        """Our own integers painted with those of this scheme, uint8; undoes :meth:`encode`.

        Raises:
            InputError: A value is not from 0 to 5.
        """
        return recode(label, self.painted)

    def regions(self, label: np.ndarray) -> dict[str, np.ndarray]:
        """WT, TC and ET of ``label``, as bool masks of its shape; values of no tissue are none."""
        numbers = {
            region: [number for number, name in self.tissues.items() if name in names]
            for region, names in REGIONS.items()
        }
        return {region: np.isin(label, wanted) for region, wanted in numbers.items()}


SCHEMES: Mapping[str, LabelScheme] = {
    scheme.name: scheme
    for scheme in (
        LabelScheme("brats2018", (1,), (2,), (4,)),
        LabelScheme("brats2023", (1,), (2,), (3,)),
        LabelScheme("brats2024", (1,), (2,), (3,), cavity=(4,)),
        LabelScheme("ped", (2,), (4,), (1,), cyst=(3,)),
        LabelScheme("msd", (2,), (1,), (3,)),
    )
}
"""By name: BraTS 2017-2021; 2023 (GLI, MET, MEN, SSA); 2024's treated gliomas; BraTS-PED since
2024; the Medical Segmentation Decathlon, which nnU-Net's own BraTS converters follow."""


def parse_scheme(text: str) -> LabelScheme:
    """The scheme called ``text``, in upper or lower case.

    Raises:
        InputError: There is none; the known ones are named.
    """
    scheme = SCHEMES.get(text.strip().lower())
    if scheme is None:
        known = "; ".join(f"{name} ({scheme.text})" for name, scheme in SCHEMES.items())
        raise InputError(f"no label scheme is called {text!r}; there are {known}")
    return scheme


def values_in(label: np.ndarray) -> tuple[int, ...]:
    """The integers that occur in ``label``, ascending; none in an empty array."""
    if label.size and label.min() >= 0 and label.max() < 256:  # many times faster than sorting
        return tuple(np.flatnonzero(np.bincount(label.ravel())).tolist())
    return tuple(np.unique(label).tolist())


def recode(label: np.ndarray, codes: Mapping[int, int]) -> np.ndarray:
    """``label`` with each integer replaced by that of ``codes``, uint8 of its shape.

    Raises:
        InputError: ``codes`` does not know a value.
    """
    found = values_in(label)
    if strange := [value for value in found if value not in codes]:
        known = ", ".join(map(str, sorted(codes)))
        raise InputError(f"label values {strange} are none of {known}")
    new = np.zeros(label.shape, np.uint8)
    for value in found:
        if codes[value]:
            new[label == value] = codes[value]
    return new


def nnunet_regions(
    further: Iterable[Tissue] = (), called: tuple[str, str, str] = ("WT", "TC", "ET")
) -> dict[str, Any]:
    """``labels`` and ``regions_class_order`` of a dataset.json for labels in consecutive integers.

    1, 2 and 3 are as in BraTS 2023; ``further`` tissues, a cavity or a cyst, follow from 4 on in
    the order of ``TISSUES`` and have a region of their own. The largest region is first: nnU-Net
    paints later ones over earlier ones, oedema where WT alone is found, necrosis where TC is.
    """
    numbers = nnunet_integers(further)
    held = {
        name: [number for tissue, number in numbers.items() if tissue in REGIONS[region]]
        for name, region in zip(called, REGIONS, strict=True)
    }
    whole, core, enhancing = called
    labels: dict[str, Any] = {"background": 0, whole: held[whole], core: held[core]}
    order = [numbers["oedema"], numbers["necrosis"]]
    if "cyst" in numbers:
        labels["CC"] = [numbers["cyst"]]
        order.append(numbers["cyst"])
    labels[enhancing] = held[enhancing]
    order.append(numbers["enhancing"])
    if "cavity" in numbers:
        labels["RC"] = [numbers["cavity"]]
        order.append(numbers["cavity"])
    return {"labels": labels, "regions_class_order": order}


def nnunet_integers(further: Iterable[Tissue] = ()) -> dict[Tissue, int]:
    """The consecutive integers of such a dataset, by tissue."""
    wanted = {*TISSUES[:3], *further}
    ordered: list[Tissue] = [tissue for tissue in TISSUES if tissue in wanted]
    return {tissue: place for place, tissue in enumerate(ordered, 1)}
