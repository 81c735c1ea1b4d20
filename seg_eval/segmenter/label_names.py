"""What the integers of an nnU-Net segmentation stand for, told by the names in its dataset.json.

Needs the standard library and :mod:`synth3d.errors` alone; the conversion scripts use it too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth3d.errors import InputError

REGIONS = {
    "wt": ("wt", "wholetumor", "wholetumour", "whole", "completetumor", "completetumour"),
    "tc": ("tc", "tumorcore", "tumourcore", "core"),
    "et": ("et", "enhancingtumor", "enhancingtumour", "enhancing", "enhancingcore"),
}
TISSUES = {
    "necrosis": (
        *("ncr", "ncrnet", "necrosis", "necrotic", "necroticcore", "necrotictumorcore", "netc"),
        *("net", "nonenhancing", "nonenhancingtumor", "nonenhancingtumorcore", "nonenhancingcore"),
        *("necroticandnonenhancingtumorcore", "necroticandnonenhancingtumor"),
    ),
    "oedema": (
        *("ed", "edema", "oedema", "peritumoraledema", "peritumoraloedema", "snfh"),
        *("surroundingnonenhancingflairhyperintensity", "edemaandinfiltration"),
    ),
    "enhancing": (*REGIONS["et"], "at", "gdenhancingtumor", "gdenhancing", "enhancingtissue"),
}
CAVITY = ("rc", "resectioncavity", "cavity")
HEADS = {"necrosis": "tc", "oedema": "wt", "enhancing": "et"}
"""What a voxel is of which only that region, and no smaller one, is found."""
NEVER_PREDICTED = ("background", "ignore")


@dataclass(frozen=True)
class LabelCodes:
    """The integers that an nnU-Net model paints, by meaning.

    Attributes:
        necrosis: Necrotic and other non-enhancing core.
        cavity: Resection cavity, which is no tumour; None where the model knows none.
        regions: Whether the network has one sigmoid per region, or one softmax over labels.
        others: Integers of names that say nothing to us.
    """

    necrosis: int
    oedema: int
    enhancing: int
    cavity: int | None = None
    regions: bool = False
    others: Mapping[str, int] | None = None

    @property
    def tissues(self) -> dict[str, int]:
        """The integers of ``necrosis``, ``oedema`` and ``enhancing``."""
        return {name: getattr(self, name) for name in TISSUES}

    @property
    def to_brats_2023(self) -> dict[int, int]:
        """Painted integer to that of BraTS 2023; a resection cavity becomes background."""
        codes = {0: 0, self.necrosis: 1, self.oedema: 2, self.enhancing: 3}
        return codes if self.cavity is None else codes | {self.cavity: 0}


def label_codes(dataset: Any, path: Path) -> LabelCodes:
    """What a model paints whose dataset.json holds ``dataset``; ``path`` is for the sentence.

    With regions, ``regions_class_order`` is what nnU-Net paints, whatever the sets say; without
    it the sets themselves tell. What does not name them, or paints one over another, is refused.
    """
    labels = dataset.get("labels") if isinstance(dataset, dict) else None
    if not isinstance(labels, dict):
        raise InputError(f"{path} is not nnU-Net's dataset.json: it has no labels")
    sets = _sets(labels)
    parts = _by_alias(sets, REGIONS)
    regions = parts is not None and len(parts["wt"]) > 1
    if parts is None or not regions:
        tissues = _single(_by_alias(sets, TISSUES) or {})
        painted = _single(sets)
    elif (painted := _painted_regions(dataset, sets)) is not None:
        called = {region: next(a for a in REGIONS[region] if a in sets) for region in REGIONS}
        tissues = {name: painted.get(called[region], 0) for name, region in HEADS.items()}
    else:
        tissues, painted = _single(_tissues_of(parts)), _single(sets)
    if tissues.keys() != TISSUES.keys() or len({*tissues.values()} - {0}) < len(TISSUES):
        raise InputError(
            f"{path} must name the regions WT, TC, ET or the tissues NCR, ED, ET, and has "
            f"{labels}: what the integers mean cannot be told"
        )
    known = {alias for names in (REGIONS if regions else TISSUES).values() for alias in names}
    extra = {name: value for name, value in painted.items() if name not in known}
    cavity = next((value for name, value in extra.items() if name in CAVITY), None)
    others = {name: value for name, value in extra.items() if name not in CAVITY}
    return LabelCodes(**tissues, cavity=cavity, regions=regions, others=others)


def _sets(labels: Mapping[str, Any]) -> dict[str, set[int]]:
    """The integers of each label by its plain name, without what is never predicted."""
    return {
        _plain(name): {int(item) for item in (value if isinstance(value, list) else [value])
                       if isinstance(item, int)}
        for name, value in labels.items()
        if _plain(name) not in NEVER_PREDICTED
    }  # fmt: skip


def _plain(name: Any) -> str:
    return re.sub(r"[^a-z]", "", str(name).lower())


def _by_alias(
    sets: Mapping[str, set[int]], aliases: Mapping[str, Sequence[str]]
) -> dict[str, set[int]] | None:
    """What each of ``aliases`` is called exactly once, or None."""
    found = {name: [sets[a] for a in others if a in sets] for name, others in aliases.items()}
    once = all(len(values) == 1 for values in found.values())
    return {name: values[0] for name, values in found.items()} if once else None


def _painted_regions(dataset: Mapping[str, Any], sets: Mapping[str, set[int]]) -> Any:
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


def _tissues_of(parts: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """The tissues that nested regions stand for; {} where they are not nested."""
    enhancing, core, whole = parts["et"], parts["tc"], parts["wt"]
    if not enhancing < core < whole:
        return {}
    return {"necrosis": core - enhancing, "oedema": whole - core, "enhancing": enhancing}


def _single(parts: Mapping[str, set[int]]) -> dict[str, int]:
    """The sets that hold one integer, as that integer."""
    return {name: min(values) for name, values in parts.items() if len(values) == 1}
