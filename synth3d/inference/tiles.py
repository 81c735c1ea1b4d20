"""From patches to a whole volume: tiles, Hann blending, and nothing lost on the way.

A generator's routing pools over its whole input, so a tile of another size than the training
patch is another function; tiles here are therefore always exactly the patch, moved inside the
volume at its far faces, and a volume smaller than the patch is padded with 0 and cropped back.
Nothing here knows files, modalities or configurations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

# Tiles per call on CUDA, and on a device of less memory than a card of 12 GB has. Never measured.
CUDA_TILES, FEWER_CUDA_TILES = 4, 2
SMALL_CUDA_BYTES = 11 * 10**9

OnTile = Callable[[int, int], None]
"""Told (tiles done, tiles in all)."""

Network = Callable[[Tensor], Tensor]
"""(B, C, *patch) to (B, T, *patch), where a patch has three axes or two."""


@dataclass(frozen=True)
class Tiling:
    """How a volume is cut into tiles.

    Attributes:
        patch: Tile size (z, y, x) in voxels; (y, x) for a network of slices, which are then taken
            one by one along the first axis.
        overlap: Voxels that neighbouring tiles share at the least along each axis.
        batch: Tiles per call; None is what suits the device (:func:`tiles_per_call`).
        on_tile: Told after each call.
    """

    patch: tuple[int, ...]
    overlap: tuple[int, ...]
    batch: int | None = None
    on_tile: OnTile | None = None

    def __post_init__(self) -> None:
        patch, overlap = self.patch, self.overlap
        if len(patch) not in (2, 3) or len(overlap) != len(patch):
            raise ValueError(f"patch and overlap are (z, y, x) or (y, x), got {patch}, {overlap}")
        for axis, size, shared in zip("zyx"[-len(patch) :], patch, overlap, strict=True):
            if not 0 <= shared < size:
                raise ValueError(f"overlap along {axis} must be in [0, {size}), got {shared}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")


def sliding_window(
    network: Network,
    volume: Tensor,
    tiling: Tiling,
    active: Tensor | None = None,
    out_channels: int = 1,
) -> Tensor:
    """``network`` over the whole ``volume``, tile by tile, blended without seams.

    A voxel's value is the mean of its tiles' values, weighted by a Hann window that is positive up
    to the tile's rim. The mean is a running one, m += (w / Σw) (x - m), which leaves equal values
    untouched: a network that returns its input gives back ``volume`` bit for bit.

    Every call of ``network`` gets exactly ``batch`` samples (the last tile is repeated where
    they run out), so a per-sample network gives the same result for every ``batch``. How many
    that should be at the least, :func:`tiles_per_call` knows.

    Args:
        network: (B, C, *patch) to (B, ``out_channels``, *patch), any float dtype.
        volume: (C, D, H, W) float32, on the device where the network wants it.
        tiling: Tiles, and how many a call.
        active: (D, H, W) bool, where a result is wanted: only the tiles that meet it are
            computed and the result is 0 elsewhere. None is everywhere. Best on the CPU, which
            chooses the tiles.
        out_channels: Of the result, (``out_channels``, D, H, W) float32 on the same device.
    """
    if active is not None and active.shape != volume.shape[1:]:
        raise ValueError(
            f"active is {tuple(active.shape)} but the volume {tuple(volume.shape[1:])}"
        )
    if len(tiling.patch) == 2:
        solid = replace(tiling, patch=(1, *tiling.patch), overlap=(0, *tiling.overlap))
        return sliding_window(
            lambda tiles: network(tiles.squeeze(2)).unsqueeze(2),
            volume,
            solid,
            active,
            out_channels,
        )
    shape = volume.shape[1:]
    result = volume.new_zeros((out_channels, *shape), dtype=torch.float32)
    inside = torch.ones(shape, dtype=torch.bool) if active is None else active.cpu()
    if not inside.any():
        return result
    box = _working_box(inside, tiling.patch)
    working, inside = volume[(slice(None), *box)], inside[box]
    blended = _blend(network, working, inside, tiling, out_channels)
    result[(slice(None), *box)] = torch.where(inside.to(volume.device), blended, 0)
    return result


def tiles_per_call(batch: int | None, device: torch.device) -> int:
    """``batch``; for None 2 on a CPU, and on a GPU 4, or 2 if it is small.

    But on a CPU two for one: torch convolves a lone small float32 sample in 3-D by a routine of its
    own that takes 2 to 9 times as long.
    """
    if device.type != "cuda":
        return 2 if batch is None or (batch == 1 and device.type == "cpu") else batch
    if batch is not None:
        return batch
    small = torch.cuda.get_device_properties(device).total_memory < SMALL_CUDA_BYTES
    return FEWER_CUDA_TILES if small else CUDA_TILES


def hann_window(patch: Sequence[int]) -> Tensor:
    """Weights of one tile, shape ``patch``: the product of sin²(π (i + ½) / n); all positive.

    Half-overlapping copies sum to 1 along each axis; the half voxel keeps the rim above 0.
    """
    weights = torch.ones(())
    for size in patch:
        at = torch.arange(size, dtype=torch.float64)
        weights = weights[..., None] * torch.sin(torch.pi * (at + 0.5) / size) ** 2
    return weights.to(torch.float32)


def tile_starts(side: int, size: int, overlap: int) -> list[int]:
    """First voxels of the tiles along one axis, evenly spread, the last one flush with the end.

    The volume's ``side`` is at least the tile's ``size``.
    """
    count = 1 + -(-(side - size) // (size - overlap))
    return [round(k * (side - size) / max(count - 1, 1)) for k in range(count)]


def _blend(
    network: Network, volume: Tensor, inside: Tensor, tiling: Tiling, out_channels: int
) -> Tensor:
    """The blended result over all of ``volume``, of which tiles without ``inside`` stay 0."""
    shape, patch = volume.shape[1:], tiling.patch
    batch = tiling.batch or tiles_per_call(None, volume.device)
    short = [max(size - side, 0) for size, side in zip(patch, shape, strict=True)]
    padding = [amount for missing in reversed(short) for amount in (0, missing)]
    volume, inside = F.pad(volume, padding), F.pad(inside, padding)
    tiles = tiles_around(inside, patch, tiling.overlap)
    window = hann_window(patch).to(volume.device)
    mean = volume.new_zeros((out_channels, *volume.shape[1:]), dtype=torch.float32)
    total = torch.zeros_like(mean[0])
    for first in range(0, len(tiles), batch):
        group = tiles[first : first + batch]
        filled = group + group[-1:] * (batch - len(group))
        output = network(torch.stack([volume[(slice(None), *tile)] for tile in filled]))
        if output.shape != (batch, out_channels, *patch):
            raise ValueError(
                f"the network returned {tuple(output.shape)} for {batch} tiles, "
                f"expected {(batch, out_channels, *patch)}"
            )
        for tile, values in zip(group, output[: len(group)].float(), strict=True):
            total[tile] += window
            part = mean[(slice(None), *tile)]
            part += (window / total[tile]) * (values - part)
        if tiling.on_tile is not None:
            tiling.on_tile(first + len(group), len(tiles))
    return mean[(slice(None), *(slice(side) for side in shape))]


def tiles_around(
    inside: Tensor, patch: Sequence[int], overlap: Sequence[int]
) -> list[tuple[slice, ...]]:
    """Tiles that cover ``inside`` (D, H, W) bool, which is nowhere smaller than ``patch``.

    Layers of tiles are spread along z over what is inside, rows along y over what is inside of
    their layer, and tiles along x over what is inside of their row: a brain is round, so these are
    a tenth fewer than those of one grid that meet it. In raster order; none if nothing is inside.
    """

    def along(axis: int, inside: Tensor) -> Iterator[tuple[slice, ...]]:
        size = patch[axis]
        first, stop = _extent(inside, axis, size)
        for start in tile_starts(stop - first, size, overlap[axis]):
            within = inside.narrow(axis, first + start, size)
            if within.any():
                rests = along(axis + 1, within) if axis + 1 < len(patch) else [()]
                yield from ((slice(first + start, first + start + size), *rest) for rest in rests)

    return list(along(0, inside)) if inside.any() else []


def _working_box(inside: Tensor, patch: Sequence[int]) -> tuple[slice, ...]:
    """The bounding box of ``inside``, grown to the size of ``patch`` where there is room."""
    return tuple(slice(*_extent(inside, axis, size)) for axis, size in enumerate(patch))


def _extent(inside: Tensor, axis: int, size: int) -> tuple[int, int]:
    """From where to where along ``axis`` something is inside, grown to ``size`` if there is room.

    ``inside`` is (D, H, W) bool and nowhere empty altogether.
    """
    others = [other for other in range(inside.dim()) if other != axis]
    at = inside.any(others[0]).any(others[1] - 1).nonzero().flatten()
    first, last, side = int(at[0]), int(at[-1]) + 1, inside.shape[axis]
    first = max(min(first - max(size - (last - first), 0) // 2, side - size), 0)
    return first, min(max(last, first + size), side)
