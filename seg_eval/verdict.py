"""What the numbers mean, in plain sentences: derived from intervals alone, never from hope.

"Better" is said only where the 95 % interval of a paired difference excludes 0; "as well" where it
does not and the mean difference is not in synthesis' favour. With few patients everything is a
hint.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seg_eval.resampling import Estimate
from synth3d.bootstrap import FEW_CASES

LARGE_LOSS = 0.05
"""Mean Dice that is still lost and must be named, however much was won back elsewhere."""

COMMON_NAMES = {"t1n": "T1", "t1c": "contrast-enhanced T1", "t2w": "T2", "t2f": "FLAIR", "pd": "PD"}
REGION_NAMES = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}

CHEAP = ("copy", "template", "ridge", "boosted")
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


def spoken(names: Sequence[str]) -> str:
    """``T1 and FLAIR`` for ``["t1n", "t2f"]``."""
    return listed([COMMON_NAMES.get(name, name) for name in names])


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def describe(kind: str, name: str, missing: Sequence[str]) -> tuple[str, bool]:
    """An arm in a sentence, and whether it takes a plural verb."""
    without = f"trained without {spoken(missing)}"
    words = {
        "zero": ("leaving the channel blank", False),
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
    if not facts.defined:
        text = f"{start}, nothing measurable is lost ({_gaps(facts)}), so there is nothing for "
        text += "synthesis to win back: leave the channel blank"
        return _result(text + few, "nothing to win", "nothing to win", None) | fixed
    if facts.arm is None:
        return _result(_nothing_tried(facts, start) + few, "unclear", "unclear", None) | fixed
    frozen, worth, better = judge(facts)
    text = f"{start}, synthesis ({facts.arm}) {_won_back(facts)}{_beside(facts)}: "
    text += "; ".join([_advice(facts, frozen, better), *_remarks(facts)])
    if hint:
        frozen = worth = "unclear"
    return _result(text + few, worth, frozen, better.name if better else None) | fixed


def judge(facts: Facts) -> tuple[str, str, Rival | None]:
    """Worth with a frozen segmenter, worth altogether, and the arm to prefer, if any."""
    zero = next(rival for rival in facts.rivals if rival.kind == "zero")
    cheap = best(facts, CHEAP)
    surely = [r for r in facts.rivals if r.ahead.high < 0]
    better = min(surely, key=lambda r: r.ahead.value) if surely else None
    if zero.ahead.low <= 0:
        frozen = "no"
    elif cheap is None:
        frozen = "unclear"
    elif cheap.ahead.low > 0:
        frozen = "yes"
    else:
        frozen = "unclear" if cheap.ahead.value > 0 else "no"
    if better is None and frozen == "no":
        as_good = [r for r in (zero, cheap) if r and r.ahead.value <= 0]
        better = min(as_good, key=lambda r: r.ahead.value) if as_good else None
    worth = frozen
    if any(rival.kind in WITHOUT_SYNTHESIS for rival in surely):
        # a segmenter retrained on synthetic images may still be the best of all
        worth = "unclear" if better and better.kind == "retrained" else "no"
    return frozen, worth, better


def best(facts: Facts, kinds: Sequence[str]) -> Rival | None:
    """The strongest rival of these kinds."""
    of_kind = [rival for rival in facts.rivals if rival.kind in kinds]
    return min(of_kind, key=lambda rival: rival.ahead.value) if of_kind else None


def compare_with_cheap(facts: Facts) -> str:
    """The longer sentence on one synthetic arm against the best cheap rival."""
    against = best(facts, CHEAP) or best(facts, ("zero",))
    if not facts.defined or facts.arm is None or against is None:
        return (
            "Leaving the sequence out costs no measurable Dice in any region here, so there is "
            "nothing for synthesis to win back."
        )
    name, lead = facts.arm, against.ahead
    rival = "leaving it out" if against.kind == "zero" else f"the best cheap rival ({against.name})"
    figures = f"mean Dice over {', '.join(facts.defined)} {facts.mean:.3f} against "
    figures += f"{against.mean:.3f}, {signed(lead)} over {facts.patients} patients"
    if facts.patients < FEW_CASES:
        figures += " (few: a hint, not a proof)"
    if lead.low > 0:
        return f"Synthesis {name} beats {rival}: {figures}; it is worth its cost here."
    if lead.value > 0:
        return (
            f"Synthesis {name} is ahead of {rival}, but not beyond doubt: {figures}; "
            "more cases are needed to tell."
        )
    if lead.high >= 0:
        return (
            f"Synthesis {name} does not beat {rival}: {figures}; on this evidence the cheaper one "
            "will do."
        )
    return f"Synthesis {name} loses to {rival}: {figures}; it is not worth its cost here."


def signed(e: Estimate, times: float = 1) -> str:
    """``+0.012 [+0.004, +0.020]``."""
    low, high = sorted((times * e.low, times * e.high))
    return f"{times * e.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def percent(share: float | None) -> str:
    """``88`` for 0.88; an end of an interval may be unbounded."""
    if share is None or not math.isfinite(share):
        return "unbounded"
    return f"{100 * share:.0f}".replace("-0", "0") if abs(share) < 0.005 else f"{100 * share:.0f}"


def _result(text: str, worth: str, frozen: str, better: str | None) -> dict[str, str | bool | None]:
    return {"sentence": text + ".", "worth": worth, "worth_if_frozen": frozen, "better": better}


def _gaps(facts: Facts) -> str:
    return ", ".join(
        f"{REGION_NAMES.get(name, name)} {signed(r.gap)} Dice" for name, r in facts.regions.items()
    )


def _nothing_tried(facts: Facts, start: str) -> str:
    lost = [
        f"{facts.regions[name].gap.value:.3f} of the {REGION_NAMES.get(name, name)}'s Dice"
        for name in facts.defined
    ]
    text = f"{start}, {listed(lost)} is lost, and no synthesiser was among the arms"
    tried = best(facts, (*CHEAP, *WITHOUT_SYNTHESIS))  # without synthesis `ahead` is zero's lead
    if tried is None or tried.ahead.value >= 0:
        return text + "; nothing that was tried did better than leaving the channel blank"
    words = describe(tried.kind, tried.name, facts.missing)[0]
    return f"{text}; of what was tried, {words} did best ({signed(tried.ahead, -1)} mean Dice)"


def _won_back(facts: Facts) -> str:
    zero = next(rival for rival in facts.rivals if rival.kind == "zero")
    if zero.ahead.high < 0:
        return f"does harm ({signed(zero.ahead)} mean Dice against a channel left blank)"
    if zero.ahead.low <= 0:
        return f"wins back nothing sure ({signed(zero.ahead)} mean Dice over a blank channel)"
    shares = []
    for name in facts.defined:
        share = facts.regions[name].recovery
        assert share is not None  # measurable gaps have a recovery
        figures = f"{percent(share.value)} % [{percent(share.low)}, {percent(share.high)}]"
        lost = " of the Dice lost" * (not shares)
        shares.append(f"{figures}{lost} in {REGION_NAMES.get(name, name)}")
    return f"wins back {listed(shares)}"


def _beside(facts: Facts) -> str:
    """How the strongest cheap arm and the strongest of each other sort compare."""
    cheap, without = best(facts, CHEAP), best(facts, WITHOUT_SYNTHESIS)
    trained, other = best(facts, (*WITHOUT_SYNTHESIS, "retrained")), best(facts, ("synthetic",))
    if trained is without:
        trained = None  # the retrained one is named only where it is the strongest
    if other and other.ahead.high >= 0:
        other = None
    rivals = [rival for rival in (cheap, without, trained, other) if rival]
    against = [r for r in rivals if r.ahead.value <= 0]
    behind = [r for r in rivals if r.ahead.value > 0]
    text = ""
    if behind:
        text += f", {listed([_synthesis_ahead(facts, rival) for rival in behind])}"
    if against:
        text += f", but {listed([_rival_ahead(facts, rival) for rival in against])}"
    return text


def _synthesis_ahead(facts: Facts, rival: Rival) -> str:
    words = describe(rival.kind, rival.name, facts.missing)[0]
    how = "more than" if rival.ahead.low > 0 else "not surely more than"
    return f"{how} {words} ({signed(rival.ahead)} Dice)"


def _rival_ahead(facts: Facts, rival: Rival) -> str:
    words, plural = describe(rival.kind, rival.name, facts.missing)
    how = "better" if rival.ahead.high < 0 else "as well"
    return f"{words} {'do' if plural else 'does'} {how} ({signed(rival.ahead, -1)} Dice)"


def _advice(facts: Facts, frozen: str, better: Rival | None) -> str:
    cheap = best(facts, (*CHEAP, "zero"))
    instead = describe(cheap.kind, cheap.name, facts.missing)[0] if cheap else ""
    otherwise = {
        "yes": "synthesis is worth it",
        "no": f"{instead} will do",
        "unclear": "more cases, or cheap rivals, are needed to tell",
    }[frozen]
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
    return "leave the channel blank" if better.kind == "zero" else f"{words} will do"


def _remarks(facts: Facts) -> list[str]:
    """What a good mean would hide: regions that stay lost, regions with nothing to win."""
    lost, free = [], []
    for name, region in facts.regions.items():
        loss, share = region.loss, region.recovery
        words = REGION_NAMES.get(name, name)
        if loss and loss.low > 0 and loss.value >= LARGE_LOSS:
            part = share is not None and share.value >= 0.5
            how = "is won back only in part" if part else "stays lost"
            figures = f"{loss.value:.3f} [{loss.low:.3f}, {loss.high:.3f}]"
            lost.append(f"{words} {how} ({figures} Dice below the real image)")
        elif not region.defined:
            free.append(f"{words} loses nothing measurable")
    return lost + free
