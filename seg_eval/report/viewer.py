"""The report's linked slice views: which cases, arms and panels, within a budget of bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from seg_eval.arms import ARM_KINDS
from seg_eval.report.page import number, say, spoken
from seg_eval.report.pictures import short_name
from seg_eval.report.slices import Limits, Outlines, Plane, agreement, draw_planes
from seg_eval.report.volumes import PLANES, CaseVolumes

BUDGET = 18_000_000
"""Bytes of all slice views of one file at most; the rest is seldom a tenth of that."""
LADDER = (
    Limits(48, 80), Limits(36, 75), Limits(24, 70), Limits(16, 60), Limits(10, 45), Limits(5, 30),
)  # fmt: skip
"""Tried in turn until the views fit the budget."""
MOST_COMPARED = 2
"""Arms shown beside full and zero in the slice views."""
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
        sheets = sum(len(uri) for plane in self.planes for uri in plane.sheets.values())
        return sheets + sum(
            len(path)
            for plane in self.planes
            for owners in plane.outlines.values()
            for paths in owners.values()
            for path in paths
        )


def fit_views(cases: Sequence[CaseVolumes], summary: Mapping[str, Any]) -> tuple[list[View], str]:
    """Slice views of all cases within the budget, and a note on what it cost."""
    ranked = sorted(cases, key=lambda case: ROLES.index(case.role))
    known: list[Outlines] = [{} for _ in ranked]
    shown = [(case, _shown(case, summary)) for case in ranked]
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


def _shown(case: CaseVolumes, summary: Mapping[str, Any]) -> list[str]:
    """The arms of ``case`` that its view shows: full, zero, what was asked, what is better."""
    kinds = {arm["name"]: ARM_KINDS[arm["kind"]] for arm in summary["arms"]}
    fixed = [name for kind in ("full", "zero") for name in case.arms if kinds[name].name == kind]
    head = summary["headline"]
    wanted = [head["primary"], head["better"]]
    wanted += [name for name, kind in kinds.items() if kind.group == "synthesis"]
    wanted += [name for name, arm in case.arms.items() if arm.channel is not None]
    compared = [name for name in dict.fromkeys(wanted) if name in case.arms and name not in fixed]
    others = [name for name in compared if kinds[name].compared] or compared
    return [*fixed, *others[:MOST_COMPARED]]


def describe_view(index: int, view: View, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the template and the script need of one case, the ``index``-th that is shown."""
    case, found = view.case, agreement(view.case, view.arms)
    gaps = {name: summary["regions"][name]["gap"]["value"] for name in summary["regions"]}
    region = max(case.truth, key=lambda name: gaps.get(name, 0.0), default="")
    turn = case.orientation
    tilt = turn.tilt if turn.tilt > LARGEST_TILT else None
    data = {
        "planes": {
            p.name: {
                "indices": p.indices, "labels": p.labels, "start": p.start, "columns": p.columns,
                "rows": p.rows, "size": p.size, "outlines": p.outlines,
            }
            for p in view.planes
        }
    }  # fmt: skip
    start = {p.name: p.indices[p.start] for p in view.planes}
    return {
        "number": index,
        "case": case.case,
        "patient": case.patient,
        "role": case.role,
        "sequence": spoken([case.modality]),
        "note": say("orientation", known=turn.known, tilt=tilt),
        "spacing": " × ".join(f"{mm:g}" for mm in reversed(case.spacing_mm)),
        "regions": list(case.truth),
        "region": region,
        "heads": ["region", *map(short_name, view.arms)],
        "rows": [[r, *(number(found[r].get(arm)) for arm in view.arms)] for r in case.truth],
        "planes": [
            {"plane": p, "panels": _panels(index, p, view.arms, region),
             "cross": _cross(p, start), "at": _place(p)}
            for p in view.planes
        ],
        "data": data,
    }  # fmt: skip


def _place(plane: Plane) -> tuple[float, float]:
    """Where the first slice's tile is on the sheets, in per cent as CSS positions them."""
    across, down = plane.start % plane.columns, plane.start // plane.columns
    return (
        round(100 * across / max(plane.columns - 1, 1), 4),
        round(100 * down / max(plane.rows - 1, 1), 4),
    )


def _panels(number: int, plane: Plane, arms: Sequence[str], region: str) -> list[dict[str, Any]]:
    """The panels of a plane, in order: the pictures, then the segmentations on the real one."""
    named = {"real": "Real"}
    for name in arms:
        if f"channel {name}" in plane.sheets:
            named[f"channel {name}"] = f"Filled in: {short_name(name)}"
            named[f"error {name}"] = f"|Error|: {short_name(name)}"
    order = list(plane.sheets)
    panels = [
        {"sheet": f"s{number}-{plane.name}-{order.index(key)}", "title": title, "owner": "",
         "error": key.startswith("error ")}
        for key, title in named.items()
    ]  # fmt: skip
    drawn = plane.outlines.get(region, {})
    for name in arms if "expert" in drawn else ():
        panels.append({
            "sheet": f"s{number}-{plane.name}-{order.index('real')}",
            "title": f"Segmented: {short_name(name)}",
            "owner": name,
            "error": False,
            "expert": drawn["expert"][plane.start],
            "path": drawn.get(name, [""] * len(plane.indices))[plane.start],
        })  # fmt: skip
    return panels


def _cross(plane: Plane, start: Mapping[str, int]) -> tuple[int, int]:
    """Where the other two planes cut this one, in half voxels: x and y."""
    across, down = [name for name in reversed(PLANES) if name != plane.name]
    return 2 * start[across] + 1, 2 * start[down] + 1


def sheet_rules(views: Sequence[View]) -> Markup:
    """One style rule per sheet; a sheet stands once in the file however many panels show it."""
    return Markup(
        "\n".join(
            f'.s{number}-{plane.name}-{index}{{background-image:url("{uri}")}}'
            for number, view in enumerate(views)
            for plane in view.planes
            for index, uri in enumerate(plane.sheets.values())
        )
    )
