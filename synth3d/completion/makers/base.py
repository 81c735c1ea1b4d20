"""What can make a case's missing sequences in scanner units; it writes no file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from synth3d.cohort import Case, Finding, Modality
from synth3d.completion.made import Made, Members
from synth3d.errors import InputError
from synth3d.inference import OnTile
from synth3d.training import RunConfig, TaughtBy

NEAREST: dict[Modality, tuple[Modality, ...]] = {
    "t1n": ("t1c", "t2w", "t2f"),
    "t1c": ("t1n", "t2w", "t2f"),
    "t2w": ("t2f", "pd", "t1n"),
    "t2f": ("t2w", "t1n", "t1c"),
    "pd": ("t2w", "t1n"),
}
"""Which sibling lends a synthetic sequence its header, best first."""


ONE = Members()
"""A single picture."""


class Maker:
    """Something that can make ``targets`` of a case from its ``sources``.

    Attributes:
        config: How the run it stands for sees a case.
        sources: Where the network looks, in channel order.
        targets: What it can make.
        random: Whether another seed gives another picture.
        explains: What it can say of what it makes, as a framework's ``explains``.
        identity: Plain values that decide the result, besides the case's own files and the seed.
        teachers: The segmenters that taught it, for the receipt.
        unnoticed: What it would not notice in a case, a sentence; empty where that is nothing.
        name: The run's name, or ``plumbing``.
        title: What it is, for one line of text.
    """

    random = False
    explains: frozenset[str] = frozenset()
    teachers: tuple[TaughtBy, ...] = ()
    name, unnoticed = "plumbing", ""
    identity: dict[str, Any]
    title: str

    def __init__(
        self, config: RunConfig, sources: tuple[Modality, ...], targets: tuple[Modality, ...]
    ) -> None:
        """Take what is common to all makers."""
        self.config, self.sources, self.targets = config, sources, targets
        data = config.data
        self.identity = {"patch": list(data.patch), "overlap": list(data.overlap)}
        if config.dim == 2:
            self.identity |= {"plane": data.plane, "slice_size": list(data.slice_size)}
        if data.intensity != "median":
            self.identity["intensity"] = data.intensity
        if data.common_grid:
            self.identity["common_grid"] = data.common_grid

    def readable(self, case: Case, hidden: Sequence[Modality]) -> Case:
        """``case`` with the files that may be read when ``hidden`` count as missing."""
        return replace(case, images={m: p for m, p in case.images.items() if m not in hidden})

    def trouble(self, case: Case, wanted: Sequence[Modality]) -> list[str]:
        """Why ``wanted`` cannot be made of the readable ``case``, a clause each; empty if it can.

        Nothing wanted may be trouble too: a source is gone that this maker cannot make.
        """
        if wanted and len(case.missing(self.sources)) == len(self.sources):
            return [f"has none of the sequences {', '.join(self.sources)} that the run needs"]
        return []

    def findings(self, case: Case) -> list[Finding]:
        """What the voxels of the readable ``case`` say against it; nothing is said of a real one.

        Raises:
            InputError: A file of the case is bad.
        """
        return []

    def make(
        self,
        case: Case,
        wanted: Sequence[Modality],
        members: Members = ONE,
        *,
        on_tile: OnTile | None = None,
        content: Any = None,
        explain: bool = False,
    ) -> dict[Modality, Made]:
        """The ``wanted`` sequences of ``case``, some of ``targets``.

        Args:
            case: As :meth:`readable` gives it, without :meth:`trouble`.
            wanted: What is made.
            members: Of which pictures the mean is taken.
            on_tile: Told (tiles done, tiles in all).
            content: What :meth:`read` gave for the case and ``wanted``; None reads it now.
            explain: Whether to say of it what it can; the pictures are the same to the bit.

        Raises:
            InputError: A file of the case is bad, the network gives NaN, or several draws were
                asked of a maker without randomness.
        """
        if members.draws > 1 and not self.random:
            raise InputError(f"{self.name} makes the same picture of every seed: one draw is all")
        content = self.read(case, wanted) if content is None else content
        return self._make(case, wanted, content, members, on_tile, explain)

    def read(self, case: Case, wanted: Sequence[Modality]) -> Any:
        """All that :meth:`make` needs of the files of ``case``; a thread of its own may read it.

        Raises:
            InputError: A file of the case is bad.
        """
        raise NotImplementedError

    def _make(
        self,
        case: Case,
        wanted: Sequence[Modality],
        content: Any,
        members: Members,
        on_tile: OnTile | None,
        explain: bool,
    ) -> dict[Modality, Made]:
        raise NotImplementedError

    def like(self, case: Case, target: Modality) -> Path:
        """The file, of a source, whose header and type ``target`` borrows.

        What is no source may lie on another grid, as T1 does beside PD and T2 in IXI. With a
        common grid it is the sequence on whose grid the case was worked on.
        """
        have: list[Modality] = [m for m in self.sources if m in case.images]
        common = self.config.data.common_grid
        first: list[Modality] = [m for m in have if m == common] if common else [*NEAREST[target]]
        return next(case.images[m] for m in (*first, *have) if m in have)
