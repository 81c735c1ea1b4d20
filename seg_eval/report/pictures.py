"""Pictures of an experiment: Dice by arm with every case as a dot, and one case in slices.

One palette for these and for the page: a colour for each group of arms, after Okabe and Ito, whom
colour-blind readers can tell apart, and bright ones for regions, on brains alone. Every bar, line
and shape is labelled as well.
"""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seg_eval.arms import Arm
from seg_eval.report.agreement import VolumePanel
from seg_eval.report.slices import BRIGHTEST, ERROR_COLOURS, LARGEST_ERROR
from seg_eval.report.volumes import ArmVolumes, CaseVolumes
from seg_eval.scoring import Score, bounding_box
from synth3d.files import atomic_path
from synth3d.runs import is_coined, without_hash

INK, PALE = "#222222", "#BBBBBB"
GROUP_COLOURS = {
    "reference": ("#5b6470", "#b4bcc6"),
    "naive": ("#a86f00", "#e6b450"),
    "voxel-wise": ("#00805d", "#3fc79c"),
    "synthesis": ("#0067a5", "#5fb4ee"),
    "rival": ("#a34d83", "#dd94c0"),
    "check": ("#808893", "#8b94a0"),
}
"""Of each group of arms: on light paper, and on dark."""
REGION_COLOURS = {"WT": "#F0E442", "TC": "#FF8C42", "ET": "#FF5CA8"}
"""Of outlines on a brain: yellow, orange and pink, apart from every group's."""
EXPERT_COLOUR = "#6cc4ff"
"""Of what the expert outlined, dashed, beside what a segmenter did."""


def short_name(arm: str, length: int = 22) -> str:
    """``arm`` in at most ``length`` characters.

    A run's own name, ``t2f-agi-net-phantom-0a8641bf``, loses target and hash:
    ``agi-net-phantom``. What is still too long loses its middle.
    """
    arm = without_hash(arm)
    half = (length - 1) // 2
    return arm if len(arm) <= length else f"{arm[:half]}…{arm[-half:]}"


def labels_of(arms: Sequence[Arm]) -> dict[str, str]:
    """A short name for each arm, by its name and unlike every other.

    What somebody has named is called so. A run that nobody has is called by its kind if it is the
    only synthetic arm, else by how it was made; those alike are numbered.
    """
    synthetic = [arm for arm in arms if arm.about.is_synthesis]
    labels = {arm.name: short_name(arm.name) for arm in arms}
    for arm in synthetic:
        if _is_unnamed(arm.name):
            how = (arm.source and arm.source.how) or labels[arm.name]
            labels[arm.name] = arm.kind if len(synthetic) == 1 else how
    times, taken = Counter(labels.values()), {*labels.values()}
    for name, label in labels.items():
        if times[label] > 1 and label != name:
            numbered = (f"{label} ({number})" for number in itertools.count(1))
            labels[name] = next(each for each in numbered if each not in taken)
            taken.add(labels[name])
    return labels


def _is_unnamed(arm: str) -> bool:
    """Whether the program named the run, or all those of a mean, ``A+B@xyz``."""
    return all(is_coined(run) for run in arm.partition("@")[0].split("+"))


def dice_by_case(scores: Sequence[Score], arm: str, region: str | None = None) -> dict[str, float]:
    """Mean Dice of each case of an arm over the segmenter's seeds, and over regions for None."""
    found: dict[str, list[float]] = {}
    for row in scores:
        if row.arm == arm and region in (None, row.region):
            found.setdefault(row.case, []).append(row.dice)
    return {case: statistics.fmean(values) for case, values in sorted(found.items())}


@dataclass(frozen=True)
class Point:
    """One case of one arm in the scatter of error against benefit.

    Attributes:
        case: Its name.
        arm: Whose.
        error: ``mae_tumour@own-scale``, mean over the sequences that are missing.
        loss: Dice lost against the real sequence, mean over regions and seeds.
    """

    case: str
    arm: str
    error: float
    loss: float


