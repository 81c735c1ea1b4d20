"""Generators and critics: networks that know no loss, no file and no modality. torch alone."""

import inspect

from synth3d.models.agi_net import AGINet
from synth3d.models.discriminators import PatchCritic
from synth3d.models.drop_in import replace_convolutions
from synth3d.models.dynamic_conv import DeformResUNet
from synth3d.models.resunet import ResUNet
from synth3d.models.rotating_conv import ArcResUNet

GENERATORS: dict[str, type[ResUNet]] = {
    "agi-net": AGINet,
    "resunet": ResUNet,
    "deform-resunet": DeformResUNet,
    "arc-resunet": ArcResUNet,
}


def options_of(name: str) -> frozenset[str]:
    """The keywords that the constructor of generator ``name`` takes, beside the channels."""
    made = GENERATORS[name]
    named = {p.name for p in inspect.signature(made).parameters.values() if p.kind != p.VAR_KEYWORD}
    return (named | made.keywords) - {"in_channels", "out_channels"}


__all__ = [
    "GENERATORS",
    "AGINet",
    "ArcResUNet",
    "DeformResUNet",
    "PatchCritic",
    "ResUNet",
    "options_of",
    "replace_convolutions",
]
