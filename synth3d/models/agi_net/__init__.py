"""AGI-Net: cross-group attention and group-wise rolled kernels."""

from synth3d.models.agi_net.cagr import CagrConv, GatedRollingConv
from synth3d.models.agi_net.grouped import GroupedConv2d, GroupedConv3d
from synth3d.models.agi_net.network import AGINet, ModalityHead
from synth3d.models.agi_net.routing import CagrOptions, OffsetHead, ScaleHead

__all__ = [
    "AGINet",
    "CagrConv",
    "CagrOptions",
    "GatedRollingConv",
    "GroupedConv2d",
    "GroupedConv3d",
    "ModalityHead",
    "OffsetHead",
    "ScaleHead",
]
