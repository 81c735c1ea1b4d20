"""The report's charts as inline SVG: intervals, paired cases, error against benefit.

Colours come from the page's style sheet by class (``g-synthesis`` and so on), so that they
follow light, dark and print; shapes and labels say the same without colour.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from seg_eval.report.pictures import Point

MARKERS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Column:
    """One arm of a chart of paired cases.

    Attributes:
        arm: Its name.
        label: Short, for the axis.
        group: Chooses the colour.
        values: Per case.
        mean: Marked by a bar.
        low: Of the mean's interval, or None.
        high: Of the mean's interval, or None.
    """

    arm: str
    label: str
    group: str
    values: Mapping[str, float]
    mean: float
    low: float | None = None
    high: float | None = None


def interval_mark(
    value: float | None,
    low: float | None,
    high: float | None,
    group: str,
    floor: float = 0.0,
    ceiling: float = 1.0,
    ticks: Sequence[float] = (),
) -> Markup:
    """A bar from 0 (or ``floor``) to ``value`` with its interval, 120 x 16; empty for None.

    An end outside the axis, or unbounded (None), runs to the edge with an arrow.
    """
    if value is None:
        return Markup("")
    span = ceiling - floor

    def x(at: float) -> float:
        return round(4 + 112 * (min(max(at, floor), ceiling) - floor) / span, 1)

    zero, end = x(max(floor, 0.0)), x(value)
    parts = [f'<line class="tick" x1="{x(t)}" x2="{x(t)}" y1="0" y2="16"/>' for t in ticks]
    parts.append(
        f'<rect class="bar g-{escape(group)}" x="{min(zero, end)}" y="4" '
        f'width="{round(abs(end - zero), 1)}" height="8"/>'
    )
    left, right = (floor if low is None else low), (ceiling if high is None else high)
    if left < right or low is None or high is None:
        parts.append(f'<line class="whisker" x1="{x(left)}" x2="{x(right)}" y1="8" y2="8"/>')
    if low is None or low < floor:
        parts.append('<path class="arrow" d="M6 4l-5 4 5 4z"/>')
    if high is None or high > ceiling:
        parts.append('<path class="arrow" d="M114 4l5 4-5 4z"/>')
    return Markup(
        f'<svg class="mark" viewBox="0 0 120 16" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def paired_dots(columns: Sequence[Column], title: str) -> Markup:
    """One line per case through its value in every arm, with the means; "" without arms."""
    if not columns:
        return Markup("")
    step, left, top, height = 78, 46, 14, 230
    width = left + step * len(columns) + 12
    values = [v for column in columns for v in column.values.values()]
    ticks = _ticks(min([0.9, *values]), 1.0)
    low = ticks[0]

    def y(value: float) -> float:
        return round(top + height * (1 - (value - low) / (1 - low)), 1)

    def x(number: int) -> float:
        return left + step * (number + 0.5)

    parts = [_rule(left, width - 12, y(t), _short(t)) for t in ticks]
    for number, column in enumerate(columns):
        parts.append(_mean(x(number), y, column))
        parts.append(
            f'<text class="label" transform="translate({x(number) + 6} {top + height + 16}) '
            f'rotate(-32)">{escape(column.label)}<title>{escape(column.arm)}</title></text>'
        )
    cases = sorted({case for column in columns for case in column.values})
    faint = 0.75 if len(cases) <= 12 else 0.45 if len(cases) <= 60 else 0.2
    for case in cases:
        parts.append(_case_line(case, columns, x, y))
    spoken = "; ".join(f"{column.arm} mean {column.mean:.3f}" for column in columns)
    return Markup(
        f'<svg class="chart paired" viewBox="0 0 {width} {top + height + 84}" '
        f'style="min-width:{round(0.72 * width)}px;max-width:{round(1.25 * width)}px;'
        f'--faint:{faint}" role="img" '
        f'aria-label="{escape(f"{title}: {spoken}")}">'
        f"{''.join(parts)}</svg>"
    )


def _mean(x: float, y, column: Column) -> str:
    text = f"{column.arm}: mean {column.mean:.3f}"
    whisker = ""
    if column.low is not None and column.high is not None:
        text += f", 95 % interval {column.low:.3f} to {column.high:.3f}"
        whisker = f'<rect x="{x - 13}" width="26" y="{y(column.high)}" ' + (
            f'height="{max(round(y(column.low) - y(column.high), 1), 1)}" class="band"/>'
        )
    return (
        f'<g class="mean g-{escape(column.group)}">{whisker}'
        f'<line x1="{x - 19}" x2="{x + 19}" y1="{y(column.mean)}" y2="{y(column.mean)}"/>'
        f"<title>{escape(text)}</title></g>"
    )


def _case_line(case: str, columns: Sequence[Column], x, y) -> str:
    places = [
        (x(number), y(column.values[case]), column)
        for number, column in enumerate(columns)
        if case in column.values
    ]
    path = "L".join(f"{px} {py}" for px, py, _ in places)
    dots = "".join(
        f'<circle class="g-{escape(column.group)}" cx="{px}" cy="{py}" r="3">'
        f"<title>{escape(case)}, {escape(column.arm)}: {column.values[case]:.3f}</title></circle>"
        for px, py, column in places
    )
    title = f"<title>{escape(case)}</title>"
    return f'<g class="case" data-case="{escape(case)}"><path d="M{path}"/>{dots}{title}</g>'


def scatter(
    points: Sequence[Point], groups: Mapping[str, str], title: str, axes: tuple[str, str]
) -> Markup:
    """Error against loss, one shape per arm; "" without points."""
    if not points:
        return Markup("")
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

    parts = [_rule(left, right, y(t), _short(t), zero=t == 0) for t in y_ticks]
    parts += [
        f'<text class="tick-x" x="{x(t)}" y="{bottom + 16}">{_short(t)}</text>' for t in x_ticks
    ]
    arms = list(dict.fromkeys(point.arm for point in points))
    for point in points:
        shape = marker(MARKERS[arms.index(point.arm) % len(MARKERS)], x(point.error),
                       y(point.loss))  # fmt: skip
        text = f"{point.case}, {point.arm}: error {point.error:.4f}, Dice lost {point.loss:+.3f}"
        parts.append(
            f'<g class="case dot g-{escape(groups.get(point.arm, "check"))}" '
            f'data-case="{escape(point.case)}">{shape}'
            f"<title>{escape(text)}</title></g>"
        )
    return Markup(
        f'<svg class="chart scatter" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}'
        f'<text class="axis-x" x="{(left + right) / 2}" y="{height - 8}">{escape(axes[0])}</text>'
        f'<text class="axis-y" transform="translate(14 {(top + bottom) / 2}) rotate(-90)">'
        f"{escape(axes[1])}</text></svg>"
    )


def marker(shape: str, x: float, y: float, r: float = 4.5) -> str:
    """An SVG shape of :data:`MARKERS` around (x, y)."""
    if shape == "circle":
        return f'<circle cx="{x}" cy="{y}" r="{r}"/>'
    paths = {
        "square": f"M{x - r} {y - r}h{2 * r}v{2 * r}h{-2 * r}z",
        "triangle": f"M{x} {y - 1.2 * r}l{1.2 * r} {2.1 * r}h{-2.4 * r}z",
        "diamond": f"M{x} {y - 1.4 * r}l{1.2 * r} {1.4 * r}l{-1.2 * r} {1.4 * r}"
        f"l{-1.2 * r} {-1.4 * r}z",
    }
    return f'<path d="{paths[shape]}"/>'


def legend_mark(number: int, group: str) -> Markup:
    """The marker of the scatter's arm ``number``."""
    shape = marker(MARKERS[number % len(MARKERS)], 7, 7)
    return Markup(
        f'<svg class="key" viewBox="0 0 14 14" aria-hidden="true"><g class="case dot '
        f'g-{escape(group)}">{shape}</g></svg>'
    )


def _rule(left: float, right: float, y: float, text: str, zero: bool = False) -> str:
    return (
        f'<line class="rule{" zero" if zero else ""}" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
        f'<text class="tick-y" x="{left - 7}" y="{y + 3.5}">{escape(text)}</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that cover ``low`` to ``high``, four to eight of them."""
    span = max(high - low, 1e-6)
    size = 10 ** math.floor(math.log10(span / 4))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if span / (size * m) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(np.round(step * i, 10)) for i in range(first, last + 1)]


def _short(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") if value else "0"
