"""Where the marks of the report's charts stand; ``words/charts.html.j2`` draws them as inline SVG.

Colours come from the page's style sheet by group (``g-synthesis`` and so on), so that they follow
light, dark and print; shapes and labels say the same without colour.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seg_eval.report.agreement import VolumePanel
from seg_eval.report.pictures import Point


def range_mark(
    value: float | None,
    low: float | None,
    high: float | None,
    axis: tuple[float, float],
    ticks: Sequence[float] = (),
) -> dict[str, Any] | None:
    """A bar from 0 (or the axis' floor) to ``value`` with its interval, 120 x 16; None for None.

    An end outside the axis, or unbounded (None), runs to the edge with an arrow.
    """
    if value is None:
        return None
    floor, ceiling = axis

    def x(at: float) -> float:
        return round(4 + 112 * (min(max(at, floor), ceiling) - floor) / (ceiling - floor), 1)

    zero, end = x(max(floor, 0.0)), x(value)
    left, right = (floor if low is None else low), (ceiling if high is None else high)
    return {
        "ticks": [x(tick) for tick in ticks],
        "bar": (min(zero, end), round(abs(end - zero), 1)),
        "whisker": (x(left), x(right)) if left < right or None in (low, high) else None,
        "goes_below": low is None or low < floor,
        "goes_above": high is None or high > ceiling,
    }


def paired_dots(columns: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One line per case through its value in every arm, with the means; None without arms.

    A column has an arm's ``name``, short ``label``, ``group``, ``dice`` by case, and their ``mean``
    with the ends ``low`` and ``high`` of its interval, None where it has none.
    """
    if not columns:
        return None
    step, left, top, height = 78, 46, 14, 230
    width = left + step * len(columns) + 12
    ticks = _ticks(min([0.9, *(v for column in columns for v in column["dice"].values())]), 1.0)

    def y(value: float) -> float:
        return round(top + height * (1 - (value - ticks[0]) / (1 - ticks[0])), 1)

    def band(column: Mapping[str, Any]) -> tuple[float, float] | None:
        if None in (column["low"], column["high"]):
            return None
        return y(column["high"]), max(round(y(column["low"]) - y(column["high"]), 1), 1)

    places = [(left + step * (number + 0.5), column) for number, column in enumerate(columns)]
    cases = sorted({case for column in columns for case in column["dice"]})
    return {
        "width": width, "height": top + height + 84, "floor": top + height, "left": left,
        "right": width - 12, "min_width": round(0.72 * width), "max_width": round(1.25 * width),
        "faint": 0.75 if len(cases) <= 12 else 0.45 if len(cases) <= 60 else 0.2,
        "rules": [{"y": y(tick), "text": f"{tick:.4g}"} for tick in ticks],
        "columns": [
            {"x": x, "y": y(column["mean"]), "about": column, "band": band(column)}
            for x, column in places
        ],
        "cases": [
            {"name": case, "dots": [{"x": x, "y": y(column["dice"][case]), "about": column}
                                    for x, column in places if case in column["dice"]]}
            for case in cases
        ],
    }  # fmt: skip


def scatter(points: Sequence[Point], groups: Mapping[str, str]) -> dict[str, Any] | None:
    """Error against loss, one shape per arm, in the colour of its group; None without points."""
    if not points:
        return None
    width, height, left, top = 560, 320, 62, 12
    right, bottom = width - 14, height - 46
    errors, losses = [p.error for p in points], [p.loss for p in points]
    x_ticks = _ticks(0.0, max(errors) or 1.0)
    y_ticks = _ticks(min(0.0, *losses, 0.0), max(0.0, *losses, 0.0) or 0.1)
    ends = x_ticks[0], max(x_ticks[-1], *errors), y_ticks[0], max(y_ticks[-1], *losses)

    def x(value: float) -> float:
        return round(left + (right - left) * (value - ends[0]) / (ends[1] - ends[0]), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * (value - ends[2]) / (ends[3] - ends[2]), 1)

    arms = list(dict.fromkeys(point.arm for point in points))
    return {
        "width": width, "height": height, "left": left, "right": right, "bottom": bottom,
        "middle": ((left + right) / 2, (top + bottom) / 2),
        "rules": [{"y": y(tick), "text": f"{tick:.4g}"} for tick in y_ticks],
        "ticks": [{"x": x(tick), "text": f"{tick:.4g}"} for tick in x_ticks],
        "points": [
            {"x": x(point.error), "y": y(point.loss), "about": point, "group": groups[point.arm],
             "shape": arms.index(point.arm)}
            for point in points
        ],
        "arms": [{"name": arm, "group": groups[arm]} for arm in arms],
    }  # fmt: skip


def risk_coverage(curve: Mapping[str, Any]) -> dict[str, Any]:
    """Mean loss against the share of cases that is kept, and the mean of all cases as a line.

    ``curve`` is that of :func:`seg_eval.analysis.uncertainty.risk_coverage`, of one case at least.
    """
    width, height, left, top = 560, 260, 62, 12
    right, bottom = width - 14, height - 46
    losses = [*curve["loss"], curve["random"]]
    ticks = _ticks(min(0.0, *losses), max(0.0, *losses) or 0.1)
    ends = min(ticks[0], *losses), max(ticks[-1], *losses)

    def x(share: float) -> float:
        return round(left + (right - left) * share, 1)

    def y(loss: float) -> float:
        return round(bottom - (bottom - top) * (loss - ends[0]) / (ends[1] - ends[0]), 1)

    return {
        "width": width, "height": height, "left": left, "right": right, "bottom": bottom,
        "middle": ((left + right) / 2, (top + bottom) / 2), "random": y(curve["random"]),
        "rules": [{"y": y(tick), "text": f"{tick:.4g}"} for tick in ticks],
        "ticks": [{"x": x(at / 4), "text": f"{25 * at} %"} for at in (1, 2, 3, 4)],
        "points": [
            {"x": x(share), "y": y(loss), "case": case, "share": share, "loss": loss}
            for share, loss, case in zip(
                curve["kept"], curve["loss"], curve["cases"], strict=True
            )
        ],
    }  # fmt: skip


def bland_altman(
    panels: Sequence[VolumePanel], groups: Mapping[str, str], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A small chart for each arm of one region: predicted minus label's volume against their mean.

    All have the same axes, so that arms compare; ``groups`` and ``labels`` are by arm.
    """
    width, height, left, top = 250, 206, 50, 24
    right, bottom = width - 10, height - 38
    lines = [[p.bias, p.low, p.high] for p in panels]
    ups = [up for p in panels for _, up in p.points.values()]
    ups += [line for each in lines for line in each if line is not None]
    x_ticks = _ticks(0.0, max([at for p in panels for at, _ in p.points.values()]) or 1.0)[::2]
    lowest, highest = min(0.0, *ups), max(0.0, *ups)
    y_ticks = _ticks(lowest, highest if highest > lowest else 1.0)
    ends = max(x_ticks[-1], *(at for p in panels for at, _ in p.points.values()))

    def x(value: float) -> float:
        return round(left + (right - left) * value / ends, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]), 1)

    return [
        {
            "width": width, "height": height, "left": left, "right": right, "bottom": bottom,
            "middle": ((left + right) / 2, (top + bottom) / 2), "about": panel,
            "group": groups[panel.arm], "label": labels[panel.arm], "bias": y(panel.bias),
            "limits": [y(end) for end in (panel.low, panel.high) if end is not None],
            "rules": [{"y": y(tick), "text": f"{tick:.4g}"} for tick in y_ticks],
            "ticks": [{"x": x(tick), "text": f"{tick:.4g}"} for tick in x_ticks],
            "points": [
                {"case": case, "x": x(at), "y": y(up), "mean": at, "difference": up}
                for case, (at, up) in panel.points.items()
            ],
        }
        for panel in panels
    ]  # fmt: skip


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that cover ``low`` to ``high``, four to eight of them."""
    span = max(high - low, 1e-6)
    size = 10 ** math.floor(math.log10(span / 4))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if span / (size * m) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(np.round(step * i, 10)) for i in range(first, last + 1)]
