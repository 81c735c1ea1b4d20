"""Cases on disk: which modality is which file, what is missing, who the patient is.

What could mean two things is refused, and so is an image in a case's folder that is not
understood. Opens no image.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from synth3d.cohort.naming import (
    LABEL_TOKENS,
    MODALITIES,
    TOKENS,
    Modality,
    Role,
    claim_by_name,
    ending_of,
)
from synth3d.console import named
from synth3d.errors import InputError


@dataclass(frozen=True)
class Case:
    """One examination of one patient.

    Attributes:
        name: Name of the case, unique in its cohort, fit for a folder's name.
        patient: The person; several cases may share one.
        folder: The deepest folder that holds all files of the case.
        images: The file of each modality that is there, in the order of ``ALL_MODALITIES``.
        label: The tumour segmentation, if there is one.
        naming: A key of ``TOKENS``, or ``nnunet``.
        channels: For ``nnunet``, the modality of channel 0, 1, ...
        scheme: What a table says that the label's integers mean, a key of ``SCHEMES``.
        centre: Where a table says that it was acquired.
        dataset: For ``nnunet``, the dataset.json.
        called: What the file of a modality is called in this case, or would be if it were there,
            without its ending: as the case's own file, as dataset.json lists it for this case, or
            as the files of most other cases are. Empty where no name says case and sequence.
    """

    name: str
    patient: str
    folder: Path
    images: Mapping[Modality, Path] = field(hash=False)
    label: Path | None
    naming: str
    channels: tuple[Modality, ...] = ()
    scheme: str | None = None
    centre: str | None = None
    dataset: Path | None = None
    called: Mapping[Modality, str] = field(default_factory=dict, hash=False)

    def missing(self, required: Iterable[Modality] = MODALITIES) -> tuple[Modality, ...]:
        """The modalities of ``required``, in its order, that have no file."""
        return tuple(modality for modality in required if modality not in self.images)

    def file_name(self, modality: Modality) -> str:
        """Name of the file of ``modality`` in a folder called as the case is.

        It is the one there is, where that says case and sequence by itself, else what others of the
        cohort call it, else the official one. The ending is that of the case's other files, so
        ``.nii`` stays with ``.nii``.

        Raises:
            InputError: An nnU-Net dataset has no channel for the modality.
        """
        own, numbered = self.images.get(modality), self.naming == "nnunet" and not self.is_said
        if own is not None and (numbered or self.says(own, modality)):
            return own.name
        endings = {ending_of(path.name) for path in self.images.values()}
        ending = endings.pop() if len(endings) == 1 else ".nii.gz"
        if numbered:
            if modality not in self.channels:
                raise InputError(f"case {self.name}: the nnU-Net dataset has no channel {modality}")
            return f"{self.name}_{self.channels.index(modality):04d}{ending}"
        if own is None and modality in self.called:
            return self.called[modality] + ending
        if self.naming == "nnunet":
            return f"{self.name}-{modality}{ending}"
        stem = "" if self.naming == "folders" else self.name
        return stem + TOKENS[self.naming][modality] + ending

    def label_name(self) -> str:
        """The same for the segmentation; the case has one."""
        assert self.label is not None
        said = self.says(self.label, "label") and (self.naming != "nnunet" or self.is_said)
        if said:
            return self.label.name
        bare = self.is_said and all(not claim_by_name(p.name).case for p in self.images.values())
        naming = "folders" if bare else self.naming
        stem = "" if naming == "folders" else self.name
        return stem + LABEL_TOKENS.get(naming, "-seg") + ending_of(self.label.name)

    def says(self, path: Path, role: Role) -> bool:
        """Whether the name of ``path`` is read as ``role`` of this case, beside its siblings."""
        claim = claim_by_name(path.name)
        own = ("", self.name) if self.naming == "nnunet" else (self.name,)
        own = ("",) if self.naming == "folders" else own
        same = claim.role == role and claim.case in own and not claim.kind
        return same and self.naming != "table" and bool(ending_of(path.name))

    @property
    def is_said(self) -> bool:
        """Whether the names of all its images say case and sequence, alike, by themselves."""
        cases = {claim_by_name(path.name).case for path in self.images.values()}
        return len(cases) == 1 and all(self.says(path, name) for name, path in self.images.items())


@dataclass(frozen=True)
class Trouble:
    """A file that cannot be used as it is: of which case, in which role, and a sentence.

    Without a role it is not understood; without a path the case as a whole is meant. ``beside`` has
    the same role, where it is taken. ``twice`` says in which folders this and other cases lie twice
    as a whole; empty where they do not.
    """

    case: str
    sentence: str
    path: Path | None = None
    role: Role | None = None
    beside: Path | None = None
    twice: str = ""


def sentences_of(troubles: Iterable[Trouble]) -> list[str]:
    """What ``troubles`` say, each once: of several cases with the same in one sentence."""
    sentences: list[str] = []
    lie_twice: dict[str, list[str]] = {}
    for trouble in troubles:
        if trouble.twice:
            lie_twice.setdefault(trouble.twice, []).append(trouble.case)
        else:
            sentences.append(trouble.sentence)
    for where, cases in lie_twice.items():
        names = [*dict.fromkeys(cases)]
        sentences.append(f"{len(names)} cases ({named(names, 3)}) lie {where}")
    return sentences


@dataclass(frozen=True)
class Survey:
    """What a look at a folder or a table found.

    Attributes:
        cases: By name.
        ambiguous: Each file that claims a role which another one has.
        unread: Each image in a case's folder that is not understood.
        unrecognised: Images outside of case folders that are not understood.
        unused: Images that are known to be none of ours, or second choice, and why.
    """

    cases: tuple[Case, ...]
    ambiguous: tuple[Trouble, ...] = ()
    unread: tuple[Trouble, ...] = ()
    unrecognised: tuple[Path, ...] = ()
    unused: tuple[tuple[Path, str], ...] = ()


def keep_whole(
    cases: Iterable[Case],
    modalities: Iterable[Modality],
    label: bool = False,
    lent: Mapping[str, Collection[Modality]] | None = None,
) -> tuple[list[Case], str]:
    """The cases that lack nothing of ``modalities`` and label, and a sentence on all others.

    That names each and what it lacks; it is empty where there are none. ``lent`` are sequences that
    a case gets from elsewhere.

    Raises:
        InputError: All lack something, as :func:`require` says it.
    """
    wanted, cases, lent = tuple(modalities), list(cases), lent or {}
    kept, told = [], []
    for case in cases:
        lacking: list[str] = [m for m in case.missing(wanted) if m not in lent.get(case.name, ())]
        if label and case.label is None:
            lacking.append("the label")
        kept += [] if lacking else [case]
        told += [f"{case.name} lacks {', '.join(lacking)}"] if lacking else []
    if cases and not kept:
        require(cases, wanted, label)
    text = f"{len(kept)} of {len(cases)} cases are complete; left out: {'; '.join(told)}"
    return kept, text if told else ""


def require(cases: Iterable[Case], modalities: Iterable[Modality], label: bool = False) -> None:
    """Raise an InputError that names every case and all it lacks of ``modalities`` and label."""
    wanted, cases = tuple(modalities), list(cases)
    lines = []
    for case in cases:
        lacking: list[str] = list(case.missing(wanted))
        if label and case.label is None:
            lacking.append("the label")
        if lacking:
            lines.append(f"{case.name} lacks {', '.join(lacking)}")
    if lines:
        hint = ""
        if label and any(case.label is None for case in cases):
            hint = " (a label is called seg, or says tumour or lesion: docs/names.md)"
        raise InputError(f"{len(lines)} of {len(cases)} cases lack files: {'; '.join(lines)}{hint}")
