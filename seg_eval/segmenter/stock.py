"""What stock nnU-Net has to be told to find our trainers and the folders of a segmenter.

``seg_eval paths`` prints lines for a shell::

    eval "$(seg_eval paths --segmenter work/segmenters/phantom-0a1b2c3d/cpu-mini)"
    nnUNetv2_predict -i IN -o OUT -d 501 -tr ScheduledTrainer -p cpu-mini-seed0 -c 3d_fullres -f 0

To train with it (``nnUNetv2_train ID 3d_fullres 0 -tr ScheduledTrainer -p PLANS``), copy a plans
file to another name, with that name as its ``plans_name``; its key ``schedule`` holds seed, epochs,
channel dropout and whatever else :data:`nnunet_plans.trainers.ATTRIBUTES` knows.
"""

import shlex
from pathlib import Path

from seg_eval.segmenter.environment import WHERE_TRAINERS, trainer_folders
from synth3d.errors import InputError


def paths(segmenter: Path | None = None) -> dict[str, str]:
    """nnU-Net's variables by name: where our trainers are and, if wanted, a segmenter's folders.

    Args:
        segmenter: ``.../<preset>`` with ``preprocessed`` in it, or the folder above where that
            has one preset only. Raw data are expected in ``raw`` beside the preset.
    """
    found = {WHERE_TRAINERS: trainer_folders()}
    if segmenter is None:
        return found
    root = _root(segmenter)
    raw = next((path for path in (root / "raw", root.parent / "raw") if path.is_dir()), None)
    if raw is None:
        raise InputError(f"no raw data in {root.parent / 'raw'}")
    folders = {"raw": raw, "preprocessed": root / "preprocessed", "results": root / "results"}
    return found | {f"nnUNet_{name}": str(path.absolute()) for name, path in folders.items()}


def _root(folder: Path) -> Path:
    if (folder / "preprocessed").is_dir():
        return folder
    presets = sorted(path.parent for path in folder.glob("*/preprocessed") if path.is_dir())
    if not presets:
        raise InputError(f"{folder} has no segmenter: nothing was prepared there")
    if len(presets) > 1:
        raise InputError(f"{folder} has several presets; choose {' or '.join(map(str, presets))}")
    return presets[0]


def export_lines(variables: dict[str, str]) -> str:
    """``export NAME=value`` lines for a POSIX shell, values quoted where need be."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())
