"""A segmenter as plain files, for a synthesiser to learn from: ``seg_eval export-segmenter``.

Whoever loads the export reads JSON and safetensors. Here the pickle is opened, once, by whom it was
trained or who vouches for it; and the export is loaded again and compared before it is there.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_eval.segmenter.model_folder import (
    NORMALISATION,
    ModelFolder,
    configuration_of,
    read_model_folder,
    refuse_untrusted,
    told_as_damage,
)
from seg_eval.segmenter.nnunet import Segmenter
from synth3d.cohort import parse_modality
from synth3d.errors import InputError
from synth3d.files import make_folder, read_json, read_object, sha256
from synth3d.settings import parse, to_plain

if TYPE_CHECKING:
    from synth3d.losses import Architecture

PLAIN: Mapping[str, tuple[Any, ...]] = {
    "dropout_op": (None,), "dropout_op_kwargs": (None, {}), "nonlin_first": (False,),
    "nonlin_kwargs": ({"inplace": True}, {"inplace": False}, {}, None), "stem_channels": (None,),
    "bottleneck_channels": (None,), "deep_supervision": (True, False),
}  # fmt: skip
"""Arguments of nnU-Net's networks that an export has no word for, and what they may be."""
REGIONS = ((1, 2, 3), (1, 3), (3,))
"""Classes of BraTS 2023 in whole tumour, core and enhancing tumour, each inside the one before."""
TOLERANCE = 1e-4
"""By how much logits may differ from those of nnU-Net's own network."""


@dataclass(frozen=True)
class ExportRequest:
    """What ``seg_eval export-segmenter`` is asked for.

    Attributes:
        segmenter: An nnU-Net v2 model folder, trained here or anywhere.
        out: Folder for the export.
        fold: Which of the folds, where there are several.
        trust: Its checkpoint may be unpickled although it was not trained here.
        work: The user's own work folder; what was trained there needs no trust.
    """

    segmenter: Path
    out: Path
    fold: str | None = None
    trust: bool = False
    work: Path = Path("work")


def export_segmenter(request: ExportRequest) -> Path:
    """Write the export; its folder.

    Raises:
        InputError: The model cannot serve, is not trusted, or ``out`` holds another export.
    """
    from synth3d.losses import DESCRIPTION, WEIGHTS, save_segmenter

    model = _one_fold(read_model_folder(request.segmenter), request.fold)
    about = described(model)
    refuse_untrusted(model, request.trust, request.work)
    network, out = Segmenter(model, device="cpu").network, request.out
    about |= {"checkpoint_sha256": sha256(model.checkpoints[0])} | _training(model)
    known = out / DESCRIPTION
    if (
        known.is_file()
        and read_object(known).get("checkpoint_sha256") != about["checkpoint_sha256"]
    ):
        raise InputError(f"{out} holds another segmenter's export; choose another folder")
    make_folder(out)
    save_segmenter(out, about, network)
    try:
        _compare(out, network)
    except InputError:
        for name in (DESCRIPTION, WEIGHTS):
            (out / name).unlink()
        raise
    return out


def _one_fold(model: ModelFolder, fold: str | None) -> ModelFolder:
    if fold is None and len(model.folds) == 1:
        return model
    known = ", ".join(model.folds)
    if fold not in model.folds:
        asked = "several folds" if fold is None else f"no fold {fold}"
        raise InputError(
            f"{model.folder} has {asked} ({known}); say with --fold which one to export, and keep "
            "another for the judge"
        )
    return replace(model, folds=(fold,))


def described(model: ModelFolder) -> dict[str, Any]:
    """What the model's JSON files say, as an export says it; without hashes.

    Raises:
        InputError: An export has no word for it, or they are damaged.
    """
    with told_as_damage(model.folder):
        return _described(model)


def _described(model: ModelFolder) -> dict[str, Any]:
    from synth3d.losses import FORMAT

    configuration = configuration_of(model.plans, model.configuration)
    turned = list(model.plans.get("transpose_forward", ()))
    if turned != [0, 1, 2]:
        raise InputError(
            f"{model.folder} turns axes before it looks ({turned}), which an export cannot say; "
            "plan it without (suppress_transpose)"
        )
    masks = {bool(one) for one in configuration["use_mask_for_norm"]}
    if len(masks) != 1:
        raise InputError(f"{model.folder} normalises some channels inside a mask and some not")
    dataset = read_object(model.folder / "dataset.json")
    return {
        "format": FORMAT,
        "architecture": to_plain(_architecture(model.folder, configuration)),
        "channels": [parse_modality(name) for name in model.channels],
        "normalisation": [NORMALISATION] * len(model.channels),
        "masked": masks.pop(),
        "spacing_mm": [float(side) for side in configuration["spacing"]],
        "patch": list(configuration["patch_size"]),
        "regions": model.codes.regions,
        "heads": _heads(model, dataset["labels"]),
        "origin": model.folder.resolve().name,
    }


