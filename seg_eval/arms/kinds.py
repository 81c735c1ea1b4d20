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

from seg_eval.arms.completed import Completed
from seg_eval.arms.synthesisers import SynthesisRun
from synth3d.errors import InputError

FIXED = ("full", "zero")
NAIVE = ("copy", "template")
VOXELWISE = ("ridge", "boosted")
RIVALS = (*NAIVE, *VOXELWISE)
"""Cheap arms for the frozen segmenter."""
SYNTHETIC = "synthetic"
PLUMBING = "plumbing"
RETRAINED_KINDS = ("specialist", "dropout", "retrained")
"""Honest rivals: each needs a segmenter of its own."""
KINDS = (*FIXED, *RIVALS, SYNTHETIC, PLUMBING, *RETRAINED_KINDS)
GROUPS = {
    "default": (*RIVALS, SYNTHETIC, PLUMBING),
    "rivals": RETRAINED_KINDS,
    "all": KINDS,
}
"""Words of ``--arms`` that stand for several arms; ``default`` trains one segmenter alone."""

WITHOUT_FILES = (*FIXED, "specialist", "dropout")


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
        return self.kind not in WITHOUT_FILES

    @property
    def content(self) -> str:
        """Name of the arm whose files these are."""
        return self.of or self.name

    @property
    def segmenter(self) -> str:
        """``frozen`` or, for an honest rival, its own kind."""
        return self.kind if self.kind in RETRAINED_KINDS else "frozen"


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
