"""A trainer whose schedule stands in its plans file and whose runs repeat bit for bit.

Works from the stock command line too::

    nnUNet_extTrainer=.../nnunet_plans nnUNetv2_train 601 3d_fullres 0 -tr ScheduledTrainer -p ...
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

ATTRIBUTES = {
    "epochs": "num_epochs",
    "iterations": "num_iterations_per_epoch",
    "validation_iterations": "num_val_iterations_per_epoch",
    "learning_rate": "initial_lr",
    "save_every": "save_every",
    "foreground": "oversample_foreground_percent",
    "augmentation": "augmentation",
    "channel_dropout": "channel_dropout",
    "seed": "seed",
}
"""Key in the plans' ``schedule`` and the attribute of the trainer it sets."""


class ScheduledTrainer(nnUNetTrainer):
    """nnU-Net's trainer with the settings of ``plans["schedule"]``; what is absent stays stock.

    Every epoch starts from a random state that depends on ``seed`` and the epoch alone. With
    ``nnUNet_n_proc_DA=0`` on a CPU the same seed and thread count give the same weights, and a
    run that was killed and continued ends with the weights of an undisturbed one.

    ``augmentation`` scales the probability of every augmentation but mirroring: 1 is stock, 0
    suits trainings too short to profit from any. With ``channel_dropout`` p, each training patch
    loses one channel, drawn at random, with probability p: the channel becomes 0, which is also
    what nnU-Net makes of an absent one.

    Any network that nnU-Net plans can be trained with it, its stock ones too. On a GPU, and with
    augmentation processes, which nnU-Net does not seed, the same seed starts from the same weights
    but two runs end with different ones.
    """

    def __init__(
        self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.seed = 0
        self.augmentation = 1.0
        self.channel_dropout = 0.0
        if not self.is_ddp and device.type == "cuda":
            self.device = device  # nnU-Net itself takes the first GPU, whichever is asked for
        self.apply_schedule(self.plans_manager.plans.get("schedule", {}))

    def apply_schedule(self, schedule: Mapping[str, float]) -> None:
        """Set the attributes named in :data:`ATTRIBUTES`; a ValueError for an unknown key."""
        unknown = sorted(schedule.keys() - ATTRIBUTES.keys())
        if unknown:
            raise ValueError(
                f"schedule has the unknown key {unknown[0]!r}; known: {', '.join(ATTRIBUTES)}"
            )
        for key, value in schedule.items():
            setattr(self, ATTRIBUTES[key], value)

    def initialize(self) -> None:
        """Build network and optimiser from the seed."""
        self._seed_random(0)
        super().initialize()

    def on_train_epoch_start(self) -> None:
        """Begin an epoch in a random state of its own, whatever came before."""
        self._seed_random(self.current_epoch + 1)
        super().on_train_epoch_start()

    def _seed_random(self, epoch: int) -> None:
        # With nnU-Net's -num_gpus each process must draw patches of its own.
        entropy = (self.seed, epoch, self.local_rank) if self.local_rank else (self.seed, epoch)
        state = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(state)
        np.random.seed(state)  # noqa: NPY002  nnU-Net draws from NumPy's global generator
        torch.manual_seed(state)

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        """nnU-Net's augmentation, as often as wanted; its blur never consults a stopwatch."""
        pipeline: Any = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        for step in pipeline.transforms:
            for name in ("apply_probability", "p_rotation", "p_scaling"):
                if hasattr(step, name):
                    setattr(step, name, getattr(step, name) * self.augmentation)
            inner = getattr(step, "transform", step)
            if hasattr(inner, "benchmark"):
                inner.benchmark = False
        return pipeline

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802
        """As nnU-Net has it, but no mirroring at test time (eight times the cost)."""
        settings = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return settings

    def train_step(self, batch: dict) -> dict:
        """One step of nnU-Net, after channel dropout."""
        if self.channel_dropout:
            drop_channels(batch["data"], self.channel_dropout)
        return super().train_step(batch)

    def plot_network_architecture(self) -> None:
        """Draw nothing: the plot needs a package that no longer works."""


def drop_channels(patches: torch.Tensor, probability: float) -> None:
    """Zero, in place, one random channel of each patch (B, C, D, H, W) with that probability.

    They are z-scored, so 0 is the patient's mean.
    """
    for patch in patches:
        if torch.rand(()) < probability:
            patch[torch.randint(len(patch), ())] = 0
