"""What judges of another architecture say of the same arms, beside what those of the report say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg_eval.analysis import SCHEMA
from seg_eval.experiment import TRANSFER
from seg_eval.report.page import table
from synth3d.errors import InputError
from synth3d.files import read_object


def read_transfers(folder: Path) -> list[dict[str, Any]]:
    """Of each experiment inside that of ``folder``: preset, seeds, and Dice and recovery of arms.

    Raises:
        InputError: One of them is damaged, or follows the rules of another version.
    """
    found = []
    for path in sorted(folder.glob(f"{TRANSFER}/*/summary.json")):
        summary = read_object(path, "config", "regions")
        if (schema := summary.get("schema")) != SCHEMA:
            raise InputError(
                f"{path} is of schema {schema}, whose rules are not those of this report (schema "
                f"{SCHEMA}); run again with --transfer {path.parent.name}, or remove that folder"
            )
        found.append({
            "preset": summary["config"]["preset"],
            "seeds": summary["config"]["seeds"],
            "regions": {
                region: {
                    name: {"dice": arm["dice"], "recovery": arm["recovery"]}
                    for name, arm in about["arms"].items()
                }
                for region, about in summary["regions"].items()
            },
        })  # fmt: skip
    return found


def tell_transfers(summary: Mapping[str, Any], arms: Any) -> list[dict[str, Any]]:
    """For each, its preset and seeds, and a table for each region of the arms that both saw."""
    judge = summary["config"]["segmenter"] or summary["config"]["preset"]
    told = []
    for other in summary.get("transfer", ()):
        tables = [
            table("transfer", region=name, here=summary["regions"][name]["arms"], there=there,
                  arms=arms, judges=(Path(judge).name, other["preset"]))
            for name, there in other["regions"].items() if name in summary["regions"]
        ]  # fmt: skip
        told.append({**other, "tables": [one for one in tables if one]})
    return told