def error_and_loss(
    scores: Sequence[Score], images: Sequence[Mapping[str, Any]], arms: Sequence[str]
) -> list[Point]:
    """A point for each case of each of ``arms`` that has an error and a Dice."""
    full = dice_by_case(scores, "full")
    own = {arm: dice_by_case(scores, arm) for arm in arms}
    errors: dict[tuple[str, str], list[float]] = {}
    for row in images:
        if (error := row["mae_tumour@own-scale"]) is not None:
            errors.setdefault((row["case"], row["arm"]), []).append(float(error))
    return [
        Point(case, arm, statistics.fmean(values), full[case] - own[arm][case])
        for (case, arm), values in errors.items()
        if case in full and case in own.get(arm, ())
    ]


def draw_scatter(
    points: Sequence[Point], groups: Mapping[str, str], title: str, path: Path
) -> None:
    """Error of the filled-in sequence in the tumour against the Dice lost, a shape per arm."""
    figure = _figure(6.4, 4.4)
    axes = figure.subplots()
    arms = list(dict.fromkeys(point.arm for point in points))
    for arm in arms:
        own = [point for point in points if point.arm == arm]
        axes.scatter(
            [point.error for point in own],
            [point.loss for point in own],
            marker="os^Dvp"[arms.index(arm) % 6],
            s=26,
            alpha=0.8,
            facecolor=GROUP_COLOURS[groups[arm]][0],
            edgecolor=INK,
            linewidth=0.5,
            label=short_name(arm),
        )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(
        xlabel="mean |error| inside the tumour (own scale)",
        ylabel="Dice lost against the real sequence",
    )
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    _save(figure, path, axes, title)


