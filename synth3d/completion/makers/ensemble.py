"""Several runs as one maker: the mean of what they make of a case."""

from collections.abc import Sequence
from typing import Any

from synth3d.cohort import ALL_MODALITIES, Case, Finding, Modality
from synth3d.completion.made import Made, Members
from synth3d.completion.makers.base import Maker
from synth3d.completion.makers.scales import fitted
from synth3d.completion.makers.trained import RunMaker
from synth3d.errors import InputError
from synth3d.inference import OnTile


class EnsembleMaker(Maker):
    """Makes the mean of what several runs make, in scanner units, each run on its own way back.

    They make one sequence at least of the same intensities, and see the same sequences of a case,
    so that their brains are one. Architectures, dimensions, planes and tiles may differ.
    """

    def __init__(self, runs: Sequence[RunMaker]) -> None:
        """Take makers that are ready, two at least.

        Raises:
            InputError: One is there twice, or their pictures have no mean.
        """
        first = runs[0]
        for number, one in enumerate(runs):
            if any(one.identity == other.identity for other in runs[:number]):
                raise InputError(f"the run {one.run.folder} is named twice, or a copy of it is")
            for key in ("intensity", "common_grid"):
                mine, theirs = (getattr(each.config.data, key) for each in (one, first))
                if mine != theirs:
                    raise InputError(
                        f"the run {one.run.folder} has data.{key} = {mine!r} and "
                        f"{first.run.folder} {theirs!r}; average runs that have the same"
                    )
        targets: list[Modality] = [
            t for t in first.targets if all(t in one.targets for one in runs)
        ]
        if not targets:
            told = ", ".join(f"{one.name} makes {'+'.join(one.targets)}" for one in runs)
            raise InputError(f"there is no sequence that all runs make: {told}")
        seen = {name for one in runs for name in one.sources}
        sources: list[Modality] = [name for name in ALL_MODALITIES if name in seen]
        super().__init__(first.config, tuple(sources), tuple(targets))
        self.runs = tuple(runs)
        self.random = any(one.random for one in runs)
        self.teachers = tuple(dict.fromkeys(each for one in runs for each in one.teachers))
        self.identity = {"runs": [one.identity for one in runs]}
        # What one of them has learnt is noticed.
        self.unnoticed = first.unnoticed if all(one.unnoticed for one in runs) else ""
        self.name = "+".join(one.name for one in runs)
        self.title = f"mean of {len(runs)} runs: " + "; ".join(one.title for one in runs)

    def readable(self, case: Case, hidden: Sequence[Modality]) -> Case:
        """As :meth:`Maker.readable`; all runs restore the same, if they do."""
        return self.runs[0].readable(case, hidden)

    def trouble(self, case: Case, wanted: Sequence[Modality]) -> list[str]:
        """As :meth:`Maker.trouble`: what any of the runs says, and whether they see the same."""
        found = [
            f"{text} (run {one.name})" for one in self.runs for text in one.trouble(case, wanted)
        ]
        seen = [[m for m in one.sources if m in case.images] for one in self.runs]
        if not found and wanted and any({*names} != {*seen[0]} for names in seen):
            told = ", ".join(
                f"{one.name} of {'+'.join(names)}"
                for one, names in zip(self.runs, seen, strict=True)
            )
            found = [f"would be made by {told}; average runs that see the same sequences of it"]
        return found

    def findings(self, case: Case) -> list[Finding]:
        """As :meth:`Maker.findings`; what several runs say is said once."""
        return list(dict.fromkeys(text for one in self.runs for text in one.findings(case)))

    def read(self, case: Case, wanted: Sequence[Modality]) -> list[Any]:
        """As :meth:`Maker.read`, of each run."""
        return [one.read(case, wanted) for one in self.runs]

    def _make(
        self,
        case: Case,
        wanted: Sequence[Modality],
        content: list[Any],
        members: Members,
        on_tile: OnTile | None,
        explain: bool,
    ) -> dict[Modality, Made]:
        """There is nothing that explains a mean."""
        tiles: list[int] = []

        def told(number: int) -> OnTile:
            def tell(done: int, total: int) -> None:
                tiles.append(total)  # the first run's stand for all: they may have other tiles
                if on_tile is not None:
                    of = len(self.runs) * tiles[0]
                    on_tile(number * tiles[0] + done * tiles[0] // total, of)

            return tell

        parts = [
            one.pictures(case, wanted, own, members, told(number))
            for number, (one, own) in enumerate(zip(self.runs, content, strict=True))
        ]
        return {
            target: fitted([part[target] for part in parts], self.like(case, target))
            for target in wanted
        }
