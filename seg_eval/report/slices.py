"""Pictures of the report's slice viewer: sheets of slices as data URIs, outlines as SVG paths.

A sheet holds all slices of one volume in one plane as tiles; the page shows one tile at a
time by moving the sheet. Outlines stay vectors: sharp at any size, and a few bytes each.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seg_eval.report.volumes import PLANES, CaseVolumes
from seg_eval.scoring import bounding_box, dice

BRIGHTEST = 1.2
"""Shown as white; the scale's 1 is the 99th percentile or so, tumours are above it."""
LARGEST_ERROR = 0.5
"""Shown as the brightest colour of the error."""
ERROR_COLOURS = ("#000004", "#b63679", "#fcfdbf")
"""No error, half of the largest, largest; as matplotlib's magma, told apart in grey too."""
LAYERS = ("tsem", "spread", "interval")
"""Maps that explain a channel; the colours are the error's, each map as bright as it gets."""
LARGEST_TILE = 256
"""Pixels; longer sides are shrunk for the picture."""
EDGE = 2
"""Empty pixels around a tile, so that smoothing never shows a neighbour's brain."""
MOST_PIECES = 200
"""Closed lines in one outline; of more, as in a prediction that is mere noise, the longest."""
Outlines = dict[tuple[str, str, str, int], str]
"""Paths that were found, by region, owner, plane and index: they are slow where masks are noise."""
_AXIS = {"axial": 2, "coronal": 1, "sagittal": 0}


@dataclass(frozen=True)
class Limits:
    """How much a viewer may hold: slices per plane, and the quality of WebP, 0 to 100."""

    slices: int
    quality: int


@dataclass(frozen=True)
class Plane:
    """One plane of one case, whose slices are tiles in rows and columns of a sheet.

    Attributes:
        name: axial, coronal or sagittal.
        indices: Index of each slice in the tile coordinates of the other planes.
        labels: Of each slice, naming its index in the file.
        start: Which slice is shown first.
        size: Width and height of a tile in voxels.
        aspect: Width over height in millimetres.
        letters: What is at left, right, top and bottom.
        sheets: Data URI by panel.
        outlines: Per region and owner ("expert" or an arm) one SVG path per slice.
    """

    name: str
    indices: list[int]
    labels: list[str]
    start: int
    columns: int
    rows: int
    size: tuple[int, int]
    aspect: float
    letters: tuple[str, str, str, str]
    sheets: dict[str, str]
    outlines: dict[str, dict[str, list[str]]]


def draw_planes(
    case: CaseVolumes, arms: Sequence[str], limits: Limits, known: Outlines | None = None
) -> list[Plane]:
    """The three planes of ``case``, cropped to the head, with sheets and outlines.

    Those ``arms`` that have a channel, ``full`` aside, get a sheet of it and one of its error; and
    one of each of their layers.
    Outlines of this very case that are ``known`` are taken as they are, and new ones added.
    """
    turned = _Turned(case)
    volumes = {"real": turned(case.real)}
    for name in arms:
        channel = case.arms[name].channel
        if channel is not None and name != "full":
            volumes[f"channel {name}"] = turned(channel)
        for layer, volume in case.arms[name].layers.items():
            volumes[f"{layer} {name}"] = turned(np.maximum(volume, 0) / brightest_of(volume))
    masks = {"expert": {region: turned(mask) for region, mask in case.truth.items()}}
    for name in arms:
        found = case.arms[name].masks
        masks[name] = {r: turned(found[r]) for r in case.truth if r in found}
    known = {} if known is None else known
    return [_draw_plane(plane, turned, volumes, masks, limits, known) for plane in PLANES]


def brightest_of(layer: np.ndarray) -> float:
    """What is shown as the brightest colour of a layer: all but the largest 0.5 % is below."""
    above = layer[layer > 0]
    return float(np.percentile(above, 99.5)) if above.size else 1.0


def agreement(case: CaseVolumes, arms: Sequence[str]) -> dict[str, dict[str, float]]:
    """Dice of the very masks that are shown, by region and arm."""
    return {
        region: {
            name: dice(truth, case.arms[name].masks[region])
            for name in arms
            if region in case.arms[name].masks
        }
        for region, truth in case.truth.items()
    }


class _Turned:
    """Volumes of a case turned to the viewer's axes, cropped to the head, with an empty edge."""

    def __init__(self, case: CaseVolumes) -> None:
        self.orientation = case.orientation
        used = np.any([np.nan_to_num(case.real), *case.truth.values()], axis=0)
        self.whole = self.orientation.turn(used).shape
        whole = tuple(slice(0, length) for length in self.whole)
        self.box = bounding_box(self.orientation.turn(used)) or whole
        self.spacing = self.orientation.turn_spacing(case.spacing_mm)

    def __call__(self, volume: np.ndarray) -> np.ndarray:
        return np.pad(self.orientation.turn(volume)[self.box], EDGE)

    def label(self, plane: str, index: int) -> str:
        """Which slice of the file is at ``index`` of the cropped volume."""
        axis = _AXIS[plane]
        at = min(max(index - EDGE + self.box[axis].start, 0), self.whole[axis] - 1)
        at = self.orientation.file_index(axis, at, self.whole[axis])
        name = self.orientation.file_axis(axis)
        return f"{name} = {at} of 0–{self.whole[axis] - 1}"


