"""What a training would do and take, before hours are spent."""

from synth3d.training.forecast.cases import CasesAhead, cases_ahead, phantoms_ahead
from synth3d.training.forecast.cost import Cost, cost_of, random_batch
from synth3d.training.forecast.plan import (
    tell_plan,
)
from synth3d.training.forecast.shipped import recipe_facts, recipe_table, shipped_recipes

__all__ = [
    "CasesAhead",
    "Cost",
    "cases_ahead",
    "cost_of",
    "phantoms_ahead",
    "random_batch",
    "recipe_facts",
    "recipe_table",
    "shipped_recipes",
    "tell_plan",
]
