"""A MONAI bundle: configs, weights as a state dict, and the code that runs them.

Its inference is ours, not MONAI's sliding window: tiles of exactly the training patch, Hann
blending, the intensity scale there and back. So it gives what ``synth3d complete`` gives.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from synth3d import __version__
from synth3d.errors import InputError
from synth3d.export.card import NOT_STATED, Named, card_text
from synth3d.export.contents import Contents, copy_source, library_versions, write_model
from synth3d.files import make_folder, write_json, write_text

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
BUNDLE_VERSION = "1.0.0"
USE = """\
## As a MONAI bundle

```
cd THIS_FOLDER
python -m monai.bundle run --config_file configs/inference.json --dataset_dir IN --output_dir OUT
```

For each case in `IN` (named as in BraTS, IXI or BIDS) `OUT/CASE-SEQUENCE.nii.gz` is written for
what it lacks of the targets. The packages `synth3d` and `cuda_ops` lie in this folder: nothing is
installed beside MONAI and what `configs/metadata.json` lists. On a GPU install CuPy, too, or set
`CUDA_OPS_BACKEND=torch`. `network_def` alone is the network; `run` is the whole inference.
"""
PRESENT = """
In an inferer of your own say which sources the case has: `inferer(image, network, present)`, with
`present` bool in the order of the channels. Without it a tile counts a source that is 0 everywhere
in it as missing, which at the rim of a head is not so.
"""


def write_bundle(contents: Contents, named: Named, folder: Path) -> None:
    """``configs/``, ``models/``, ``docs/`` and the source, in ``folder``.

    Raises:
        InputError: MONAI is not installed, whose version a bundle states; or the run is a
            diffusion, whose network makes no image in one pass.
    """
    if contents.random:
        raise InputError(
            f"{contents.name} is a diffusion ({contents.config.train.framework}), whose network "
            "makes no image in one pass as a MONAI bundle's does; use --to folder"
        )
    try:
        monai = version("monai")
    except PackageNotFoundError as error:
        raise InputError(
            "a MONAI bundle states MONAI's version, and MONAI is not installed; pip install monai"
        ) from error
    for name in ("configs", "docs", "models"):
        make_folder(folder / name)
    write_json(folder / "configs" / "metadata.json", _metadata(contents, named, monai))
    write_json(folder / "configs" / "inference.json", _inference())
    write_model(contents, folder / "models", "model.pt")
    use = USE + (PRESENT if contents.config.mode == "any" else "")
    write_text(folder / "docs" / "README.md", f"{card_text(contents, named)}\n{use}")
    copy_source(folder)


def _inference() -> dict[str, Any]:
    """``network_def`` is the network by itself; ``run`` is all of inference, with its weights."""
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "device": "auto",
        "network_def": {
            "_target_": "synth3d.export.BundleNetwork",
            "models": "$@bundle_root + '/models'",
            "device": "@device",
        },
        "initialize": [],
        "run": ["$@network_def.complete(@dataset_dir, @output_dir)"],
    }


def _metadata(contents: Contents, named: Named, monai: str) -> dict[str, Any]:
    config = contents.config
    sources, targets = "+".join(config.sources), "+".join(config.targets)
    task, makes = (
        f"{targets} from {sources}",
        f"{targets} of a brain-tumour case that lacks it, from ",
    )
    makes += sources
    if config.mode == "any":
        task = f"any of {sources} from the rest"
        makes = f"whatever a brain-tumour case lacks of {sources} from the rest"
    libraries = library_versions()
    pytorch, numpy = libraries.pop("torch"), libraries.pop("numpy")
    scores = contents.done.get("validation", {})
    return {
        "schema": SCHEMA,
        "version": BUNDLE_VERSION,
        "changelog": {BUNDLE_VERSION: f"exported by synth3d {__version__}"},
        "monai_version": monai,
        "pytorch_version": pytorch,
        "numpy_version": numpy,
        "required_packages_version": libraries,
        "name": contents.name,
        "task": f"Synthesis of the MRI sequence {task}",
        "description": f"{config.model.name} ({config.train.framework}) by synth3d makes {makes}.",
        "authors": named.author or NOT_STATED,
        "copyright": f"licence of the weights: {named.license or NOT_STATED}",
        "data_source": named.trained_on(contents),
        "data_type": "nibabel",
        "image_classes": f"channels {sources}, median of the brain 0.5, background 0",
        "eval_metrics": {f"validation_{name}": value for name, value in scores.items()},
        "intended_use": "Research; not for diagnosis.",
        "references": ["https://arxiv.org/abs/2411.14684"] if "agi" in config.model.name else [],
        "network_data_format": {
            "inputs": {"image": _tensor(contents, list(config.sources))},
            "outputs": {"pred": _tensor(contents, list(config.targets))},
        },
    }


def _tensor(contents: Contents, sequences: list[Any]) -> dict[str, Any]:
    """One tensor of the network: all sides are the training patch's."""
    return {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": len(sequences),
        "spatial_shape": list(contents.config.data.patch),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(index): name for index, name in enumerate(sequences)},
    }
