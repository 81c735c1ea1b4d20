"""``report.html``: the whole experiment as one file that opens offline, with nothing to fetch.

Pictures are data URIs, style and script are inline, and a Content-Security-Policy in the file
forbids the browser any request. All text passes through jinja2's escaping: case names, notes
and commands come from outside. Without JavaScript everything is there but the moving of slices.
"""

import base64
import hashlib
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from markupsafe import Markup

from seg_eval.analysis import spoken
from seg_eval.report import tables
from seg_eval.report.charts import Column, legend_mark, paired_dots, scatter
from seg_eval.report.methods import bibtex, methods
from seg_eval.report.pictures import dice_by_case, error_and_loss, short_name
from seg_eval.report.slices import ERROR_COLOURS, LARGEST_ERROR
from seg_eval.report.viewer import describe_view, fit_views, sheet_rules
from seg_eval.report.volumes import ArmVolumes, CaseVolumes
from seg_eval.scoring import EMPTY_RULES, Score, counted
from synth3d.files import write_text

__all__ = ["ArmVolumes", "CaseVolumes", "write_index", "write_page"]


def write_page(
    folder: Path,
    summary: Mapping[str, Any],
    scores: Sequence[Score],
    images: Sequence[Mapping[str, Any]],
    cases: Sequence[CaseVolumes],
) -> Path:
    """Write ``report.html`` into ``folder``.

    Args:
        folder: Of the experiment.
        summary: As in ``summary.json``; keys may be missing, those of older schemas are read.
        scores: All rows, for the dots; those that the rule for empty regions leaves out are not
            drawn. May be empty.
        images: Image scores, one mapping per case and arm with ``case``, ``arm``, ``mae_tumour``.
        cases: Shown as slices, in this order within their role; may be empty.

    Returns:
        The file.

    Raises:
        InputError: The file cannot be written.
    """
    empty = (summary.get("config") or {}).get("empty")
    scores = counted(scores, empty) if empty in EMPTY_RULES else scores
    views, note = fit_views(cases, summary)
    arms = tables.list_arms(summary)
    dots = _dots(summary, scores)
    context = {
        "title": str(summary.get("title") or "Dice recovery"),
        "headline": tables.headline(summary),
        "figures": tables.key_figures(summary),
        "warnings": tables.warnings_first(summary),
        "verdict": [str(text) for text in summary.get("verdict") or []],
        "arms": arms,
        "groups": {g: t for g, t in tables.GROUPS.items() if g in {a["group"] for a in arms}},
        "dice": tables.dice_tables(summary),
        "seeds": tables.seed_table(summary),
        "metrics": tables.metric_tables(summary),
        "images": tables.image_table(summary),
        "charts": dots,
        "cases_by_arm": _case_rows(dots),
        "scatter": _scatter(summary, scores, images),
        "tests": tables.rows_of_tests(summary),
        "noninferiority": tables.rows_of_noninferiority(summary),
        "plumbing": tables.plumbing_sentence(summary),
        "views": [describe_view(number, view, summary) for number, view in enumerate(views)],
        "view_note": note,
        "error_colours": ERROR_COLOURS,
        "largest_error": LARGEST_ERROR,
        "sheets": sheet_rules(views),
        "empty_rule": summary.get("empty_rule"),
        "bootstrap": tables.bootstrap_sentence(summary),
        "commands": [str(line) for line in summary.get("commands") or []],
        "records": _records(summary),
        "methods": methods(summary),
        "bibtex": bibtex(summary),
    }
    path = folder / "report.html"
    write_text(path, _render("report.html.j2", context))
    return path


