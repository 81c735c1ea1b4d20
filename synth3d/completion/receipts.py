"""Where a completed cohort's files lie, and the receipt that proves a case is done.

The receipt is written last. A case is done when its receipt names the very inputs and weights
at hand and every file it lists is there with the hash it had; the mere existence of a picture
proves nothing. A hidden marker, written first, tells a rerun which files an interrupted one left.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth3d.cohort import (
    ALL_MODALITIES,
    MODALITIES,
    TOKENS,
    Case,
    Modality,
    ending_of,
    nnunet_regions,
    stem_of,
)
from synth3d.errors import InputError
from synth3d.files import (
    claim,
    place,
    read_json,
    read_object,
    refuse_link,
    sha256,
    sweep,
    write_json,
)

FORMAT = 1
"""Raised when receipts of an older version no longer count."""

MAPS, TABLES = ("tsem", "spread", "interval"), ("routing",)
"""What can explain a case: maps of its own for each sequence made, and a table with its plot."""

EXPLANATIONS = "explanations"
"""Their folder where they are not beside the images."""

PREVIEWS = "previews"
"""Likewise of the pictures that show what was made."""

CONTRIBUTIONS = ("contributions.json", "contributions.csv", "contributions.png")
"""What a run weighs its sources by, for the whole cohort: the first proves the others."""

NOTICE = "Synthetic images are estimates, not acquisitions; not for diagnosis."


@dataclass(frozen=True)
class Layout:
    """Names of the files of a completed cohort.

    Attributes:
        out: The folder.
        format: ``brats`` (a folder per case, named as the case's own files are), ``nnunet``
            (``imagesTs/<case>_0000.nii.gz`` ... in the order of ``MODALITIES``) or ``bids`` (a
            derivative dataset: what was made, and nothing that was acquired).
    """

    out: Path
    format: str

    @property
    def places(self) -> tuple[Modality, ...]:
        """The sequences that the format has a place for."""
        return MODALITIES if self.format == "nnunet" else ALL_MODALITIES

    @property
    def holds_acquired(self) -> bool:
        """Whether a case's own files are put beside what was made."""
        return self.format != "bids"

    def image(self, case: Case, modality: Modality) -> Path:
        """Where ``modality`` of ``case`` belongs.

        Raises:
            InputError: The naming of the case has no name for it.
        """
        ending = ending_of(next((path.name for path in case.images.values()), ""))
        if self.format == "bids":
            entities, suffix = TOKENS["bids"][modality].rsplit("_", 1)
            named = f"{case.name}{entities}_desc-synth_{suffix}{ending}"
            return place(self.out, *case.name.split("_"), "anat", named)
        if self.format == "nnunet":
            number = f"{MODALITIES.index(modality):04d}"
            return place(self.out, "imagesTs", f"{case.name}_{number}{ending}")
        if case.naming == "nnunet" and not case.is_said:  # numbers say nothing without dataset.json
            return place(self.out, case.name, f"{case.name}-{modality}{ending}")
        return place(self.out, case.name, case.file_name(modality))

    def map(self, case: Case, modality: Modality, name: str) -> Path:
        """Where a map of ``MAPS`` that explains ``modality`` belongs, no cohort's image by name."""
        image = self.image(case, modality)
        stem, ending = stem_of(image.name), ending_of(image.name)
        if self.format == "bids":
            return image.with_name(image.name.replace("_desc-synth_", f"_desc-{name}_"))
        if self.format == "nnunet":
            return place(self.out, EXPLANATIONS, f"{case.name}_{modality}_{name}{ending}")
        return image.with_name(f"{stem}{'-' if '-' in stem else '_'}{name}{ending}")

    def table(self, case: Case, name: str, ending: str) -> Path:
        """Where a table of ``TABLES`` that explains all of ``case`` belongs, or its plot."""
        folder = case.name if self.format == "brats" else EXPLANATIONS
        return place(self.out, folder, f"{case.name}.{name}{ending}")

    def preview(self, name: str) -> Path:
        """The picture that shows what was made of the case of this name."""
        if self.format == "brats":
            return place(self.out, name, f"{name}.preview.png")
        return place(self.out, PREVIEWS, f"{name}.png")

    def label(self, case: Case) -> Path | None:
        """Where the segmentation belongs; None where there is none or the format has no place."""
        if case.label is None or self.format in ("nnunet", "bids"):
            return None
        return place(self.out, case.name, case.label_name())

    def sidecar(self, image: Path) -> Path | None:
        """The JSON file beside a synthetic picture, as BIDS has it; None in an nnU-Net folder."""
        if self.format == "nnunet":
            return None
        return image.with_name(stem_of(image.name) + ".json")

    def receipt(self, case: Case) -> Path:
        """The receipt of ``case``."""
        return self.receipt_of(case.name)

    def receipt_of(self, name: str) -> Path:
        """The receipt of the case of this name."""
        folder = name if self.format == "brats" else "receipts"
        return place(self.out, folder, f"{name}.receipt.json")

    def marker(self, case: Case) -> Path:
        """The hidden file that is there while the case is being written."""
        return self.receipt(case).with_name(f".started-{case.name}.json")

    def lock(self, name: str) -> Path:
        """The hidden lock file of a case, or of a file that belongs to all of them."""
        return place(refuse_link(self.out / ".locks"), name)


def case_identity(
    case: Case, make: tuple[Modality, ...], maker: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the completed case, as plain JSON values: hashes of all its files, and how.

    Raises:
        InputError: A file cannot be read.
    """
    files: dict[str, Path] = dict(case.images) | ({"label": case.label} if case.label else {})
    inputs = {role: {"file": path.name, "sha256": sha256(path)} for role, path in files.items()}
    how = dict(maker) if make else {}
    return json.loads(json.dumps({"inputs": inputs, "made": list(make), "how": how}))


def is_done(layout: Layout, case: Case, identity: Mapping[str, Any]) -> bool:
    """Whether the receipt of ``case`` matches ``identity`` and every file is as it was written."""
    try:
        receipt = read_json(layout.receipt(case))
        same = receipt["format"] == FORMAT and identity in _proven(receipt["identity"])
        kept = case.images if layout.holds_acquired else ()
        wanted = {*kept, *identity["made"]} & {*layout.places}
        listed = {layout.out / name for name in receipt["files"]}
        images = {layout.image(case, modality) for modality in wanted}
        whole = images | {*explanations(layout, case, identity)} <= listed
        return (
            same
            and whole
            and all(
                sha256(place(layout.out, *name.split("/"))) == digest
                for name, digest in receipt["files"].items()
            )
        )
    except (InputError, OSError, KeyError, TypeError, AttributeError, ValueError):
        return False


def _proven(identity: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a receipt of this identity proves: what is explained is made as well."""
    return [identity, unexplained(identity)]


def unexplained(identity: Mapping[str, Any]) -> dict[str, Any]:
    """``identity`` of the same case without what was asked for beside it."""
    return {key: value for key, value in identity.items() if key != "explained"}


def explanations(layout: Layout, case: Case, identity: Mapping[str, Any]) -> list[Path]:
    """The files that explain a case of this identity; none where nothing was asked for."""
    names = _explained(identity)
    maps = [layout.map(case, m, n) for m in identity["made"] for n in names if n in MAPS]
    tables = [layout.table(case, n, e) for n in names if n in TABLES for e in (".csv", ".png")]
    return maps + tables


def _explained(identity: Mapping[str, Any]) -> list[str]:
    """Names of ``MAPS`` and ``TABLES``; of several pictures, or asked for, there is a spread."""
    how = identity.get("how", {})
    several = int(how.get("draws", 1)) > 1 or "mirror" in how or "runs" in how
    spread = ["spread"] if several or "uncertainty" in how else []
    return [*identity.get("explained", ()), *spread, *(["interval"] if is_calibrated(how) else [])]


def is_calibrated(how: Mapping[str, Any]) -> bool:
    """Whether what was made in this way has an interval beside it, not a spread alone."""
    return how.get("uncertainty", "spread") != "spread"


def maps_of(out: Path, case: str, modality: Modality) -> dict[str, Path]:
    """Name → file of the maps that explain ``modality`` of a case completed in ``out``; or none.

    A folder that ``synth3d complete`` did not write has none.
    """
    try:
        said = _receipt_of(out, case)
        found = said["targets"][modality]["maps"]
        return {name: place(out, *file.split("/")) for name, file in found.items() if name in MAPS}
    except (InputError, KeyError, TypeError, AttributeError):
        return {}


def teachers_of(out: Path, case: str) -> Any:
    """The segmenters that taught what made a case completed in ``out``, as its receipt says it.

    A folder that ``synth3d complete`` did not write names none.

    Raises:
        InputError: The receipt is damaged.
    """
    return _receipt_of(out, case).get("taught_by", ())


def _receipt_of(out: Path, case: str) -> dict[str, Any]:
    """What the receipt of a case says, in whichever layout; nothing where there is none."""
    paths = [place(out, folder, f"{case}.receipt.json") for folder in (case, "receipts")]
    return next((read_object(path) for path in paths if path.is_file()), {})


def damage(out: Path, receipt: Path) -> str:
    """What is not as ``receipt``, of the cohort in ``out``, says, in a clause; empty if nothing."""
    try:
        said = read_object(receipt, "format", "identity", "files")
        if said["format"] != FORMAT:
            return f"{receipt} is of another version of synth3d"
        identity, files = said["identity"], said["files"]
        layout = _layout_of(out, receipt)
        kept = {*identity["inputs"]} - {"label"} if layout.holds_acquired else set()
        wanted = (kept | {*identity["made"]}) & {*layout.places}
        maps = len(identity["made"]) * sum(name in MAPS for name in _explained(identity))
        if sum(bool(ending_of(name)) for name in files) < len(wanted) + maps:
            return f"{receipt} lists fewer images than its case has"
        wrong = [f"{name} {how}" for name in files if (how := _changed(out, name, files[name]))]
    except InputError as error:
        return str(error)
    except (TypeError, AttributeError, KeyError, ValueError):
        return f"{receipt} is damaged; remove it and complete the case again"
    return ", ".join(wrong)


def contributions_damage(out: Path) -> str:
    """What is not as ``contributions.json`` of the cohort in ``out`` says, or nothing."""
    about = out / CONTRIBUTIONS[0]
    if not about.exists():
        return ""
    try:
        files = read_object(about, "files", "identity")["files"]
        return ", ".join(
            f"{name} {how}" for name in files if (how := _changed(out, name, files[name]))
        )
    except (InputError, TypeError, AttributeError) as error:
        return f"{about}: {error}"


def _layout_of(out: Path, receipt: Path) -> Layout:
    """By what lies in the folder; where that says two things, the format that wants more files."""
    if receipt.parent.name != "receipts":
        return Layout(out, "brats")
    nnunet = (out / "dataset.json").exists() or not (out / "dataset_description.json").exists()
    return Layout(out, "nnunet" if nnunet else "bids")


def refuse_mixture(layout: Layout) -> None:
    """Refuse an output folder that holds a cohort in another format: files of two would mix.

    Raises:
        InputError: As said.
    """
    for receipt in sorted(layout.out.glob("*/*.receipt.json")):
        of_case = receipt.name == f"{receipt.parent.name}.receipt.json"
        there = "brats" if of_case else _layout_of(layout.out, receipt).format
        if there != layout.format:
            raise InputError(
                f"{layout.out} holds a cohort in the format {there}, as {receipt} says, and "
                f"{layout.format} is asked for; choose another --out"
            )


def _changed(out: Path, name: str, digest: str) -> str:
    try:
        path = place(out, *name.split("/"))
        if not path.exists():
            return "is gone"
        return "" if sha256(path) == digest else "is not what was written"
    except (InputError, OSError) as error:
        return f"cannot be read: {error}"


def write_dataset_json(layout: Layout, cases: Sequence[Case], overwrite: bool) -> None:
    """nnU-Net's description of the folder: channels, and BraTS 2023 regions; nothing for BraTS.

    Several processes may write it at once, and one that finds it as it should be leaves it.

    Raises:
        InputError: The cohort has both file endings, or another dataset is described there.
    """
    if layout.format != "nnunet":
        return
    endings = {ending_of(path.name) for case in cases for path in case.images.values()}
    if len(endings) > 1:
        raise InputError("nnU-Net wants one file ending, the cohort has both .nii and .nii.gz")
    wanted = {
        "channel_names": {str(i): name for i, name in enumerate(MODALITIES)},
        **nnunet_regions(called=("whole_tumor", "tumor_core", "enhancing_tumor")),
        "numTraining": 0,
        "file_ending": endings.pop(),
    }
    path = layout.out / "dataset.json"
    with claim(layout.lock(path.name), wait=True):
        sweep(layout.out, {path.name})
        there = read_json(path) if path.exists() else None
        if there not in (None, wanted) and not overwrite:
            raise InputError(f"{path} describes another dataset; --overwrite replaces it")
        if there != wanted:
            write_json(path, wanted)
