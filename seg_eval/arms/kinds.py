"""Arms: what stands in the missing channels, and which segmenter looks at it.

``full`` is the real file and ``zero`` exact zeros. Of a sequence that is not missing but has thick
slices, the floor is ``degraded`` instead, the slices as nnU-Net would resample them; ``trilinear``
and ``spline`` interpolate them, and a ``restored`` arm comes from a run that restores them.
``copy``, ``template``, ``ridge`` and
``boosted`` are made from the training cases; a synthetic arm comes from a run of ``synth3d`` or
from the files of any other tool; ``plumbing`` sends the real file through the export path. All of
these are seen by the same frozen segmenter. Rivals with a segmenter of their own train it:
``specialist`` never sees the sequence, ``dropout`` has learned to do without any one, and
``retrained`` has learned from out-of-fold synthetic channels.

The standard library and :mod:`synth3d.errors` suffice here, so that a command line can list the
arms at once.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from synth3d.errors import InputError
from synth3d.files import refuse_names

if TYPE_CHECKING:
    from seg_eval.arms.completed import Completed
    from seg_eval.arms.synthesisers import SynthesisRun

Group = Literal["reference", "naive", "voxel-wise", "synthesis", "rival", "check"]
Alternative = Literal["greater", "two-sided"]
Asked = Literal["missing", "degraded", "either"]


@dataclass(frozen=True)
class ArmKind:
    """All that is known of one kind of arm; a new kind is one record in :data:`ARM_KINDS`.

    Attributes:
        name: As ``--arms`` and ``summary.json`` have it.
        group: What sort of thing it is; a ``reference`` is in every experiment.
        what: One plain sentence; ``{missing}`` stands for the missing sequences.
        words: How a sentence calls it; ``{missing}``, ``{channels}`` ("FLAIR channel") and
            ``{name}`` (of the arm) may stand in it.
        plural: Whether ``words`` take a plural verb.
        by_default: Whether ``--arms default`` has it.
        has_files: Whether its channels are read from files made for it.
        is_real: Whether its channels are the case's own files; otherwise they are exact zeros
            where there are no files.
        own_segmenter: Whether it needs a segmenter trained for it alone.
        without_missing: That segmenter has no channel for what is missing.
        channel_dropout: Probability that a patch of that training loses one random channel.
        needs_synthesis: Whether its channels come from a synthesiser; with a segmenter of its
            own, that one learns from out-of-fold synthetic channels.
        needs_one_grid: Whether it means something only where all cases lie on one grid.
        compared: Whether it stands among the arms that are held against ``full`` and against
            synthesis; references and checks do not.
        tested: How each synthetic arm is tested against it; None where it is not.
        asked: Where it makes sense: if a sequence is missing, is degraded, or in either case.
    """

    name: str
    group: Group
    what: str
    words: str
    plural: bool = False
    by_default: bool = True
    has_files: bool = True
    is_real: bool = False
    own_segmenter: bool = False
    without_missing: bool = False
    channel_dropout: float = 0.0
    needs_synthesis: bool = False
    needs_one_grid: bool = False
    compared: bool = True
    tested: Alternative | None = None
    asked: Asked = "either"

    @property
    def is_reference(self) -> bool:
        """Whether it is the ceiling or a floor, without which nothing can be said."""
        return self.group == "reference"

    @property
    def is_cheap(self) -> bool:
        """Whether it is a rival that costs next to nothing: no network is trained for it."""
        return self.group in ("naive", "voxel-wise")

    @property
    def is_check(self) -> bool:
        """Whether it is the real file sent through the export path."""
        return self.group == "check"

    @property
    def is_synthesis(self) -> bool:
        """Whether there is one arm for each synthesiser, under the synthesiser's name."""
        return self.needs_synthesis and not self.own_segmenter

    @property
    def learns_from_synthesis(self) -> bool:
        """Whether its segmenter is trained on out-of-fold synthetic channels."""
        return self.needs_synthesis and self.own_segmenter


