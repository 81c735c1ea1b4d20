"""Channels that another tool synthesised: a folder of files, matched by case and modality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from seg_eval.arms.synthesisers import Teacher
from seg_eval.records import digest
from synth3d.cohort import MODALITIES, Case, Modality, find_cases
from synth3d.completion import teachers_of
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.images import background_of, check_same_grid, foreground, read, write_like
from synth3d.settings import parse


@dataclass(frozen=True)
class Completed:
    """A folder of synthesised files, of any tool.

    Attributes:
        name: The arm's name.
        folder: In any naming of a cohort, flat or with case folders, and with its case names.
    """

    name: str
    folder: Path

    @property
    def restores(self) -> bool:
        """Whether it has looked at a degraded sequence: as far as can be told."""
        return True

    @cached_property
    def _found(self) -> Mapping[str, Mapping[Modality, Path]]:
        return {case.name: case.images for case in find_cases(self.folder)}

    def file(self, case: str, modality: Modality) -> Path | None:
        """The file of one channel of one case; None if there is none."""
        return self._found.get(case, {}).get(modality)

    def absent(self, cases: Sequence[Case], missing: Sequence[Modality]) -> list[str]:
        """Case and modality of each file that is not there."""
        return [
            f"{case.name} {modality}"
            for case in cases
            for modality in missing
            if self.file(case.name, modality) is None
        ]

    def teachers(self, cases: Sequence[Case]) -> tuple[Teacher, ...]:
        """The segmenters that taught what made the files of ``cases``, by their receipts.

        Other tools leave none.

        Raises:
            InputError: A receipt is damaged.
        """
        found: dict[Teacher, None] = {}
        for case in cases:
            said = teachers_of(self.folder, case.name)
            where = f"the receipt of {case.name} in {self.folder}"
            found |= dict.fromkeys(parse(tuple[Teacher, ...], said, where))
        return tuple(found)

    def require(self, cases: Sequence[Case], missing: Sequence[Modality]) -> None:
        """Refuse a folder without every missing channel of every case, naming all at once."""
        if absent := self.absent(cases, missing):
            raise InputError(
                f"{self.folder} lacks {len(absent)} synthesised files of the test cases "
                f"({', '.join(absent)}); the files must be named as in the cohort"
            )

    def identity(self, cases: Sequence[Case], missing: Sequence[Modality]) -> str:
        """A hash over the files of ``cases``: equal files, equal arm."""
        found = {
            f"{case.name} {name}": self.file(case.name, name) for case in cases for name in missing
        }
        return digest({key: sha256(path) for key, path in found.items() if path})

    def write(
        self, case: Case, modality: Modality, missing: Sequence[Modality], path: Path
    ) -> None:
        """Write a channel to ``path`` as a segmenter may see it, marked as synthetic.

        Other tools leave -1 or noise in the background, and nnU-Net crops and normalises by
        what is not zero, so everything outside the brain, which the channels of ``case`` other
        than ``missing`` show, is set to 0; or, where their own background is not 0, to the tool's.

        Raises:
            InputError: The file is unreadable, on another grid, not finite, empty inside the
                brain, or the very same as the real one.
        """
        source, real = self._found[case.name][modality], case.images[modality]
        check_same_grid([real, source], whole=False)
        made = read(source).data
        if np.array_equal(made, read(real).data):
            raise InputError(f"{source} equals the real {modality}: nothing was synthesised")
        like = next(path for name, path in case.images.items() if name not in missing)
        outside = background_of(made) if background_of(read(like).data) else 0.0
        volume = np.where(brain_without(case, missing), made, outside).astype(np.float32)
        if not volume.any():
            raise InputError(f"{source} is zero everywhere inside the brain of {case.name}")
        mark = f"SYNTHETIC {modality}: {self.name}"
        # In the tool's own units, often 0 to 1: the cohort's integers would round them away.
        write_like(like, volume, path, description=mark, dtype=np.float32)


def brain_without(case: Case, missing: Sequence[Modality]) -> np.ndarray:
    """Bool (D, H, W): where any sequence of BraTS that is *not* missing shows the head."""
    known = [case.images[name] for name in MODALITIES if name not in missing]
    return np.any([foreground(read(path).data) for path in known], axis=0)


def parse_completed(text: str) -> Completed:
    """``FOLDER`` or ``NAME=FOLDER``, as given to ``--completed``."""
    name, equals, given = text.partition("=")
    named = bool(equals) and not Path(text).is_dir()
    given = given if named else text
    folder = Path(given)
    chosen = name.strip() if named else folder.resolve().name
    if not given or not folder.is_dir():  # the path of an empty word would be where we are
        raise InputError(f"--completed {text}: no folder {given}".rstrip())
    if not chosen or chosen.startswith(".") or "/" in chosen or not chosen.isprintable():
        raise InputError(f"--completed {text}: the arm needs a plain name, as in NAME=FOLDER")
    return Completed(chosen, folder.resolve())
