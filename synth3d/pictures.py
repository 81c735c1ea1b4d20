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
    title: str,
    path: Path,
) -> None:
    """Three planes × (inputs, synthetic, real, |error|) of one case.

    Args:
        panels: Name → volume (D, H, W) in the network's scale, in the order to be shown.
        error: |synthetic − real|, same grid.
        brain: Bool, to crop to.
        tumour: Bool or None; its outline is drawn on every panel.
        title: Above the sheet.
        path: The PNG to write.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    mask = tumour if tumour is not None and tumour.any() else brain
    centre = [int(round(float(c.mean()))) for c in np.nonzero(mask)] if mask.any() else [0, 0, 0]
    names = [*panels, "|error|"]
    size = (1.9 * len(names), 6.2)
    figure, axes = plt.subplots(3, len(names), figsize=size, squeeze=False, constrained_layout=True)
    figure.suptitle(title, fontsize=10)
    for row, plane in enumerate(("axial", "coronal", "sagittal")):
        for axis, name in zip(axes[row], names, strict=True):
            volume = error if name == "|error|" else panels[name]
            colours = (
                {"cmap": "magma", "vmax": 0.4}
                if name == "|error|"
                else {"cmap": "gray", "vmax": 1.15}
            )
            axis.imshow(_cut(volume, centre, row), vmin=0, origin="lower", **colours)
            if tumour is not None and tumour.any():
                axis.contour(_cut(tumour, centre, row), [0.5], colors=ORANGE, linewidths=0.7)
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(name, fontsize=9)
        axes[row][0].set_ylabel(plane, fontsize=9)
    _save(figure, path)


def _cut(volume: np.ndarray, centre: Sequence[int], row: int) -> np.ndarray:
    """One plane of (D, H, W): axial (y, x), coronal (z, x) or sagittal (z, y)."""
    return volume.take(centre[row], axis=row)
