"""What the numbers mean, as decisions: derived from intervals alone, never from hope.

"Better" needs an interval of a paired difference that excludes 0, "no better" one that excludes
every useful difference; all else is open. With few patients everything is. How often each decision
is wrong is measured by ``scripts/coverage``. How this is put into words is the report's affair.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from seg_eval.analysis.recovery import SMALLEST_GAP, NoRatio
from seg_eval.arms import ARM_KINDS, ArmKind, floor_of
from synth3d.scoring import FEW_CASES, Estimate

LARGE_LOSS = 0.05
"""Mean Dice that is still lost and must be named, however much was won back elsewhere."""

USEFUL = 0.02
"""Mean Dice by which synthesis has to be ahead of what costs less, to be worth anything."""

WEAK_DICE = 0.5
"""A segmenter below this with all real sequences says little about a better one."""

Worth = Literal["yes", "no", "unclear", "nothing to win"]

LOSES_TO_CHEAP = ("cheap_better", "no_better", "lead_too_small")
"""Findings that a cheap arm suffices: it surely does better, does, or does almost as well."""

Finding = Literal[
    "", "other_synthesis", "retrained_better", "harm", "segmenter_better", "gain_too_small",
    "no_gain", "cheap_better", "no_better", "lead_too_small", "ahead", "gain_unproven",
    "harm_unproven", "region_harmed", "no_cheap_rival", "lead_unproven", "lag_unproven",
]  # fmt: skip
"""What is said of synthesis: sure in order up to ``ahead``, open from there on."""


@dataclass(frozen=True)
class RegionFacts:
    """One region, for one synthetic arm.

    Attributes:
        gap: What blanking or, of a degraded sequence, its thick slices cost.
        no_ratio: Why that is not measurable; None where it is.
        recovery: What the arm wins back of it; None where not measurable, or without an arm.
        loss: What stays lost against the real sequence; None without an arm.
        full: Mean Dice with every sequence real.
        gain: What the arm brings against the blanked or thick channel; None without an arm.
    """

    gap: Estimate
    no_ratio: NoRatio | None
    recovery: Estimate | None = None
    loss: Estimate | None = None
    full: float = 1.0
    gain: Estimate | None = None

    @property
    def defined(self) -> bool:
        """Whether the gap is measurable."""
        return self.no_ratio is None

    @property
    def gets_worse(self) -> bool:
        """Whether the arm surely does harm here."""
        return self.gain is not None and self.gain.high < 0

    @property
    def gets_much_worse(self) -> bool:
        """Whether it does so by as much as must be named."""
        return self.gain is not None and self.gain.high < 0 and self.gain.value <= -LARGE_LOSS

    @property
    def loses_much(self) -> bool:
        """Whether so much surely stays lost that it must be named."""
        return self.loss is not None and self.loss.low > 0 and self.loss.value >= LARGE_LOSS


@dataclass(frozen=True)
class Rival:
    """Another arm beside the synthetic one.

    Attributes:
        name: Of the arm.
        kind: Its name.
        ahead: Mean Dice by which *synthesis* is ahead, over all regions, which were fixed before
            anything was scored; without a synthetic arm, by which the floor is. Where nothing
            measurable is lost in a region, nothing can be won there, and the lead is the smaller
            for it. Its interval allows for how many synthetic arms there are, one of which may be
            ahead by chance.
        mean: The rival's own mean Dice over them.
    """

    name: str
    kind: str
    ahead: Estimate
    mean: float

    @property
    def about(self) -> ArmKind:
        """The record of its kind."""
        return ARM_KINDS[self.kind]

    @property
    def suffices(self) -> bool:
        """Whether synthesis is surely not ahead of it by anything useful."""
        return self.ahead.high < USEFUL


@dataclass(frozen=True)
class Facts:
    """All that is decided upon.

    Attributes:
        missing: Names of the missing sequences, as ``t2f``, or of the degraded one.
        arm: The synthetic arm in question; None if there is none.
        mean: Its mean Dice over all regions.
        regions: By name, in order: those of the question, whatever the data say of them.
        rivals: Every other arm but ``full`` and checks; the floor among them. Empty where no region
            has a measurable gap.
        patients: How many.
        degraded: Whether the sequence is there, with thick slices.
        kind: Of the arm.
    """

    missing: Sequence[str]
    arm: str | None
    mean: float
    regions: dict[str, RegionFacts]
    rivals: Sequence[Rival]
    patients: int
    degraded: bool = False
    kind: str = "synthetic"

    @property
    def defined(self) -> list[str]:
        """Regions with a measurable gap."""
        return [name for name, region in self.regions.items() if region.defined]

    @property
    def is_blind(self) -> bool:
        """Whether the segmenter is weak everywhere, so that it could not have lost much."""
        return all(region.full < WEAK_DICE for region in self.regions.values())

    @property
    def untold(self) -> list[str]:
        """Regions without a measurable gap whose mean or interval allows for one that matters."""
        return [
            name for name, r in self.regions.items()
            if not r.defined and (r.gap.value >= SMALLEST_GAP or r.gap.high >= LARGE_LOSS)
        ]  # fmt: skip

    @property
    def harmed(self) -> list[str]:
        """Regions that the synthetic arm surely makes much worse than the floor does, and those
        that the floor does not lose, but the arm does.
        """
        return [
            name for name, region in self.regions.items()
            if region.gets_much_worse
            or (not region.defined and name not in self.untold and region.loses_much)
        ]  # fmt: skip

    @property
    def is_hint(self) -> bool:
        """Whether there are too few patients for a proof."""
        return self.patients < FEW_CASES

    @property
    def floor(self) -> Rival:
        """The channel blanked or degraded; there is one wherever a synthetic arm is judged."""
        return next(rival for rival in self.rivals if rival.kind == floor_of(self.degraded))

    @property
    def cheap(self) -> Rival | None:
        """The strongest rival that no network is trained for."""
        return self.best(lambda kind: kind.is_cheap)

    @property
    def surely_ahead(self) -> bool:
        """Whether the arm is surely ahead of the floor and of every cheap arm."""
        return all(rival.ahead.low > 0 for rival in (self.floor, *self.all_cheap))

    @property
    def all_cheap(self) -> list[Rival]:
        """Every rival that no network is trained for."""
        return [rival for rival in self.rivals if rival.about.is_cheap]

    @property
    def contender(self) -> Rival | None:
        """The strongest cheap arm of those that the arm is not surely ahead of, if there are any;
        else the strongest one.
        """
        open_ = [rival for rival in self.all_cheap if rival.ahead.low <= 0]
        return min(open_, key=lambda rival: rival.ahead.value, default=self.cheap)

    def best(self, wanted: Callable[[ArmKind], bool]) -> Rival | None:
        """The strongest rival of the kinds that are ``wanted``."""
        of_kind = [rival for rival in self.rivals if wanted(rival.about)]
        return min(of_kind, key=lambda rival: rival.ahead.value, default=None)


def does_without(kind: ArmKind) -> bool:
    """Whether it is a segmenter of its own that needs no synthesis."""
    return kind.own_segmenter and not kind.needs_synthesis


@dataclass(frozen=True)
class Advice:
    """What to do.

    ``leave_blank`` means the floor: of a degraded sequence, its slices as they are.

    Attributes:
        code: ``worth_it``; ``worth_it_untrained`` (worth it, but no segmenter of its own was
            tried); ``train`` a segmenter of its own; ``other_synthesis``; ``leave_blank``; ``use``
            the arm instead; the arm ``will_do``; ``mixed`` (surely wins, and surely loses in
            others); ``more_cases`` or ``cheap_rivals`` are needed to tell.
        arm: Which arm is meant; None where the code needs none.
        otherwise: What to do if no segmenter can be trained; of ``train`` alone.
    """

    code: str
    arm: Rival | None = None
    otherwise: "Advice | None" = None


@dataclass(frozen=True)
class Verdict:
    """Is synthesis worth it here, and what would be the better choice.

    Attributes:
        facts: The figures with their intervals.
        reason: It cannot be told whether anything is lost, by this segmenter or at all; nothing
            measurable is; nothing was synthesised; or synthesis was ``compared``, to which further
            attributes belong.
        worth: The answer in a word; ``unclear`` with few patients.
        worth_if_frozen: The same, as if no segmenter could be trained anew.
        better: The arm to prefer; none with few patients.
        advice: What to do.
        finding: All of it in one word, which the sentence tells; "" with few patients, and
            where nothing was compared.
        in_enough: What the same intervals would decide in enough patients; None where there are
            enough. It says where few patients point to, and proves nothing.
    """

    facts: Facts
    reason: Literal["weak_segmenter", "unknown_loss", "no_loss", "no_synthesis", "compared"]
    worth: Worth
    worth_if_frozen: Worth
    better: Rival | None = None
    advice: Advice | None = None
    finding: Finding = ""
    in_enough: "Verdict | None" = None

    @property
    def likely(self) -> Worth:
        """``worth``, the number of patients set aside."""
        return self.in_enough.worth if self.in_enough else self.worth

    @property
    def alone(self) -> "Verdict":
        """The same decision, had no other synthetic arm been tried."""
        others = [rival for rival in self.facts.rivals if not rival.about.is_synthesis]
        return _decide_upon(replace(self.facts, rivals=others))

    @property
    def against(self) -> Rival | None:
        """Whom the finding holds synthesis against: the floor where there is no better arm."""
        if self.finding in ("retrained_better", "segmenter_better", *LOSES_TO_CHEAP):
            return self.better
        return self.facts.floor if self.finding else None

    @property
    def beside(self) -> Rival | None:
        """Whose mean Dice tells the finding: the better arm's, or that of the strongest rival."""
        if self.finding in ("ahead", "lead_unproven", "lag_unproven"):
            return self.facts.contender
        return self.better if self.finding == "other_synthesis" else self.against


