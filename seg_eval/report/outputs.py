"""What an experiment leaves for its reader: tables, summary, report, page and pictures."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from seg_eval.analysis import SCHEMA, Question, summarise
from seg_eval.arms import ARM_KINDS, Arm
from seg_eval.experiment import Experiment, told_uncertainty
from seg_eval.records import read_times
from seg_eval.report.agreement import volume_panels
from seg_eval.report.certificate import certify, setting_of
from seg_eval.report.context import (
    Summary,
    asked,
    describe,
    describe_regions,
    list_arms,
    overview,
    put_into_words,
)
from seg_eval.report.page import aligned, fill, power_table, say, spoken
from seg_eval.report.pictures import (
    dice_by_case,
    draw_dice,
    draw_panel,
    draw_scatter,
    draw_volumes,
    error_and_loss,
)
from seg_eval.report.record import (
    IMAGE_COLUMNS,
    caveats_of,
    hashes,
    read_results,
    versions,
    write_rows,
)
from seg_eval.report.solid import write_solid_pages
from seg_eval.report.transfer import read_transfers
from seg_eval.report.viewer import page
from seg_eval.report.volumes import CaseFiles, CaseVolumes
from seg_eval.scoring import Score, counted
from synth3d.cohort import Case, Modality
from synth3d.errors import InputError
from synth3d.files import read_json, write_json, write_text
from synth3d.settings import read_as

OUTPUTS = (
    "report.html", "report.md", "results.csv", "image_scores.csv", "summary.json",
    "dice.png", "volumes.png", "slices.png", "scatter.png",
)  # fmt: skip
"""The files of a finished experiment, in reading order."""

VOLUMES = "volumes.json"
"""Where the volumes of the cases are that the report shows, beside the other records."""


def write_outputs(
    experiment: Experiment, scores: Sequence[Score], images: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write all of them into the experiment's folder, ``summary.json`` last, and hand that on.

    Raises:
        InputError: The folder cannot be written, or no score counts.
    """
    plan, folder = experiment.plan, experiment.folder
    used = used_of(scores, plan.empty, plan.regions)
    how = plan.degraded and plan.degraded.describe()
    about = plan.judged, plan.asked, plan.empty, plan.margin
    question = Question(*about, degraded=how, centres=plan.centres, regions=plan.regions)
    shown = chosen_cases(used, plan.judged, plan.cohort.test, question.floor)
    times = read_times(folder)
    record = {
        "config": plan.describe(),
        "setting": setting_of(None if plan.foreign else plan.preset, plan.cohort.test),
        "notes": {name: _note(experiment, arms) for name, arms in plan.groups.items()},
        "uncertainty": told_uncertainty(experiment, used),
        "seconds": times.seconds,
        "peak_memory_mb": times.peak_memory_mb,
        "versions": versions(),
        "hashes": hashes(experiment),
        "commands": experiment.commands(),
        "transfer": read_transfers(folder),
        "warnings": [say(caveat.code, **caveat.figures) for caveat in caveats_of(plan)],
    }
    files = [
        _case_files(experiment, case, role, modality)
        for role, case in shown.items()
        for modality in plan.gaps.of(case)
    ]
    return write_findings(folder, (scores, images), question, record, files)


def used_of(scores: Sequence[Score], empty: str, regions: Sequence[str]) -> list[Score]:
    """Those of ``scores`` that count by the rule ``empty``.

    Raises:
        InputError: None does, or none of ``regions``, which are judged.
    """
    if not (used := counted(scores, empty)):
        raise InputError(
            "no test case has a tumour, so the rule --empty skip leaves nothing to judge; choose "
            "--empty brats or other test cases"
        )
    if not any(row.region in regions for row in used):
        raise InputError(
            f"no test case has {' or '.join(regions)}, so the rule --empty skip leaves "
            "nothing of --regions to judge; choose --empty brats, other regions or other test cases"
        )
    return used