def _architecture(folder: Path, configuration: Mapping[str, Any]) -> "Architecture":
    """nnU-Net's own words, class names among them, as sizes and names of our list."""
    from synth3d.losses import BLOCKS, Architecture

    said = configuration.get("architecture")
    if not isinstance(said, dict):
        raise InputError(f"{folder} says in plans.json nothing of its network; export one of v2.4+")
    left = dict(said["arch_kwargs"])
    name = str(said["network_class_name"]).rsplit(".", 1)[-1]

    def take(key: str) -> Any:
        return left.pop(key, None)

    def known(key: str, *names: str) -> str:
        found = str(take(key)).rsplit(".", 1)[-1]
        if found not in names:
            raise InputError(
                f"{folder} has {key} {found}, and an export knows {', '.join(names)} alone"
            )
        return found

    dim = known("conv_op", "Conv2d", "Conv3d")[-2]
    known("norm_op", f"InstanceNorm{dim}d")
    norm = take("norm_op_kwargs") or {}
    stages = take("n_stages")
    values = {
        "network": name, "features": take("features_per_stage"), "kernels": take("kernel_sizes"),
        "strides": take("strides"), "blocks": take(BLOCKS.get(name, "")),
        "decoder": take("n_conv_per_stage_decoder"), "bias": bool(take("conv_bias")),
        "epsilon": norm.get("eps", 1e-5), "affine": norm.get("affine", False),
        "activation": known("nonlin", "LeakyReLU", "ReLU"),
    }  # fmt: skip
    strange = [key for key, value in left.items() if value not in PLAIN.get(key, ())]
    strange += [key for key in norm if key not in ("eps", "affine")]
    if strange:
        raise InputError(f"{folder} has a network with {', '.join(strange)}, which no export knows")
    try:
        found: Architecture = parse(Architecture, values, "architecture")
    except InputError as error:
        raise InputError(f"{folder} has a network that no export knows: {error}") from error
    if stages != len(found.features):
        raise InputError(f"{folder / 'plans.json'} is damaged: n_stages is {stages}")
    return found


def _heads(model: ModelFolder, labels: Mapping[str, Any]) -> list[list[int]]:
    """The classes of BRATS 2023 of each of the network's outputs."""
    if not model.codes.regions:
        return [[model.table[head]] for head in sorted(model.table)]
    # read_model_folder has seen that whole tumour, core and enhancing tumour are among them.
    sets = [
        {*(value if isinstance(value, list) else [value])}
        for name, value in labels.items()
        if name not in ("background", "ignore")
    ]
    nested = sorted(sets, key=len, reverse=True)
    if len(sets) != len(REGIONS) or not nested[0] > nested[1] > nested[2]:
        raise InputError(
            f"{model.folder} has the regions {', '.join(labels)}; an export knows whole tumour, "
            "core and enhancing tumour, each inside the one before, and no others"
        )
    return [list(REGIONS[nested.index(held)]) for held in sets]


def _training(model: ModelFolder) -> dict[str, Any]:
    """Seed and cases of a training, as far as they are known."""
    found: dict[str, Any] = {"seed": None, "cases": None}
    receipt = model.folder / "model.json"
    if not receipt.is_file():
        return found
    with contextlib.suppress(InputError, KeyError, TypeError, IndexError, AttributeError):
        found["seed"] = int(read_object(receipt)["schedule"]["seed"])
        where = (
            model.folder.resolve().parents[2] / "preprocessed" / model.folder.resolve().parent.name
        )
        sides = read_json(where / "splits_final.json")[0]
        found["cases"] = sorted({*map(str, sides["train"]), *map(str, sides["val"])})
    return found


def _compare(out: Path, network: Any) -> None:
    """Stop unless the export, loaded again, says of random voxels what nnU-Net's network says."""
    import torch

    from synth3d.losses import load_segmenter

    loaded = load_segmenter(out)
    shape = len(loaded.about.channels), *(2 * side for side in loaded.about.architecture.divisor)
    seen = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        apart = float((loaded(seen) - network(seen)[:1]).abs().max())
    if not apart <= TOLERANCE:
        raise InputError(
            f"the export would not find what nnU-Net's network finds (logits {apart:.2g} apart); "
            "its network is of another version than its plans say"
        )
