"""Training, completing and synthesising from Python: what ``import synth3d`` offers."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from synth3d.cohort import ALL_MODALITIES, Case, Modality, find_cases, parse_modality
from synth3d.completion.calibration import CalibrateRequest, CalibrationRecord, calibrate_run
from synth3d.completion.made import Members
from synth3d.completion.plan import grid_trouble
from synth3d.completion.request import CompleteRequest
from synth3d.completion.run import Completed, complete_cohort
from synth3d.completion.writing import describe
from synth3d.console import named, nearest
from synth3d.errors import InputError
from synth3d.images import MIRRORS, NiftiImage, image_like, write_image, write_new
from synth3d.machine import pick_device
from synth3d.runs import find_run

if TYPE_CHECKING:
    from torch import nn

    from synth3d.completion.makers import EnsembleMaker, RunMaker
    from synth3d.frameworks import Framework

T = TypeVar("T")
Image = str | Path | NiftiImage | np.ndarray
"""A NIfTI file, or one that nibabel read; or an array (D, H, W) = (z, y, x) in scanner units."""
OWN_AFFINE = "affine= is for arrays; files have their own"


def train(*unnamed: object, **settings: Any) -> "Run":
    """Train as ``synth3d train`` does, or go on with what was interrupted; the finished run.

    The settings are fields of ``synth3d.training.TrainRequest``, which are the flags.

    Raises:
        InputError: There is no such setting, it has no name, or it, the cohort or the run folder
            cannot be used.
    """
    from synth3d.training import TrainRequest, train_run

    for name in {"data", "splits", "work"} & settings.keys():
        settings[name] = None if settings[name] is None else Path(settings[name])
    example = 'train(data="BraTS", target="flair")'
    folder = train_run(_request(TrainRequest, example, unnamed, settings))
    if folder is None and settings.get("dry_run"):
        raise InputError("a dry run trains nothing; leave dry_run out")
    if folder is None:
        raise InputError("a signal stopped the training; call it again, and it goes on")
    return load_run(folder)


def complete(
    *unnamed: object, executor: Executor | None = None, **settings: Any
) -> list[Completed]:
    """Complete a cohort as ``synth3d complete`` does; a record for each case.

    The cases are worked on by ``executor``, or as ``workers`` and ``dask`` say. The settings are
    fields of ``synth3d.completion.CompleteRequest``, which are the flags.

    Raises:
        InputError: There is no such setting, or it has no name; or as
            :func:`synth3d.completion.complete_cohort`.
    """
    example = 'complete(run="NAME", data="BraTS", out="COMPLETED")'
    return complete_cohort(_request(CompleteRequest, example, unnamed, settings), executor)


def calibrate(*unnamed: object, **settings: Any) -> CalibrationRecord:
    """Measure how far off a run's pictures are, as ``synth3d calibrate`` does; what it writes.

    The settings are fields of ``synth3d.completion.CalibrateRequest``, which are the flags.

    Raises:
        InputError: There is no such setting, or it has no name; or as
            :func:`synth3d.completion.calibrate_run`.
    """
    example = 'calibrate(run="NAME", data="BraTS")'
    return calibrate_run(_request(CalibrateRequest, example, unnamed, settings))


def _request(
    schema: type[T], example: str, unnamed: Sequence[object], settings: Mapping[str, Any]
) -> T:
    """``schema``, the dataclass of a command, from settings that its fields are named by."""
    call, known = example.partition("(")[0], {one.name: one for one in fields(schema)}  # type: ignore[arg-type]
    if unnamed:
        raise InputError(
            f"{call} takes each setting by its name, as in {example}; {unnamed[0]!r:.80} has none"
        )
    for name in settings:
        if name not in known:
            raise InputError(
                f"{call} has no setting {name!r}{nearest(name, known)}; they are the flags of "
                f"synth3d {call}, see its --help"
            )
    lacking = [one.name for one in known.values()
               if one.default is MISSING and one.name not in settings]  # fmt: skip
    if lacking:
        raise InputError(f"{call} wants {' and '.join(lacking)}, as in {example}")
    return schema(**settings)


def load_run(
    folder: str | Path | Sequence[str | Path], device: str = "auto", work: str | Path = "work"
) -> "Run":
    """The finished run in ``folder``, its network on ``device``: ``auto``, ``cpu``, ``cuda:1``.

    The name of a run in ``work/runs``, or ``latest``, stands for its folder. Of several folders it
    is a run that makes the mean of what these make.

    Raises:
        InputError: No finished and undamaged run of this format; runs that have no mean; or no
            such device.
    """
    from synth3d.completion.makers import EnsembleMaker, RunMaker
    from synth3d.training import load_run as read_run

    device = pick_device(device)
    folders = [folder] if isinstance(folder, str | Path) else folder
    found = [find_run(each, Path(work)) for each in folders]
    makers = [RunMaker(read_run(each), device=device) for each in found]
    if not makers:
        raise InputError("loading needs a run folder, got none")
    return Run(makers[0] if len(makers) == 1 else EnsembleMaker(makers))


class Run:
    """A finished run, ready to synthesise: its folder, config, sources and targets.

    Of several runs, whose pictures are averaged, folder, config and network are the first's, and
    the targets are those that all of them make.
    """

    def __init__(self, maker: "RunMaker | EnsembleMaker") -> None:
        """Take a maker that is ready; :func:`load_run` makes one of a folder."""
        self._maker = maker
        self._runs = maker.runs
        self.folder, self.config = self._runs[0].run.folder, maker.config
        self.sources, self.targets = maker.sources, maker.targets

    def __repr__(self) -> str:
        several = f"mean of {len(self._runs)}, " if len(self._runs) > 1 else ""
        made = f"{'+'.join(self.sources)} -> {'+'.join(self.targets)}"
        return f"<Run {self._maker.name}: {several}{made if several else self.config.words}>"

    def synthesize(
        self,
        case: Case | str | Path | Mapping[str, Image],
        wanted: Sequence[str] | None = None,
        *,
        affine: np.ndarray | None = None,
        seed: int = 0,
        mirror: str = "",
    ) -> dict[Modality, NiftiImage] | dict[Modality, np.ndarray]:
        """The sequences that a case lacks.

        Args:
            case: A case of :func:`synth3d.find_cases`, or its folder; or modality names, with the
                command line's aliases, to files, to nibabel's images of files, or to arrays
                (D, H, W) in scanner units. Sequences that the run does not look at, or that are
                wanted, are not read.
            wanted: Names of what to make, of ``targets``; None is those that the case lacks, or all
                where it lacks none, which a run for any gap refuses.
            affine: (4, 4), voxel (x, y, z) to mm, RAS+; for arrays, and all share it.
            seed: Of a framework whose pictures are drawn at random; no other looks at it.
            mirror: ``x`` or ``xyz``: the mean over mirror images of the case, left and right
                swapped or all eight; empty for the case as it is.

        Returns:
            For files and images, float32 images on the case's own grid, marked as synthetic in
            their headers; for arrays, float32 arrays (D, H, W). Both are in scanner units, 0
            outside the brain.

        Raises:
            InputError: An unknown or repeated name, an unknown mirror, sources that the run needs
                and are missing, grids or shapes that differ, arrays without an affine, voxels that
                are no numbers, or a folder of no case or of several.
        """
        if mirror not in ("", *MIRRORS):
            raise InputError(f"unknown mirror {mirror!r}; known are {' and '.join(MIRRORS)}")
        for one in self._runs:
            one.refuse_mirror(mirror)
        with _on_disk(case, affine) as found:
            goal = self._goal(found, wanted)
            readable = self._maker.readable(replace(found, label=None), goal)
            if trouble := self.trouble(found, goal):
                raise InputError(f"case {found.name}: {'; '.join(trouble)}")
            self._check(readable)
            made = self._maker.make(readable, goal, Members(seed, mirror=mirror))
            if affine is not None:
                return {target: one.data for target, one in made.items()}
            return {
                target: image_like(one.like, one.data, describe(target, one, self._maker))
                for target, one in made.items()
            }

    def _check(self, case: Case) -> None:
        """Refuse what contradicts itself, and say aloud what is suspected."""
        found = self._maker.findings(case)
        if wrong := [one.text for one in found if one.contradiction]:
            raise InputError(f"case {case.name}: {'; '.join(wrong)}")
        for one in found:
            print(f"warning: case {case.name}: {one.text}")

    def trouble(self, case: Case, wanted: Sequence[Modality]) -> list[str]:
        """Why ``wanted`` cannot be made of a case, a clause each; no voxel is looked at."""
        readable = self._maker.readable(case, wanted)
        # A poor one may have a grid of its own.
        used = self.config.task.guides or self.sources
        paths = [path for name, path in readable.images.items() if name in used]
        own_grids = bool(self.config.data.common_grid)
        return self._maker.trouble(readable, wanted) + grid_trouble(paths, own_grids)

    @property
    def generator(self) -> "nn.Module":
        """The network itself, with the weights; :attr:`framework` knows how it makes a picture."""
        return self._runs[0].run.framework.generator

    @property
    def framework(self) -> "Framework":
        """What makes (B, T, *) of (B, S, *) in the network's scale: see its ``synthesize``."""
        return self._runs[0].run.framework

    def _goal(self, case: Case, wanted: Sequence[str] | None) -> list[Modality]:
        if wanted is None:
            lacking = case.missing(self.targets)
            if not lacking and self.config.mode == "any":
                raise InputError(f"case {case.name} lacks nothing; say with wanted= what to make")
            return list(lacking or self.targets)
        names = [wanted] if isinstance(wanted, str) else wanted
        goal: list[Modality] = [parse_modality(name) for name in names]
        for one in self._runs:
            one.refuse_others(goal)
        return goal