ARM_KINDS: dict[str, ArmKind] = {
    kind.name: kind
    for kind in (
        ArmKind("full", "reference", "every sequence real: the ceiling", "the real {missing}",
                has_files=False, is_real=True, compared=False, tested="two-sided"),
        ArmKind("zero", "reference", "{missing} blanked with zeros",
                "leaving the {channels} blank", has_files=False, compared=False,
                tested="greater", asked="missing"),
        ArmKind("degraded", "reference", "thick slices of {missing}, resampled as nnU-Net does it",
                "taking the thick slices as they are", compared=False, tested="greater",
                asked="degraded"),
        ArmKind("copy", "naive", "a copy of the sequence most like {missing} in its place",
                "a copy of the most similar sequence", tested="greater", asked="missing"),
        ArmKind("template", "naive", "the training cases' mean {missing} in its place",
                "the mean training image", needs_one_grid=True, tested="greater", asked="missing"),
        ArmKind("trilinear", "naive", "thick slices of {missing}, interpolated linearly",
                "linear interpolation", tested="greater", asked="degraded"),
        ArmKind("spline", "naive", "thick slices of {missing}, interpolated by cubic B-splines",
                "cubic interpolation", tested="greater", asked="degraded"),
        ArmKind("ridge", "voxel-wise", "{missing} by ridge regression, voxel by voxel",
                "ridge regression", tested="greater"),
        ArmKind("boosted", "voxel-wise", "{missing} by boosted trees, voxel by voxel",
                "boosted trees", plural=True, tested="greater"),
        ArmKind("restored", "synthesis", "{missing} restored from its thick slices",
                "restoration ({name})", needs_synthesis=True, asked="degraded"),
        ArmKind("synthetic", "synthesis", "{missing} made by this synthesiser",
                "synthesis ({name})", needs_synthesis=True),
        ArmKind("plumbing", "check",
                "the real {missing} sent through the export path: must equal full",
                "the real {missing} through the export path", compared=False),
        ArmKind("specialist", "rival",
                "a segmenter of its own, trained without {missing}: no synthesis",
                "a specialist trained without {missing}", by_default=False, has_files=False,
                own_segmenter=True, without_missing=True, tested="two-sided"),
        ArmKind("dropout", "rival",
                "{missing} blanked, for a segmenter of its own trained to do without channels",
                "a segmenter trained with channel dropout", by_default=False, has_files=False,
                own_segmenter=True, channel_dropout=0.5, tested="two-sided"),
        ArmKind("retrained", "rival",
                "synthetic {missing}, for a segmenter of its own retrained on synthetic images",
                "a segmenter retrained on synthetic images", by_default=False,
                own_segmenter=True, needs_synthesis=True, tested="two-sided"),
    )
}  # fmt: skip
"""Every kind of arm, in the order in which arms are listed."""


def kinds_with(quality: str, degraded: bool = False) -> tuple[str, ...]:
    """Names of the kinds that have a quality, as ``"own_segmenter"`` or ``"is_cheap"``.

    Of those that make sense where a sequence is missing or, if so, ``degraded``.
    """
    return tuple(kind.name for kind in asked_kinds(degraded) if getattr(kind, quality))


def asked_kinds(degraded: bool) -> list[ArmKind]:
    """Those that make sense where a sequence is missing or, if so, ``degraded``."""
    words = ("either", "degraded" if degraded else "missing")
    return [kind for kind in ARM_KINDS.values() if kind.asked in words]


def floor_of(degraded: bool) -> str:
    """The kind of arm that recovers nothing by definition."""
    return "degraded" if degraded else "zero"


def groups(degraded: bool = False) -> dict[str, tuple[str, ...]]:
    """Words of ``--arms`` that stand for several kinds; ``default`` trains one segmenter alone."""
    known = asked_kinds(degraded)
    optional = [kind for kind in known if not kind.is_reference]
    return {
        "default": tuple(kind.name for kind in optional if kind.by_default),
        "rivals": tuple(kind.name for kind in optional if kind.own_segmenter),
        "all": tuple(kind.name for kind in known),
    }


def help_on_arms() -> str:
    """What ``--arms`` takes, for the command line's help."""
    default, rivals = (", ".join(groups()[name]) for name in ("default", "rivals"))
    other = [name for name in groups(degraded=True)["default"] if name not in groups()["default"]]
    left_out = [kind.name for kind in asked_kinds(False) if kind.asked == "missing"]
    return (
        f"of {default} (together: default) and {rivals} (together: rivals), or all; "
        f"{' and '.join(kinds_with('is_reference'))} are always there; of a degraded sequence "
        f"{', '.join(other)} too, and {', '.join(left_out)} only by name, with "
        f"{' and '.join(kinds_with('is_reference', degraded=True))} always there"
    )


