"""What a command ends with on a terminal: the answer, a row a region, and nothing else."""

from seg_eval.report.context import Summary, asked, warnings_first
from seg_eval.report.page import fill, number, say, spoken


def render_ending(summary: Summary) -> str:
    """The sentence of the report, the mean Dice of each region beside its rivals, and how much more
    there is to read: a dozen lines.
    """
    primary, missing = summary["headline"]["primary"], spoken(asked(summary)["missing"])
    floor = next(arm["name"] for arm in summary["arms"] if arm["kind"] in ("zero", "degraded"))
    rows = []
    for name, region in summary["regions"].items():
        dice = {arm: number(found["dice"], ".2f") for arm, found in region["arms"].items()}
        best = region["best_cheap"]
        cells = [dice[floor], *([dice[primary]] if primary else [])]
        cells += [f"{dice[best]} {best}"] if best else []
        rows.append([name, *cells, dice["full"]])
    told = "thick slices" if asked(summary)["degraded"] else f"no {missing}"
    heads = ["Mean Dice", told, *(["synthesis"] if primary else [])]
    heads += (
        ["best cheap rival"] if any(r["best_cheap"] for r in summary["regions"].values()) else []
    )
    table = {"heads": [*heads, f"real {missing}"], "rows": rows}
    cautions = len(warnings_first(summary))
    check = summary["plumbing"]
    failed = say("plumbing", check=check) if check and not check["passed"] else ""
    about = {"table": table, "cautions": cautions, "failed": failed}
    return fill("ending.md.j2", {**summary, **about})
