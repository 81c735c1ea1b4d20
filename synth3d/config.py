"""A run's configuration: frozen dataclasses, read strictly from TOML or JSON.

Defaults ← recipe (TOML) ← command line. The resolved value is saved as ``config.json`` beside
the weights and reruns the run. Nothing here evaluates code.
"""

import dataclasses
import json
import math
import tomllib
import types
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from synth3d.cases import ALL_MODALITIES, Modality, parse_modality
from synth3d.files import InputError

Config = TypeVar("Config")


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


def parse(schema: Any, data: Any, where: str = "config") -> Any:
    """Build ``schema`` from plain TOML or JSON values, strictly.

    Raises:
        InputError: Unknown key or wrong type; the message has its path, ``config.data.patch[1]``.
    """
    if is_dataclass(schema):
        return _parse_table(schema, data, where)
    origin = get_origin(schema)
    if origin is tuple:
        return _parse_list(get_args(schema), data, where)
    if origin in (Union, types.UnionType):
        if data is None:
            return None
        return parse(next(a for a in get_args(schema) if a is not type(None)), data, where)
    if origin is not None:  # Literal: names are checked by the dataclass
        schema = str
    if schema is float and type(data) is int:
        return float(data)
    if type(data) is not schema:
        raise InputError(f"{where}: expected {schema.__name__}, got {data!r}")
    return data


def _parse_table(schema: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a table, got {data!r}")
    hints = get_type_hints(schema)
    if unknown := sorted(data.keys() - hints.keys()):
        raise InputError(f"{where}: unknown key(s) {unknown}; known: {sorted(hints)}")
    return schema(**{k: parse(hints[k], v, f"{where}.{k}") for k, v in data.items()})


def _parse_list(items: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    item, *rest = items
    length = None if rest == [...] else 1 + len(rest)
    if not isinstance(data, (list, tuple)) or length not in (None, len(data)):
        raise InputError(f"{where}: expected a list of {length or 'any'} values, got {data!r}")
    return tuple(parse(item, value, f"{where}[{i}]") for i, value in enumerate(data))


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    folder = resources.files("synth3d") / "recipes"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def read_recipe(name: str) -> dict[str, Any]:
    """The plain values of a shipped recipe, or of a ``.toml`` or ``.json`` file by path.

    Raises:
        InputError: Unknown name, unreadable file, or a syntax error.
    """
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        if name not in recipe_names():
            raise InputError(f"unknown recipe {name!r}; known: {recipe_names()}, or give a file")
        text = (resources.files("synth3d") / "recipes" / f"{name}.toml").read_text("utf-8")
        return tomllib.loads(text)
    try:
        text = path.read_text("utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the recipe {path}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"the recipe {path} must be a table of settings, got {values!r:.60}")
    return values


def override(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key`` (``train.steps``) in the nested ``values``, making tables."""
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise InputError(f"{key}: {name} is a value, not a table")
    values[last] = value


def parse_assignment(text: str) -> tuple[str, Any]:
    """``key=value`` with a TOML value (a bare word is a string): ``("train.steps", 100)``.

    Raises:
        InputError: There is no ``=``.
    """
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise InputError(f"--set takes key=value, as in --set train.steps=1000, got {text!r}")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def to_plain(config: Any) -> dict[str, Any]:
    """``config`` as plain JSON values; :func:`parse` is the inverse."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"expected a dataclass instance, got {config!r}")
    return json.loads(json.dumps(asdict(config)))
