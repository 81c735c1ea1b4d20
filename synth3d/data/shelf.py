"""The cases of a run, which lie in the store or are made as they are asked for."""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from synth3d.cohort import Case, Reading, contradictions, notes_of
from synth3d.data.cache import Hashes, Packed, Store, key_of, make
from synth3d.data.cutting import check_drawable
from synth3d.data.degrade import degrade
from synth3d.data.misalign import misalign
from synth3d.data.options import DataConfig, DegradeConfig, MisalignConfig
from synth3d.data.prepared import Prepared
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.files import progress
from synth3d.images import Grid, Scale


class CaseError(InputError):
    """A case cannot be prepared, or no patch can be drawn from it."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What a run keeps of a case that it has seen.

    Attributes:
        scales: How each volume came from scanner units.
        looks: What :func:`synth3d.cohort.looks` found.
        skull: Whether more than a brain is shown.
        own: Its own grid.
        reading: How its label was read; None without one.
        nbytes: Of the entry.
    """

    scales: dict[str, Scale]
    looks: np.ndarray | None
    skull: bool
    own: Grid
    reading: Reading | None
    nbytes: int


class Shelf(Sequence[Packed]):
    """Cases by number, as the network sees them, or on their own grid where they are ``whole``.

    Each is mapped from ``store`` and let go by whoever asked for it. Only :class:`Facts` stay. In
    a ``with`` block a thread may prepare cases ahead; at its end it is none any more, since one
    that is at work while Python ends would abort it.

    Raises:
        CaseError: On asking for a case that cannot be used, or for any, once the background found
            one such.
    """

    def __init__(
        self,
        store: Store,
        cases: Sequence[Case],
        hashes: Hashes,
        task: Task,
        data: DataConfig,
        whole: bool = False,
    ) -> None:
        self.store, self.cases, self.task, self.data, self.whole = store, cases, task, data, whole
        self.keys = [key_of(case, hashes[case.name], task, data, whole) for case in cases]
        self.facts: dict[int, Facts] = {}
        self._expected: list[int] = []
        self._ahead: threading.Thread | None = None
        self._fault: CaseError | None = None
        self.noted = False

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *_: object) -> None:
        self._expected = []
        if self._ahead is not None:
            self._ahead.join()

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> Packed:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._fault is not None:
            raise self._fault
        return self._asked_for(number)

    def _asked_for(self, number: int) -> Packed:
        case = self.cases[number]
        try:
            work = partial(make, case, self.task, self.data, self.whole)
            packed = self.store.get(self.keys[number], work)
            if number not in self.facts and not self.whole:
                check_drawable(packed, case.name, self.task, self.data)
        except InputError as error:
            raise CaseError(str(error)) from error
        if number not in self.facts:
            about = {**packed.scales}, packed.looks, packed.skull, packed.own, packed.reading
            self.facts[number] = Facts(*about, packed.nbytes)
        return packed

    def expect(self, order: Sequence[int]) -> None:
        """Prepare the cases in the background, in the order in which they will be asked for."""
        self._expected = [n for n in order if not self.store.path(self.keys[n]).exists()]
        if self._expected and (self._ahead is None or not self._ahead.is_alive()):
            self._ahead = threading.Thread(target=self._prepare_ahead, daemon=True)
            self._ahead.start()

    def _prepare_ahead(self) -> None:
        while self._fault is None:
            try:
                number = self._expected.pop(0)
            except IndexError:
                return
            try:
                self._asked_for(number)
            except CaseError as error:
                self._fault = error

    def fill(self, seconds: float = float("inf")) -> bool:
        """Prepare what is not, one case after the other, for so long; whether all now are.

        Raises:
            InputError: Cases that cannot be used; once there is one, all are looked at first.
        """
        end, faults, self._fault = time.monotonic() + seconds, [], None
        left = [number for number in range(len(self)) if number not in self.facts]
        for number in progress(left, "preparing cases", unit="case") if left else ():
            if time.monotonic() > end and not faults:
                return False
            try:
                self._asked_for(number)
            except CaseError as error:
                faults.append(str(error))
        if faults:
            raise InputError("; ".join(faults))
        return True

    def look(self, seconds: float) -> None:
        """See for so long what lies in the store by now, where workers put it, too.

        Raises:
            CaseError: No patch can be drawn from a case.
        """
        end = time.monotonic() + seconds
        for number, key in enumerate(self.keys):
            if time.monotonic() > end:
                return
            if number not in self.facts and self.store.path(key).exists():
                self._asked_for(number)

    @property
    def readings(self) -> dict[str, Reading]:
        """How the label of each case seen so far was read, by case name."""
        known = sorted({**self.facts}.items())  # a copy: the background adds to it
        return {self.cases[n].name: case.reading for n, case in known if case.reading is not None}

    @property
    def bytes_ahead(self) -> int:
        """What the cases that are not prepared yet will take, going by those that are."""
        lacking = sum(not self.store.path(key).exists() for key in self.keys)
        sizes = [case.nbytes for case in [*self.facts.values()]]  # a copy: the background adds
        return lacking * sum(sizes) // max(1, len(sizes))

    def check_room(self) -> None:
        """Refuse a cohort that, going by the cases made so far, the disk or the limit cannot hold.

        Raises:
            InputError: As said.
        """
        if self.facts:
            mean = sum(case.nbytes for case in self.facts.values()) / len(self.facts)
            self.store.check_room(self.keys, int(mean))


def fill(shelves: Sequence[Shelf], seconds: float = math.inf) -> None:
    """Prepare the cases of a run for so long, without end if one cannot be used.

    All faults are told at once. What a user should know of the labels is printed once all cases of
    a shelf are there.

    Raises:
        InputError: Cases cannot be used, labels read so far contradict each other, or the disk
            cannot hold what they will take.
    """
    end, faults = time.monotonic() + seconds, []
    for shelf in shelves:
        try:
            shelf.fill(math.inf if faults else end - time.monotonic())
        except InputError as error:
            faults.append(str(error))
    if faults := [*faults, *contradictions(_readings(shelves))]:
        raise InputError("; ".join(faults))
    for shelf in shelves:
        shelf.check_room()
    full = [shelf for shelf in shelves if len(shelf.facts) == len(shelf) and not shelf.noted]
    for note in notes_of(_readings(full)):
        print(f"note: {note}")
    for shelf in full:
        shelf.noted = True


def refuse_contradictions(shelves: Sequence[Shelf], seconds: float) -> None:
    """Stop where labels contradict each other; new entries are looked at for so long.

    Raises:
        InputError: They do, or no patch can be drawn from a case.
    """
    for shelf in shelves:
        shelf.look(seconds)
    if faults := contradictions(_readings(shelves)):
        raise InputError("; ".join(faults))


def _readings(shelves: Sequence[Shelf]) -> dict[str, Reading]:
    return {name: reading for shelf in shelves for name, reading in shelf.readings.items()}


class Checked(Sequence[Prepared]):
    """Validation cases, each read when asked for, and degraded or misaligned if that is studied."""

    def __init__(self, shelf: Shelf, settings: MisalignConfig, poor: DegradeConfig) -> None:
        self.shelf, self.settings, self.poor = shelf, settings, poor

    def __len__(self) -> int:
        return len(self.shelf)

    def __getitem__(self, number: int) -> Prepared:  # pyright: ignore[reportIncompatibleMethodOverride]
        prepared = self.shelf[number].prepared(self.shelf.cases[number])
        task, data = self.shelf.task, self.shelf.data
        return misalign(degrade(prepared, task, data, self.poor), task, data, self.settings)
