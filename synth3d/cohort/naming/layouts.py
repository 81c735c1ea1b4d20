"""What lies where in a cohort's folder: each file, by its name and its folders, claims a role.

Files carry their case's name, or case folders do, or a folder for each file, or one for each
sequence; BIDS has entities. Everything is matched on names, never on position. Opens no image.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from synth3d.cohort.naming.patients import is_visit
from synth3d.cohort.naming.vocabulary import (
    CORRECTED,
    FOREIGN_ENDINGS,
    GENERIC,
    OTHER,
    SAME,
    Modality,
    Reading,
    Role,
    ending_of,
    read_stem,
    stem_of,
    words_of,
)

TOKENS: dict[str, dict[Modality, str]] = {
    "brats2018": {"t1n": "_t1", "t1c": "_t1ce", "t2w": "_t2", "t2f": "_flair", "pd": "_pd"},
    "brats2023": {"t1n": "-t1n", "t1c": "-t1c", "t2w": "-t2w", "t2f": "-t2f", "pd": "-pd"},
    "ixi": {"t1n": "-T1", "t1c": "-T1C", "t2w": "-T2", "t2f": "-FLAIR", "pd": "-PD"},
    "bids": {"t1n": "_T1w", "t1c": "_ce-gadolinium_T1w", "t2w": "_T2w", "t2f": "_FLAIR",
             "pd": "_PDw"},
    "files": {"t1n": "_t1n", "t1c": "_t1c", "t2w": "_t2w", "t2f": "_t2f", "pd": "_pd"},
    "folders": {"t1n": "t1n", "t1c": "t1c", "t2w": "t2w", "t2f": "t2f", "pd": "pd"},
    "table": {"t1n": "-t1n", "t1c": "-t1c", "t2w": "-t2w", "t2f": "-t2f", "pd": "-pd"},
}  # fmt: skip
"""What follows the case's name in the file of a modality, per naming; under ``folders`` it is all
of the name. IXI itself has only T1, T2 and PD."""

LABEL_TOKENS = {
    "brats2018": "_seg", "bids": "_label-lesion_mask", "files": "_seg", "folders": "seg",
}  # fmt: skip
"""The same for the segmentation; ``-seg`` elsewhere."""


@dataclass(frozen=True)
class Claim:
    """A file that says by its name what it is, or, where ``role`` is None, no role to us.

    ``kind``, ``rank``, ``unused`` and ``doubt`` are those of a :class:`Reading`.
    """

    path: Path
    naming: str = ""
    case: str = ""
    role: Role | None = None
    kind: frozenset[str] = field(default=frozenset())
    rank: int = 0
    unused: str = ""
    doubt: str = ""


_OFFICIAL = (
    ("brats2023", re.compile(r"-(t1n|t1c|t2w|t2f|pd|seg)")),
    ("brats2018", re.compile(r"_(t1|t1ce|t1c|t1gd|t2|flair|pd|seg)")),
)
_IXI = re.compile(r"IXI\d+-[A-Za-z]+-\d+")
_TOOLS = re.compile(r"deepbratumia|hd[-_]?glio", re.I)
_NOT_ACQUIRED = frozenset(("transforms", "transform", "xfm", "warps", "masks", "logs"))


def claims(root: Path) -> Iterator[Claim]:
    """The claims of all image files under ``root``, in a fixed order."""
    root, seen = Path(root), set[str]()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_reraise):
        real = os.path.realpath(folder)
        new = real not in seen
        seen.add(real)
        folders[:] = sorted(filter(_looked_at, folders)) if new else []
        for name in sorted(filter(_looked_at, names)) if new else ():
            if claim := claim_of(Path(folder) / name, root):
                yield claim


def claim_of(path: Path, root: Path) -> Claim | None:
    """What ``path``, a file under ``root``, claims by its name; None where it is no image."""
    foreign = path.name.lower().endswith(FOREIGN_ENDINGS)
    if lost := lost_link(path):
        return Claim(path, doubt=lost)
    if not ending_of(path.name) and not foreign:
        return None
    claim = _read(path, root)
    if foreign and not claim.unused:
        return Claim(path, doubt="it is not NIfTI: convert it to .nii.gz")
    return claim


def lost_link(path: Path) -> str:
    """A clause when ``path`` is a link to something that is not there; else an empty text."""
    try:
        if not path.is_symlink() or path.exists():
            return ""
    except OSError:  # no name for a file
        return ""
    return (
        f"it is a dangling link, to {path.readlink()}: fetch the file (git annex, datalad) or "
        "remove the link"
    )


def _reraise(error: OSError) -> None:
    raise error


def _looked_at(name: str) -> bool:
    return not name.startswith(".") and name not in ("derivatives", "sourcedata")


def claim_by_name(name: str) -> Claim:
    """What a file called ``name`` claims wherever it lies; the case may be empty."""
    stem = stem_of(name)
    if stem.lower().startswith("sub-"):
        return _bids(Path(name), stem)
    reading = read_stem(stem)
    return _claim(Path(name), reading, _naming(stem, reading))


def _claim(path: Path, reading: Reading, naming: str) -> Claim:
    return Claim(path, naming if reading.role else "", **vars(reading))


def _naming(stem: str, reading: Reading) -> str:
    """Which naming spells the role like that behind the case."""
    if not reading.case:
        return "folders"
    if _IXI.fullmatch(reading.case):
        return "ixi"
    token = stem[len(reading.case) :]
    return next((name for name, pattern in _OFFICIAL if pattern.fullmatch(token)), "files")


def _read(path: Path, root: Path) -> Claim:
    """What a file says by its own name and by the folders between ``root`` and it."""
    folders = path.relative_to(root).parts[:-1]
    if any(_TOOLS.search(name) for name in folders):
        return Claim(path, unused="made by a segmentation tool")
    own = replace(claim_by_name(path.name), path=path)
    if folders and ending_of(folders[-1]):
        return _folder_per_file(path, claim_by_name(folders[-1]), own)
    if own.role and own.case:
        return _with_patient(own, folders, root)
    if own.role or own.unused or own.doubt:
        if _NOT_ACQUIRED & {name.lower() for name in folders}:
            return Claim(path, unused="in a folder of masks, transforms or logs")
        return _in_case_folder(own, folders, root) if own.role else own
    outer = read_stem(folders[-1]) if folders else Reading()
    labels = outer.role == "label" and len(folders) > 1  # whatever lies there
    if outer.role and not outer.case and not labels:
        return _folder_per_sequence(path, folders, outer, root)
    return own


def _folder_per_file(path: Path, outer: Claim, own: Claim) -> Claim:
    """Kaggle's ``X_t1.nii/anything.nii``: the folder carries case and role."""
    if own.role and outer.role and own.role != outer.role:
        doubt = f"its folder says {outer.role} and its own name {own.role}"
        return Claim(path, doubt=doubt)
    return replace(outer if outer.role or outer.unused else own, path=path)