@dataclass(frozen=True)
class Arm:
    """One content of the missing channels, seen by one segmenter.

    Attributes:
        name: Unique in the experiment; a synthetic arm has the name of its run or folder.
        kind: A name in :data:`ARM_KINDS`.
        source: Of a synthetic or retrained arm: where its channels come from.
        of: Of a retrained arm, the synthetic arm whose channels it is fed.
    """

    name: str
    kind: str
    source: "SynthesisRun | Completed | None" = None
    of: str = ""

    @property
    def about(self) -> ArmKind:
        """The record of its kind."""
        return ARM_KINDS[self.kind]

    @property
    def synthesiser(self) -> "SynthesisRun | Completed":
        """Where its channels come from, of an arm that has a synthesiser."""
        assert self.source is not None
        return self.source

    @property
    def has_files(self) -> bool:
        """Whether the channels are read from files made for the arm ``content``."""
        return self.about.has_files

    @property
    def has_own_files(self) -> bool:
        """Whether those files are of no other arm, so that they are scored as images."""
        return self.has_files and not self.of

    @property
    def content(self) -> str:
        """Name of the arm whose files these are."""
        return self.of or self.name

    @property
    def segmenter(self) -> str:
        """``frozen`` or, of a rival with a segmenter of its own, its kind."""
        return self.kind if self.about.own_segmenter else "frozen"


def parse_kinds(words: Iterable[str], degraded: bool = False) -> tuple[str, ...]:
    """Kinds of arm, in the order of :data:`ARM_KINDS`, from words of ``--arms``.

    A word is a kind, a group, or several of them with commas between. What makes sense of a
    missing sequence may be named for a ``degraded`` one, too; the other way round it is refused.
    """
    names, grouped = split_words(words), groups(degraded)
    if unknown := sorted(set(names) - set(ARM_KINDS) - set(grouped)):
        known = ", ".join((*grouped["all"], *grouped))
        raise InputError(f"unknown arm(s) {', '.join(unknown)}; known: {known}")
    strange = [n for n in names if n in ARM_KINDS and ARM_KINDS[n].asked == "degraded"]
    if strange and not degraded:
        raise InputError(f"arm(s) {', '.join(strange)} are of a degraded sequence; ask --degraded")
    wanted = {*kinds_with("is_reference", degraded)}
    wanted = wanted.union(*(grouped.get(name, (name,)) for name in names))
    return tuple(kind for kind in ARM_KINDS if kind in wanted)


def split_words(words: Iterable[str]) -> list[str]:
    """``["a", "b", "c"]`` for ``["a,b", "c"]``."""
    return [name.strip() for word in words for name in word.split(",") if name.strip()]


def name_arms(
    kinds: Sequence[str],
    sources: "Sequence[SynthesisRun | Completed]",
    degraded: bool = False,
) -> list[Arm]:
    """The arms of an experiment, in a fixed order: one for each source of synthesis.

    Ceiling and floor are always there; a kind that learns from synthesis brings the synthetic arms
    with it, since it is fed the first one's channels, and without any source it is left out. Of a
    ``degraded`` sequence, a source that looks at the thick slices makes a ``restored`` arm.
    """
    wanted = {*kinds, *kinds_with("is_reference", degraded)}
    synthesises = any(ARM_KINDS[kind].needs_synthesis for kind in wanted)
    made = [("restored" if degraded and s.restores else "synthetic", s) for s in sources]
    made.sort(key=lambda pair: pair[0])  # the first one is what the report is about
    arms: list[Arm] = []
    for name, kind in ARM_KINDS.items():
        if kind.is_synthesis:
            arms += [Arm(s.name, name, s) for of_kind, s in made if of_kind == name and synthesises]
        elif name in wanted and not kind.needs_synthesis:
            arms.append(Arm(name, name))
        elif name in wanted and made:
            arms.append(Arm(name, name, made[0][1], made[0][1].name))
    refuse_names((arm.name for arm in arms), of="arm")
    names = Counter(arm.name for arm in arms)
    taken = {source.name for source in sources} & {*ARM_KINDS}
    if taken := taken | {name for name, times in names.items() if times > 1}:
        raise InputError(
            f"two arms would be named {', '.join(sorted(taken))}; rename the run folder, or give "
            "--completed NAME=FOLDER"
        )
    return arms
