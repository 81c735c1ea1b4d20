"""The report's page and its linked slice views: which cases, arms and panels.

Views of slices keep within a budget of bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seg_eval.arms import ARM_KINDS, floor_of
from seg_eval.report.certificate import main_region
from seg_eval.report.context import Summary, asked, describe
from seg_eval.report.page import fill, number, say
from seg_eval.report.pictures import cut_axis
from seg_eval.report.slices import (
    ERROR_COLOURS,
    LARGEST_ERROR,
    LAYERS,
    Limits,
    Outlines,
    Plane,
    agreement,
    draw_planes,
)
from seg_eval.report.volumes import CaseVolumes
from seg_eval.scoring import Score

BUDGET = 18_000_000
"""Bytes of all slice views of one file at most; the rest is seldom a tenth of that."""
LADDER = (
    Limits(48, 80), Limits(36, 75), Limits(24, 70), Limits(16, 60), Limits(10, 45), Limits(5, 30),
)  # fmt: skip
"""Tried in turn until the views fit the budget."""
MOST_COMPARED = 2
"""Arms shown beside full and the floor in the slice views."""
LARGEST_TILT = 5.0
"""Degrees between a voxel axis and the nearest anatomical one that go without mention."""
ROLES = ("worst", "median", "best")


@dataclass(frozen=True)
class View:
    """A case ready for the template."""

    case: CaseVolumes
    arms: list[str]
    planes: list[Plane]

    @property
    def size(self) -> int:
        """Bytes of its pictures and outlines."""
        texts = [uri for plane in self.planes for uri in plane.sheets.values()]
        for owners in (owners for plane in self.planes for owners in plane.outlines.values()):
            texts += [path for paths in owners.values() for path in paths]
        return sum(map(len, texts))


def page(
    summary: Summary,
    scores: Sequence[Score],
    images: Sequence[Mapping[str, Any]],
    cases: Sequence[CaseVolumes],
    gone: Sequence[str] = (),
    solid: Mapping[tuple[str, str], str] | None = None,
) -> str:
    """The text of ``report.html``.

    Args:
        summary: As in ``summary.json``.
        scores: All rows of ``results.csv``.
        images: All rows of ``image_scores.csv``.
        cases: Shown as slices, by their role; may be empty.
        gone: Names of cases that should be shown and whose volumes cannot be read.
        solid: Where the pages of cases in 3-D are, by case and modality.
    """
    views, note = fit_views(cases, summary)
    if gone:
        note = f"{note} {say('volumes_gone', cases=list(dict.fromkeys(gone)))}".strip()
    if views and not solid:
        note = f"{note} {say('solid_absent')}"
    context = describe(summary, scores, images) | {
        "views": [describe_view(view, summary) for view in views],
        "hero": describe_hero(views, summary),
        "view_note": note,
        "solid": solid or {},
        "error_colours": ERROR_COLOURS,
        "largest_error": LARGEST_ERROR,
    }
    return fill("report.html.j2", context)


def fit_views(cases: Sequence[CaseVolumes], summary: Mapping[str, Any]) -> tuple[list[View], str]:
    """Slice views of all cases within the budget, and a note on what it cost."""
    ranked = sorted(cases, key=lambda case: ROLES.index(case.role))
    known: list[Outlines] = [{} for _ in ranked]
    shown = [(case, shown_arms(case, summary)) for case in ranked]
    views: list[View] = []
    if not shown:
        return views, ""
    for limits in LADDER:
        views, size = [], 0
        for (case, arms), outlines in zip(shown, known, strict=True):
            view = View(case, arms, draw_planes(case, arms, limits, outlines))
            size += view.size
            if size > BUDGET:
                break
            views.append(view)
        else:
            return views, say("views_fit", slices=limits.slices)
    return views, say("views_too_large", count=len(shown) - len(views))


def shown_arms(case: CaseVolumes, summary: Mapping[str, Any]) -> list[str]:
    """The arms of ``case`` that its views show: full, floor, what was asked, what is better."""
    kinds = {arm["name"]: ARM_KINDS[arm["kind"]] for arm in summary["arms"]}
    ends = ("full", floor_of(bool(asked(summary)["degraded"])))
    fixed = [name for kind in ends for name in case.arms if kinds[name].name == kind]
    head = summary["headline"]
    wanted = [head["primary"], head["better"]]
    wanted += [name for name, kind in kinds.items() if kind.group == "synthesis"]
    wanted += [name for name, arm in case.arms.items() if arm.channel is not None]
    compared = [name for name in dict.fromkeys(wanted) if name in case.arms and name not in fixed]
    others = [name for name in compared if kinds[name].compared] or compared
    return [*fixed, *others[:MOST_COMPARED]]


def describe_view(view: View, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the template and the script need of one case."""
    case, found = view.case, agreement(view.case, view.arms)
    gaps = {name: region["gap"]["value"] for name, region in summary["regions"].items()}
    labels, turn = {arm["name"]: arm["label"] for arm in summary["arms"]}, case.orientation
    tilt = turn.tilt if turn.tilt > LARGEST_TILT else None
    layers = [n for n in LAYERS if any(n in case.arms[arm].layers for arm in view.arms)]
    shown = ("indices", "labels", "start", "columns", "rows", "size", "outlines")
    return {
        "case": case,
        "arms": view.arms,
        "labels": labels,
        "channel": say("channel", q=asked(summary)),
        "planes": view.planes,
        "region": max(case.truth, key=lambda name: gaps.get(name, 0.0), default=""),
        "note": say("orientation", known=turn.known, tilt=tilt),
        "layers": say("layers", names=layers) if layers else "",
        "spacing": " × ".join(f"{mm:g}" for mm in reversed(case.spacing_mm)),
        "dice": {
            "heads": ["Region", *(labels[arm] for arm in view.arms)],
            "rows": [[r, *(number(found[r].get(arm)) for arm in view.arms)] for r in case.truth],
        },
        "data": {plane.name: {key: getattr(plane, key) for key in shown} for plane in view.planes},
    }


def describe_hero(views: Sequence[View], summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """One slice of the median case: real, filled in, and what is segmented with each.

    It shows sheets and outlines that its view has anyway. None where that view is left out.
    """
    number = next((i for i, view in enumerate(views) if view.case.role == "median"), None)
    if number is None:
        return None
    view, q, head = views[number], asked(summary), summary["headline"]
    case, region, primary = view.case, main_region(summary["regions"]), head["primary"]
    plane = view.planes[{2: 0, 1: 1}[cut_axis(case, (q["degraded"] or {}).get("ratio", ()))]]
    outlines = plane.outlines.get(region, {})
    found = agreement(case, view.arms).get(region, {})
    floor = floor_of(bool(q["degraded"]))
    panels = [{"sheet": "real", "title": say("hero_picture", q=q, name="full"), "owner": None}]
    if (filled := f"channel {primary}") in plane.sheets:
        panels.append({"sheet": filled, "title": say("hero_picture", q=q, name=""), "owner": None})
    for arm, name in (("full", "full"), (primary, ""), (floor, floor)):
        if arm in outlines and arm in found:
            title = say("hero_mask", q=q, name=name, dice=found[arm])
            panels.append({"sheet": "real", "title": title, "owner": arm})
    return {
        "number": number, "plane": plane, "panels": panels, "outlines": outlines,
        "region": region,
        "told": say("hero", case=case.case, region=region, modality=case.modality),
    }  # fmt: skip
