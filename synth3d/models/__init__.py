"""Generators and critics: networks that know no loss, no file and no modality. torch alone."""

import inspect

from synth3d.models.agi_net.cagr import CagrConv, routed
from synth3d.models.agi_net.grouped import GroupedConv3d, merge_groups
from synth3d.models.agi_net.network import AGINet, ModalityHead
from synth3d.models.agi_net.routing import OffsetHead, ScaleHead
from synth3d.models.blocks import ChannelNorm, GlobalMean, ResBlock
from synth3d.models.centred import Centred
from synth3d.models.critics import PatchCritic, ScalarCritic
from synth3d.models.drop_in import replace_convolutions
from synth3d.models.fgdl.critics import DifferenceCritic, PlainCritic
from synth3d.models.fgdl.registration import Registration, folded, roughness, warp
from synth3d.models.fgdl.restorer import Restorer
from synth3d.models.fgdl.super_resolution import SuperResolution
from synth3d.models.memory import saved_bytes
from synth3d.models.moving.deformable import DeformableConv, DeformResUNet, DisplacementMap
from synth3d.models.moving.rotating import ArcResUNet, RotatingConv
from synth3d.models.options import ModelConfig
from synth3d.models.restormer import ChannelAttention, Restormer
from synth3d.models.resunet import ResUNet
from synth3d.models.time_embedding import TimeModulation
from synth3d.models.tsf.hyper import HyperConv, Mix
from synth3d.models.tsf.network import TSFSeq2Seq

GENERATORS: dict[str, type[ResUNet] | type[TSFSeq2Seq] | type[Restormer]] = {
    "agi-net": AGINet,
    "resunet": ResUNet,
    "deform-resunet": DeformResUNet,
    "arc-resunet": ArcResUNet,
    "restormer": Restormer,
    "tsf": TSFSeq2Seq,
}


def options_of(name: str) -> frozenset[str]:
    """The keywords that the constructor of generator ``name`` takes, beside the channels."""
    made = GENERATORS[name]
    named = {p.name for p in inspect.signature(made).parameters.values() if p.kind != p.VAR_KEYWORD}
    return frozenset(named | made.keywords) - {"in_channels", "out_channels"}


__all__ = [
    "GENERATORS",
    "AGINet",
    "ArcResUNet",
    "CagrConv",
    "Centred",
    "ChannelAttention",
    "ChannelNorm",
    "DeformResUNet",
    "DeformableConv",
    "DifferenceCritic",
    "DisplacementMap",
    "GlobalMean",
    "GroupedConv3d",
    "HyperConv",
    "Mix",
    "ModalityHead",
    "ModelConfig",
    "OffsetHead",
    "PatchCritic",
    "PlainCritic",
    "Registration",
    "ResBlock",
    "ResUNet",
    "Restorer",
    "Restormer",
    "RotatingConv",
    "ScalarCritic",
    "ScaleHead",
    "SuperResolution",
    "TSFSeq2Seq",
    "TimeModulation",
    "folded",
    "merge_groups",
    "options_of",
    "replace_convolutions",
    "routed",
    "roughness",
    "saved_bytes",
    "warp",
]
