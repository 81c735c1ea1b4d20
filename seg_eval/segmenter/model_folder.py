"""Any nnU-Net v2 model folder as a segmenter of ours, or a refusal that says why not.

What a folder says in plain JSON is read and judged first; its checkpoints are pickles, which run
whatever code they hold, so they are touched only for a folder of our own or a trusted one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_eval.segmenter.trust import is_ours
from synth3d.cohort import MODALITIES, LabelCodes, Modality, painted_codes, parse_modality
from synth3d.errors import InputError
from synth3d.files import read_json, sha256

FINAL, BEST, LATEST = (f"checkpoint_{name}.pth" for name in ("final", "best", "latest"))
READERS = ("SimpleITKIO", "NibabelIO")
NORMALISATION = "ZScoreNormalization"
MORE_NAMES: Mapping[str, Modality] = {
    "t1wnative": "t1n", "t1precontrast": "t1n", "t1weighted": "t1n", "t1noncontrast": "t1n",
    "t1contrast": "t1c", "t1postcontrast": "t1c", "t1km": "t1c", "cet1": "t1c", "cet1w": "t1c",
    "t1wc": "t1c", "t1wpost": "t1c", "t1gadolinium": "t1c", "contrastenhancedt1": "t1c",
    "t1contrastenhanced": "t1c", "t1weightedce": "t1c", "t2weighted": "t2w", "t2wflair": "t2f",
    "t2fluidattenuated": "t2f", "flairt2": "t2f", "t2weightedflair": "t2f",
}  # fmt: skip
"""How else channels are called in dataset.json, without case, separators and ``MR``."""


@dataclass(frozen=True)
class ModelFolder:
    """What an nnU-Net model folder says of itself, without its checkpoints being opened.

    Attributes:
        folder: The folder with dataset.json, plans.json and fold_*.
        codes: What the painted integers mean.
        table: Integer that nnU-Net's prediction holds → integer of BraTS 2023.
        configuration: ``3d_fullres``, ``3d_lowres``, ``2d`` or one of the plans' own names.
        folds: Those to average: ``0``, ``1``, ... or ``all``.
        checkpoint: File name in each of them.
    """

    folder: Path
    channels: tuple[Modality, ...]
    codes: LabelCodes
    table: Mapping[int, int]
    configuration: str
    folds: tuple[str, ...]
    checkpoint: str
    plans: Mapping[str, Any]

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoint of each fold."""
        return [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]


def refuse_untrusted(model: ModelFolder, trust: bool, own: Path | None) -> bool:
    """Whether we trained the model ourselves; stop if not and nobody vouches for it."""
    ours = trained_here(model, own)
    if not ours and not trust:
        raise InputError(
            f"{model.folder} was not trained here, and nnU-Net's checkpoints are Python pickles, "
            "which run any code they hold when they are loaded; give --trust if you know where it "
            "comes from"
        )
    return ours


def refuse_unfit(
    folder: Path,
    channels: Sequence[Modality],
    missing: Sequence[Modality],
    degraded: bool = False,
) -> None:
    """Stop at a segmenter that cannot be asked what the missing sequences are worth to it.

    One that is there, but ``degraded``, may be all that it looks at.
    """
    takes, gone, known = (", ".join(names) for names in (channels, missing, MODALITIES))
    said = ""
    if lacking := [name for name in missing if name not in channels]:
        said = f"takes {takes}; it does not miss {', '.join(lacking)}"
    elif set(channels) <= set(missing) and not degraded:
        said = f"takes {takes} alone; without {gone} it would have nothing to look at"
    elif strange := [name for name in channels if name not in MODALITIES]:
        said = f"wants {', '.join(strange)}, which is not among {known}"
    if said:
        raise InputError(f"the segmenter {folder} {said}")


def trained_here(model: ModelFolder, own: Path | None) -> bool:
    """Whether a model lies below ``own`` with this user's receipt of a finished training.

    The receipt remembers the checkpoint's SHA-256, and the file must still be that one.
    """
    receipt, files = model.folder / "model.json", model.checkpoints
    if own is None or not receipt.is_file():
        return False
    if not all(path.resolve().is_relative_to(own.resolve()) for path in (model.folder, *files)):
        return False
    said = read_json(receipt)
    if not isinstance(said, dict) or not said.get("finished") or not is_ours(said):
        return False
    return {sha256(path) for path in files} == {said.get("checkpoint_sha256")}


def read_model_folder(folder: Path) -> ModelFolder:
    """What ``folder`` says of itself, or why it cannot serve; opens JSON files alone."""
    with told_as_damage(folder):
        return _read(folder)