def write_findings(
    folder: Path,
    rows: tuple[Sequence[Score], Sequence[dict[str, Any]]],
    question: Question,
    record: Mapping[str, Any],
    files: Sequence[CaseFiles],
) -> dict[str, Any]:
    """What ``rows`` mean, as all outputs in ``folder``; ``summary.json``, written last.

    Args:
        folder: Of the experiment.
        rows: Scores, at least one of which counts, and image scores.
        question: What is asked of them.
        record: Keys of ``summary.json`` that no row tells; ``warnings`` come after those found.
        files: The cases that are shown, ``median`` among them.

    Raises:
        InputError: The folder cannot be written, or a volume cannot be read.
    """
    scores, images = rows
    used = counted(scores, question.empty)
    write_rows(folder / "results.csv", map(asdict, scores), tuple(Score.__dataclass_fields__))
    write_rows(folder / "image_scores.csv", images, IMAGE_COLUMNS)
    summary = put_into_words(summarise(scores, images, question), question)
    warnings = [*summary["warnings"], *record["warnings"]]
    cases = {each.role: {"case": each.case, "patient": each.patient} for each in files}
    shown = [about | {"role": role} for role, about in cases.items()]
    summary |= {**record, "warnings": warnings, "cases": shown}
    write_json(folder / VOLUMES, [asdict(each) for each in files])
    volumes = [each.load(folder) for each in files]
    summary["pictures"] = _draw(folder, summary, used, images, volumes)
    links = write_solid_pages(folder, summary, volumes)
    write_text(folder / "report.html", page(summary, scores, images, volumes, solid=links))
    write_text(folder / "report.md", fill("report.md.j2", describe(summary, scores, images)))
    write_json(folder / "summary.json", summary)
    return summary


def _note(experiment: Experiment, arms: Sequence[Arm]) -> str:
    """What is worth knowing of how an arm, or each of its replicates, was made; may be empty."""
    return "; ".join(dict.fromkeys(filter(None, map(experiment.builder.note, arms))))


def rebuild(folder: Path) -> str:
    """Write ``report.html``, ``report.md`` and ``3d/`` of a finished experiment anew; the Markdown.

    Where the volumes of a case are gone, the page has no slices of it and says so.

    Raises:
        InputError: Not a finished experiment, one of another version, or damaged; or the folder
            cannot be written.
    """
    summary = read_summary(folder)
    try:
        scores, images = read_results(folder)
        volumes, gone = _read_volumes(folder, summary)
        text = fill("report.md.j2", describe(summary, scores, images))
        links = write_solid_pages(folder, summary, volumes)
        html = page(summary, scores, images, volumes, gone, links)
    except InputError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise _damaged(folder, repr(error)) from error
    write_text(folder / "report.html", html)
    write_text(folder / "report.md", text)
    return text


def _read_volumes(folder: Path, summary: Summary) -> tuple[list[CaseVolumes], list[str]]:
    """The volumes of the cases that are shown, and the names of those whose are gone."""
    if not (shown := read_shown(folder)):
        return [], [case["case"] for case in summary["cases"]]
    volumes, gone = [], []
    for each in shown:
        try:
            volumes.append(each.load(folder))
        except ValueError:  # an InputError among them
            gone.append(each.case)
    return volumes, gone


def read_shown(folder: Path) -> tuple[CaseFiles, ...]:
    """Where the volumes of the cases are that a finished experiment shows; none where unknown.

    Raises:
        InputError: That record is damaged.
    """
    path = folder / VOLUMES
    if not path.is_file():
        return ()
    return read_as(tuple[CaseFiles, ...], path, "run the experiment again")


def read_summary(folder: str | Path) -> dict[str, Any]:
    """``summary.json`` of a finished experiment.

    Raises:
        InputError: There is none, it cannot be read, or it is of another version.
    """
    path = (folder := Path(folder)) / "summary.json"
    if not path.is_file():
        raise InputError(f"{folder} is not a finished experiment: it has no summary.json")
    summary = read_json(path)
    schema = summary.get("schema") if isinstance(summary, dict) else None
    if schema != SCHEMA:
        raise _damaged(folder, f"its summary.json is of schema {schema!r}, not {SCHEMA}")
    return summary


