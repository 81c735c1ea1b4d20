"""A run's configuration: frozen dataclasses that refuse values no run can have.

How they are read from recipes and flags stands in ``synth3d.settings``. The resolved value is saved
as ``config.json`` beside the weights and reruns the run.
"""

import copy
import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from synth3d.cohort import (
    ALL_MODALITIES,
    Case,
    Modality,
    Splits,
    draw_splits,
    make_splits,
    parse_modality,
)
from synth3d.data import DataConfig, DegradeConfig, MisalignConfig, Task
from synth3d.errors import InputError
from synth3d.frameworks import FRAMEWORKS, CouplingOptions, Framework, Options, TrainingPlan, build
from synth3d.models import ModelConfig
from synth3d.settings import flatten, override, parse, require, to_plain

SHARED_KEYS = (
    "l1_weight",
    "adversarial_weight",
    "adversarial_start",
    "critic_width",
    "critic_layers",
)
"""Keys of ``[train]`` that stand for the option of that name of the framework in use."""


@dataclass(frozen=True)
class _Loop:
    """The keys of ``[train]`` that are no framework's own; see :class:`TrainConfig`.

    ``start`` is the run that this one begins from (``synth3d.training.start``), ``start_sha256``
    the hash of its weights. ``coupling`` are terms beside the framework's own.
    """

    framework: str = "pix2pix"
    steps: int = 120_000
    accumulate: int = 1
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
    start: str = ""
    start_sha256: str = ""
    coupling: CouplingOptions = CouplingOptions()

    def __post_init__(self) -> None:
        _ = self.options  # refuses a framework or an option that does not exist
        for key, claim, rule in (
            ("steps", self.steps >= 1, "at least 1"),
            ("steps", self.steps <= 10**12, "at most 10^12"),
            ("accumulate", 1 <= self.accumulate <= 2**16, "1 to 65536"),
            ("learning_rate", 0 <= self.learning_rate < math.inf, "finite and ≥ 0"),
            ("critic_learning_rate", 0 <= self.critic_learning_rate < math.inf, "finite and ≥ 0"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "in [0, 1)"),
            ("seed", 0 <= self.seed < 2**63, "a whole number from 0"),
            ("threads", 0 <= self.threads <= 4096, "0 to 4096 (0 is all cores)"),
            ("precision", self.precision in ("fp32", "bf16"), "fp32 or bf16"),
            ("decay", self.decay in ("constant", "cosine"), "constant or cosine"),
            ("average", 0 <= self.average < 1, "in [0, 1)"),
            ("checkpoint_every", self.checkpoint_every >= 1, "≥ 1"),
            ("validate_every", self.validate_every >= 1, "≥ 1"),
        ):
            require(claim, f"train.{key}", rule, getattr(self, key))

    @property
    def options(self) -> Options:
        """The options of ``framework``: its table, with the shared keys that were given on top.

        Raises:
            InputError: There is no such framework, or it does not have a key that was given.
        """
        name, known = self.framework, sorted(FRAMEWORKS)
        if name not in FRAMEWORKS:
            raise InputError(f"train.framework: unknown framework {name!r}; known: {known}")
        table = getattr(self, name)
        given = {key: getattr(self, key) for key in SHARED_KEYS if getattr(self, key) is not None}
        if foreign := sorted(key for key in given if not hasattr(table, key)):
            raise InputError(
                f"train.{foreign[0]}: {name} has no such option; leave it away, or set it for the "
                f"framework that has it, as in train.pix2pix.{foreign[0]}"
            )
        return dataclasses.replace(table, **given)


def with_tables(frameworks: Mapping[str, type[Framework]]) -> type[_Loop]:
    """The loop's keys and a table, ``[train.NAME]``, of the options of each framework."""
    tables = [(name, one.Options, field(default_factory=one.Options))
              for name, one in frameworks.items()]  # fmt: skip
    return dataclasses.make_dataclass(
        "TrainConfig", tables, bases=(_Loop,), frozen=True, namespace={"__module__": __name__}
    )


