"""One experiment in its folder."""

from seg_eval.experiment.choices import Source, choose_sources, parse_missing, parse_seeds
from seg_eval.experiment.plan import Plan, choose_folder, remembered
from seg_eval.experiment.score import Engines, Experiment, Segmenter

__all__ = [
    "Engines",
    "Experiment",
    "Plan",
    "Segmenter",
    "Source",
    "choose_folder",
    "choose_sources",
    "parse_missing",
    "parse_seeds",
    "remembered",
]