_SHORT = re.compile(r"\d{1,3}|[a-z]", re.I)
"""The name of a folder in another that tells visits apart, or cases of one group."""


def _with_patient(own: Claim, folders: tuple[str, ...], root: Path) -> Claim:
    """``P1/V2_t1.nii.gz``: a name that says no more than a visit is one of its folder's patient."""
    above = [name for name in folders if not set(words_of(name)) <= GENERIC]
    if not above or not (is_visit(own.case) or re.fullmatch(r"\d{1,3}", own.case)):
        return own
    case = _in_case_folder(own, folders, root).case
    same = case == own.case or case.endswith(f"_{own.case}")
    return replace(own, case=case if same else f"{case}_{own.case}")


def _in_case_folder(own: Claim, folders: tuple[str, ...], root: Path) -> Claim:
    """``CASE/t1c.nii.gz``: the case is the folder; folders below it may qualify the image."""
    kind, rank, names = set(own.kind), own.rank, list(folders)
    while names and set(words_of(names[-1])) <= SAME | CORRECTED | OTHER | GENERIC:
        words = {*words_of(names.pop())}
        kind |= words & OTHER
        rank += len(words & CORRECTED)
    case = names.pop() if names else root.resolve().name
    while is_visit(case.split("_")[0]) or (names and _SHORT.fullmatch(case.split("_")[0])):
        if not names:
            case = f"{root.resolve().name}_{case}"
            break
        case = f"{names.pop()}_{case}"
    return replace(own, naming="folders", case=case, kind=frozenset(kind), rank=rank)


