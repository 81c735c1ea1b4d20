"""Pictures of a run, to be looked at: loss and validation curves, contact sheet of a case."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synth3d.files import atomic_path

INK, BLUE, ORANGE, GREEN = "#222222", "#0072B2", "#D55E00", "#009E73"


def _save(figure: Any, path: Path, dpi: int = 110) -> None:
    import matplotlib.pyplot as plt

    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight")
    plt.close(figure)


def draw_curves(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Losses against steps on the left, validation PSNR and SSIM on the right."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), constrained_layout=True)
    losses = [line for line in log if "loss" in line]
    names = sorted({name for line in losses for name in line["loss"]})
    for name, colour in zip(names, [ORANGE, GREEN, BLUE, INK], strict=False):
        rows = [(line["step"], line["loss"][name]) for line in losses if name in line["loss"]]
        left.plot(*zip(*rows, strict=True), label=name, color=colour, lw=1.2)
    left.set(title="training loss (weighted terms)", xlabel="step", yscale="log")
    if names:
        left.legend(frameon=False)
    checks = [line for line in log if "validation" in line]
    if checks:
        steps = [line["step"] for line in checks]
        psnr = [line["validation"]["psnr"] for line in checks]
        ssim = [line["validation"]["ssim"] for line in checks]
        right.plot(steps, psnr, "o-", color=BLUE, ms=4)
        right.set_ylabel("PSNR in the brain (dB)", color=BLUE)
        other = right.twinx()
        other.plot(steps, ssim, "s--", color=ORANGE, ms=4)
        other.set_ylabel("SSIM in the brain", color=ORANGE)
    right.set(title="validation, whole volumes", xlabel="step")
    for axis in (left, right):
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

    Args:
        panels: Name → volume (D, H, W) in the network's scale, in the order to be shown.
        error: |synthetic − real|, same grid.
        brain: Bool, to crop to.
        tumour: Bool or None; its outline is drawn on every panel, through its centre.
        affine: Voxel (x, y, z) → mm, for which way is up.
        title: Above the sheet.
        path: The PNG to write.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    outlined = tumour if tumour is not None and tumour.any() else None
    box = tuple(slice(*span) for span in _spans(brain))
    turn = tuple(_turns(affine))
    mask = (outlined if outlined is not None else brain)[box][turn]
    centre = [int(round(float(c.mean()))) for c in np.nonzero(mask)] if mask.any() else [0, 0, 0]
    shown = {**panels, "|error|": error}
    size = (1.9 * len(shown), 6.4)
    figure, axes = plt.subplots(3, len(shown), figsize=size, squeeze=False, constrained_layout=True)
    figure.suptitle(title, fontsize=10)
    for column, (name, volume) in zip(axes.T, shown.items(), strict=True):
        column[0].set_title(name, fontsize=9)
        looks = (
            {"cmap": "magma", "vmax": 0.4} if name == "|error|" else {"cmap": "gray", "vmax": 1.15}
        )
        for row, axis in enumerate(column):
            cut = volume[box][turn].take(centre[row], axis=row)
            axis.imshow(cut, vmin=0, origin="lower", **looks)
            if outlined is not None:
                outline = mask.take(centre[row], axis=row)
                axis.contour(outline, [0.5], colors=ORANGE, linewidths=0.7)
            axis.set(xticks=[], yticks=[])
    for axis, plane in zip(axes[:, 0], ("axial", "coronal", "sagittal"), strict=True):
        axis.set_ylabel(plane, fontsize=9)
    _save(figure, path)


def draw_scores(panels: Mapping[str, Sequence[tuple[str, Any, Any, Any]]], path: Path) -> None:
    """A dot per case for each score, and its mean with the 95 % interval; one panel per kind.

    Args:
        panels: Title to columns: label, values of the cases, values with the tumour blanked (NaN
            where there is none), and a summary with ``mean``, ``low`` and ``high``.
        path: The PNG to write.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

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
    dots = [Line2D([], [], ls="", marker="o", color=BLUE, ms=4),
            Line2D([], [], ls="", marker="o", mec=ORANGE, mfc="none", ms=4)]  # fmt: skip
    figure.legend(
        dots, ["a case; bar: mean, 95 % interval", "its tumour blanked"],
        loc="outside upper center", ncols=2, frameon=False, fontsize=9,
    )  # fmt: skip
    _save(figure, path)


def draw_levels(
    lines: Mapping[str, Mapping[str, Sequence[Any]]], axis: str, score: str, title: str, path: Path
) -> None:
    """A score against how far something is off: levels on the left, differences on the right.

    Args:
        lines: Series to ``level``, ``mean`` and ``sd`` over seeds (the band), and ``difference``:
            None, or ``mean``, ``low`` and ``high`` of cell minus baseline (the band on the right).
        axis: Label of the levels, with their unit.
        score: Label of the score.
        title: Above both.
        path: The PNG to write.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    figure.suptitle(title, fontsize=11)
    styles = zip((INK, BLUE, ORANGE, GREEN), "osD^", strict=True)
    for (name, line), (colour, mark) in zip(lines.items(), styles, strict=False):
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


def _drawn(values: Sequence[float]) -> np.ndarray:
    """What can be drawn: infinite values become NaN."""
    known = np.asarray(values, float)
    return np.where(np.isfinite(known), known, np.nan)


def _spans(brain: np.ndarray, margin: int = 2) -> list[tuple[int, int]]:
    """First and last + 1 along (z, y, x) of what is to be shown."""
    if not brain.any():
        return [(0, n) for n in brain.shape]
    where = np.nonzero(brain)
    ends = zip(where, brain.shape, strict=True)
    return [(max(0, int(w.min()) - margin), min(n, int(w.max()) + 1 + margin)) for w, n in ends]


def _turns(affine: np.ndarray) -> list[slice]:
    """Flips of (z, y, x) that put superior and anterior up and the patient's right on the left."""
    x, y, z = (float(affine[i, i]) for i in range(3))
    return [slice(None, None, -1 if flip else None) for flip in (z < 0, y < 0, x > 0)]
