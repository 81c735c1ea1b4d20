"""A run's configuration: frozen dataclasses that refuse values no run can have.

How they are read from recipes and flags stands in ``synth3d.settings``. The resolved value is saved
as ``config.json`` beside the weights and reruns the run.
"""

import dataclasses
import math
from dataclasses import dataclass, field

from synth3d.cohort import ALL_MODALITIES, Modality, parse_modality
from synth3d.config.frameworks import (
    FRAMEWORK_OPTIONS,
    SHARED_KEYS,
    DDPMOptions,
    FrameworkOptions,
    IDDPMOptions,
    L1Options,
    MedSynthOptions,
    MMGanOptions,
    PGanOptions,
    Pix2PixOptions,
)
from synth3d.config.frameworks import require as _require
from synth3d.errors import InputError
from synth3d.images import PLANES

INTENSITIES = ("median", "paper")


@dataclass(frozen=True)
class ModelConfig:
    """The generator: its name and its shape; see ``synth3d.models`` for the meaning.

    ``stages`` counts the leading stages with the special convolution, or names them
    (``["down1", "body"]``). ``groups`` to ``head`` are AGI-Net's, ``deform`` is
    deform-resunet's and ``rotated_kernels`` arc-resunet's; each model takes what it knows.
    ``checkpoint_routing`` is true, false or ``auto``: only where memory asks for it.
    ``residual_init="zero"`` starts every ResBlock as the identity (its second convolution at 0).
    ``centred`` feeds and reads intensities around 0 instead of 1/2 (``synth3d.models.centred``).
    Both help networks that, as published, have neither normalisation nor biases.
    """

    name: str = "agi-net"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    groups: int = 8
    stages: int | tuple[str, ...] = 5
    module: str = "cagr"
    routing: str = "stacked"
    attn_init: str = "default"
    shuffle: bool = True
    offsets: str = "learned"
    scale: str = "learned"
    scale_init: float = 1.0
    checkpoint_routing: bool | str = "auto"
    routing_stride: int = 1
    head: str = "plain"
    deform: str = "auto"
    rotated_kernels: int = 4
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
    """What is drawn from a case: patches, or slices of a plane, and their augmentation.

    ``patch`` and ``overlap`` are voxels, (z, y, x) for ``dim`` 3 and (row, column) for ``dim`` 2.
    ``intensity`` is ``median`` or ``paper`` (0 to p99.5 of the volume, clipped;
    ``synth3d.images.intensity``). ``common_grid`` names the source on whose grid the others are
    brought by
    their headers; empty, all must share one. ``misregistration`` moves all sources together
    against the target, up to so many voxels, in training only: an augmentation for cohorts whose
    target is a little off. Moving one source to see what it costs is ``MisalignConfig``.
    ``workers`` draw in the background; two and more see other patches than none or one.

    For ``dim`` 2 alone: ``plane``; ``slices_per_case``, so many around the middle of the brain's
    extent are learnt from (0: all that hold brain); ``slice_size``, the (row, column) size to which
    whole slices are resampled first (empty: their own).
    """

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
    workers: int = 0
    intensity: str = "median"
    common_grid: str = ""
    plane: str = "axial"
    slices_per_case: int = 0
    slice_size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.common_grid:
            object.__setattr__(self, "common_grid", parse_modality(self.common_grid))
        _require(self.batch >= 1, "data.batch", "at least 1", self.batch)
        _require(self.workers >= 0, "data.workers", "≥ 0", self.workers)
        known = self.intensity in INTENSITIES
        _require(known, "data.intensity", " or ".join(INTENSITIES), self.intensity)
        _require(self.plane in PLANES, "data.plane", " or ".join(PLANES), self.plane)
        _require(self.slices_per_case >= 0, "data.slices_per_case", "≥ 0", self.slices_per_case)
        whole = len(self.slice_size) in (0, 2) and all(side > 0 for side in self.slice_size)
        _require(whole, "data.slice_size", "two positive numbers or none", self.slice_size)
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
class MisalignConfig:
    """One source that lies elsewhere than all else, as an experiment (``synth3d.data.misalign``).

    Only ``source`` moves; the other sources, the target and the brain mask stay. Lengths are voxels
    of what the network sees. ``draw`` is ``uniform_box`` (each component up to ``shift``,
    ``rotate`` or ``elastic``, evenly) or ``fixed_magnitude`` (exactly that far, some way). ``when``
    is ``train_and_test`` or ``test_only``; completing a cohort never moves anything.
    """

    source: str = ""
    shift: float = 0.0
    rotate: float = 0.0
    elastic: float = 0.0
    draw: str = "uniform_box"
    when: str = "train_and_test"

    def __post_init__(self) -> None:
        if self.source:
            object.__setattr__(self, "source", parse_modality(self.source))
        for key in ("shift", "rotate", "elastic"):
            value = getattr(self, key)
            _require(0 <= value < math.inf, f"misalign.{key}", "finite and ≥ 0", value)
        for key, names in (
            ("draw", ("uniform_box", "fixed_magnitude")),
            ("when", ("train_and_test", "test_only")),
        ):
            value = getattr(self, key)
            _require(value in names, f"misalign.{key}", " or ".join(names), value)
        named = bool(self.source) or not (self.shift or self.rotate or self.elastic)
        _require(named, "misalign.source", "one of the sources, to say what moves", self.source)

    @property
    def active(self) -> bool:
        """Whether anything moves at all."""
        return bool(self.source) and bool(self.shift or self.rotate or self.elastic)