def _folder_per_sequence(path: Path, folders: tuple[str, ...], outer: Reading, root: Path) -> Claim:
    """``T1/CASE.nii.gz`` at the top, or ``CASE/T1/anything.nii.gz``."""
    if len(folders) == 1:
        return Claim(path, "files", stem_of(path.name), outer.role, outer.kind, outer.rank)
    inside = Claim(path, "folders", "", outer.role, outer.kind, outer.rank)
    return _in_case_folder(inside, folders[:-1], root)


_ENTITY = re.compile(r"([A-Za-z]+)-(.+)")
_AGENT = "gd|gad|contrast|ce|c\\d?|km|enhanced"
_WITHOUT = re.compile(
    rf"none?|no|0|pre|without|native?|.*(no|non|pre|un|without|wo|minus)-?({_AGENT}).*", re.I
)
_WITH = re.compile(
    r"(?i:.*(post(?!op|treat|surg|rt|rad|chemo|therap)|gd|gad|contrast|enhanced|km|t1c)|c$)"
    r"|(?i:(?:.*\d|.*3d|t1w?|mprage|mpr|spgr|bravo|vibe|tfe|tse|se)?ce$)|.*[a-z]CE$"
)
"""SPACE is a sequence."""
_SAYS_TUMOUR = re.compile(r".*(tumou?r|lesion|glioma)", re.I)
_EXPLAIN = frozenset(("tsem", "spread", "interval"))
"""Maps that ``synth3d complete`` writes beside what it made."""


def _bids(path: Path, stem: str) -> Claim:
    """``sub-01_ses-a_ce-gd_T1w``: entities, then a suffix."""
    entities: dict[str, str] = {}
    rest = []
    for part in stem.split("_"):
        match = _ENTITY.fullmatch(part)
        if match and not rest:
            entities[match[1].lower()] = match[2]
        else:
            rest.append(part)
    case = f"sub-{entities['sub']}" + (f"_ses-{entities['ses']}" if "ses" in entities else "")
    if not rest:  # the suffix is the last entity's end, as in sub-01-t1n: not BIDS
        reading = read_stem(stem)
        return _claim(path, reading, _naming(stem, reading))
    said = " ".join([entities.get("label", ""), entities.get("desc", ""), *rest[:-1]])
    if rest[-1].lower() in ("dseg", "mask", "seg", "roi"):
        other = f"{rest[-1]} with {said.strip()}" if said.strip() else f"a {rest[-1]}"
        if _SAYS_TUMOUR.match(said) or (rest[-1].lower() == "seg" and not said.strip()):
            return Claim(path, "bids", case, "label")
        return Claim(path, unused=f"{other}, which does not say that it shows the tumour")
    if (map_ := entities.get("desc", "").lower()) in _EXPLAIN:
        return Claim(path, unused=f'"{map_}", which explains a synthetic image')
    if entities.get("part", "mag") != "mag":
        return Claim(path, unused=f"the {entities['part']} of an image")
    reading = read_stem("_".join(rest))
    if reading.role in (None, "label"):
        return _claim(path, replace(reading, case=case), "bids")
    if reading.case:
        return Claim(path, doubt=f'"{reading.case}" before its sequence says nothing to us')
    return _with_entities(path, case, reading, entities)


def _with_entities(path: Path, case: str, reading: Reading, entities: dict[str, str]) -> Claim:
    """A sequence of BIDS with the entities that change its meaning."""
    role, agent = reading.role, entities.get("ce", "")
    if role == "t1n" and agent:
        role = "t1n" if _WITHOUT.fullmatch(agent) or agent.lower().startswith("pre") else "t1c"
    elif role == "t1n" and any(
        _WITH.match(said) and not _WITHOUT.fullmatch(said)
        for said in (entities.get(key, "") for key in ("acq", "desc", "rec"))
    ):
        role = "t1c"
    spaces = {f"{key}-{entities[key]}" for key in ("space", "res", "den") if key in entities}
    rank = reading.rank + ("desc" in entities)
    return Claim(path, "bids", case, role, reading.kind | spaces, rank)
