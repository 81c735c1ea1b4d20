"""Channels that another tool synthesised: a folder of files, matched by case and modality."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from seg_eval.arms.gaps import Gaps
from seg_eval.arms.synthesisers import Teacher
from seg_eval.arms.whose_head import exchanged
from seg_eval.records import digest
from synth3d.cohort import MODALITIES, Case, Modality
from synth3d.completion import teachers_of
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.images import background_of, check_same_grid, foreground, read, write_like
from synth3d.scoring import Files, files_by_case
from synth3d.settings import parse


@dataclass(frozen=True)
class Completed:
    """A folder of synthesised files, of any tool.

    Attributes:
        name: The arm's name.
        folder: With the names that ``synth3d score`` reads: those of a cohort, flat or in case
            folders, or ``<case>.nii.gz`` and ``<case>_0003.nii.gz``, which say no sequence.
        cases: Names of the cohort's cases.
    """

    name: str
    folder: Path
    cases: tuple[str, ...] = ()
    how: ClassVar[str] = ""  # which is not known

    @property
    def restores(self) -> bool:
        """Whether it has looked at a degraded sequence: as far as can be told."""
        return True

    @cached_property
    def _found(self) -> tuple[Files, tuple[str, ...]]:
        return files_by_case(self.folder, self.cases)

    def file(self, case: str, modality: Modality, alone: bool = True) -> Path | None:
        """The file of one channel of one case; None if there is none.

        One whose name says no sequence is meant where the channel is missing ``alone``.
        """
        files = self._found[0].get(case, {})
        return files.get(modality) or (files.get(None) if alone else None)

    def unsaid(self, cases: Sequence[Case], gaps: Gaps) -> bool:
        """Whether the names of files that are used say no sequence."""
        files = {case.name: self._found[0].get(case.name, {}) for case in cases}
        return any(None in files[c.name] and not {*gaps.of(c)} & {*files[c.name]} for c in cases)

    def absent(self, cases: Sequence[Case], gaps: Gaps) -> list[str]:
        """Case and modality of each file that is not there."""
        return [
            f"{case.name} {modality}"
            for case in cases
            for modality in gaps.of(case)
            if self.file(case.name, modality, len(gaps.of(case)) == 1) is None
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

    def require(self, cases: Sequence[Case], gaps: Gaps) -> None:
        """Refuse a folder without every missing channel of every case, on its grid; all at once.

        Looks at headers alone, so that nothing is trained or made in vain.
        """
        if absent := self.absent(cases, gaps):
            raise InputError(
                f"{self.folder} lacks {len(absent)} synthesised files of the test cases "
                f"({', '.join(absent)}); the files must be named as in the cohort, or "
                f"<case>.nii.gz{''.join(f'; {note}' for note in self._found[1])}"
            )

        if faults := [*self._misfits(cases, gaps)]:
            raise InputError("; ".join(faults))

    def _misfits(self, cases: Sequence[Case], gaps: Gaps) -> Iterator[str]:
        """A sentence for each file whose header is bad, or says another grid than the real one."""
        for case in cases:
            for modality in gaps.of(case):
                source = self.file(case.name, modality, len(gaps.of(case)) == 1)
                try:
                    check_same_grid([case.images[modality], *filter(None, [source])], whole=False)
                except InputError as error:
                    yield str(error)

    def require_own(
        self, cases: Sequence[Case], gaps: Gaps, cohort: Sequence[Case] | None = None
    ) -> None:
        """Refuse files that show the head of another case than theirs; all are named at once.

        Each file is opened, so this is for the moment before they are used, and not for a plan.

        Args:
            cases: Whose files are looked at.
            gaps: What each of them lacks.
            cohort: All cases whose heads are held against the files, ``cases`` or more; None for
                ``cases``. Names that are off by one show heads of cases that are not tested.

        Raises:
            InputError: Files of two patients were exchanged, or one is unreadable.
        """
        known = {case.name: case for case in (*(cohort or ()), *cases)}
        tested = {case.name for case in cases}
        files = [
            (case.name, path)
            for case in cases
            for modality in gaps.of(case)
            if (path := self.file(case.name, modality, len(gaps.of(case)) == 1))
        ]

        def head_of(name: str) -> np.ndarray:
            drawn = gaps.drawn and name not in tested  # which lacks nothing
            return brain_without(known[name], () if drawn else gaps.of(known[name]))

        if wrong := exchanged(files, [*known], head_of):
            told = ", ".join(f"{path} shows {other}" for path, other in wrong.items())
            raise InputError(
                "each file must show the head of the patient whose name it bears, but "
                f"{told}: give the files their right names"
            )

    def identity(self, cases: Sequence[Case], gaps: Gaps) -> str:
        """A hash over the files of ``cases``: equal files, equal arm."""
        found = {
            f"{case.name} {name}": self.file(case.name, name, len(gaps.of(case)) == 1)
            for case in cases
            for name in gaps.of(case)
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
        source, real = self.file(case.name, modality, len(missing) == 1), case.images[modality]
        if source is None:
            raise InputError(f"{self.folder} has no {modality} of {case.name}")
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


def parse_completed(text: str, cases: Collection[str] = ()) -> Completed:
    """``FOLDER`` or ``NAME=FOLDER``, as given to ``--completed``, for the cohort's ``cases``."""
    name, equals, given = text.partition("=")
    named = bool(equals) and not Path(text).is_dir()
    given = given if named else text
    folder = Path(given)
    chosen = name.strip() if named else folder.resolve().name
    if not given or not folder.is_dir():  # the path of an empty word would be where we are
        raise InputError(f"--completed {text}: no folder {given}".rstrip())
    if not chosen or chosen.startswith(".") or "/" in chosen or not chosen.isprintable():
        raise InputError(f"--completed {text}: the arm needs a plain name, as in NAME=FOLDER")
    return Completed(chosen, folder.resolve(), tuple(cases))