def _draw_plane(
    plane: str,
    turned: _Turned,
    volumes: Mapping[str, np.ndarray],
    masks: Mapping[str, Mapping[str, np.ndarray]],
    limits: Limits,
    known: Outlines,
) -> Plane:
    axis = _AXIS[plane]
    real = volumes["real"]
    indices, start = _choose(axis, real.shape, masks, limits.slices)
    across, down = (i for i in range(3) if i != axis)
    width, height = real.shape[across], real.shape[down]
    columns = max(1, min(len(indices), round(math.sqrt(len(indices) * height / width))))
    sheets, how = {}, (columns, limits.quality)
    tiles = {name: _tiles(volume, axis, indices) for name, volume in volumes.items()}
    for name, each in tiles.items():
        if name.split(" ")[0] in LAYERS:
            sheets[name] = _encode(each, *how, ERROR_COLOURS)
            continue
        sheets[name] = _encode(each / BRIGHTEST, *how)
        if name != "real":
            error = np.abs(each - tiles["real"]) / LARGEST_ERROR
            sheets[name.replace("channel", "error", 1)] = _encode(error, *how, ERROR_COLOURS)
    outlines: dict[str, dict[str, list[str]]] = {}
    for owner, regions in masks.items():
        for region, mask in regions.items():
            keys = [(region, owner, plane, index) for index in indices]
            for key in [key for key in keys if key not in known]:
                known[key] = outline(_tiles(mask, axis, [key[-1]])[0])
            outlines.setdefault(region, {})[owner] = [known[key] for key in keys]
    return Plane(
        name=plane,
        indices=indices,
        labels=[turned.label(plane, index) for index in indices],
        start=start,
        columns=columns,
        rows=math.ceil(len(indices) / columns),
        size=(width, height),
        aspect=width * turned.spacing[across] / (height * turned.spacing[down]),
        letters=turned.orientation.letters(plane),
        sheets=sheets,
        outlines=outlines,
    )


def _choose(
    axis: int, shape: tuple[int, ...], masks: Mapping[str, Mapping[str, np.ndarray]], most: int
) -> tuple[list[int], int]:
    """Slices through whatever is outlined, and which of them has most of the expert's tumour.

    They run towards the head, the front and the right.
    """
    others = tuple(i for i in range(3) if i != axis)
    expert = [mask.sum(axis=others) for mask in masks["expert"].values()]
    every = [mask.sum(axis=others) for found in masks.values() for mask in found.values()]
    used = np.flatnonzero(np.sum(every, axis=0)) if every else np.empty(0, int)
    if not len(used):
        used = np.arange(EDGE, shape[axis] - EDGE)
    low, high = max(used[0] - 3, EDGE), min(used[-1] + 3, shape[axis] - EDGE - 1)
    area = np.sum(expert, axis=0) if expert else np.zeros(shape[axis])
    middle = int(area.argmax()) if area.any() else int((low + high) // 2)
    spread = np.linspace(low, high, min(most, high - low + 1)).round().astype(int)
    spread[np.abs(spread - middle).argmin()] = middle
    indices = [int(index) for index in np.unique(spread)[::-1]]
    return indices, indices.index(middle)


def _tiles(volume: np.ndarray, axis: int, indices: Sequence[int]) -> np.ndarray:
    """Slices (N, rows, columns) across ``axis``."""
    taken = np.take(volume, indices, axis=axis)
    return np.moveaxis(taken, axis, 0).transpose(0, 2, 1)


def _encode(
    tiles: np.ndarray, columns: int, quality: int, colours: tuple[str, str, str] | None = None
) -> str:
    """Tiles (N, rows, columns) from 0 to 1 as one WebP sheet in a data URI."""
    from PIL import Image, ImageOps

    count, height, width = tiles.shape
    bytes_ = (255 * np.nan_to_num(np.clip(tiles, 0, 1))).round().astype(np.uint8)
    shrink = min(1.0, LARGEST_TILE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    sheet = Image.new("L", (size[0] * columns, size[1] * math.ceil(count / columns)))
    for number, tile in enumerate(bytes_):
        picture = Image.fromarray(np.ascontiguousarray(tile))
        if shrink < 1:
            picture = picture.resize(size, Image.Resampling.BOX)
        sheet.paste(picture, (number % columns * size[0], number // columns * size[1]))
    if colours:
        sheet = ImageOps.colorize(sheet, black=colours[0], mid=colours[1], white=colours[2])
    file = io.BytesIO()
    sheet.save(file, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def outline(mask: np.ndarray) -> str:
    """The outline of a bool picture (rows, columns) as an SVG path in half pixels; "" if empty.

    Pixel (r, c) has its middle at x = 2c + 1, y = 2r + 1; the outline runs half-way between
    the middles of what is in and what is out. Pixels that touch at a corner alone are apart.
    """
    from skimage.measure import find_contours

    path = []
    loops = find_contours(np.pad(mask, 1).astype(float), 0.5)
    for loop in sorted(loops, key=len, reverse=True)[:MOST_PIECES]:
        points = np.rint(2 * loop[:, ::-1] - 1).astype(int)
        steps = np.diff(points, axis=0)
        turns = np.any(steps[1:] != steps[:-1], axis=1)
        corners = points[np.concatenate([[True], turns, [True]])]
        moves = np.diff(corners[:-1], axis=0).ravel()
        x, y = corners[0]
        path.append(f"M{x} {y}l{' '.join(map(str, moves))}z".replace(" -", "-"))
    return "".join(path)
