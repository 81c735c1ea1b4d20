"""What ``seg_eval export-segmenter`` leaves of an nnU-Net: a description and weights, no pickle.

``segmenter.json`` holds plain values, ``segmenter.safetensors`` the weights. Of a network the
description says sizes, and names that stand in a list here; nothing that is read becomes code.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.settings import read_as, require

FORMAT = 1
DESCRIPTION, WEIGHTS = "segmenter.json", "segmenter.safetensors"
BLOCKS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
"""The networks of nnU-Net that are known, and what each calls ``Architecture.blocks``."""
ACTIVATIONS = ("LeakyReLU", "ReLU")
NORMALISATION = "ZScoreNormalization"
CLASSES = 4
"""Of :class:`synth3d.data.Batch`'s label: background, necrosis, oedema, enhancing tumour."""
MOST_STAGES, MOST_FEATURES = 12, 4096
REMEDY = "export the segmenter anew"


@dataclass(frozen=True)
class Architecture:
    """A U-Net of nnU-Net's; tables have a row for each stage, the finest first.

    Attributes:
        network: A key of ``BLOCKS``.
        features: Channels.
        kernels: Sides of the convolutions, ([z,] y, x).
        strides: Steps with which a stage begins.
        blocks: Convolutions of a plain stage, or residual blocks.
        decoder: Convolutions of the decoder's stages, one fewer.
        bias: Whether convolutions have one.
        epsilon: Of instance normalisation; ``affine``, whether it has weights.
        activation: One of ``ACTIVATIONS``.
    """

    network: str
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    blocks: tuple[int, ...]
    decoder: tuple[int, ...]
    bias: bool
    epsilon: float
    affine: bool
    activation: str

    def __post_init__(self) -> None:
        for key, known in (("network", tuple(BLOCKS)), ("activation", ACTIVATIONS)):
            require(getattr(self, key) in known, key, f"one of {', '.join(known)}", vars(self)[key])
        stages = len(self.features)
        require(2 <= stages <= MOST_STAGES, "features", f"2 to {MOST_STAGES} stages", self.features)
        for key, length in (("kernels", stages), ("strides", stages), ("blocks", stages),
                            ("decoder", stages - 1)):  # fmt: skip
            require(len(vars(self)[key]) == length, key, f"of {length} stages", vars(self)[key])
        for key, most in (("features", MOST_FEATURES), ("blocks", 64), ("decoder", 64)):
            counts = vars(self)[key]
            require(all(1 <= n <= most for n in counts), key, f"1 to {most} each", counts)
        for key, most in (("kernels", 15), ("strides", 16)):
            rows = vars(self)[key]
            fits = all(len(row) in (2, 3) and all(1 <= n <= most for n in row) for row in rows)
            require(fits and len({*map(len, rows)}) == 1, key, f"sides of 1 to {most}", rows)
        require(len(self.kernels[0]) == len(self.strides[0]), "strides", "of the kernels' axes",
                self.strides)  # fmt: skip
        require(0 < self.epsilon < 1, "epsilon", "above 0 and below 1", self.epsilon)

    @property
    def dim(self) -> int:
        """2 or 3."""
        return len(self.kernels[0])

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the sides of an input are multiples of."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))


@dataclass(frozen=True)
class Exported:
    """A segmenter, as its description says.

    Attributes:
        channels: Modalities, in the order of the network's channels.
        normalisation: nnU-Net's name of each channel's scheme; z-scores alone are known.
        masked: Whether z-scores are those of the head alone, holes filled, and what lies outside is
            0; else they are those of the smallest box around it.
        spacing_mm: Voxel sides ([z,] y, x) that it was trained on.
        patch: Voxels that it was trained on, and labels at once.
        regions: Whether each head is the sigmoid of a set of classes; else all are one softmax.
        heads: The tumour classes of BraTS 2023 (0 background, 1 necrosis, 2 oedema, 3 enhancing)
            that each head stands for.
        weights_sha256: Of the file of weights.
        checkpoint_sha256: Of nnU-Net's own, by which an evaluation recognises it.
        seed: Of its training, if that is known.
        cases: Names of the cases that it was trained on, if they are known.
        origin: The name of nnU-Net's model folder.
    """

    format: int
    architecture: Architecture
    channels: tuple[str, ...]
    normalisation: tuple[str, ...]
    masked: bool
    spacing_mm: tuple[float, ...]
    patch: tuple[int, ...]
    regions: bool
    heads: tuple[tuple[int, ...], ...]
    weights_sha256: str
    checkpoint_sha256: str
    seed: int | None = None
    cases: tuple[str, ...] | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        rule = f"{FORMAT}, which this version reads"
        require(self.format == FORMAT, "format", rule, self.format)
        names = self.channels
        require(0 < len(names) == len({*names}), "channels", "distinct names", names)
        schemes = (NORMALISATION,) * len(names)
        require(self.normalisation == schemes, "normalisation", f"{NORMALISATION} of each channel",
                self.normalisation)  # fmt: skip
        dim = self.architecture.dim
        for key, least in (("spacing_mm", 0), ("patch", 0)):
            sides = getattr(self, key)
            fits = len(sides) == dim and all(side > least for side in sides)
            require(fits, key, f"{dim} lengths above 0", sides)
        known = all(0 <= number < CLASSES for head in self.heads for number in head)
        fits = 0 < len(self.heads) <= 64 and all(self.heads) and known
        require(fits, "heads", f"classes from 0 to {CLASSES - 1}", self.heads)
        if not self.regions:
            held = sorted({head[0] for head in self.heads})
            fits = all(len(head) == 1 for head in self.heads) and held == [*range(CLASSES)]
            require(fits, "heads", f"one class each, of all {CLASSES}", self.heads)


def read_exported(folder: Path) -> Exported:
    """What the export in ``folder`` says of itself; its weights are the very ones that it names.

    Raises:
        InputError: It is not there, damaged, or of a network that is not known here.
    """
    if not (folder / DESCRIPTION).is_file():
        raise InputError(
            f"{folder} is no exported segmenter (no {DESCRIPTION}); make one with "
            "seg_eval export-segmenter MODEL OUT"
        )
    about: Any = read_as(Exported, folder / DESCRIPTION, REMEDY)
    if sha256(folder / WEIGHTS) != about.weights_sha256:
        raise InputError(
            f"{folder / WEIGHTS} is not the file that {DESCRIPTION} names (its SHA-256 differs); "
            f"{REMEDY}"
        )
    return about