TrainConfig = with_tables(FRAMEWORKS)
"""How long, how fast, how exact; and a table for each framework, holding its published defaults.

A step learns from ``data.batch`` × ``accumulate`` samples and has no more than ``data.batch`` of
them in memory at once. Only the table of ``framework`` counts. ``SHARED_KEYS`` stand for the option
of that name of whichever ``framework`` is in use; a framework without it refuses them.
"""


@dataclass(frozen=True)
class RunConfig:
    """Everything that makes a run what it is; ``mode`` as in :class:`synth3d.data.Task`."""

    dim: int = 3
    mode: str = "fixed"
    sources: tuple[Modality, ...] = ("t1n", "t1c", "t2w")
    targets: tuple[Modality, ...] = ("t2f",)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)  # pyright: ignore[reportInvalidTypeForm]
    misalign: MisalignConfig = field(default_factory=MisalignConfig)
    degrade: DegradeConfig = field(default_factory=DegradeConfig)

    def __post_init__(self) -> None:
        task = self.task
        for key in ("sources", "targets"):
            object.__setattr__(self, key, getattr(task, key))
        self.misalign.check_fits(task)
        self.degrade.check_fits(task, self.data)
        self.data.check_fits(task)
        if not task.poor:  # which has a sentence of its own
            rule = f"0 under {self.train.framework}, which makes what it hides of the sources"
            require(self.may_vary or not self.data.vary, "data.vary", rule, self.data.vary)
        self._check_coupling()
        _ = self.drawn  # refuses a batch that is too large
        for axis, size in zip("zyx"[-self.dim :], self.data.patch, strict=True):
            rule = f"a multiple of {self.model.divisor} for {len(self.model.widths)} widths"
            require(size % self.model.divisor == 0 and size > 0, f"data.patch[{axis}]", rule, size)

    def _check_coupling(self) -> None:
        """A segmenter sees what can be brought back to the file's own units, and whole pictures."""
        if not self.train.coupling.segmenter:
            return
        if self.data.intensity == "paper":
            raise InputError(
                "data.intensity = paper clips what a coupled segmenter has to see; use median, or "
                "train without train.coupling"
            )
        poor = self.degrade.active and self.degrade.when == "train_and_test"
        if poor and not self.task.poor:  # what is restored takes the place of what is poor
            raise InputError(
                "a coupled segmenter knows the levels of a sequence as it is in the file, not as "
                "[degrade] makes it; train without one of the two"
            )
        if self.dim == 2 and (self.data.plane != "axial" or self.data.slice_size):
            raise InputError(
                "a coupled 2-D segmenter sees axial slices as they are in the files; leave away "
                "data.plane and data.slice_size, or train without train.coupling"
            )

    @property
    def may_vary(self) -> bool:
        """Whether the sources' intensities may differ from what is made (``data.vary``)."""
        return not (self.task.poor or FRAMEWORKS[self.train.framework].hides_sources)

    @property
    def drawn(self) -> DataConfig:
        """``data`` as batches are drawn: each is what one step learns from."""
        return replace(self.data, batch=self.data.batch * self.train.accumulate)

    @property
    def task(self) -> Task:
        """From which sequences which are made; what is degraded and a target as well is poor."""
        both = {*map(parse_modality, self.sources)} & {*map(parse_modality, self.targets)}
        lists = self.dim, self.sources, self.targets, self.mode
        if self.mode == "any" or not self.degrade.active or self.degrade.source not in both:
            return Task(*lists)
        return Task(*lists, (parse_modality(self.degrade.source),), self.degrade.ratio[-self.dim :])

    @property
    def depths(self) -> set[int]:
        """How many voxels deep the grids of the network are, for ``dim`` 3."""
        deep, levels = self.data.patch[0], self.model.divisor.bit_length()
        return {deep // 2**level for level in range(levels)}

    @property
    def words(self) -> str:
        """What is made from what, as ``t1n+t1c -> t2f`` or ``any of t1n+t1c+t2f``.

        Of a run that restores: ``t1n+t2f 1x1x4 as coarse -> t2f``, (z, y, x).
        """
        task, targets = self.task, "+".join(self.targets)
        if task.poor:
            coarse = f"{task.poor[0]} {'x'.join(map(str, task.ratio))} as coarse"
            return f"{'+'.join([*task.guides, coarse])} -> {targets}"
        sources = "+".join(self.sources)
        return f"any of {sources}" if self.mode == "any" else f"{sources} -> {targets}"


def unusual(config: RunConfig) -> dict[str, Any]:
    """The settings of ``config`` that are not the default, as plain values by dotted key.

    A setting that comes or goes with its default value changes nothing of it.
    """
    default = flatten(to_plain(RunConfig()))
    own = flatten(to_plain(config))
    return {key: value for key, value in own.items() if value != default.get(key)}


def build_framework(config: RunConfig, training: bool = True) -> Framework:
    """The framework of ``config``, as :func:`synth3d.frameworks.build` makes or refuses it.

    Without ``training`` nothing but the generator has weights.
    """
    train = config.train
    rates = train.learning_rate, train.critic_learning_rate
    about = train.steps, train.seed, config.data.patch, *rates, train.coupling
    plan = TrainingPlan(*about) if training else None
    return build(config.task, config.model, train.framework, train.options, plan)


def check_keys(keys: Iterable[str], framework: str) -> None:
    """Refuse keys given one by one that belong to another framework than the one in use.

    A recipe may hold tables for several frameworks; who sets ``train.pgan.…`` by hand means pgan.
    """
    for key in keys:
        head, table, *_ = *key.split("."), ""
        if head == "train" and table in FRAMEWORKS and table != framework:
            raise InputError(
                f"{key} has no effect under train.framework={framework}; leave it away, or use "
                f"train.framework={table}"
            )


def settle(values: Mapping[str, Any], given: Collection[str] = ()) -> RunConfig:
    """The configuration of ``values``, in which a recipe's ``data.vary`` is set to 0 where no
    source may vary (:attr:`RunConfig.may_vary`).

    ``given`` are the dotted keys that were asked for by name, and are refused instead.

    Raises:
        InputError: An unknown key, a wrong type, or values that do not fit.
    """
    if not flatten(values).get("data.vary") or "data.vary" in given:
        return parse(RunConfig, values)
    still = copy.deepcopy(dict(values))
    override(still, "data.vary", 0.0)
    config = parse(RunConfig, still)
    return parse(RunConfig, values) if config.may_vary else config


def split_for(task: Task | None, cases: Sequence[Case]) -> Splits:
    """A split drawn by patient among the ``cases`` by which ``task`` is taught; says who is not.

    Without a task among all.
    """
    if task is None:
        return make_splits(cases)
    splits, others = draw_splits(cases, lambda case: task.is_taught_by(case.images), task.lesson)
    if others:
        print(f"note: {others}; the split is drawn among these")
    return splits


def parse_thick(text: str) -> tuple[Modality, tuple[int, ...]]:
    """Sequence and ratio of thick slices, (z, y, x), from ``flair=4,1,1``."""
    name, _, numbers = text.partition("=")
    try:
        ratio = tuple(int(part) for part in numbers.split(","))
    except ValueError:
        ratio = ()
    if len(ratio) != 3 or max(ratio) < 2:
        raise InputError(
            "--degraded wants a sequence and how much larger its voxels are, (z, y, x), as in "
            f"flair=4,1,1, got {text!r}"
        )
    return parse_modality(name), ratio


def others_in(values: Mapping[str, Any], targets: Sequence[Modality]) -> list[Modality]:
    """What ``targets`` are to be made from: the recipe's other sequences, if it has them too.

    A recipe for T1, T2 and PD gives T2 and PD for T1; a target that a recipe does not have is
    made from whatever such cohorts have (:func:`sources_for`).
    """
    named = [*values.get("sources", ()), *values.get("targets", ())]
    known = [parse_modality(name) for name in named if isinstance(name, str)]
    ordered: list[Modality] = [name for name in ALL_MODALITIES if name in known]
    if not set(targets) <= set(ordered):
        ordered = list(sources_for(targets[0]))
    return [name for name in ordered if name not in targets]


def sources_for(target: Modality) -> tuple[Modality, ...]:
    """The other BraTS sequences, in BraTS order; for PD, which only IXI has, T1 and T2."""
    if target == "pd":
        return "t1n", "t2w"
    return tuple(name for name in ALL_MODALITIES[:4] if name != target)
