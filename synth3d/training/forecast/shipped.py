"""The recipes that ship, and what each takes: ``synth3d train --recipe list``."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from synth3d.errors import InputError
from synth3d.settings import parse
from synth3d.training.config import RunConfig, build_framework
from synth3d.training.recipes import default_for, purpose_of, read_recipe, recipe_names


@dataclass(frozen=True)
class Shipped:
    """A recipe.

    Attributes:
        parameters: Of all that it trains; None where that needs weights that are not on this disk.
        default_for: Where it is the default; None where it is not.
        purpose: For whom it is, how large and how long, as its file says at the beginning.
    """

    name: str
    dim: int
    model: str
    framework: str
    parameters: int | None
    patch: tuple[int, ...]
    batch: int
    steps: int
    default_for: str | None
    purpose: str


def shipped_recipes() -> list[Shipped]:
    """All of them, by name; nothing is computed."""
    return [_shipped(name) for name in recipe_names()]


def _shipped(name: str) -> Shipped:
    config = parse(RunConfig, _whole(read_recipe(name)))
    data, train = config.data, config.train
    about = config.dim, config.model.name, train.framework, _parameters(config)
    told = default_for(name), purpose_of(name)
    return Shipped(name, *about, data.patch, data.batch, train.steps, *told)


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with sequences where the recipe leaves them to the cohort."""
    if values.get("mode") == "any":
        values["sources"] = values["targets"] = ("t1n", "t1c", "t2w", "t2f")
    return values


def _parameters(config: RunConfig) -> int | None:
    try:
        with torch.device("meta"):
            players = build_framework(config).players().values()
    except InputError:
        return None
    modules = {id(player.module): player.module for player in players}
    return sum(p.numel() for module in modules.values() for p in module.parameters())


def recipe_table(found: list[Shipped]) -> str:
    """Two lines a recipe, for a terminal."""
    lines = []
    for one in found:
        size = "not counted, for want of weights on this disk"
        if one.parameters is not None:
            size = f"{one.parameters / 1e6:.1f} million parameters"
        default = f" (default {one.default_for})" if one.default_for else ""
        patch = " x ".join(map(str, one.patch))
        lines.append(
            f"{one.name:14} {one.model} by {one.framework}, {size}; {one.steps} steps of "
            f"{one.batch} {'patch' if one.batch == 1 else 'patches'} of {patch}{default}"
        )
        lines.append(f"{'':14} {one.purpose}")
    lines.append("how long on this machine: synth3d train --recipe NAME --data COHORT --dry-run")
    return "\n".join(lines)


def recipe_facts(found: list[Shipped]) -> list[dict[str, Any]]:
    """The same as plain values."""
    return [asdict(one) for one in found]
