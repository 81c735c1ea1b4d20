"""What the numbers mean, in plain sentences: derived from intervals alone, never from hope.

"Better" is said only where the 95 % interval of a paired difference excludes 0; a mean difference
that may as well be chance is called "not surely" so, never "equal". With few patients everything
is a hint.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from seg_eval.analysis.names import REGION_NAMES, channels, listed, percent, signed, spoken
from seg_eval.analysis.recovery import SMALLEST_GAP
from seg_eval.analysis.tables import ABOUT_KINDS
from synth3d.scoring import FEW_CASES, Estimate

LARGE_LOSS = 0.05
"""Mean Dice that is still lost and must be named, however much was won back elsewhere."""

CHEAP = tuple(kind for kind, (group, _) in ABOUT_KINDS.items() if group in ("naive", "voxel-wise"))
WITHOUT_SYNTHESIS = ("specialist", "dropout")


@dataclass(frozen=True)
class RegionFacts:
    """One region, for one synthetic arm.

    Attributes:
        gap: What blanking costs.
        defined: Whether that is measurable.
        recovery: What the arm wins back of it; None where not measurable, or without an arm.
        loss: What stays lost against the real sequence; None without an arm.
    """

    gap: Estimate
    defined: bool
    recovery: Estimate | None = None
    loss: Estimate | None = None

    @property
    def loses_much(self) -> bool:
        """Whether so much surely stays lost that it must be named."""
        return self.loss is not None and self.loss.low > 0 and self.loss.value >= LARGE_LOSS


@dataclass(frozen=True)
class Rival:
    """Another arm beside the synthetic one.

    Attributes:
        name: Of the arm.
        kind: Of the arm.
        ahead: Mean Dice by which *synthesis* is ahead, over the regions with a measurable gap;
            without a synthetic arm, by which ``zero`` is.
        mean: The rival's own mean Dice over them.
    """

    name: str
    kind: str
    ahead: Estimate
    mean: float


@dataclass(frozen=True)
class Facts:
    """All that the sentences are made from.

    Attributes:
        missing: Names of the missing sequences, as ``t2f``.
        arm: The synthetic arm in question; None if there is none.
        mean: Its mean Dice over the regions with a measurable gap.
        regions: By name, in order.
        rivals: Every other arm but ``full`` and checks; ``zero`` among them.
        patients: How many.
    """

    missing: Sequence[str]
    arm: str | None
    mean: float
    regions: dict[str, RegionFacts]
    rivals: Sequence[Rival]
    patients: int

    @property
    def defined(self) -> list[str]:
        """Regions with a measurable gap."""
        return [name for name, region in self.regions.items() if region.defined]

    @property
    def harmed(self) -> list[str]:
        """Regions that a blank channel does not lose, but the synthetic arm surely does."""
        return [
            name for name, region in self.regions.items()
            if not region.defined and name not in self.untold and region.loses_much
        ]  # fmt: skip

    @property
    def zero(self) -> Rival:
        """The blanked channel; there is one wherever a synthetic arm is judged."""
        return next(rival for rival in self.rivals if rival.kind == "zero")

    @property
    def untold(self) -> list[str]:
        """Regions without a measurable gap whose mean or interval allows for one that matters."""
        return [
            name for name, r in self.regions.items()
            if not r.defined and (r.gap.value >= SMALLEST_GAP or r.gap.high >= LARGE_LOSS)
        ]  # fmt: skip


def describe(kind: str, name: str, missing: Sequence[str]) -> tuple[str, bool]:
    """An arm in a sentence, and whether it takes a plural verb."""
    without = f"trained without {spoken(missing)}"
    words = {
        "zero": (f"leaving the {channels(missing)} blank", False),
        "copy": ("a copy of the most similar sequence", False),
        "template": ("the mean training image", False),
        "ridge": ("ridge regression", False),
        "boosted": ("boosted trees", True),
        "specialist": (f"a specialist {without}", False),
        "dropout": ("a segmenter trained with channel dropout", False),
        "retrained": ("a segmenter retrained on synthetic images", False),
        "synthetic": (f"synthesis ({name})", False),
    }
    return words.get(kind, (name, False))


def headline(facts: Facts) -> dict[str, str | bool | None]:
    """The one sentence: is synthesis worth it here, and what would be the better choice.

    Returns:
        ``sentence``; ``worth`` ("yes", "no", "unclear", "nothing to win"); ``worth_if_frozen``
        (the same, as if no segmenter could be trained anew); ``primary`` (the arm in question);
        ``better`` (an arm to prefer to it, or None); ``hint`` (too few patients for a proof).
    """
    hint = facts.patients < FEW_CASES
    start = f"Without {spoken(facts.missing)}"
    few = f" ({facts.patients} patient{'s'[: facts.patients != 1]}: a hint, not a proof)" * hint
    fixed = {"primary": facts.arm, "hint": hint}
    if not facts.defined and facts.untold:
        text = f"{start}, it cannot be told whether anything is lost ({_gaps(facts)}), and so "
        text += "neither what synthesis wins back: more cases are needed"
        return _result(text + few, "unclear", "unclear", None) | fixed
    if not facts.defined:
        text = f"{start}, nothing measurable is lost ({_gaps(facts)}), so there is nothing for "
        text += f"synthesis to win back: leave the {channels(facts.missing)} blank"
        worth = "unclear" if hint else "nothing to win"
        return _result(text + few, worth, worth, None) | fixed
    if facts.arm is None:
        return _result(_nothing_tried(facts, start) + few, "unclear", "unclear", None) | fixed
    frozen, worth, better = judge(facts)
    text = f"{start}, synthesis ({facts.arm}) {_won_back(facts)}{_beside(facts, better)}: "
    text += "; ".join([_advice(facts, frozen, better), *_remarks(facts)])
    if hint:
        frozen = worth = "unclear"
    return _result(text + few, worth, frozen, better.name if better else None) | fixed


def judge(facts: Facts) -> tuple[str, str, Rival | None]:
    """Worth with a frozen segmenter, worth altogether, and the arm to prefer, if any."""
    zero, cheap = facts.zero, best(facts, CHEAP)
    surely = [r for r in facts.rivals if r.ahead.high < 0]
    better = min(surely, key=lambda r: r.ahead.value) if surely else None
    as_good = [rival for rival in (zero, cheap) if rival and rival.ahead.value <= 0]
    if as_good:
        better = better or min(as_good, key=lambda r: r.ahead.value)
        frozen = "unclear" if better.kind == "synthetic" else "no"
    elif cheap and min(zero.ahead.low, cheap.ahead.low) > 0 and not facts.harmed:
        frozen = "yes"
    else:
        frozen = "unclear"
    worth = "no" if any(rival.kind in WITHOUT_SYNTHESIS for rival in surely) else frozen
    if worth == "no" and better and better.kind in ("retrained", "synthetic"):
        worth = "unclear"  # synthesis of another kind is the best of all
    return frozen, worth, better


def best(facts: Facts, kinds: Sequence[str]) -> Rival | None:
    """The strongest rival of these kinds."""
    of_kind = [rival for rival in facts.rivals if rival.kind in kinds]
    return min(of_kind, key=lambda rival: rival.ahead.value) if of_kind else None


def compare_with_cheap(facts: Facts) -> str:
    """The longer sentence on one synthetic arm against the best cheap rival."""
    if facts.arm is None:
        return "No synthesiser was among the arms."
    cheap = best(facts, CHEAP)
    against = cheap or best(facts, ("zero",))
    left_out = f"leaving {spoken(facts.missing)} out"
    if not facts.defined or against is None:
        if facts.untold:
            return f"Whether {left_out} costs any Dice cannot be told from these cases."
        return (
            f"Without {spoken(facts.missing)} no measurable Dice is lost in any region here, so "
            "there is nothing for synthesis to win back."
        )
    name, lead = facts.arm, against.ahead
    rival = f"the best cheap rival ({cheap.name})" if cheap else left_out
    how, so = _outcome(lead)
    if lead.low > 0 and cheap is None:
        so = "no cheap rival was tried"
    elif lead.low > 0 and facts.zero.ahead.low <= 0:
        so = f"but it is not surely better than {left_out}"
    elif lead.low > 0 and facts.harmed:
        so = f"but it harms {', '.join(facts.harmed)}"
    text = f"Synthesis {name} {how.format(rival=rival)}: mean Dice over "
    text += f"{', '.join(facts.defined)} {facts.mean:.3f} against {against.mean:.3f}, "
    text += f"{signed(lead)} over {facts.patients} patient{'s'[: facts.patients != 1]}"
    if facts.patients < FEW_CASES:
        return f"{text} (few: a hint, not a proof)."
    return f"{text}; {so}."


def _outcome(lead: Estimate) -> tuple[str, str]:
    """How a synthetic arm stands against its cheap rival, and what follows."""
    if lead.low > 0:
        return "beats {rival}", "with the frozen segmenter it is worth its cost here"
    if lead.value > 0:
        return "is ahead of {rival}, but not beyond doubt", "more cases are needed to tell"
    if lead.high >= 0:
        return "does not beat {rival}", "on this evidence the cheaper one will do"
    return "loses to {rival}", "it is not worth its cost here"


def _result(text: str, worth: str, frozen: str, better: str | None) -> dict[str, str | bool | None]:
    return {"sentence": text + ".", "worth": worth, "worth_if_frozen": frozen, "better": better}


def _gaps(facts: Facts) -> str:
    return ", ".join(
        f"{REGION_NAMES.get(name, name)} {signed(r.gap)} Dice" for name, r in facts.regions.items()
    )


def _nothing_tried(facts: Facts, start: str) -> str:
    lost = [
        f"{facts.regions[name].gap.value:.3f} in {REGION_NAMES.get(name, name)}"
        for name in facts.defined
    ]
    text = f"{start}, the loss of Dice is {listed(lost)}, and no synthesiser was among the arms"
    tried = best(facts, (*CHEAP, *WITHOUT_SYNTHESIS))  # without synthesis `ahead` is zero's lead
    if tried is None or tried.ahead.value >= 0:
        blank = describe("zero", "zero", facts.missing)[0]
        return f"{text}; nothing that was tried did better than {blank}"
    words = describe(tried.kind, tried.name, facts.missing)[0]
    return f"{text}; of what was tried, {words} did best ({signed(tried.ahead, -1)} mean Dice)"


def _won_back(facts: Facts) -> str:
    zero = facts.zero
    if zero.ahead.high < 0:
        return f"does harm ({signed(zero.ahead)} mean Dice against blanking)"
    if zero.ahead.low <= 0:
        return f"wins back nothing for sure ({signed(zero.ahead)} mean Dice over blanking)"
    shares = []
    for name in facts.defined:
        share = facts.regions[name].recovery
        assert share is not None  # measurable gaps have a recovery
        figures = f"{percent(share.value)} % [{percent(share.low)}, {percent(share.high)}]"
        lost = " of the Dice lost" * (not shares)
        shares.append(f"{figures}{lost} in {REGION_NAMES.get(name, name)}")
    return f"wins back {listed(shares)}"


def _beside(facts: Facts, better: Rival | None) -> str:
    """How the strongest cheap arm and the strongest of each other sort compare.

    Whichever arm is advised (``better``) is among them.
    """
    cheap, without = best(facts, CHEAP), best(facts, WITHOUT_SYNTHESIS)
    trained, other = best(facts, (*WITHOUT_SYNTHESIS, "retrained")), best(facts, ("synthetic",))
    if trained is without:
        trained = None  # the retrained one is named only where it is the strongest
    if other and other.ahead.high >= 0:
        other = None
    if better and better.kind in CHEAP:
        cheap = better
    rivals = [rival for rival in (cheap, without, trained, other) if rival]
    against = [r for r in rivals if r.ahead.value <= 0]
    behind = [r for r in rivals if r.ahead.value > 0]
    text = ""
    if behind:
        text += f", {listed([_synthesis_ahead(facts, rival) for rival in behind])}"
    if against:
        link = "while" if facts.zero.ahead.low <= 0 else "but"
        text += f", {link} {listed([_rival_ahead(facts, rival) for rival in against])}"
    return text


def _synthesis_ahead(facts: Facts, rival: Rival) -> str:
    words = describe(rival.kind, rival.name, facts.missing)[0]
    how = "more than" if rival.ahead.low > 0 else "not surely more than"
    return f"{how} {words} ({signed(rival.ahead)} Dice)"


def _rival_ahead(facts: Facts, rival: Rival) -> str:
    words, plural = describe(rival.kind, rival.name, facts.missing)
    how = "as well" if rival.ahead.value == 0 else "better"
    if rival.ahead.high >= 0 and rival.ahead.value < 0:
        how += ", if not surely"
    return f"{words} {'do' if plural else 'does'} {how} ({signed(rival.ahead, -1)} Dice)"


def _advice(facts: Facts, frozen: str, better: Rival | None) -> str:
    cheap = best(facts, (*CHEAP, "zero"))
    instead = describe(cheap.kind, cheap.name, facts.missing)[0] if cheap else ""
    otherwise = {
        "yes": "synthesis is worth it",
        "no": f"{instead} will do",
        "unclear": f"{'more cases' if best(facts, CHEAP) else 'cheap rivals'} are needed to tell",
    }[frozen]
    if facts.harmed and frozen == "unclear":
        otherwise = "what it wins in some regions it loses in others"
    if better is None:
        tried = best(facts, WITHOUT_SYNTHESIS) is not None
        caveat = "" if tried else ", if the segmenter cannot be trained anew (not tried)"
        return {"yes": f"it is worth it here{caveat}"}.get(frozen, otherwise)
    if better.kind in (*WITHOUT_SYNTHESIS, "retrained"):
        words = describe(better.kind, better.name, facts.missing)[0]
        noun = words.replace(" retrained", "").replace(" trained", "")
        return f"train {noun} if you can, otherwise {otherwise}"
    if better.kind == "synthetic":
        return f"use {better.name} instead"
    words = describe(better.kind, better.name, facts.missing)[0]
    if better.kind == "zero":
        return f"leave the {channels(facts.missing)} blank"
    return f"use {words} instead" if better.ahead.high < 0 else f"{words} will do"


def _remarks(facts: Facts) -> list[str]:
    """What a good mean would hide: regions that stay lost, regions with nothing to win."""
    lost, free = [], []
    for name, region in facts.regions.items():
        loss, share = region.loss, region.recovery
        words = REGION_NAMES.get(name, name)
        figures = f"{loss.value:.3f} [{loss.low:.3f}, {loss.high:.3f}]" if loss else ""
        if region.loses_much and share is not None:
            part = share.value >= 0.5
            how = "is won back only in part" if part else "mostly stays lost"
            lost.append(f"{words} {how} ({figures} Dice below the real image)")
        elif name in facts.harmed:
            how = "which blanking costs nothing measurable, is harmed by synthesis"
            lost.append(f"{words}, {how} ({figures} Dice below the real image)")
        elif name in facts.untold:
            free.append(f"whether {words} loses anything cannot be told")
        elif not region.defined:
            free.append(f"{words} loses nothing measurable")
    return lost + free
