"""nnU-Net's split file, with patients kept together."""

from collections.abc import Sequence
from pathlib import Path

from synth3d.cohort import Case
from synth3d.errors import InputError
from synth3d.files import write_json


def write_nnunet_splits(path: Path, train: Sequence[Case], val: Sequence[Case]) -> None:
    """Write ``splits_final.json`` with one fold.

    nnU-Net's own folds are drawn over case names, so a follow-up scan could land on the other
    side than its patient; ours cannot.

    Raises:
        InputError: No training case, or a patient on both sides.
    """
    if not train:
        raise InputError("no training case for the segmenter")
    patients = {case.patient: case.name for case in train}
    shared = [case for case in val if case.patient in patients]
    if shared:
        pairs = "; ".join(f"{patients[case.patient]} and {case.name}" for case in shared)
        raise InputError(f"training and validation share patients: {pairs}")
    # nnU-Net cannot train without validation cases, although it learns nothing from them.
    watched = val or train
    write_json(path, [{"train": [c.name for c in train], "val": [c.name for c in watched]}])
