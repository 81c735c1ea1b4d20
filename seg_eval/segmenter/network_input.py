"""What a segmenter is fed: channels in its order, on one grid, without traps for nnU-Net.

nnU-Net crops to where any channel is not zero and z-scores inside, so a background that is not
exactly 0 or a constant fill changes all channels at once. Such input is refused here.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from synth3d.errors import InputError


def network_input(channels: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """The (D, H, W) channels in the order of ``names``: (C, D, H, W) float32, a copy.

    Channels must be exactly 0 outside the brain, and everywhere for an absent modality.
    """
    if absent := [name for name in names if name not in channels]:
        raise InputError(
            f"the segmenter takes {', '.join(names)}; it was not given {', '.join(absent)}"
        )
    arrays = [channels[name] for name in names]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 3:
        found = ", ".join(f"{n} {a.shape}" for n, a in zip(names, arrays, strict=True))
        raise InputError(f"channels must be 3-D with one shape, got {found}")
    stack = np.stack(arrays).astype(np.float32)
    for name, volume in zip(names, stack, strict=True):
        if count := int((~np.isfinite(volume)).sum()):
            raise InputError(f"{name} has {count} voxels that are NaN or infinite")
    _refuse_traps(stack, names)
    return stack


def _refuse_traps(stack: np.ndarray, names: Sequence[str]) -> None:
    """Stop at input that nnU-Net would take and quietly misread."""
    filled = stack != 0
    support = filled.any(axis=0)
    if not support.any():
        raise InputError("all channels are zero everywhere")
    for index, name in enumerate(names):
        outside = ~np.delete(filled, index, axis=0).any(axis=0)
        if outside.mean() > 0.01 and filled[index][outside].mean() > 0.99:
            raise InputError(
                f"{name} has no zero background: it is not zero where all other channels are; "
                "set it to exactly 0 outside the brain"
            )
        inside = stack[index][support]
        if inside[0] != 0 and np.ptp(inside) <= 1e-6 * abs(inside[0]):
            raise InputError(
                f"{name} is the constant {inside[0]:g} inside the brain, which nnU-Net turns into "
                "rounding noise; give exact zeros for an absent channel"
            )