def judge(facts: Facts) -> Verdict:
    """Decide upon one synthetic arm, or upon none."""
    found = _decide_upon(facts)
    if not facts.is_hint:
        return found
    return replace(found, in_enough=_decide_upon(replace(facts, patients=FEW_CASES)))


def _decide_upon(facts: Facts) -> Verdict:
    if not facts.defined and facts.is_blind:
        return Verdict(facts, "weak_segmenter", "unclear", "unclear")
    if not facts.defined and facts.untold:
        return Verdict(facts, "unknown_loss", "unclear", "unclear")
    if not facts.defined:
        worth: Worth = "unclear" if facts.is_hint else "nothing to win"
        return Verdict(facts, "no_loss", worth, worth)
    if facts.arm is None:  # `ahead` is then the lead of the floor
        tried = facts.best(lambda kind: kind.is_cheap or does_without(kind))
        did_better = tried if tried and tried.ahead.value < 0 else None
        advice = Advice("use", did_better) if did_better else None
        return Verdict(facts, "no_synthesis", "unclear", "unclear", advice=advice)
    frozen, worth, better = decide(facts)
    return Verdict(
        facts,
        "compared",
        worth,
        frozen,
        better,
        advice=_advise(facts, frozen, better),
        finding=_find(facts, frozen, better),
    )