@dataclass(frozen=True)
class TrainConfig:
    """The loop: how long, how fast, how exact; and one table of options per framework.

    The tables (``synth3d.config.frameworks``) hold each framework's published defaults, and only
    that of ``framework`` counts. ``l1_weight``, ``adversarial_weight``, ``adversarial_start``,
    ``critic_width`` and ``critic_layers`` stand for the option of that name of whichever
    ``framework`` is in use; a framework without it refuses them.
    """

    framework: str = "pix2pix"
    steps: int = 120_000
    learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-4
    warmup: int = 0
    decay: str = "constant"
    betas: tuple[float, float] = (0.5, 0.999)
    l1_weight: float | None = None
    adversarial_weight: float | None = None
    adversarial_start: int | None = None
    critic_width: int | None = None
    critic_layers: int | None = None
    clip_norm: float = 0.0
    average: float = 0.0
    seed: int = 0
    precision: str = "fp32"
    threads: int = 0
    checkpoint_every: int = 250
    validate_every: int = 1000
    l1: L1Options = field(default_factory=L1Options)
    pix2pix: Pix2PixOptions = field(default_factory=Pix2PixOptions)
    pgan: PGanOptions = field(default_factory=PGanOptions)
    mmgan: MMGanOptions = field(default_factory=MMGanOptions)
    medsynth: MedSynthOptions = field(default_factory=MedSynthOptions)
    ddpm: DDPMOptions = field(default_factory=DDPMOptions)
    iddpm: IDDPMOptions = field(default_factory=IDDPMOptions)

    def __post_init__(self) -> None:
        _ = self.options  # refuses a framework or an option that does not exist
        _require(self.steps >= 1, "train.steps", "at least 1", self.steps)
        for key in ("learning_rate", "critic_learning_rate"):
            value = getattr(self, key)
            _require(0 <= value < math.inf, f"train.{key}", "finite and ≥ 0", value)
        _require(all(0 <= b < 1 for b in self.betas), "train.betas", "in [0, 1)", self.betas)
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

    @property
    def options(self) -> FrameworkOptions:
        """The options of ``framework``: its table, with the shared keys that were given on top.

        Raises:
            InputError: There is no such framework, or it does not have a key that was given.
        """
        if self.framework not in FRAMEWORK_OPTIONS:
            known = sorted(FRAMEWORK_OPTIONS)
            raise InputError(
                f"train.framework: unknown framework {self.framework!r}; known: {known}"
            )
        table = getattr(self, self.framework)
        given = {key: getattr(self, key) for key in SHARED_KEYS if getattr(self, key) is not None}
        if foreign := sorted(key for key in given if not hasattr(table, key)):
            raise InputError(
                f"train.{foreign[0]}: {self.framework} has no such option; leave it away, or set "
                f"it for the framework that has it, as in train.pix2pix.{foreign[0]}"
            )
        return dataclasses.replace(table, **given)


@dataclass(frozen=True)
class RunConfig:
    """Everything that makes a run what it is."""

    dim: int = 3
    sources: tuple[Modality, ...] = ("t1n", "t1c", "t2w")
    targets: tuple[Modality, ...] = ("t2f",)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    misalign: MisalignConfig = field(default_factory=MisalignConfig)

    def __post_init__(self) -> None:
        _require(self.dim in (2, 3), "dim", "2 or 3", self.dim)
        for key in ("sources", "targets"):
            value = tuple(parse_modality(name) for name in getattr(self, key))
            _require(
                len(value) >= 1 and len(set(value)) == len(value), key, "distinct names", value
            )
            object.__setattr__(self, key, value)
        both = set(self.sources) & set(self.targets)
        _require(not both, "sources and targets", "disjoint", sorted(both))
        data = self.data
        for key, name in (
            ("misalign.source", self.misalign.source),
            ("data.common_grid", data.common_grid),
        ):
            rule = f"one of the sources {list(self.sources)}, or empty"
            _require(not name or name in self.sources, key, rule, name)
        for key in ("slices_per_case", "slice_size") if self.dim == 3 else ():
            value = getattr(data, key)
            _require(not value, f"data.{key}", "left out where dim is 3", value)
        sides = len(data.patch) == self.dim
        _require(sides, "data.patch", f"{self.dim} numbers, as dim is {self.dim}", data.patch)
        for axis, size in zip("zyx"[-self.dim :], self.data.patch, strict=True):
            rule = f"a multiple of {self.model.divisor} for {len(self.model.widths)} widths"
            _require(size % self.model.divisor == 0 and size > 0, f"data.patch[{axis}]", rule, size)


def sources_for(target: Modality) -> tuple[Modality, ...]:
    """The other BraTS sequences, in BraTS order; for PD, which only IXI has, T1 and T2."""
    if target == "pd":
        return "t1n", "t2w"
    return tuple(name for name in ALL_MODALITIES[:4] if name != target)