@contextmanager
def _on_disk(
    case: Case | str | Path | Mapping[str, Image], affine: np.ndarray | None
) -> Iterator[Case]:
    """``case`` as files; what is in memory is written to a folder that goes when the block ends.

    So an array is read, checked and scaled exactly as the file that holds it.
    """
    found = _only_case(Path(case)) if isinstance(case, str | Path) else case
    if isinstance(found, Case):
        if affine is not None:
            raise InputError(OWN_AFFINE)
        yield found
        return
    if not isinstance(found, Mapping):
        raise InputError(
            "a case is one of synth3d.find_cases, its folder, or a dict as in "
            f'{{"t1": FILE, "t2": FILE}}; got {_kind(found)}'
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            images = _write_all(found, affine, Path(folder))
            yield Case("as given", "as given", Path(folder), images, None, "brats2023")
        except InputError as error:  # the folder means nothing to anybody
            raise InputError(str(error).replace(folder + os.sep, "")) from error


def _write_all(
    case: Mapping[str, Image], affine: np.ndarray | None, folder: Path
) -> dict[Modality, Path]:
    """The files of ``case``, in the usual order; in ``folder`` of what is in memory."""
    images: dict[Modality, Path] = {}
    arrays: dict[Modality, np.ndarray] = {}
    for name, image in case.items():
        if (modality := parse_modality(name)) in images:
            raise InputError(f"{name!r} is {modality}, which is there already")
        images[modality] = folder / f"{modality}.nii"
        if isinstance(image, np.ndarray):
            arrays[modality] = image
        elif isinstance(image, NiftiImage):
            write_image(images[modality], image)
        elif isinstance(image, str | Path):
            images[modality] = Path(image)
        else:
            raise InputError(
                f"{name!r} is {_kind(image)}; give a NIfTI file, an image that nibabel read, or a "
                "NumPy array"
            )
    _check(arrays, len(images), affine)
    for modality, array in arrays.items():
        write_new(images[modality], array, np.asarray(affine), np.float32)
    return {m: images[m] for m in ALL_MODALITIES if m in images}


def _only_case(folder: Path) -> Case:
    cases = find_cases(folder)
    if len(cases) > 1:
        names = named([case.name for case in cases], 3)
        raise InputError(f"{folder} holds {len(cases)} cases, {names}; give the folder of one")
    return cases[0]


def _kind(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")


def _check(arrays: Mapping[Modality, np.ndarray], files: int, affine: np.ndarray | None) -> None:
    """Refuse what cannot be one case; ``files`` are as many as there will be."""
    if arrays and len(arrays) < files:
        raise InputError("give files or arrays, not both in one case")
    if arrays and affine is None:
        raise InputError("arrays need affine=, the (4, 4) matrix from voxel (x, y, z) to mm")
    if not arrays and affine is not None:
        raise InputError(OWN_AFFINE)
    matrix = np.asarray(affine)
    if arrays and (matrix.shape != (4, 4) or abs(np.linalg.det(matrix)) < 1e-9):
        raise InputError("affine= must be a (4, 4) matrix that can be inverted")
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or any(len(shape) != 3 for shape in shapes):
        told = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(f"the arrays of a case must share one shape (z, y, x), got {told}")
    for name, array in arrays.items():
        if array.dtype.kind not in "iufb" or not np.isfinite(array).all():
            raise InputError(f"{name} has NaN or infinite voxels, or none that are numbers")
