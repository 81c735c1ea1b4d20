"""One case on its way through a maker, in steps that different threads may take."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from synth3d.cohort import Modality
from synth3d.completion.calibration import calibration_of
from synth3d.completion.loading import maker_of
from synth3d.completion.made import Made
from synth3d.completion.plan import Job, in_the_way
from synth3d.completion.receipts import is_done
from synth3d.completion.request import CompleteRequest
from synth3d.completion.state import note_failure
from synth3d.errors import InputError
from synth3d.files import claim

if TYPE_CHECKING:
    from synth3d.completion.makers import Maker
    from synth3d.inference import OnTile


class Begun:
    """A case that this process claims until ``claim`` is closed; it is read, then made.

    Attributes:
        request: With a device and a number of threads of its own.
        job: Of this case.
        claim: Keeps other processes from the case.
        outcome: State and fault, as soon as they are known; None while the case is to be made and
            written.
        maker: What makes it, once it is read.
        made: What was made of it.
        seconds: Spent on it so far, without waiting for a thread.
    """

    maker: "Maker"

    def __init__(self, request: CompleteRequest, job: Job) -> None:
        """Nothing is done yet."""
        self.request, self.job, self.claim = request, job, ExitStack()
        self.outcome: tuple[str, str] | None = None
        self.made: dict[Modality, Made] = {}
        self.seconds = 0.0
        self._content: Any = None

    @property
    def held(self) -> bool:
        """Whether another process has the case."""
        return self.outcome is not None and self.outcome[0] == "held"

    def read(self, identity: str) -> None:
        """Claim the case and read what the maker of this ``identity``, JSON, needs of its files.

        The outcome is ``held`` if another process has it.
        """
        request, job, layout = self.request, self.job, self.request.layout
        with self._timed():
            if not self.claim.enter_context(claim(layout.lock(job.case.name))):
                self.outcome = "held", ""
            elif is_done(layout, job.case, job.identity):
                self.outcome = "theirs", ""
            elif not request.overwrite and (taken := in_the_way(job, layout)):  # since the plan
                self.outcome = "failed", "; ".join(taken)
        if self.outcome is not None:
            return
        self.maker = maker_of(request, identity)
        if job.make:
            with self._timed(), self._judged():
                self._content = self.maker.read(job.readable, job.make)

    def make(self, on_tile: "OnTile | None" = None) -> None:
        """Make what is missing, unless the outcome is known; ``on_tile`` is told of the tiles."""
        job, request, content = self.job, self.request, self._content
        self._content = None
        if self.outcome is None and job.make:
            with self._timed(), self._judged():
                self.made = self.maker.make(
                    job.readable, job.make, request.members,
                    on_tile=on_tile, content=content, explain=bool(request.explain),
                )  # fmt: skip
                self.made = self._with_intervals(self.made)

    def _with_intervals(self, made: dict[Modality, Made]) -> dict[Modality, Made]:
        """``made`` with the intervals that its calibration tells, if there is one."""
        told, how = calibration_of(self.request), self.job.identity["how"]
        if (told[1] if told else "spread") != how.get("uncertainty", "spread"):
            raise InputError(
                f"the calibration {self.request.calibration} has changed since the cohort was "
                "planned; run again"
            )
        if told is None:
            return made
        return {m: replace(one, interval=told[0].half_width(one, m)) for m, one in made.items()}

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Bad input in the block is the outcome, and is noted in the folder."""
        try:
            yield
        except InputError as error:
            note_failure(self.request.out, self.job, str(error))
            self.outcome = "failed", str(error)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started