def draw_dice(
    scores: Sequence[Score],
    groups: Mapping[str, str],
    regions: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Bars of mean Dice by region and arm, with a dot for each case (its mean over seeds).

    ``groups`` has the arms in order, with the group of each.
    """
    arms = list(groups)
    figure = _figure(max(7.0, 0.55 * len(arms) * len(regions) + 2), 4.6)
    axes = figure.subplots()
    ticks: list[tuple[float, str]] = []
    for number, region in enumerate(regions):
        start = number * (len(arms) + 1.2)
        for place, arm in enumerate(arms):
            values = list(dice_by_case(scores, arm, region).values())
            x = start + place
            mean = float(np.mean(values))
            colour = GROUP_COLOURS[groups[arm]][0]
            axes.bar(x, mean, width=0.86, color=colour, edgecolor=INK, linewidth=0.5)
            spread = np.linspace(-0.26, 0.26, len(values)) if len(values) > 1 else [0.0]
            axes.plot(x + np.asarray(spread), values, "o", ms=3.2, mfc="white", mec=INK, mew=0.7)
            axes.text(x, 1.03, f"{mean:.2f}", ha="center", va="bottom", fontsize=7.5, color=INK)
            ticks.append((x, short_name(arm)))
        middle = start + (len(arms) - 1) / 2
        axes.text(middle, 1.12, region, ha="center", fontsize=11, weight="bold", color=INK)
    places, names = zip(*ticks, strict=True)
    axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set(ylim=(0, 1.2), ylabel="Dice", xlim=(min(places) - 0.8, max(places) + 0.8))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    _save(figure, path, axes, title)


def draw_volumes(
    panels: Sequence[VolumePanel], groups: Mapping[str, str], title: str, path: Path
) -> None:
    """Bland-Altman plots, a row per region and a column per arm; a row shares its axes.

    The line is the bias, dashed ones are the limits of agreement.
    """
    regions = list(dict.fromkeys(panel.region for panel in panels))
    arms = list(dict.fromkeys(panel.arm for panel in panels))
    colours = {arm: GROUP_COLOURS[groups[arm]][0] for arm in arms}
    largest = dict.fromkeys(regions, 0.0)
    for panel in panels:
        means = [mean for mean, _ in panel.points.values()]
        largest[panel.region] = max(largest[panel.region], *means)
    largest = {region: volume or 1.0 for region, volume in largest.items()}
    figure = _figure(1.75 * len(arms) + 1.0, 1.9 * len(regions) + 0.8)
    grid = figure.subplots(len(regions), len(arms), squeeze=False, sharex="row", sharey="row")
    for panel in panels:
        axes = grid[regions.index(panel.region), arms.index(panel.arm)]
        means, differences = zip(*panel.points.values(), strict=True)
        style = {"facecolor": colours[panel.arm], "edgecolor": INK, "linewidth": 0.5}
        axes.scatter(means, differences, s=18, alpha=0.85, **style)
        axes.axhline(0, color=PALE, linewidth=0.8, zorder=0)
        axes.axhline(panel.bias, color=INK, linewidth=1.1)
        for limit in (panel.low, panel.high):
            if limit is not None:
                axes.axhline(limit, color=INK, linewidth=0.9, linestyle="--")
        axes.set_xlim(-0.04 * largest[panel.region], 1.06 * largest[panel.region])
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for column, arm in enumerate(arms):
        grid[0, column].set_title(short_name(arm, 18), fontsize=8.5)
    for row, region in enumerate(regions):
        grid[row, 0].set_ylabel(region, fontsize=10, weight="bold")
    figure.supxlabel("mean of predicted and label's volume, mL", fontsize=9)
    figure.supylabel("predicted - label's, mL", fontsize=9)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


AS_IT_IS = "as it is"
"""The line of the floor: thick slices as they are, and at last a blank channel."""


@dataclass(frozen=True)
class CurvePoint:
    """Mean Dice of one region and line at one ratio, which may be infinite, with its interval.

    ``group`` is that of the line's arms.
    """

    region: str
    line: str
    group: str
    ratio: float
    dice: float
    low: float | None
    high: float | None


def draw_curve(points: Sequence[CurvePoint], title: str, path: Path) -> None:
    """Dice against ratio, one picture a region and one line an arm.

    Ratios stand at equal distances, the infinite one last; the floor begins at 1, where it is full.
    """
    regions = list(dict.fromkeys(point.region for point in points))
    ratios = [1.0, *sorted({point.ratio for point in points})]
    lines = list(dict.fromkeys(point.line for point in points if point.line != "full"))
    colours = {point.line: GROUP_COLOURS[point.group][0] for point in points}
    figure = _figure(max(7.0, 4.2 * len(regions)), 4.4)
    for axes, region in zip(
        figure.subplots(1, len(regions), squeeze=False)[0], regions, strict=True
    ):
        own = [point for point in points if point.region == region]
        ceiling = float(np.mean([point.dice for point in own if point.line == "full"]))
        own.append(CurvePoint(region, AS_IT_IS, "reference", 1.0, ceiling, None, None))
        axes.axhline(ceiling, color=INK, linewidth=0.8, linestyle="--", label="full")
        for number, line in enumerate(lines):
            there = sorted((p for p in own if p.line == line), key=lambda p: p.ratio)
            x = [ratios.index(p.ratio) + 0.025 * (number - len(lines) / 2) for p in there]
            ends = [
                [max(0.0, p.dice - (p.dice if p.low is None else p.low)) for p in there],
                [max(0.0, (p.dice if p.high is None else p.high) - p.dice) for p in there],
            ]
            dice, marker = [p.dice for p in there], "os^Dvp"[number % 6]
            style = {"color": colours[line], "marker": marker, "label": short_name(line)}
            axes.errorbar(x, dice, ends, markersize=4.5, linewidth=1.3, capsize=2, **style)
        names = ["∞" if math.isinf(ratio) else f"{ratio:g}" for ratio in ratios]
        axes.set_xticks(range(len(ratios)), names)
        axes.set(xlabel="times as long", ylabel="Dice", xlim=(-0.2, len(ratios) - 0.6))
        axes.set_title(region, fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": 5, "frameon": False, "fontsize": 8}
    figure.legend(handles, labels, **place)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def draw_panel(
    case: CaseVolumes,
    arms: Mapping[str, ArmVolumes],
    ratio: Sequence[int],
    title: str,
    path: Path,
) -> None:
    """One slice: the channel of each arm, its error, and what was segmented, beside the expert's.

    The slice is the one with most tumour. The real channel is called so and has no error.
    Radiological view: the patient's left is on the right. It is axial, or coronal where the thick
    slices that a ``ratio`` (z, y, x) of voxels makes would not show.
    """
    from matplotlib.colors import LinearSegmentedColormap

    real, truth = case.real, case.truth
    turned, place = slicer(case, truth["WT"], ratio)
    columns, errors = len(arms), LinearSegmentedColormap.from_list("error", ERROR_COLOURS)
    height, width = turned(real).shape
    across, *sides = case.orientation.turn_spacing(case.spacing_mm)
    aspect = sides[0 if cut_axis(case, ratio) == 2 else 1] / across
    figure = _figure(1.75 * columns + 0.6, 1.75 * 3 * aspect * height / width + 0.9)
    grid = figure.subplots(3, columns, squeeze=False)
    for axes, label in zip(grid[:, 0], ("channel", "|error|", "segmentation"), strict=True):
        axes.set_ylabel(label)
    for column, (arm_name, arm) in enumerate(arms.items()):
        channel = np.zeros_like(real) if arm.channel is None else arm.channel
        error = turned(np.abs(channel - real))
        name = "real" if arm_name == "full" else short_name(arm_name)
        _show(grid[0, column], turned(channel), name)
        image = _show(grid[1, column], error, "", errors, LARGEST_ERROR)
        _show(grid[2, column], turned(real), "")
        _outline(grid[2, column], turned, truth, EXPERT_COLOUR)
        _outline(grid[2, column], turned, arm.masks)
    for axes in grid.flat:
        axes.set_aspect(aspect)
    bar = figure.colorbar(image, ax=list(grid[1]), fraction=0.012, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    for region, colour in REGION_COLOURS.items():
        grid[2, 0].plot([], [], color=colour, label=f"{region} by the segmenter")
    grid[2, 0].plot([], [], color=EXPERT_COLOUR, linestyle="dashed", label="by the expert")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(f"{title}, {place}", fontsize=10)
    _save(figure, path)


def cut_axis(case: CaseVolumes, ratio: Sequence[int] = ()) -> int:
    """Across which axis towards left, back and feet a slice is cut: 2, the axial ones.

    But 1, the coronal ones, where a ``ratio`` (z, y, x) makes voxels longest along that axis.
    """
    longest = "zyx"[int(np.argmax(ratio))] if ratio else ""
    return 1 if longest == case.orientation.file_axis(2) else 2


def slicer(
    case: CaseVolumes, tumour: np.ndarray, ratio: Sequence[int] = ()
) -> tuple[Callable[..., np.ndarray], str]:
    """Cuts the slice with most of ``tumour`` out of a volume, up to the head; and its name.

    It lies as :func:`cut_axis` says.
    """
    orientation = case.orientation
    head = orientation.turn(case.real) != 0
    cut = cut_axis(case, ratio)
    others = tuple(axis for axis in range(3) if axis != cut)
    area = (orientation.turn(tumour) if tumour.any() else head).sum(axis=others)
    index = int(area.argmax())
    box = list(bounding_box(head) or (slice(None),) * 3)
    box[cut] = index  # type: ignore[call-overload]
    at = orientation.file_index(cut, index, len(area))
    name = f"slice {orientation.file_axis(cut)} = {at}"
    return lambda volume: orientation.turn(volume)[tuple(box)].T, name


def _show(
    axes: Any, picture: np.ndarray, title: str, colours: Any = "gray", top: float = BRIGHTEST
) -> Any:
    image = axes.imshow(picture, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8.5)
    axes.spines[:].set_visible(False)
    return image


def _outline(axes: Any, turned: Any, masks: Mapping[str, np.ndarray], expert: str = "") -> None:
    """Each region in its colour; the ``expert``'s in that one, dashed."""
    for region, colour in REGION_COLOURS.items():
        mask = turned(masks[region])
        if mask.any() and not mask.all():
            style = {"colors": [expert or colour], "linestyles": "dashed" if expert else "solid"}
            axes.contour(mask.astype(float), [0.5], linewidths=1.1, **style)


def _figure(width: float, height: float) -> Any:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["text.parse_math"] = False  # names stand as they are: "$" begins no formula
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path, axes: Any = None, title: str = "") -> None:
    if axes is not None:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, fontsize=10, loc="left", pad=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
