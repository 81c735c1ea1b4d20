"""Means of cases with intervals from a bootstrap over patients."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000

FEW_CASES = 15
"""Below this many cases a bootstrap interval is too narrow."""


def resampled_means(
    columns: np.ndarray, patients: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Means of ``columns`` when patients are drawn with replacement.

    Args:
        columns: (cases, columns) values; those of a case stay together.
        patients: Patient of each case; all cases of a patient are drawn together.
        resamples: How many draws.
        seed: Of the draws.

    Returns:
        (resamples, columns).

    Raises:
        ValueError: No cases, or the lengths differ.
    """
    if len(columns) == 0 or len(columns) != len(patients):
        raise ValueError(f"expected one patient per case, got {len(patients)} for {len(columns)}")
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    member = np.zeros((len(names), len(columns)))
    member[owner, np.arange(len(columns))] = 1
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    return (draws @ (member @ columns)) / (draws @ member.sum(1))[:, None]


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of ``drawn`` (N,): values that were really drawn, never between two.

    Raises:
        ValueError: There is none.
    """
    if not len(drawn):
        raise ValueError("no draws to take an interval of")
    low, high = np.quantile(drawn, [0.025, 0.975], method="closest_observation")
    return float(low), float(high)