def decide(facts: Facts) -> tuple[Worth, Worth, Rival | None]:
    """Worth with a frozen segmenter, worth altogether, and the arm to prefer, if any."""
    if facts.is_hint:
        return "unclear", "unclear", None
    surely = [r for r in facts.rivals if r.ahead.high < 0]
    better = min(surely, key=lambda r: r.ahead.value, default=None)
    as_good = [rival for rival in (facts.floor, *facts.all_cheap) if rival.suffices]
    frozen: Worth = "unclear"
    if as_good:
        better = better or min(as_good, key=lambda r: r.ahead.value)
        frozen = "unclear" if better.about.group == "synthesis" else "no"
    elif facts.cheap and facts.surely_ahead and not facts.harmed:
        frozen = "yes"
    worth: Worth = "no" if any(does_without(rival.about) for rival in surely) else frozen
    if worth == "no" and better and better.about.needs_synthesis:
        worth = "unclear"  # synthesis of another kind is the best of all
    return frozen, worth, better


def _find(facts: Facts, frozen: Worth, better: Rival | None) -> Finding:
    """What a sentence says of synthesis."""
    if facts.is_hint:
        return ""
    if better and better.about.needs_synthesis:
        return "other_synthesis" if better.about.is_synthesis else "retrained_better"
    if facts.floor.ahead.high < 0:
        return "harm"
    if better is None:
        return "ahead" if frozen == "yes" else _find_open(facts)
    if better.about.own_segmenter:
        return "segmenter_better"
    if better.about.is_reference:
        return "gain_too_small" if better.ahead.value > 0 else "no_gain"
    if better.ahead.high < 0:
        return "cheap_better"
    return "lead_too_small" if better.ahead.value > 0 else "no_better"


def _find_open(facts: Facts) -> Finding:
    """The same where nothing is sure: a difference is called by the side it is on."""
    if (lead := facts.floor.ahead).low <= 0:
        return "gain_unproven" if lead.value > 0 else "harm_unproven"
    if facts.harmed:
        return "region_harmed"
    if facts.contender is None:
        return "no_cheap_rival"
    return "lead_unproven" if facts.contender.ahead.value > 0 else "lag_unproven"


def _advise(facts: Facts, frozen: Worth, better: Rival | None) -> Advice:
    if facts.is_hint:
        return Advice("more_cases")
    if facts.harmed and facts.surely_ahead and frozen == "unclear":
        otherwise = Advice("mixed")
    elif frozen == "yes":
        otherwise = Advice("worth_it")
    elif frozen == "no":
        floor = facts.floor.kind
        otherwise = Advice("will_do", facts.best(lambda kind: kind.is_cheap or kind.name == floor))
    else:
        otherwise = Advice("more_cases" if facts.cheap else "cheap_rivals")
    if better is None:
        untrained = frozen == "yes" and facts.best(does_without) is None
        return Advice("worth_it_untrained") if untrained else otherwise
    if better.about.own_segmenter:
        return Advice("train", better, otherwise)
    if better.about.group == "synthesis":
        return Advice("other_synthesis", better)
    if better is facts.floor:
        return Advice("leave_blank")
    return Advice("use" if better.ahead.high < 0 else "will_do", better)
