"""What sequences, regions and figures are called in the report's sentences."""

import math
from collections.abc import Sequence

from synth3d.scoring import Estimate

COMMON_NAMES = {"t1n": "T1", "t1c": "contrast-enhanced T1", "t2w": "T2", "t2f": "FLAIR", "pd": "PD"}
REGION_NAMES = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}


def spoken(names: Sequence[str]) -> str:
    """``T1 and FLAIR`` for ``["t1n", "t2f"]``."""
    return listed([COMMON_NAMES.get(name, name) for name in names])


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def channels(missing: Sequence[str]) -> str:
    """``channel``, or ``channels`` for several missing sequences."""
    return "channel" + "s"[: len(missing) != 1]


def signed(e: Estimate, times: float = 1) -> str:
    """``+0.012 [+0.004, +0.020]``."""
    low, high = sorted((times * e.low, times * e.high))
    return f"{times * e.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def percent(share: float | None) -> str:
    """``88`` for 0.88; an end of an interval may be unbounded."""
    if share is None or not math.isfinite(share):
        return "unbounded"
    return f"{100 * share:.0f}".replace("-0", "0") if abs(share) < 0.005 else f"{100 * share:.0f}"
