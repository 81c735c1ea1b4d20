"""Several experiments on parts of one cohort, each patient judged once, as one certificate."""

from seg_eval.pooling.cross_validation import (
    FoldedPlan,
    draw_folds,
    folded_plan,
    folds_in_words,
    own_run,
    requests_of,
    tell_folds,
)
from seg_eval.pooling.pool import pool, refuse_taken

__all__ = [
    "FoldedPlan", "draw_folds", "folded_plan", "folds_in_words", "own_run", "pool", "refuse_taken",
    "requests_of", "tell_folds",
]  # fmt: skip
