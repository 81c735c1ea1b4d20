"""Presets: how large a segmenter is and how long it trains; one JSON file each in ``plans/``.

Needs the standard library alone, so a command line can list them without loading nnU-Net.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Network:
    """A small U-Net for the configuration ``3d_fullres``, plain or with a residual encoder.

    Attributes:
        patch_size: Training patch and prediction tile, voxels (z, y, x); each side must be
            divisible by ``2 ** (stages - 1)``.
        batch_size: Patches per iteration.
        features: Channels of each stage, the finest first; one entry per stage, at least three
            (nnU-Net weights the loss of the last but one stage with 0).
        convolutions: Convolutions per stage of the encoder and of the decoder; of a residual
            encoder its blocks, of two convolutions each.
        residual: Whether the encoder is residual, as that of nnU-Net's ResEnc presets.
    """

    patch_size: tuple[int, int, int]
    batch_size: int
    features: tuple[int, ...]
    convolutions: tuple[int, int] = (2, 2)
    residual: bool = False

    def __post_init__(self) -> None:
        if len(self.features) < 3:
            raise ValueError(f"a network needs at least 3 stages, got {len(self.features)}")
        step = 2 ** (len(self.features) - 1)
        if any(side % step or side < 2 * step for side in self.patch_size):
            raise ValueError(
                f"patch_size {self.patch_size} with {len(self.features)} stages: each side must "
                f"be a multiple of {step} and at least {2 * step}"
            )

    def arch_kwargs(self) -> dict[str, Any]:
        """What of nnU-Net's ``arch_kwargs`` depends on the size of the network."""
        stages = len(self.features)
        encoder, decoder = self.convolutions
        return {
            "n_stages": stages,
            "features_per_stage": list(self.features),
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_blocks_per_stage" if self.residual else "n_conv_per_stage": [encoder] * stages,
            "n_conv_per_stage_decoder": [decoder] * (stages - 1),
        }


@dataclass(frozen=True)
class Preset:
    """A segmenter by name.

    Attributes:
        name: Name of the preset and of the plans made from it.
        trainer: Name of the trainer class.
        network: The network, or None to let nnU-Net plan for itself.
        planner: nnU-Net's planner for that: ``ExperimentPlanner`` or ``nnUNetPlannerResEncM``.
        schedule: What ``ScheduledTrainer`` reads: any of ``epochs``, ``iterations``,
            ``validation_iterations``, ``learning_rate``, ``save_every``, ``foreground``,
            ``augmentation``, ``channel_dropout``, ``seed``.
        purpose: For whom it is, in a line.
    """

    name: str
    trainer: str = "ScheduledTrainer"
    network: Network | None = None
    schedule: Mapping[str, float] = field(default_factory=dict)
    purpose: str = ""
    planner: str = "ExperimentPlanner"


def read_preset(path: Path) -> Preset:
    """The preset in the JSON file ``path``, named like the file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    network = values.pop("network")
    if network is not None:
        lists = ("patch_size", "features", "convolutions")
        network = Network(**network | {key: tuple(network[key]) for key in lists})
    return Preset(name=path.stem, network=network, **values)


PRESETS: Mapping[str, Preset] = {
    path.stem: read_preset(path)
    for path in sorted((Path(__file__).parent / "plans").glob("*.json"))
}
"""The presets that come with the package, by name."""
