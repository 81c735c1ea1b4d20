"""The benchmark's table and its JSON, with what one must know of the machine to read them."""

import contextlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cuda_ops.bench.rows import Result, Setting

SCHEMA = 1
COLUMNS = (
    "row", "shape", "against", "ratio", "lowest", "of minima", "rounds", "bar", "met", "time",
)  # fmt: skip


def environment(
    setting: Setting, kept: bool, program: str, arguments: Sequence[str] | None
) -> dict[str, Any]:
    """What the figures depend on besides the code: machine, versions, command.

    Args:
        setting: How it is measured.
        kept: Whether freed memory stays with the process.
        program: How it was called.
        arguments: Its own; None for the process's.
    """
    words = sys.argv[1:] if arguments is None else arguments
    facts: dict[str, Any] = {
        "command": " ".join([program, *words]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": str(setting.device),
        "hardware": _hardware(setting.device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clock": setting.clock.name,
        "threads": setting.threads,
        "rounds": setting.rounds,
        "memory": "kept" if kept else "the system's way",
        "load": [round(load, 2) for load in os.getloadavg()],
        "seconds": 0.0,
        "complete": False,
    }
    if setting.device.type == "cuda":
        facts |= {
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cudnn.allow_tf32,
            "cupy": importlib.util.find_spec("cupy") is not None,
            "backend": os.environ.get("CUDA_OPS_BACKEND", "default"),
        }
    else:
        facts["instructions"] = torch.backends.cpu.get_cpu_capability()
    return facts


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The checkout's commit, ``-changed`` added where the operator differs from it."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return f"{commit}-changed" if git("status", "--porcelain", "--", ".") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def as_document(facts: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Everything, ready for JSON: ``schema``, ``environment``, ``rows`` and ``missed`` names."""
    return {
        "schema": SCHEMA,
        "environment": facts,
        "rows": [asdict(result) for result in results],
        "missed": [result.name for result in results if result.met is False],
    }


def as_table(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """A Markdown table under a line of facts, and what was missed below it."""
    lines = [_sentence(facts), "", "| " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + "|".join(["---"] * 3 + ["--:"] * 5 + [":-:", "--:"]) + "|")
    lines += ["| " + " | ".join(map(_escaped, _cells(result))) + " |" for result in results]
    missed = [result.name for result in results if result.met is False]
    barred = sum(result.met is not None for result in results)
    lines += ["", f"{barred - len(missed)} of {barred} bars met" + (":" if missed else ".")]
    lines[-1] = lines[-1].replace(":", "; missed: " + ", ".join(missed) + ".")
    return "\n".join(lines)


def _sentence(facts: dict[str, Any]) -> str:
    last = facts.get("instructions", f"CUDA_OPS_BACKEND {facts.get('backend')}")
    return (
        f"`{facts['command']}`, {facts['date']}, commit {facts['commit']}: {facts['hardware']} "
        f"({last}), torch {facts['torch']}, {facts['threads']} thread(s), {facts['clock']}, "
        f"freed memory {facts['memory']}, load {facts['load'][0]}; "
        f"{facts['seconds'] / 60:.1f} min"
        f"{'.' if facts['complete'] else ', not finished.'}"
    )


def _cells(result: Result) -> list[str]:
    unit = "" if result.unit == "×" else f" {result.unit}"
    sign = "≥" if result.at_least else "≤"
    met = {True: "yes", False: "**no**", None: "–"}[result.met]
    return [
        result.name
        + ("" if result.candidate in ("rolling", "rolled") else f" ({result.candidate})"),
        result.shape,
        result.baseline,
        result.note if result.value is None else _number(result.value) + unit,
        _number(result.lowest),
        _number(result.of_minima),
        str(result.rounds or "–"),
        "–" if result.bar is None else f"{sign} {result.bar:g}",
        met,
        _times(result),
    ]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value == int(value) and value > 2 else f"{value:.3g}"


def _times(result: Result) -> str:
    """Milliseconds of the candidate and of the baseline, or the row's own remark."""
    times = [result.seconds.get(name) for name in (result.candidate, result.baseline)]
    if None in times:
        return result.note if result.value is not None else "–"
    both = " : ".join(f"{1e3 * time['clock']:.3g}" for time in times if time)
    return f"{both} ms" + (f", {result.note}" if result.note else "")


def to_json(document: dict[str, Any]) -> str:
    """JSON text of :func:`as_document`."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
