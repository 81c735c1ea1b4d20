"""Pictures to be looked at: curves of a run, contact sheet and preview of a case, scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from synth3d.files import atomic_path

INK, BLUE, ORANGE, GREEN = "#222222", "#0072B2", "#D55E00", "#009E73"
COLOURS = (INK, BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")
MARKS, DASHES = "osD^vP*X", ("-", "--", ":", "-.")
"""Of series, in turn, as are the 7 colours: 56 differ in one of both, 28 as lines alone."""


def _pyplot() -> Any:
    """matplotlib's pyplot, drawing to files; imported only where something is drawn.

    Names of cases and runs stand in pictures as they are: ``$`` begins no formula.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["text.parse_math"] = False
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, bbox_inches="tight")
    _pyplot().close(figure)


def draw_curves(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Losses against steps, then validation PSNR and SSIM, each by its own scale."""
    plt = _pyplot()
    figure, (left, *right) = plt.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    losses = [line for line in log if "loss" in line]
    names = sorted({name for line in losses for name in line["loss"]})
    for name, colour, dash in zip(names, cycle(COLOURS), cycle(DASHES), strict=False):
        rows = [(line["step"], line["loss"][name]) for line in losses if name in line["loss"]]
        left.plot(*zip(*rows, strict=True), dash, label=name, color=colour, lw=1.2)
    left.set(title="training loss (weighted terms)", xlabel="step", yscale="log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(plt.LogFormatter(minor_thresholds=(1, 0.4)))
    if names:
        left.legend(frameon=False)
    checks = [line for line in log if "validation" in line]
    steps = [line["step"] for line in checks]
    for axis, name, unit in zip(right, ("psnr", "ssim"), (" (dB)", ""), strict=True):
        axis.plot(steps, [each["validation"][name] for each in checks], "o-", color=BLUE, ms=4)
        axis.set(title=f"validation: {name.upper()} in the brain{unit}", xlabel="step")
    for axis in (left, *right):
        axis.grid(alpha=0.25)
    _save(figure, path)


def draw_contact_sheet(
    panels: Mapping[str, np.ndarray],
    error: np.ndarray,
    brain: np.ndarray,
    tumour: np.ndarray | None,
    affine: np.ndarray,
    title: str,
    path: Path,
) -> None:
    """Three planes × (inputs, synthetic, real, |error|) of one case, as radiologists hang them.

    ``panels`` are names → volumes (D, H, W) in the network's scale, in the order to be shown. They
    are cropped to ``brain`` and cut through the centre of the ``tumour``, whose outline is drawn.
    ``affine``, voxel (x, y, z) → mm, says which way is up.
    """
    plt = _pyplot()
    outlined = tumour if tumour is not None and tumour.any() else None
    box = box_of(brain)
    # Flips that put superior and anterior up and the patient's right on the left.
    flips = affine[2, 2] < 0, affine[1, 1] < 0, affine[0, 0] > 0
    turn = tuple(slice(None, None, -1 if flip else None) for flip in flips)
    mask = (outlined if outlined is not None else brain)[box][turn]
    centre = [int(round(float(c.mean()))) for c in np.nonzero(mask)] if mask.any() else [0, 0, 0]
    shown = {**panels, "|error|": error}
    size = (1.9 * len(shown), 6.4)
    figure, axes = plt.subplots(3, len(shown), figsize=size, squeeze=False, constrained_layout=True)
    figure.suptitle(title, fontsize=10)
    for column, (name, volume) in zip(axes.T, shown.items(), strict=True):
        column[0].set_title(name, fontsize=9)
        cmap, most = ("magma", 0.4) if name == "|error|" else ("gray", 1.15)
        for row, axis in enumerate(column):
            cut = volume[box][turn].take(centre[row], axis=row)
            axis.imshow(cut, cmap, vmin=0, vmax=most, origin="lower")
            if outlined is not None:
                outline = mask.take(centre[row], axis=row)
                axis.contour(outline, [0.5], colors=ORANGE, linewidths=0.7)
            axis.set(xticks=[], yticks=[])
    for axis, plane in zip(axes[:, 0], ("axial", "coronal", "sagittal"), strict=True):
        axis.set_ylabel(plane, fontsize=9)
    _save(figure, path)


MADE = "#E69F00"
"""Of what was not acquired, on black."""
AT_LEFT = {"axial": "R", "coronal": "R", "sagittal": "A"}
"""What of the patient is at the left of a picture that hangs as radiologists hang it."""


@dataclass(frozen=True, eq=False)
class Panel:
    """A column of a preview: one volume, cut once in each plane.

    Attributes:
        title: What it shows.
        kind: Below the title; of what was made it stands in every picture, too.
        slices: One for each plane, (rows, columns), the first row on top.
        limits: Intensities that are black and white.
        made: Whether it is no acquired picture, and has to be marked.
        overlay: Slices of a map over it, 0 unseen and 1 brightest.
    """

    title: str
    kind: str
    slices: Sequence[np.ndarray]
    limits: tuple[float, float]
    made: bool = False
    overlay: Sequence[np.ndarray] | None = None


def draw_preview(
    panels: Sequence[Panel],
    edges_mm: Mapping[str, tuple[float, float]],
    title: str,
    note: str,
    path: Path,
) -> None:
    """A case to be looked at: planes downwards, panels across, all at one scale in millimetres.

    ``edges_mm`` are planes of ``AT_LEFT`` → edges of a pixel, rows and columns, in mm; ``title``
    stands above, ``note`` below. Draws in any thread.
    """
    from matplotlib.figure import Figure

    sizes = [
        (rows * edge[0], columns * edge[1])
        for (rows, columns), edge in zip(
            (each.shape for each in panels[0].slices), edges_mm.values(), strict=True
        )
    ]
    cell, left, top, bottom, gap = 1.75, 0.3, 0.85, 0.3, 0.05
    inches = cell / max(width for _, width in sizes)
    width = max(left + len(panels) * (cell + gap), 4.8)
    height = top + sum(rows * inches + gap for rows, _ in sizes) + bottom
    figure = Figure(figsize=(width, height), facecolor="black")
    line = {"color": "white", "va": "center", "parse_math": False}
    figure.text(left / width, 1 - 0.2 / height, title, fontsize=11, **line)
    figure.text(left / width, 0.15 / height, note, fontsize=8, **line)
    for number, panel in enumerate(panels):
        x, y = left + number * (cell + gap), height - top
        about: Any = line | {"ha": "center", "color": MADE if panel.made else "white"}
        middle = (x + cell / 2) / width
        figure.text(middle, 1 - 0.5 / height, panel.title, fontsize=9, **about)
        figure.text(middle, 1 - 0.7 / height, panel.kind, fontsize=8, **about)
        for plane, (name, (rows, columns)) in enumerate(zip(edges_mm, sizes, strict=True)):
            y -= rows * inches
            place = x + (cell - columns * inches) / 2, y, columns * inches, rows * inches
            box = [value / (width, height)[i % 2] for i, value in enumerate(place)]
            axis = figure.add_axes((box[0], box[1], box[2], box[3]))
            _show_panel(axis, panel, plane)
            if not number:
                at = (y + rows * inches / 2) / height
                figure.text(0.12 / width, at, name, fontsize=8, rotation=90, ha="center", **line)
                axis.text(0.01, 0.5, AT_LEFT[name], fontsize=8, transform=axis.transAxes, **line)
            y -= gap
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Description": note})


def _show_panel(axis: Any, panel: Panel, plane: int) -> None:
    """One picture, its map and, if it was made, its mark."""
    low, high = panel.limits
    axis.imshow(panel.slices[plane], "gray", vmin=low, vmax=high, aspect="auto")
    if panel.overlay is not None:
        shown = np.clip(panel.overlay[plane], 0, 1)
        axis.imshow(shown, "inferno", vmin=0, vmax=1, alpha=0.85 * np.sqrt(shown), aspect="auto")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color(MADE if panel.made else "black")
    if panel.made:
        how = {"color": MADE, "fontsize": 7, "ha": "right", "va": "bottom"}
        axis.text(0.98, 0.02, "synthetic", transform=axis.transAxes, **how)


def draw_scores(panels: Mapping[str, Sequence[tuple[str, Any, Any, Any]]], path: Path) -> None:
    """A dot per case for each score, and its mean with the 95 % interval; one panel per kind.

    ``panels`` are titles → columns: label, values of the cases, values with the tumour blanked (NaN
    where there is none), and a summary with ``mean``, ``low`` and ``high``.
    """
    plt = _pyplot()
    widths = [1.2 + 0.55 * len(columns) for columns in panels.values()]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(sum(widths) + 0.6, 4.4), squeeze=False, constrained_layout=True,
        width_ratios=widths,
    )  # fmt: skip
    for axis, (title, columns) in zip(axes[0], panels.items(), strict=True):
        for at, (_, values, blanked, summary) in enumerate(columns):
            spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
            axis.plot(at - 0.18 + spread, _drawn(values), "o", color=BLUE, ms=3.5, alpha=0.7, mew=0)
            axis.plot(at + 0.2 + spread, _drawn(blanked), "o", mec=ORANGE, mfc="none", ms=3.5)
            if summary.low is not None:
                axis.plot([at - 0.18] * 2, [summary.low, summary.high], color=INK, lw=1.6)
                axis.plot(at - 0.18, summary.mean, "_", color=INK, ms=11, mew=1.6)
        axis.set_title(title, fontsize=10)
        labels = [label.replace("@", "\n") for label, *_ in columns]
        axis.set_xticks(range(len(columns)), labels, rotation=90, fontsize=8)
        axis.set_xlim(-0.6, len(columns) - 0.4)
        axis.grid(axis="y", alpha=0.25)
    dots = [plt.Line2D([], [], ls="", marker="o", color=BLUE, ms=4),
            plt.Line2D([], [], ls="", marker="o", mec=ORANGE, mfc="none", ms=4)]  # fmt: skip
    figure.legend(
        dots, ["a case; bar: mean, 95 % interval", "its tumour blanked"],
        loc="outside upper center", ncols=2, frameon=False, fontsize=9,
    )  # fmt: skip
    _save(figure, path)


def draw_levels(
    lines: Mapping[str, Mapping[str, Sequence[Any]]], axis: str, score: str, title: str, path: Path
) -> None:
    """A score against how far something is off: levels on the left, differences on the right.

    ``lines`` are series → ``level``, ``mean`` and ``sd`` over seeds (the band), and ``difference``:
    None, or ``mean``, ``low`` and ``high`` of cell minus baseline (the band on the right). ``axis``
    labels the levels, with their unit.
    """
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    figure.suptitle(title, fontsize=11)
    for (name, line), colour, mark in zip(
        lines.items(), cycle(COLOURS), cycle(MARKS), strict=False
    ):
        x, mean, sd = (np.asarray(line[key], float) for key in ("level", "mean", "sd"))
        left.plot(x, mean, f"{mark}-", color=colour, label=name, ms=4.5, lw=1.4)
        left.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.15, lw=0)
        gaps = [(at, gap) for at, gap in zip(x, line["difference"], strict=True) if gap]
        if gaps:
            at = [level for level, _ in gaps]
            low, middle, high = ([gap[key] for _, gap in gaps] for key in ("low", "mean", "high"))
            right.plot(at, middle, f"{mark}-", color=colour, label=name, ms=4.5, lw=1.4)
            right.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
    right.axhline(0, color=INK, lw=0.8)
    left.set(xlabel=axis, ylabel=score)
    left.set_title("mean over cases; band: ± sd over seeds", fontsize=9)
    right.set(xlabel=axis, ylabel="difference to the baseline")
    right.set_title("paired difference; band: 95 % interval", fontsize=9)
    for panel in (left, right):
        panel.grid(alpha=0.25)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False, fontsize=9)
    _save(figure, path)


def draw_routing(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """One panel for each of offsets, scale and gate: convolutions downwards, groups across.

    ``rows`` have ``place``, ``group``, and what of ``offset_z``, ``offset_y``, ``offset_x`` (taps),
    ``scale`` and ``gate`` there is.
    """
    plt = _pyplot()
    kinds = ("offset_z", "offset_y", "offset_x", "scale", "gate")
    names = [name for name in kinds if any(row.get(name) is not None for row in rows)]
    places = list(dict.fromkeys(row["place"] for row in rows))
    groups = 1 + max(row["group"] for row in rows)
    size = 0.8 + (0.6 + 0.28 * groups) * len(names), 1.4 + 0.3 * len(places)
    figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, constrained_layout=True)
    figure.suptitle(title, fontsize=10)
    for axis, name in zip(axes[0], names, strict=True):
        table = np.full((len(places), groups), np.nan)
        for row in rows:
            value = row.get(name)
            table[places.index(row["place"]), row["group"]] = np.nan if value is None else value
        rolled = name.startswith("offset")
        most = max(float(np.nanmax(np.abs(table))), 1e-6) if rolled else 1.0
        how = {"cmap": "RdBu_r" if rolled else "viridis", "vmin": -most if rolled else 0.0}
        picture = axis.imshow(table, vmax=most, aspect="auto", **how)
        figure.colorbar(picture, ax=axis, location="bottom", shrink=0.9)
        unit = " (taps)" if rolled else ""
        axis.set_title(name.replace("_", " ") + unit, fontsize=9)
        axis.set_xticks(range(groups), map(str, range(groups)), fontsize=7)
        axis.set_yticks(range(len(places)), places if axis is axes[0][0] else [], fontsize=8)
    _save(figure, path)


def draw_contributions(
    bars: Sequence[tuple[str, tuple[str, ...], Sequence[float], Sequence[float | None]]],
    title: str,
    path: Path,
) -> None:
    """For each target its sets of sources downwards: weights as bars, and what each is worth.

    ``bars`` are a target, the sources that are there, the weight of each (their sum is 1), and by
    how many dB the PSNR falls without it, None where that is not known.
    """
    plt = _pyplot()
    targets = list(dict.fromkeys(target for target, *_ in bars))
    names = list(dict.fromkeys(name for _, sources, *_ in bars for name in sources))
    colours = dict(zip(names, cycle(COLOURS[1:]), strict=False))
    most = max(sum(target == bar[0] for bar in bars) for target in targets)
    figure, axes = plt.subplots(
        len(targets), 2, figsize=(9, 0.9 + len(targets) * (0.7 + 0.24 * most)), squeeze=False,
        constrained_layout=True, sharex="col", sharey="row",
    )  # fmt: skip
    figure.suptitle(title, fontsize=10)
    for (left, right), target in zip(axes, targets, strict=True):
        rows = [bar[1:] for bar in bars if bar[0] == target]
        for y, (sources, weights, losses) in enumerate(rows):
            start = 0.0
            for at, (name, weight, loss) in enumerate(zip(sources, weights, losses, strict=True)):
                left.barh(y, weight, left=start, color=colours[name], height=0.7)
                start += weight
                if loss is not None:
                    thick = 0.7 / len(sources)
                    place = y - 0.35 + (at + 0.5) * thick
                    right.barh(place, loss, color=colours[name], height=0.9 * thick)
        left.set_yticks(range(len(rows)), ["+".join(row[0]) for row in rows], fontsize=7)
        left.set_title(f"{target}: weight ω of each source", fontsize=9)
        right.set_title("PSNR lost without it (dB)", fontsize=9)
        left.invert_yaxis()
        right.axvline(0, color=INK, lw=0.8)
        right.grid(axis="x", alpha=0.25)
    patches = [plt.Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
    figure.legend(patches, names, loc="outside lower center", ncols=len(names), frameon=False)
    _save(figure, path)


def _drawn(values: Sequence[float]) -> np.ndarray:
    """What can be drawn: infinite values become NaN."""
    return np.where(np.isfinite(values), values, np.nan)


def box_of(brain: np.ndarray, margin: int = 2) -> tuple[slice, ...]:
    """What is to be shown along (z, y, x): the brain with a margin, or all where there is none."""
    where = np.argwhere(brain if brain.any() else np.ones_like(brain))
    low, high = where.min(0) - margin, where.max(0) + 1 + margin
    return tuple(slice(max(0, a), b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
