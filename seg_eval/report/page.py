"""The report's words: jinja2 templates in ``words/``, the way numbers are written, and the pages.

Every sentence is a macro of ``words/sentences.j2`` and reaches a page through :func:`say` as plain
text, which the HTML templates escape: case names, notes and commands come from outside. The HTML
page has its style and script inline, and a Content-Security-Policy in it forbids any request.
"""

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from seg_eval.arms import ARM_KINDS
from seg_eval.report.pictures import EXPERT_COLOUR, GROUP_COLOURS, REGION_COLOURS
from seg_eval.scoring import BRATS_GLIOMA
from synth3d.files import html_page, markdown_cell, markdown_page
from synth3d.scoring import FEWEST_CENTRES

WORDS = Path(__file__).parent / "words"
DASH = "–"
"""What is not defined."""
COMMON_NAMES = {"t1n": "T1", "t1c": "contrast-enhanced T1", "t2w": "T2", "t2f": "FLAIR", "pd": "PD"}
REGION_NAMES = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}


def say(name: str, /, **values: Any) -> str:
    """One sentence of ``sentences.j2`` as plain text in one line, from its macro's arguments."""
    sentences = _environment(is_html=False).get_template("sentences.j2").module
    return re.sub("[ \n]+", " ", getattr(sentences, name)(**values)).strip(" ")


def fill(template: str, context: Mapping[str, Any]) -> str:
    """A page of ``words/``; one that ends in ``.html.j2`` gets style and script, and is escaped.

    A script in ``context`` takes the place of the report's.
    """
    is_html = template.endswith(".html.j2")
    page = _environment(is_html).get_template(template)
    if not is_html:
        return markdown_page(page.render(context))
    script = (WORDS / "page.js").read_text("utf-8")
    own = {
        "style": Markup(_palette() + (WORDS / "page.css").read_text("utf-8")),
        "script": Markup(script),
        "script_hash": digest_of(script),
    }
    text = page.render(own | dict(context))
    return html_page(text)


def digest_of(script: str) -> str:
    """The SHA-256 of an inline script as a content policy names it, in base64."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _palette() -> str:
    """The colours of the PNG figures as the page's own, for light and for dark paper."""
    light, dark = (
        "".join(f"--{group}:{colours[i]};" for group, colours in GROUP_COLOURS.items())
        for i in (0, 1)
    )
    regions = "".join(
        f"[data-region={name}]{{--region:{colour}}}" for name, colour in REGION_COLOURS.items()
    )
    light += f"--expert:{EXPERT_COLOUR};"
    dark = f"@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return f":root{{{light}}}{dark}{regions}\n"


def table(name: str, /, **values: Any) -> dict[str, Any] | None:
    """One table of ``tables.j2`` as text, ``heads`` and ``rows``; None without rows."""
    tables = _environment(is_html=False).get_template("tables.j2").module
    lines = [line for line in getattr(tables, name)(**values).splitlines() if line.strip()]
    heads, *rows = ([" ".join(cell.split()) for cell in line.split("¦")] for line in lines)
    return {"heads": heads, "rows": rows} if rows else None


def power_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """How many patients a clearer answer would take; None where nothing tells."""
    rows = summary["power"]
    trainings = [key for key in rows[0]["patients"] if key != "these"] if rows else []
    return table("power", rows=rows, trainings=trainings) if rows else None


def number(value: float | None, form: str = ".3f") -> str:
    """``value`` by ``form``, without the sign of a rounded zero unless signs are asked for.

    A dash for None and for what is not finite.
    """
    if value is None or not math.isfinite(value):
        return DASH
    text = format(value, form)
    return text[1:] if form[0] != "+" and text[0] == "-" and set(text[1:]) <= set("0.") else text