def write_index(folder: Path, summaries: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Path:
    """Write ``index.html``: one row per missing sequence with its sentence and a link.

    Args:
        folder: Where it is written; the links are relative to it.
        summaries: Per sequence its page, as in ``t2f/report.html``, and its summary.

    Raises:
        InputError: The file cannot be written.
        ValueError: A link is not relative.
    """
    rows = []
    for name, (link, summary) in summaries.items():
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or link.startswith("/"):
            raise ValueError(f"expected a relative link to the page of {name}, got {link!r}")
        rows.append({
            "name": spoken(tables.missing_names(summary) or [name]),
            "code": name,
            "link": quote(link, safe="/"),
            "headline": tables.headline(summary),
            "primary": tables.primary_arm(summary) or "",
            "regions": {t["name"]: t for t in tables.dice_tables(summary)},
            "warnings": len(tables.warnings_first(summary)),
        })  # fmt: skip
    regions = list(dict.fromkeys(region for row in rows for region in row["regions"]))
    for row in rows:
        row["cells"] = [_index_cell(row["regions"].get(region), row["primary"])
                        for region in regions]  # fmt: skip
    path = folder / "index.html"
    context = {"title": "Dice recovery, every sequence", "rows": rows, "regions": regions}
    write_text(path, _render("index.html.j2", context))
    return path


def _index_cell(table: Mapping[str, Any] | None, primary: str) -> dict[str, Any] | None:
    if table is None:
        return None
    by_kind = {row["arm"]["kind"]: row for row in table["rows"]}
    by_name = {row["arm"]["name"]: row for row in table["rows"]}
    return {"zero": by_kind.get("zero"), "primary": by_name.get(primary), "gap": table["gap"]}


def _dots(summary: Mapping[str, Any], scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Per region the chart of paired cases; seeds of the segmenter are averaged."""
    charts = []
    for region, content in (summary.get("regions") or {}).items():
        columns = []
        for arm in tables.list_arms(summary):
            means = dice_by_case(scores, arm["name"], region)
            if not means:
                continue
            cell = (content.get("arms") or {}).get(arm["name"]) or {}
            spread = (cell.get("metrics") or {}).get("dice") or {}
            mean = cell.get("dice", statistics.fmean(means.values()))
            columns.append(Column(arm["name"], arm["label"], arm["group"], means, mean,
                                  spread.get("low"), spread.get("high")))  # fmt: skip
        svg = paired_dots(columns, f"Dice of {region} by arm, one line per case")
        if svg:
            charts.append({"name": region, "svg": svg, "columns": columns})
    return charts


def _case_rows(charts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The charts' values as tables, for who cannot or will not hover."""
    found = []
    for chart in charts:
        columns = chart["columns"]
        cases = sorted({case for column in columns for case in column.values})
        rows = [[case, *(tables.number(c.values.get(case)) for c in columns)] for case in cases]
        found.append({"name": chart["name"], "arms": [c.label for c in columns], "rows": rows})
    return found


def _scatter(
    summary: Mapping[str, Any], scores: Sequence[Score], images: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Error of the synthetic sequence in the tumour against the Dice lost; None without images."""
    arms = {arm["name"]: arm for arm in tables.list_arms(summary)}
    filled = [name for name, arm in arms.items() if arm["group"] not in ("reference", "check")]
    regions = summary.get("regions") or {}
    defined = [name for name, content in regions.items() if content.get("gap_defined", True)]
    rows = [row for row in scores if row.region in (defined or regions)]
    points = error_and_loss(rows, images, filled)
    axes = ("mean |error| of the synthetic sequence inside the tumour",
            "Dice lost against the real sequence")  # fmt: skip
    shown = list(dict.fromkeys(point.arm for point in points))
    svg = scatter(points, {a: arms[a]["group"] for a in shown}, " against ".join(axes[::-1]), axes)
    if not svg:
        return None
    return {
        "svg": svg,
        "legend": [{"mark": legend_mark(i, arms[a]["group"]), "label": a}
                   for i, a in enumerate(shown)],
        "rows": [[short_name(str(r.get("arm"))), tables.score_name(str(r.get("score"))),
                  str(r.get("against")).replace("dice_", "Dice "),
                  tables.number(r.get("spearman"), "+.2f"), tables.number(r.get("n"), "d"),
                  tables.p_value(r.get("p"))] for r in summary.get("image_benefit") or []],
    }  # fmt: skip


def _records(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Versions, hashes and times as tables of two columns."""
    found = []
    for key, title in (("versions", "Versions"), ("hashes", "Hashes"), ("seconds", "Seconds")):
        rows = _flat(summary.get(key) or {})
        if key == "seconds" and summary.get("peak_memory_mb"):
            rows.append(["peak memory, MB", str(summary["peak_memory_mb"])])
        if rows:
            found.append({"title": title, "rows": rows})
    return found


def _flat(values: Mapping[str, Any], above: str = "") -> list[list[str]]:
    """Names and values as text, those of inner objects as ``outer / inner``."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{above}{name} / ")
        else:
            rows.append([f"{above}{name}", str(value)])
    return rows


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page_parts"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(template: str, context: Mapping[str, Any]) -> str:
    parts = Path(__file__).parent / "page_parts"
    script = (parts / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup((parts / "page.css").read_text("utf-8")),
            script=Markup(script),
            script_hash=digest,
            **context,
        )
    )
