"""What the integers of an nnU-Net segmentation stand for, told by the names in its dataset.json.

Two questions have one vocabulary: what a dataset's own label files hold (:func:`dataset_scheme`)
and what a model trained on it paints (:func:`painted_codes`). Opens no image.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synth3d.cohort.labels.schemes import CLASSES, TISSUES, LabelScheme, Tissue
from synth3d.errors import InputError

_REGIONS = {
    "wt": ("wt", "wholetumor", "whole", "completetumor"),
    "tc": ("tc", "tumorcore", "core"),
    "et": ("et", "enhancingtumor", "enhancing", "enhancingcore"),
}
_TISSUES: Mapping[Tissue, tuple[str, ...]] = {
    "necrosis": (
        *("ncr", "ncrnet", "nec", "necrosis", "necrotic", "necroticcore", "necrotictumorcore"),
        *("net", "netc", "nonenhancing", "nonenhancingtumor", "nonenhancingtumorcore"),
        *("nonenhancingcore", "necroticandnonenhancingtumorcore", "necroticandnonenhancingtumor"),
    ),
    "oedema": (
        *("ed", "edema", "peritumoraledema", "snfh", "edemaandinfiltration"),
        "surroundingnonenhancingflairhyperintensity",
    ),
    "enhancing": (*_REGIONS["et"], "at", "gdenhancingtumor", "gdenhancing", "enhancingtissue"),
    "cavity": ("rc", "resectioncavity", "cavity"),
    "cyst": ("cc", "cyst", "cystic", "cysticcomponent"),
}
_TISSUE_OF: Mapping[str, Tissue] = {
    alias: tissue for tissue, names in _TISSUES.items() for alias in names
}
_HEADS: Mapping[str, Tissue] = {"tc": "necrosis", "wt": "oedema", "et": "enhancing"}
"""What a voxel is of which only that region, and no smaller one, is found."""
_NEVER_PREDICTED = ("background", "ignore")


@dataclass(frozen=True)
class LabelCodes:
    """The integers that an nnU-Net model paints, by meaning.

    Attributes:
        regions: Whether the network has one sigmoid per region, or one softmax over labels.
        others: Integers of names that say nothing to us.
    """

    scheme: LabelScheme
    regions: bool = False
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def to_brats_2023(self) -> dict[int, int]:
        """Painted integer to that of BraTS 2023; a resection cavity becomes background."""
        return {0: 0} | {number: CLASSES[name] for number, name in self.scheme.tissues.items()}

    @property
    def to_own(self) -> dict[int, int]:
        """Painted integer to that of :data:`synth3d.cohort.TISSUES`."""
        places = self.scheme.tissues.items()
        return {0: 0} | {number: TISSUES.index(name) + 1 for number, name in places}


def dataset_scheme(dataset: Any, path: Path) -> LabelScheme | None:
    """What the label files of a dataset hold whose dataset.json, ``path``, holds ``dataset``.

    None where it names nothing but the background. Regions tell by their sets; what nnU-Net
    paints for them (``regions_class_order``) says nothing of the files.

    Raises:
        InputError: The names do not tell necrosis, oedema and enhancing tumour apart.
    """
    labels = _labels(dataset, path)
    sets = _sets(labels)
    if not any(values - {0} for values in sets.values()):
        return None
    parts = _regions(sets)
    tissues = _by_tissue(sets) if parts is None else _tissues_of(parts, sets)
    return _scheme(tissues, path, labels)


def painted_codes(dataset: Any, path: Path) -> LabelCodes:
    """What a model paints whose dataset.json holds ``dataset``; ``path`` is for the sentence.

    With regions, ``regions_class_order`` is what nnU-Net paints, whatever the sets say; without
    it the sets themselves tell.

    Raises:
        InputError: The names do not tell the tissues apart, or one region is painted over another.
    """
    labels = _labels(dataset, path)
    sets = _sets(labels)
    parts = _regions(sets)
    tissues: dict[Tissue, set[int]]
    if parts is None:
        tissues, said = _by_tissue(sets), _single(sets)
    elif (painted := _painted_regions(dataset, sets)) is not None:
        called = {region: next(a for a in _REGIONS[region] if a in sets) for region in _REGIONS}
        tissues = {name: {painted[called[region]]} for region, name in _HEADS.items()}
        for name in sets.keys() - called.values():
            if name in (*_TISSUES["cavity"], *_TISSUES["cyst"]):
                tissues.setdefault(_TISSUE_OF[name], {painted[name]})
        said = painted
    else:
        tissues, said = _tissues_of(parts, sets), _single(sets)
    scheme = _scheme(tissues, path, labels)
    known = {*_TISSUE_OF, *(alias for names in _REGIONS.values() for alias in names)}
    return LabelCodes(scheme, parts is not None, {n: v for n, v in said.items() if n not in known})


def _labels(dataset: Any, path: Path) -> Mapping[str, Any]:
    """``labels`` of a dataset.json; nnU-Net v1 and the Decathlon have integer → name."""
    labels = dataset.get("labels") if isinstance(dataset, dict) else None
    if not isinstance(labels, dict):
        raise InputError(f"{path} is not nnU-Net's dataset.json: it has no labels")
    turned = labels and all(
        str(number).isdecimal() and isinstance(name, str) for number, name in labels.items()
    )
    return {name: int(number) for number, name in labels.items()} if turned else labels


def _sets(labels: Mapping[str, Any]) -> dict[str, set[int]]:
    """The integers of each label by its plain name, without what is never predicted."""
    return {
        _plain(name): {item for item in (value if isinstance(value, list) else [value])
                       if type(item) is int}
        for name, value in labels.items()
        if _plain(name) not in _NEVER_PREDICTED
    }  # fmt: skip


def _plain(name: Any) -> str:
    plain = re.sub(r"[^a-z]", "", str(name).lower())
    return plain.replace("tumour", "tumor").replace("oedema", "edema")


def _regions(sets: Mapping[str, set[int]]) -> dict[str, set[int]] | None:
    """The sets of ``wt``, ``tc`` and ``et``, each called exactly once, or None without regions."""
    found = {name: [sets[a] for a in others if a in sets] for name, others in _REGIONS.items()}
    once = all(len(values) == 1 for values in found.values())
    return (
        {n: values[0] for n, values in found.items()} if once and len(found["wt"][0]) > 1 else None
    )


def _by_tissue(sets: Mapping[str, set[int]]) -> dict[Tissue, set[int]]:
    """The integers of each tissue whose names are no regions; one name is one integer."""
    tissues: dict[Tissue, set[int]] = {}
    for name, values in sets.items():
        if name in _TISSUE_OF and len(values) == 1:
            tissues.setdefault(_TISSUE_OF[name], set()).update(values)
    return tissues


def _painted_regions(
    dataset: Mapping[str, Any], sets: Mapping[str, set[int]]
) -> dict[str, int] | None:
    """The integer painted for each region by its plain name, or None where no order is given."""
    order = dataset.get("regions_class_order")
    if not isinstance(order, list | tuple):
        return None
    names = [name for name, values in sets.items() if values != {0}]
    if len(order) != len(names):
        raise InputError(
            f"regions_class_order has {len(order)} entries for the {len(names)} regions "
            f"{', '.join(names)}"
        )
    for later, name in enumerate(names):
        if hidden := [first for first in names[:later] if sets[first] < sets[name]]:
            raise InputError(
                f"nnU-Net would paint {name} over {', '.join(hidden)}, which would vanish from "
                "every prediction: the regions must be listed from the largest to the smallest"
            )
    return dict(zip(names, map(int, order), strict=True))


def _tissues_of(
    parts: Mapping[str, set[int]], sets: Mapping[str, set[int]]
) -> dict[Tissue, set[int]]:
    """The tissues that nested regions stand for; {} where they are not nested."""
    enhancing, core, whole = parts["et"], parts["tc"], parts["wt"]
    if not enhancing < core < whole:
        return {}
    named = _by_tissue(sets)
    cyst = named.get("cyst", set()) & (core - enhancing)
    return {
        "necrosis": core - enhancing - cyst,
        "oedema": whole - core,
        "enhancing": enhancing,
        "cyst": cyst,
        "cavity": named.get("cavity", set()) - whole,
    }


def _single(sets: Mapping[str, set[int]]) -> dict[str, int]:
    """The sets that hold one integer, as that integer."""
    return {name: min(values) for name, values in sets.items() if len(values) == 1}


def _scheme(
    tissues: Mapping[Tissue, set[int]], path: Path, labels: Mapping[str, Any]
) -> LabelScheme:
    """The scheme of ``tissues``: the first three are there, and no integer is two of them."""
    numbers: Sequence[int] = [number for values in tissues.values() for number in values]
    if (
        not all(tissues.get(name) for name in TISSUES[:3])
        or len({*numbers}) < len(numbers)
        or min(numbers) < 1
    ):
        raise InputError(
            f"{path} must name the regions WT, TC, ET or the tissues NCR, ED, ET, and has "
            f"{dict(labels)}: what the integers mean cannot be told"
        )
    return LabelScheme("nnunet", **{name: tuple(sorted(v)) for name, v in tissues.items()})