def interval(estimate: Any, form: str = ".3f", times: float = 1) -> str:
    """``[a, b]`` of an estimate's interval; "" where there is no estimate.

    Args:
        estimate: An ``Estimate``, or what ``summary.json`` has of one: ``low``, ``high`` and
            ``value`` or ``mean``. An end that is None or infinite is unbounded.
        form: Of :func:`number`.
        times: A factor; a negative one turns the interval round.
    """
    if (found := _plain(estimate)) is None:
        return ""
    ends = [
        "unbounded" if end is None or math.isinf(end) else number(times * end, form)
        for end in (found["low"], found["high"])[:: 1 if times > 0 else -1]
    ]
    return f"[{', '.join(ends)}]"


def figure(estimate: Any, form: str = ".3f", times: float = 1) -> str:
    """``0.012 [0.004, 0.020]``; a dash where there is no estimate."""
    if (found := _plain(estimate)) is None:
        return DASH
    value = found["mean"] if "mean" in found else found["value"]
    return f"{number(times * value, form)} {interval(estimate, form, times)}"


def signed(estimate: Any, times: float = 1) -> str:
    """``+0.012 [+0.004, +0.020]``."""
    return figure(estimate, "+.3f", times)


def percent(share: float | None) -> str:
    """``88 %`` for 0.88; a dash for None."""
    return DASH if share is None else f"{number(100 * share, '.0f')} %"


def share(estimate: Any) -> str:
    """``88 % [79, 95]``; a dash where there is no estimate."""
    found = _plain(estimate)
    return f"{percent(found['value'])} {interval(found, '.0f', 100)}" if found else DASH


def p_value(p: float | None) -> str:
    """Three decimals, or ``< 0.001``."""
    return "< 0.001" if p is not None and p < 0.001 else number(p)


def spoken(names: Sequence[str]) -> str:
    """``T1 and FLAIR`` for ``["t1n", "t2f"]``."""
    return listed([COMMON_NAMES.get(name, name) for name in names])


def listed(words: Sequence[Any]) -> str:
    """``a, b and c``."""
    *others, last = map(str, words)
    return f"{', '.join(others)} and {last}" if others else last


def many(count: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def thousands(count: int) -> str:
    """``250 000``, with spaces at which no line breaks."""
    return f"{count:,}".replace(",", "\u00a0")


def quoted(name: str) -> str:
    """A name as a sentence has it: in quotes where it is several words."""
    return f"“{name}”" if len(name.split()) > 1 else name


def _plain(estimate: Any) -> dict[str, Any] | None:
    """An estimate as a mapping; None where its value is not known."""
    found = estimate if isinstance(estimate, dict) or estimate is None else vars(estimate)
    if not found:
        return None
    return found if found["mean" if "mean" in found else "value"] is not None else None


def _words(arm: Any, missing: Sequence[str]) -> str:
    """How a sentence calls an arm, by the record of its kind."""
    name, kind = (arm["name"], arm["kind"]) if isinstance(arm, dict) else (arm.name, arm.kind)
    channels = "channel" if len(missing) == 1 else "channels"
    return ARM_KINDS[kind].words.format(missing=spoken(missing), channels=channels, name=name)


def aligned(table: Mapping[str, Any]) -> str:
    """A Markdown table with aligned columns, from ``heads`` and ``rows`` of text."""
    heads, *rows = ([*map(markdown_cell, row)] for row in (table["heads"], *table["rows"]))
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(heads), line(rule), *map(line, rows)])


@cache
def _environment(is_html: bool) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    class Missing(StrictUndefined):
        """What a template asks for in vain is a KeyError, as in Python."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named | {"exc": KeyError})

    made = Environment(
        loader=FileSystemLoader(WORDS),
        autoescape=is_html,
        undefined=Missing,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    made.globals |= {"say": say, "fewest_centres": FEWEST_CENTRES, "lesion_rule": BRATS_GLIOMA}
    named = (
        figure, interval, listed, many, number, p_value, percent, quoted, share, signed, spoken,
        thousands,
    )  # fmt: skip
    made.filters |= {each.__name__: each for each in named}
    made.filters |= {"aligned": aligned, "words": _words}
    made.filters["basename"] = lambda path: Path(path).name
    made.filters["capitalised"] = lambda text: text[:1].upper() + text[1:]
    made.filters["region"] = lambda name: REGION_NAMES.get(name, name)
    return made
