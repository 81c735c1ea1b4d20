"""Arms: what stands in the missing channels, and which segmenter looks at it.

``full`` is the real file and ``zero`` exact zeros. ``copy``, ``template``, ``ridge`` and
``boosted`` are made from the training cases; a synthetic arm comes from a run of ``synth3d`` or
from the files of any other tool; ``plumbing`` sends the real file through the export path. All of
these are seen by the same frozen segmenter. The honest rivals have a training of their own:
``specialist`` never sees the sequence, ``dropout`` has learned to do without any one, and
``retrained`` has learned from out-of-fold synthetic channels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from seg_eval.arms.completed import Completed
from seg_eval.arms.synthesisers import SynthesisRun
from synth3d.errors import InputError

Group = Literal["reference", "naive", "voxel-wise", "synthesis", "rival", "check"]
Alternative = Literal["greater", "two-sided"]


@dataclass(frozen=True)
class ArmKind:
    """All that is known of one kind of arm; a new kind is one record in :data:`ARM_KINDS`.

    Attributes:
        name: As ``--arms`` and ``summary.json`` have it.
        group: What sort of thing it is.
        what: One plain sentence; ``{missing}`` stands for the missing sequences.
        words: How a sentence calls it; ``{missing}``, ``{channels}`` ("FLAIR channel") and
            ``{name}`` (of the arm) may stand in it.
        plural: Whether ``words`` take a plural verb.
        by_default: Whether ``--arms default`` has it.
        has_files: Whether its channels are read from files made for it.
        own_segmenter: Whether it needs a segmenter trained for it alone.
        needs_synthesis: Whether its channels come from a synthesiser.
        compared: Whether it stands among the arms that are held against ``full`` and against
            synthesis; references and checks do not.
        tested: How each synthetic arm is tested against it; None where it is not.
    """

    name: str
    group: Group
    what: str
    words: str
    plural: bool = False
    by_default: bool = True
    has_files: bool = True
    own_segmenter: bool = False
    needs_synthesis: bool = False
    compared: bool = True
    tested: Alternative | None = None

    @property
    def is_cheap(self) -> bool:
        """Whether it is a rival that costs next to nothing: no network is trained for it."""
        return self.group in ("naive", "voxel-wise")


def _table(*kinds: ArmKind) -> dict[str, ArmKind]:
    return {kind.name: kind for kind in kinds}


ARM_KINDS: dict[str, ArmKind] = _table(
    ArmKind("full", "reference", "every sequence real: the ceiling", "the real {missing}",
            has_files=False, compared=False, tested="two-sided"),
    ArmKind("zero", "reference", "{missing} blanked with zeros: the floor",
            "leaving the {channels} blank", has_files=False, compared=False, tested="greater"),
    ArmKind("copy", "naive", "a copy of the sequence most like {missing} in its place",
            "a copy of the most similar sequence", tested="greater"),
    ArmKind("template", "naive", "the training cases' mean {missing} in its place",
            "the mean training image"),
    ArmKind("ridge", "voxel-wise", "{missing} by ridge regression, voxel by voxel",
            "ridge regression"),
    ArmKind("boosted", "voxel-wise", "{missing} by boosted trees, voxel by voxel",
            "boosted trees", plural=True),
    ArmKind("synthetic", "synthesis", "{missing} made by this synthesiser", "synthesis ({name})",
            needs_synthesis=True),
    ArmKind("plumbing", "check", "the real {missing} sent through the export path: must equal full",
            "the real {missing} through the export path", compared=False),
    ArmKind("specialist", "rival",
            "a segmenter of its own, trained without {missing}: no synthesis",
            "a specialist trained without {missing}", by_default=False, has_files=False,
            own_segmenter=True, tested="two-sided"),
    ArmKind("dropout", "rival",
            "{missing} blanked, for a segmenter of its own trained to do without channels",
            "a segmenter trained with channel dropout", by_default=False, has_files=False,
            own_segmenter=True, tested="two-sided"),
    ArmKind("retrained", "rival",
            "synthetic {missing}, for a segmenter of its own retrained on synthetic images",
            "a segmenter retrained on synthetic images", by_default=False, own_segmenter=True,
            needs_synthesis=True, tested="two-sided"),
)  # fmt: skip
"""Every kind of arm, in the order in which arms are listed."""

FIXED = ("full", "zero")
"""Always there, since nothing can be said without them."""
RIVALS = tuple(kind.name for kind in ARM_KINDS.values() if kind.is_cheap)
"""Cheap arms for the frozen segmenter."""
SYNTHETIC = "synthetic"
PLUMBING = "plumbing"
RETRAINED_KINDS = tuple(kind.name for kind in ARM_KINDS.values() if kind.own_segmenter)
"""Honest rivals: each needs a segmenter of its own."""
KINDS = tuple(ARM_KINDS)
GROUPS = {
    "default": tuple(k.name for k in ARM_KINDS.values() if k.by_default and k.name not in FIXED),
    "rivals": RETRAINED_KINDS,
    "all": KINDS,
}
"""Words of ``--arms`` that stand for several arms; ``default`` trains one segmenter alone."""


@dataclass(frozen=True)
class Arm:
    """One content of the missing channels, seen by one segmenter.

    Attributes:
        name: Unique in the experiment; a synthetic arm has the name of its run or folder.
        kind: One of :data:`KINDS`.
        source: Of a synthetic or retrained arm: where its channels come from.
        of: Of a retrained arm, the synthetic arm whose channels it is fed.
    """

    name: str
    kind: str
    source: SynthesisRun | Completed | None = None
    of: str = ""

    @property
    def has_files(self) -> bool:
        """Whether the channels are read from files made for the arm ``content``."""
        return ARM_KINDS[self.kind].has_files

    @property
    def content(self) -> str:
        """Name of the arm whose files these are."""
        return self.of or self.name

    @property
    def segmenter(self) -> str:
        """``frozen`` or, for an honest rival, its own kind."""
        return self.kind if ARM_KINDS[self.kind].own_segmenter else "frozen"


def parse_kinds(words: Iterable[str]) -> tuple[str, ...]:
    """Kinds of arm, in the order of :data:`KINDS`, from words of ``--arms``.

    Args:
        words: Each a kind, a group, or several of them with commas between.

    Raises:
        InputError: A word is neither.
    """
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(KINDS) - set(GROUPS)):
        known = ", ".join((*KINDS, *GROUPS))
        raise InputError(f"unknown arm(s) {', '.join(unknown)}; known: {known}")
    wanted = {*FIXED}.union(*(GROUPS.get(name, (name,)) for name in names))
    return tuple(kind for kind in KINDS if kind in wanted)


def name_arms(kinds: Sequence[str], sources: Sequence[SynthesisRun | Completed]) -> list[Arm]:
    """The arms of an experiment, in a fixed order: one for each source instead of ``synthetic``.

    ``full`` and ``zero`` are always there, since nothing can be said without them; with
    ``retrained`` the synthetic arms are, and without any source it is left out.

    Raises:
        InputError: Two sources of one name, or a source named as another arm.
    """
    wanted = {*kinds, *FIXED}
    arms = [Arm(kind, kind) for kind in (*FIXED, *RIVALS) if kind in wanted]
    if wanted & {SYNTHETIC, "retrained"}:  # what it learned from and is fed is an arm too
        arms += [Arm(source.name, SYNTHETIC, source) for source in sources]
    arms += [Arm(PLUMBING, PLUMBING)] if PLUMBING in wanted else []
    for kind in RETRAINED_KINDS:
        if kind not in wanted:
            continue
        if kind != "retrained":
            arms.append(Arm(kind, kind))
        elif sources:
            arms.append(Arm(kind, kind, sources[0], sources[0].name))
    names = [arm.name for arm in arms]
    taken = {name for name in names if names.count(name) > 1}
    taken |= {source.name for source in sources} & set(KINDS)
    if taken:
        raise InputError(
            f"two arms would be named {', '.join(sorted(taken))}; rename the run folder, or give "
            "--completed NAME=FOLDER"
        )
    return arms