@contextmanager
def told_as_damage(folder: Path) -> Iterator[None]:
    """JSON files of a model that are not as nnU-Net writes them are an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"dataset.json or plans.json in {folder} is damaged, or not nnU-Net v2's: {error!r}"
        ) from error


def _read(folder: Path) -> ModelFolder:
    for name in ("dataset.json", "plans.json"):
        if not (folder / name).is_file():
            said = f"{folder} holds no finished nnU-Net model (no {name})"
            raise InputError(said + _advice(folder))
    described = folder / "dataset.json"
    dataset, plans = read_json(described), read_json(folder / "plans.json")
    codes = painted_codes(dataset, described)
    if codes.others:
        names = ", ".join(codes.others)
        raise InputError(f"{described} has labels that say nothing to us: {names}")
    channels = _channels(dataset, described)
    name = _configuration_name(folder, plans)
    _refuse_what_we_cannot_feed(folder, plans, name, channels)
    chosen = _folds(folder)
    checkpoint = _checkpoint(folder, chosen)
    table = _table(dataset["labels"], codes)
    return ModelFolder(folder, channels, codes, table, name, chosen, checkpoint, plans)


def _advice(folder: Path) -> str:
    if not folder.is_dir():
        return ": there is no such folder"
    if folder.name.startswith("fold_") and (folder.parent / "plans.json").is_file():
        return f"; give the folder above, {folder.parent}"
    inner = sorted(path.parent for path in folder.glob("*/plans.json"))
    return f"; did you mean {', '.join(map(str, inner))}?" if inner else ""


def _channels(dataset: Mapping[str, Any], path: Path) -> tuple[Modality, ...]:
    """The modality of each channel, by its name."""
    names = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(names, dict) or {*names} != {str(index) for index in range(len(names))}:
        raise InputError(f"{path} has no channel_names numbered from 0")
    said = [str(names[str(index)]) for index in range(len(names))]
    found: tuple[Modality, ...] = tuple(
        _modality(name, index, path) for index, name in enumerate(said)
    )
    if len({*found}) < len(found):
        raise InputError(f"{path} has two channels of one modality: {', '.join(said)}")
    if not found:
        raise InputError(f"{path} has no channel at all")
    return found


def _modality(name: str, index: int, path: Path) -> Modality:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    plain = re.sub(r"^(mri|mr)(?=t[12]|flair)", "", plain)
    if plain in MORE_NAMES:
        return MORE_NAMES[plain]
    try:
        return parse_modality(plain)
    except InputError as error:
        raise InputError(f"{path}: the name of channel {index} says too little: {error}") from error


def _configuration_name(folder: Path, plans: Any) -> str:
    """Which of the plans' configurations the folder holds: by its name, else by its log."""
    known = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(known, dict):
        raise InputError(f"{folder / 'plans.json'} has no configurations: not nnU-Net v2's plans")
    name = folder.name.split("__")[-1]
    if name in known:
        return name
    for log in sorted(folder.glob("fold_*/debug.json")):
        name = read_json(log).get("configuration_name")
        if name in known:
            return str(name)
    raise InputError(
        f"the name of {folder} does not tell which of {', '.join(known)} it is; name it as "
        "nnU-Net does, <Trainer>__<Plans>__<configuration>"
    )


def configuration_of(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with all that it inherits."""
    known, merged = plans["configurations"], {}
    following: str | None = name
    for _ in range(len(known) + 1):  # which ends a circle, too
        values = known.get(following, {})
        merged, following = values | merged, values.get("inherits_from")
    return merged


def _refuse_what_we_cannot_feed(
    folder: Path, plans: Mapping[str, Any], name: str, channels: Sequence[Modality]
) -> None:
    configuration = configuration_of(plans, name)
    if configuration.get("previous_stage"):
        raise InputError(
            f"{folder} is the second stage of a cascade ({name}), which needs the prediction of "
            "the first; give its 3d_fullres or 3d_lowres model"
        )
    schemes = configuration.get("normalization_schemes", ())
    if (count := len(schemes)) != len(channels):
        said = f"{count} normalisation schemes for {len(channels)} channels"
        raise InputError(f"{folder / 'plans.json'} has {said}")
    for channel, scheme in zip(channels, schemes, strict=True):
        if scheme != NORMALISATION:
            raise InputError(
                f"{folder} normalises {channel} by {scheme}; only {NORMALISATION} makes synthetic "
                "and absent channels comparable"
            )
    reader = plans.get("image_reader_writer")
    if reader not in READERS:
        raise InputError(
            f"{folder} was trained on images read by {reader}, which may turn their axes; only "
            f"{' and '.join(READERS)} are served"
        )


def _folds(folder: Path) -> tuple[str, ...]:
    """All numbered folds, else ``all``."""
    there = [path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir()]
    numbered = sorted((fold for fold in there if fold.isdecimal()), key=int)
    folds = tuple(numbered or [fold for fold in there if fold == "all"])
    if not folds:
        raise InputError(f"{folder} holds no finished nnU-Net model (no fold_0 or other fold)")
    return folds


def _checkpoint(folder: Path, folds: Sequence[str]) -> str:
    """The file to take from all ``folds``: the final one, or the best where only that was kept."""
    known = {FINAL, BEST, LATEST}
    has = {
        fold: {p.name for p in (folder / f"fold_{fold}").glob("*.pth")} & known for fold in folds
    }
    if all(FINAL in files for files in has.values()):
        return FINAL
    if all(files == {BEST} for files in has.values()):
        return BEST
    undone = [f"fold_{fold}" for fold, files in has.items() if FINAL not in files]
    raise InputError(
        f"{folder} holds no finished nnU-Net model: {', '.join(undone)} without {FINAL}; finish "
        "the training or choose among the finished folds"
    )


def _table(labels: Mapping[str, Any], codes: LabelCodes) -> dict[int, int]:
    """What nnU-Net's prediction holds → BraTS 2023; without regions it is the head's number."""
    if codes.regions:
        return codes.to_brats_2023
    values = [value for name, value in labels.items() if name != "ignore"]
    single = [item for value in values for item in (value if isinstance(value, list) else [value])]
    heads = sorted({int(item) for item in single})
    return {head: codes.to_brats_2023[label] for head, label in enumerate(heads)}