def _damaged(folder: Path, why: str) -> InputError:
    return InputError(f"{folder} is damaged or of another version: {why}; run the experiment again")


def render(summary: Summary) -> str:
    """``report.md``: the whole report as Markdown that also reads well on a terminal."""
    return fill("report.md.j2", describe(summary, (), ()))


def render_overview(summaries: Sequence[Summary]) -> str:
    """Several experiments beside each other as Markdown, one row for each missing sequence."""
    return fill("overview.md.j2", overview(summaries))


def write_index(folder: Path, summaries: Mapping[str, tuple[str, Summary]]) -> Path:
    """Write ``index.html``: one row per missing sequence with its sentence and a link.

    Args:
        folder: Where it is written.
        summaries: Per sequence its page relative to it, as ``t2f/report.html``, and its summary.

    Raises:
        InputError: The file cannot be written.
    """
    names = list(dict.fromkeys(name for _, each in summaries.values() for name in each["regions"]))
    rows = []
    for code, (link, summary) in summaries.items():
        regions = {r["name"]: r["rows"] for r in describe_regions(summary, list_arms(summary))}
        cells = [{row["arm"]["name"]: row for row in regions.get(name, ())} for name in names]
        rows.append({
            "name": spoken(summary["config"]["missing"]),
            "code": code,
            "link": quote(link, safe="/"),
            "headline": summary["headline"],
            "cells": cells,
            "warnings": len(summary["warnings"]),
        })  # fmt: skip
    path = folder / "index.html"
    context = {"title": "Dice recovery, every sequence", "rows": rows, "regions": names}
    write_text(path, fill("index.html.j2", context))
    return path


def chosen_cases(
    scores: Sequence[Score], arms: Sequence[Arm], cases: Sequence[Case], floor: str = "zero"
) -> dict[str, Case]:
    """Whom to look at: where the first synthetic arm does worst, middling and best; no cherry.

    A case's figure is its Dice, a mean over regions and seeds, for the first synthetic arm;
    without one, what it loses at the floor (most lost is worst). With fewer than three cases,
    some roles are left out.
    """
    by_name = {case.name: case for case in cases}
    order = ranked(scores, arms, list(by_name), floor)
    return {role: by_name[order[place]] for role, place in places_of(len(order)).items()}


def ranked(
    scores: Sequence[Score], arms: Sequence[Arm], cases: Sequence[str], floor: str = "zero"
) -> list[str]:
    """Those of ``cases`` that have scores, by the figure of :func:`chosen_cases`, worst first."""
    synthetic = [arm.name for arm in arms if ARM_KINDS[arm.kind].group == "synthesis"]
    full, own = dice_by_case(scores, "full"), dice_by_case(scores, (*synthetic, floor)[0])
    scored = [case for case in cases if case in full]
    figures = [own[case] - (0 if synthetic else full[case]) for case in scored]
    return [scored[i] for i in np.argsort(figures, kind="stable")]


