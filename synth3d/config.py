"""A run's configuration: frozen dataclasses that refuse values no run can have.

How they are read from recipes and flags stands in ``synth3d.settings``. The resolved value is saved
as ``config.json`` beside the weights and reruns the run.
"""

import math
from dataclasses import dataclass, field

from synth3d.cases import ALL_MODALITIES, Modality, parse_modality
from synth3d.files import InputError


def _require(claim: bool, key: str, rule: str, value: object) -> None:
    if not claim:
        raise InputError(f"{key} must be {rule}, got {value!r}")


@dataclass(frozen=True)
class ModelConfig:
    """The generator: its name and its shape; see ``synth3d.models`` for the meaning.

    ``residual_init="zero"`` starts every ResBlock as the identity (its second convolution at 0).
    ``centred`` feeds and reads intensities around 0 instead of 1/2 (``synth3d.models.centred``).
    Both help networks that, as published, have neither normalisation nor biases.
    """

    name: str = "agi-net"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    groups: int = 8
    stages: int = 5
    module: str = "cagr"
    routing: str = "stacked"
    attn_init: str = "default"
    checkpoint_routing: bool = False
    residual_init: str = "default"
    centred: bool = False

    def __post_init__(self) -> None:
        _require(len(self.widths) >= 2, "model.widths", "at least two numbers", self.widths)
        _require(min(self.widths) > 0, "model.widths", "positive", self.widths)
        _require(self.blocks >= 1, "model.blocks", "at least 1", self.blocks)
        known = self.residual_init in ("default", "zero")
        _require(known, "model.residual_init", "default or zero", self.residual_init)

    @property
    def divisor(self) -> int:
        """Every patch side must be a multiple of this."""
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class DataConfig:
    """Patches and their augmentation; triples are voxels in (z, y, x)."""

    patch: tuple[int, ...] = (48, 48, 48)
    overlap: tuple[int, ...] = (24, 24, 24)
    batch: int = 2
    patches_per_case: int = 4
    queue: int = 24
    tumour_chance: float = 0.3
    source_dropout: float = 0.1
    flip: bool = True
    misregistration: float = 0.0
    validation_cases: int = 4

    def __post_init__(self) -> None:
        _require(self.batch >= 1, "data.batch", "at least 1", self.batch)
        _require(
            0 <= self.source_dropout < 1, "data.source_dropout", "in [0, 1)", self.source_dropout
        )
        _require(
            0 <= self.tumour_chance <= 1, "data.tumour_chance", "in [0, 1]", self.tumour_chance
        )
        _require(
            self.misregistration >= 0, "data.misregistration", "≥ 0 voxels", self.misregistration
        )
        _require(self.patches_per_case >= 1, "data.patches_per_case", "≥ 1", self.patches_per_case)
        rule = f"as many numbers as data.patch ({len(self.patch)})"
        _require(len(self.overlap) == len(self.patch), "data.overlap", rule, self.overlap)
        pairs = zip("zyx"[-len(self.patch) :], self.patch, self.overlap, strict=True)
        for axis, size, overlap in pairs:
            rule = f"even and in [0, {size})"
            _require(
                0 <= overlap < size and overlap % 2 == 0, f"data.overlap[{axis}]", rule, overlap
            )


@dataclass(frozen=True)
class TrainConfig:
    """The loop: how long, how fast, how exact."""

    framework: str = "pix2pix"
    steps: int = 120_000
    learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-4
    warmup: int = 0
    decay: str = "constant"
    betas: tuple[float, float] = (0.5, 0.999)
    l1_weight: float = 100.0
    adversarial_weight: float = 1.0
    adversarial_start: int = 0
    critic_width: int = 64
    critic_layers: int = 3
    clip_norm: float = 0.0
    average: float = 0.0
    seed: int = 0
    precision: str = "fp32"
    threads: int = 0
    checkpoint_every: int = 250
    validate_every: int = 1000

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "train.steps", "at least 1", self.steps)
        for key in ("learning_rate", "critic_learning_rate"):
            value = getattr(self, key)
            _require(0 <= value < math.inf, f"train.{key}", "finite and ≥ 0", value)
        _require(all(0 <= b < 1 for b in self.betas), "train.betas", "in [0, 1)", self.betas)
        for key in ("critic_width", "critic_layers"):
            _require(getattr(self, key) >= 1, f"train.{key}", "at least 1", getattr(self, key))
        _require(0 <= self.seed < 2**63, "train.seed", "a whole number from 0", self.seed)
        _require(self.threads >= 0, "train.threads", "≥ 0 (0 is all cores)", self.threads)
        _require(
            self.precision in ("fp32", "bf16"), "train.precision", "fp32 or bf16", self.precision
        )
        _require(
            self.decay in ("constant", "cosine"), "train.decay", "constant or cosine", self.decay
        )
        _require(0 <= self.average < 1, "train.average", "in [0, 1)", self.average)
        _require(self.checkpoint_every >= 1, "train.checkpoint_every", "≥ 1", self.checkpoint_every)
        _require(self.validate_every >= 1, "train.validate_every", "≥ 1", self.validate_every)


@dataclass(frozen=True)
class RunConfig:
    """Everything that makes a run what it is."""

    dim: int = 3
    sources: tuple[Modality, ...] = ("t1n", "t1c", "t2w")
    targets: tuple[Modality, ...] = ("t2f",)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _require(self.dim == 3, "dim", "3", self.dim)
        for key in ("sources", "targets"):
            value = tuple(parse_modality(name) for name in getattr(self, key))
            _require(
                len(value) >= 1 and len(set(value)) == len(value), key, "distinct names", value
            )
            object.__setattr__(self, key, value)
        both = set(self.sources) & set(self.targets)
        _require(not both, "sources and targets", "disjoint", sorted(both))
        sides = len(self.data.patch) == self.dim
        _require(sides, "data.patch", f"{self.dim} numbers", self.data.patch)
        for axis, size in zip("zyx"[-self.dim :], self.data.patch, strict=True):
            rule = f"a multiple of {self.model.divisor} for {len(self.model.widths)} widths"
            _require(size % self.model.divisor == 0 and size > 0, f"data.patch[{axis}]", rule, size)


def sources_for(target: Modality) -> tuple[Modality, ...]:
    """The other BraTS sequences, in BraTS order."""
    return tuple(name for name in ALL_MODALITIES[:4] if name != target)
