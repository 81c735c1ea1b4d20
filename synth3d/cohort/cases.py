"""Cases on disk: which modality is which file, what is missing, who the patient is.

What could mean two things is refused. Opens no image.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from synth3d.cohort.namings import (
    ALL_MODALITIES,
    MODALITIES,
    TOKENS,
    Claim,
    Modality,
    claims,
    ending_of,
    nnunet_channels,
    nnunet_claims,
    nnunet_dataset,
    patient_of,
)
from synth3d.errors import InputError


@dataclass(frozen=True)
class Case:
    """One examination of one patient.

    Attributes:
        name: Name of the case, unique in its cohort.
        patient: The person; several cases may share one.
        folder: The deepest folder that holds all files of the case.
        images: The file of each modality that is there, in the order of ``ALL_MODALITIES``.
        label: The tumour segmentation, if there is one.
        naming: ``brats2018``, ``brats2023``, ``ixi``, ``bids`` or ``nnunet``.
        channels: For ``nnunet``, the modality of channel 0, 1, ...
    """

    name: str
    patient: str
    folder: Path
    images: Mapping[Modality, Path] = field(hash=False)
    label: Path | None
    naming: str
    channels: tuple[Modality, ...] = ()

    def missing(self, required: Iterable[Modality] = MODALITIES) -> tuple[Modality, ...]:
        """The modalities of ``required``, in its order, that have no file."""
        return tuple(modality for modality in required if modality not in self.images)

    def file_name(self, modality: Modality) -> str:
        """Name of the file of ``modality``: the one there is, else the official one.

        The ending is that of the case's other files, so ``.nii`` stays with ``.nii``.

        Raises:
            InputError: An nnU-Net dataset has no channel for the modality.
        """
        if modality in self.images:
            return self.images[modality].name
        endings = {ending_of(path.name) for path in self.images.values()}
        ending = endings.pop() if len(endings) == 1 else ".nii.gz"
        if self.naming != "nnunet":
            return self.name + TOKENS[self.naming][modality] + ending
        if modality not in self.channels:
            raise InputError(f"case {self.name}: the nnU-Net dataset has no channel {modality}")
        return f"{self.name}_{self.channels.index(modality):04d}{ending}"


@dataclass(frozen=True)
class Survey:
    """What a look at a folder found: cases by name, and images whose names fit no naming.

    Ambiguous are a case name and one sentence for each pair of files that claim one role.
    """

    cases: tuple[Case, ...]
    ambiguous: tuple[tuple[str, str], ...]
    unrecognised: tuple[Path, ...]


def find_cases(root: Path, names: Collection[str] | None = None) -> list[Case]:
    """The cases under ``root``, sorted by name; one with missing modalities is a case too.

    Hidden files and BIDS derivatives are not looked at; symbolic links are followed. With ``names``
    only those cases: nobody else's files matter to them.

    Raises:
        InputError: ``root`` is no folder, holds no case or not all of ``names``, mixes namings, or
            has two files for one modality of a case.
    """
    survey = survey_folder(root)
    wanted = {case.name for case in survey.cases} if names is None else {*names}
    if unknown := sorted(wanted - {case.name for case in survey.cases}):
        raise InputError(f"no case is called {', '.join(unknown)}")
    if ambiguous := [sentence for name, sentence in survey.ambiguous if name in wanted]:
        raise InputError("; ".join(ambiguous))
    return [case for case in survey.cases if case.name in wanted]


def survey_folder(root: Path) -> Survey:
    """Like :func:`find_cases`, but ambiguous files are reported, not raised."""
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder" if root.exists() else f"no folder {root}")
    try:
        dataset = nnunet_dataset(root)
        channels = nnunet_channels(dataset) if dataset else ()
        survey = _gather(nnunet_claims(root, dataset) if dataset else claims(root), channels)
    except OSError as error:
        raise InputError(f"cannot read {error.filename or root}: {error.strerror}") from error
    if not survey.cases:
        raise InputError(
            f"no cases under {root}; expected files named as in BraTS (<case>_t1.nii.gz, "
            "<case>-t1n.nii.gz), IXI, BIDS (sub-.._T1w.nii.gz) or nnU-Net raw (with dataset.json)"
        )
    example = {case.naming: case.name for case in survey.cases}
    if len(example) > 1:
        found = " and ".join(f"{naming} ({name})" for naming, name in sorted(example.items()))
        raise InputError(f"{root} mixes namings: {found}; give each cohort a folder of its own")
    return survey


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
        raise InputError(f"{len(lines)} of {len(cases)} cases lack files: {'; '.join(lines)}")


def _gather(found: Iterable[Claim], channels: tuple[Modality, ...]) -> Survey:
    """Put claims together to cases; two different files in one role are ambiguous."""
    files: dict[tuple[str, str], dict[str, Path]] = {}
    ambiguous, unrecognised = [], []
    for claim in found:
        if claim.role is None:
            unrecognised.append(claim.path)
            continue
        roles = files.setdefault((claim.naming, claim.case), {})
        first = roles.setdefault(claim.role, claim.path)
        if first.resolve() != claim.path.resolve():
            sentence = (
                f"case {claim.case} has two files for {claim.role}, {first} and {claim.path}: "
                "keep one of them"
            )
            ambiguous.append((claim.case, sentence))
    cases = [
        Case(
            name=name,
            patient=patient_of(name),
            folder=Path(os.path.commonpath({str(path.parent) for path in roles.values()})),
            images={modality: roles[modality] for modality in ALL_MODALITIES if modality in roles},
            label=roles.get("label"),
            naming=naming,
            channels=channels,
        )
        for (naming, name), roles in files.items()
    ]
    cases.sort(key=lambda case: case.name)
    return Survey(tuple(cases), tuple(ambiguous), tuple(unrecognised))
