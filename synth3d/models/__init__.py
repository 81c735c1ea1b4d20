"""Generators and critics: networks that know no loss, no file and no modality. torch alone."""

from torch import nn

from synth3d.models.agi_net import AGINet
from synth3d.models.discriminators import PatchCritic
from synth3d.models.resunet import ResUNet

GENERATORS: dict[str, type[nn.Module]] = {"agi-net": AGINet, "resunet": ResUNet}

__all__ = ["GENERATORS", "AGINet", "PatchCritic", "ResUNet"]
