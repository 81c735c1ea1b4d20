"""What the rows of the probe say, as Markdown, CSV, JSON and a picture."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synth3d.experiments.probe.networks import ROWS
from synth3d.experiments.results import difference, level
from synth3d.files import markdown_cell, markdown_page, write_csv, write_json, write_text
from synth3d.pictures import draw_levels

TITLE = "Does rolling see the shift?"
NOTE = """\
PSNR in the head, range 1 with white matter at 1/2; *mean ± sd* over seeds. *Δ*: minus the first
row, paired by seed and head, over all shifts, with a 95 % interval over
heads and seeds. *heard*: correlation of the true shift with what all offsets tell of it linearly,
on slices that the map was not fitted on; *slope*: by how many taps a pixel the offset that follows
the shift most does. *last eighth*: what the last eighth of the steps brought,
while the rate falls to 0."""

Found = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Row → seed → what :func:`synth3d.experiments.probe.learning.learn` returned."""


def summarise(found: Found) -> list[dict[str, Any]]:
    """One plain row for each of ``found``: levels, differences to the first row, correlation."""
    baseline = found.get(next(iter(ROWS)), {})
    rows = []
    for name, seeds in found.items():
        every = _lengths(seeds)
        of = {**{each: [each] for each in every}, "all": every}
        scores = {key: _score(seeds, baseline, lengths) for key, lengths in of.items()}
        row: dict[str, Any] = {"name": name, "about": ROWS[name].about, "seeds": list(seeds)}
        row |= {"all": scores.pop("all"), "levels": scores}
        runs = list(seeds.values())
        for name in ("heard", "slope"):
            numbers = [run[name] for run in runs if run[name] is not None]
            row[name] = level(np.array(numbers)[:, None]) if numbers else None
        row["last_eighth"] = float(np.mean([r["curve"][-1][1] - r["curve"][-2][1] for r in runs]))
        row["parameters"], row["steps"] = runs[0]["parameters"], runs[0]["curve"][-1][0]
        row["seconds_per_step"] = float(np.mean([run["seconds"] for run in runs])) / row["steps"]
        rows.append(row)
    return rows


def _score(
    mine: Mapping[int, Any], baseline: Mapping[int, Any], lengths: Sequence[str]
) -> dict[str, Any]:
    """Level over all ``lengths``, and what it is above the first row's; None for itself."""
    found: dict[str, Any] = {**level(_table(mine.values(), lengths)), "difference": None}
    both = [seed for seed in mine if seed in baseline]
    if both and mine is not baseline:
        ours, theirs = (_table([each[seed] for seed in both], lengths) for each in (mine, baseline))
        heads = [str(head) for head in range(ours.shape[1] // len(lengths))] * len(lengths)
        found["difference"] = difference(ours, theirs, heads)
    return found


def write_report(folder: Path, found: Found, about: str) -> str:
    """Write ``table.md``, ``.csv``, ``.json`` and ``curve.png``; the Markdown."""
    rows = summarise(found)
    parts = [f"# {TITLE}", about, _drawn(rows) if rows else "no row has been trained yet", NOTE]
    text = markdown_page("\n\n".join(parts) + "\n")
    write_text(folder / "table.md", text)
    write_json(folder / "table.json", {"title": TITLE, "about": about, "rows": rows})
    flat = [_flat(row) for row in rows]
    stream = io.StringIO()
    write_csv(stream, flat, list(dict.fromkeys(name for row in flat for name in row)))
    write_text(folder / "table.csv", stream.getvalue())
    lines = {row["name"]: _line(row["levels"]) for row in rows}
    if lines:
        draw_levels(
            lines, "shift of one source (pixels)", "PSNR in the head (dB)", TITLE,
            folder / "curve.png",
        )  # fmt: skip
    return text


def _lengths(seeds: Mapping[int, Mapping[str, Any]]) -> list[str]:
    return list(next(iter(seeds.values()))["levels"])


def _table(runs: Any, lengths: Sequence[str]) -> np.ndarray:
    """PSNR (seeds, lengths × heads)."""
    return np.array([np.concatenate([run["levels"][each] for each in lengths]) for run in runs])


def _line(levels: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {
        "level": [float(length) for length in levels],
        "mean": [each["mean"] for each in levels.values()],
        "sd": [each["sd"] or 0.0 for each in levels.values()],
        "difference": [each["difference"] for each in levels.values()],
    }


def _drawn(rows: Sequence[Mapping[str, Any]]) -> str:
    lengths = list(rows[0]["levels"])
    head = [
        "row",
        "what",
        *lengths,
        "all",
        "Δ",
        "heard",
        "slope",
        "last eighth",
        "parameters",
        "s / step",
    ]
    table = [[*head, "seeds"]]
    for row in rows:
        gap = row["all"]["difference"]
        table.append([
            row["name"], row["about"], *(_level(row["levels"][each]) for each in lengths),
            _level(row["all"]),
            f"{gap['mean']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]" if gap else "",
            *(_level(row[each]) if row[each] else "–" for each in ("heard", "slope")),
            f"{row['last_eighth']:+.2f}", f"{row['parameters']:,}",
            f"{row['seconds_per_step']:.3g}", str(len(row["seeds"])),
        ])  # fmt: skip
    lines = ["| " + " | ".join(map(markdown_cell, line)) + " |" for line in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    return "\n".join(lines)


def _level(found: Mapping[str, Any]) -> str:
    spread = "" if found["sd"] is None else f" ± {found['sd']:.2f}"
    return f"{found['mean']:.2f}{spread}"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    gap = row["all"]["difference"] or {}
    return {
        "row": row["name"],
        **{f"psnr_at_{length}": each["mean"] for length, each in row["levels"].items()},
        "psnr": row["all"]["mean"],
        "sd_over_seeds": row["all"]["sd"],
        **{f"difference_{key}": gap.get(key) for key in ("mean", "low", "high")},
        **{name: row[name]["mean"] if row[name] else None for name in ("heard", "slope")},
        **{key: row[key] for key in ("last_eighth", "parameters", "steps", "seconds_per_step")},
        "seeds": len(row["seeds"]),
    }
