"""Shipped settings: a ``.toml`` file for each machine and each published experiment."""

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from synth3d.console import nearest
from synth3d.errors import InputError
from synth3d.files import plain_values, read_text

DEFAULTS = {
    "phantom": "without --data", "cpu": "on a CPU", "gpu": "on a GPU",
    "gpu-8gb": "on a GPU with less than 20 GB",
}  # fmt: skip
"""Where a recipe is taken that is not named, on volumes; on slices, that with ``-2d``."""


def default_for(name: str) -> str | None:
    """Where the recipe ``name`` is the default; None of the others."""
    volumes, _, slices = name.partition("-2d")
    where = None if slices else DEFAULTS.get(volumes)
    return f"{where} with --dim 2d" if where and name != volumes else where


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    files = (Path(file.name) for file in resources.files(__name__).iterdir())
    return sorted(file.stem for file in files if file.suffix == ".toml")


def purpose_of(name: str) -> str:
    """The words that a shipped recipe begins with; empty for a file of the user's."""
    if name not in recipe_names():
        return ""
    lines = (resources.files(__name__) / f"{name}.toml").read_text("utf-8").splitlines()
    first = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:first])


def read_recipe(name: str) -> dict[str, Any]:
    """The plain values of a shipped recipe, or of a ``.toml`` or ``.json`` file by path.

    Raises:
        InputError: Unknown name, unreadable file, or a syntax error.
    """
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        if name not in recipe_names():
            known = recipe_names()
            raise InputError(
                f"unknown recipe {name!r}{nearest(name, known)}; known: {', '.join(known)}, or "
                "give a file; --recipe list tells of each"
            )
        return tomllib.loads((resources.files(__name__) / f"{name}.toml").read_text("utf-8"))
    loads = json.loads if path.suffix == ".json" else tomllib.loads
    values = plain_values(loads, read_text(path), f"cannot read the recipe {path}: it is not valid")
    if not isinstance(values, dict):
        raise InputError(f"the recipe {path} must be a table of settings, got {values!r:.60}")
    return values
