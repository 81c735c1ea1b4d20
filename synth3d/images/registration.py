"""One image brought onto another by a rigid motion, with SimpleITK.

Mutual information (Mattes et al., IEEE Trans. Med. Imaging 22(1), 2003) compares images of
different contrast; it is climbed from coarse to fine. World coordinates are RAS+ mm as in NIfTI
affines; only the transform file is in ITK's LPS.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synth3d.errors import InputError
from synth3d.files import atomic_path
from synth3d.images.grids import Grid
from synth3d.images.resampling import sample_on
from synth3d.images.volumes import Volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS+ to LPS+ world coordinates and back."""

WORSE = 0.95
"""A registration that leaves less than this share of the mutual information there was is refused.
Not 1: two images that lie on one lattice score a little too well, unblurred by interpolation."""


SHRINK, SMOOTH_MM = (4, 2, 1), (4.0, 2.0, 0.0)
"""Downsampling factor and the Gaussian's standard deviation of each level, coarse to fine."""
BINS = 32
"""Of the joint histogram."""
SAMPLED, LEAST, SEED = 0.03, 200_000, 1
"""Share of a level's voxels that are looked at, at least so many if it has them; what draws."""
ITERATIONS = 300
"""At most, a level."""


@dataclass(frozen=True, eq=False)
class Rigid:
    """A rigid motion that was found.

    Attributes:
        matrix: (4, 4), a place in the fixed image to the same anatomy in the moving one, RAS+ mm.
        information: Mutual information (nats) under it, at the finest level.
        information_before: The same under no motion at all; NaN where the images do not overlap.
    """

    matrix: np.ndarray
    information: float
    information_before: float

    @property
    def angle_degrees(self) -> float:
        """By how much it turns."""
        from scipy.spatial.transform import Rotation

        return float(np.degrees(Rotation.from_matrix(self.matrix[:3, :3]).magnitude()))

    def shift_mm(self, fixed: Grid) -> np.ndarray:
        """How far, in RAS+ mm, it moves the middle of ``fixed``."""
        middle = fixed.affine @ [*((np.array(fixed.shape_zyx[::-1]) - 1) / 2), 1]
        return (self.matrix @ middle - middle)[:3]


def register_rigid(fixed: Volume, moving: Volume, threads: int = 1) -> Rigid:
    """The rigid motion under which ``moving`` tells most about ``fixed``.

    The search starts from the better of two places: as the headers say, and with the centres of
    mass on each other. One of ``threads`` gives the same bits each time.

    Raises:
        InputError: The images do not overlap under either start, one is constant, the optimiser
            fails, or what it found is worse than doing nothing.
    """
    for volume in (fixed, moving):
        if volume.data.min() == volume.data.max():
            raise InputError(f"{volume.path} is constant; there is nothing to register")
    with _threads(threads):
        return _register(fixed, moving)


def _register(fixed: Volume, moving: Volume) -> Rigid:
    import SimpleITK as sitk  # noqa: N813

    images = _image(fixed), _image(moving)
    mode = sitk.CenteredTransformInitializerFilter.MOMENTS
    centred = sitk.CenteredTransformInitializer(*images, sitk.Euler3DTransform(), mode)
    starts = [sitk.Euler3DTransform(), sitk.Euler3DTransform(centred)]
    starts[0].SetCenter(starts[1].GetCenter())
    # Coarse smoothing for the choice: at full resolution one voxel off may look like chance.
    blurred = [sitk.SmoothingRecursiveGaussian(image, [SMOOTH_MM[0]] * 3) for image in images]
    worth = [_information(blurred, start) for start in starts]
    if not np.isfinite(worth).any():
        raise InputError(f"{moving.path} does not overlap {fixed.path} under any start")
    start = starts[int(np.nanargmax(worth))]
    try:
        composite = _climb(start, fixed.data.size).Execute(*images)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{moving.path} cannot be registered to {fixed.path}: {reason}") from error
    found = composite.GetNthTransform(0).Downcast()
    after = _information(images, found)
    before = _information(images, sitk.Euler3DTransform())
    if not np.isfinite(after) or after < WORSE * before:
        raise InputError(
            f"registering {moving.path} to {fixed.path} made it worse (mutual information "
            f"{before:.4f} before, {after:.4f} after): look at the two images"
        )
    return Rigid(_matrix(found), after, before)


def resample_rigid(moving: Volume, fixed: Grid, rigid: Rigid) -> np.ndarray:
    """``moving`` on the grid ``fixed``, (D, H, W) float32: linear, 0 outside its field of view."""
    return sample_on(moving, fixed, rigid.matrix)


def write_transform(rigid: Rigid, path: Path) -> None:
    """Write ``rigid`` as an ITK text transform (.tfm; LPS mm, fixed to moving places)."""
    import SimpleITK as sitk  # noqa: N813

    matrix = LPS @ rigid.matrix @ LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    with atomic_path(path) as temporary:
        sitk.WriteTransform(transform, str(temporary))


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """ITK works with ``number`` threads, also where a filter hides behind another."""
    import SimpleITK as sitk  # noqa: N813

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(number)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _image(volume: Volume) -> Any:
    """``volume`` for SimpleITK, by our reading of its header."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(volume.data)
    affine = LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _method(start: Any) -> Any:
    """Mattes mutual information over all voxels, from ``start``."""
    import SimpleITK as sitk  # noqa: N813

    method = sitk.ImageRegistrationMethod()

    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(sitk.Euler3DTransform(start), inPlace=False)
    return method


def _climb(start: Any, voxels: int) -> Any:
    """The method with its levels, samples and optimiser, for a fixed image of ``voxels``."""
    method = _method(start)
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel(SMOOTH_MM)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    shares = [min(1.0, max(SAMPLED, LEAST * factor**3 / voxels)) for factor in SHRINK]
    if min(shares) < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentagePerLevel(shares, SEED)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0,  # mm that the farthest voxel moves in the first step
        minStep=1e-4,
        numberOfIterations=ITERATIONS,
        relaxationFactor=0.8,  # halving stops before the angles, which pull least, have settled
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _information(images: Sequence[Any], transform: Any) -> float:
    """Mutual information in nats; NaN where the images do not overlap."""
    try:
        return -float(_method(transform).MetricEvaluate(*images))
    except RuntimeError:
        return float("nan")


def _matrix(transform: Any) -> np.ndarray:
    """A linear ITK transform as a (4, 4) matrix in RAS+ mm."""
    zero = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(unit)) - zero for unit in np.eye(3).tolist()]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.stack(columns, axis=1), zero
    return LPS @ matrix @ LPS