def places_of(count: int) -> dict[str, int]:
    """Where ``worst``, ``median`` and ``best`` of so many in order are; fewer roles below three.

    With one or two the median keeps its picture and the others would repeat it.
    """
    roles = {count - 1: "best", 0: "worst"} | {count // 2: "median"}
    return {role: place for place, role in sorted(roles.items())}


def _case_files(experiment: Experiment, case: Case, role: str, modality: Modality) -> CaseFiles:
    """Where the page finds a test case: one missing channel and the predictions of one seed.

    Of a merged arm these are of its first replicate.
    """
    plan, builder, folder = experiment.plan, experiment.builder, experiment.folder.absolute()

    def place(path: Path | None) -> str:
        found = (path or Path()).absolute()
        return str(found.relative_to(folder) if found.is_relative_to(folder) else found)

    arms: dict[str, tuple[str | None, str]] = {}
    maps: dict[str, dict[str, str]] = {}
    for shown, (arm, *_) in plan.groups.items():
        is_filled = arm.kind == "full" or arm.has_files
        made = place(builder.path(arm, case, modality)) if is_filled else None
        arms[shown] = made, place(experiment.prediction(arm, case, plan.seeds[0]))
        if found := builder.maps(arm, case, modality):
            maps[shown] = {name: place(path) for name, path in found.items()}
    return CaseFiles(
        case.name,
        case.patient,
        role,
        modality,
        scheme=plan.cohort.schemes[case.name],
        real=place(case.images[modality]),
        label=place(case.label),
        brain=tuple(place(case.images[m]) for m in plan.gaps.others(modality)),
        arms=arms,
        maps=maps,
    )


def _draw(
    folder: Path,
    summary: Summary,
    scores: Sequence[Score],
    images: Sequence[Mapping[str, Any]],
    volumes: Sequence[CaseVolumes],
) -> list[str]:
    """The PNG figures, one of them of the median case; names of the files."""
    config, kinds = summary["config"], {a["name"]: ARM_KINDS[a["kind"]] for a in summary["arms"]}
    labels = {arm["name"]: arm["label"] for arm in summary["arms"]}
    q, groups = asked(summary), {labels[name]: kind.group for name, kind in kinds.items()}
    title = say("dice_picture", q=q, cases=len(config["test"]))
    called = [replace(row, arm=labels[row.arm]) for row in scores]
    draw_dice(called, groups, list(summary["regions"]), title, folder / "dice.png")
    judged = [name for name, kind in kinds.items() if kind.group != "check"]
    panels = volume_panels(scores, summary["volumes"], judged)
    panels = [replace(panel, arm=labels[panel.arm]) for panel in panels]
    draw_volumes(panels, groups, say("volume_picture", q=q), folder / "volumes.png")
    view = next(view for view in volumes if view.role == "median")
    shown = {labels[name]: arm for name, arm in view.arms.items() if kinds[name].group != "check"}
    title, ratio = say("slice_picture", case=view.case, q=q), (q["degraded"] or {}).get("ratio", ())
    draw_panel(view, shown, ratio, title, folder / "slices.png")
    made = [n for n, k in kinds.items() if k.has_files and k.compared and not k.own_segmenter]
    defined = [row for row in scores if summary["regions"][row.region]["gap_defined"]]
    if points := error_and_loss(defined, images, made):
        title = say("scatter_picture", q=q)
        points = [replace(point, arm=labels[point.arm]) for point in points]
        draw_scatter(points, groups, title, folder / "scatter.png")
    return [name for name in OUTPUTS if name.endswith(".png") and (folder / name).is_file()]


def render_power(folder: Path) -> str:
    """The table of a finished experiment, and what it says.

    Raises:
        InputError: Not a finished experiment; or nothing of it tells, for want of a synthetic arm
            or of a second patient.
    """
    summary: Mapping[str, Any] = read_summary(folder)
    found = power_table(summary)
    if found is None:
        raise InputError(
            f"{folder} has no synthetic arm, or one patient alone: there are no variances to "
            "reckon with; run it with --run and two test patients or more"
        )
    labels = {arm["name"]: arm["label"] for arm in summary["arms"]}
    return f"{aligned(found)}\n\n{say('power', arm=labels[summary['primary']['arm']])}."


def render_ending(summary: Summary, folder: Path) -> str:
    """What a command ends with on a terminal: the verdict, Dice by region, and whose brains.

    ``folder`` is the experiment's, for the command that prints the rest.
    """
    plumbing = summary["plumbing"]
    about = {
        "certificate": certify(summary, list_arms(summary), asked(summary)),
        "cautions": len(summary["warnings"]),
        "again": shlex.join(["seg_eval", "report", str(folder)]),
        "failed": say("plumbing", check=plumbing) if plumbing and not plumbing["passed"] else "",
    }
    return fill("ending.md.j2", {**summary, **about})
