"""The benchmark's table and its JSON, with what one must know of the machine to read them."""

import contextlib
import importlib.util
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cuda_ops.bench.rows import Result, Setting

SCHEMA = 2
COLUMNS = (
    "row", "shape", "against", "ratio", "lowest", "of minima", "rounds", "bar", "met", "time",
)  # fmt: skip


def environment(setting: Setting, kept: bool, command: Sequence[str]) -> dict[str, Any]:
    """What the figures depend on besides the code; ``kept`` is of freed memory, by the process."""
    facts: dict[str, Any] = {
        "command": " ".join(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": str(setting.device),
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
    if setting.device.type == "cpu":
        known = torch.backends.cpu.get_cpu_capability()
        return facts | {"hardware": _processor(), "instructions": known}
    return facts | {
        "hardware": torch.cuda.get_device_name(setting.device),
        "cudnn": torch.backends.cudnn.version(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "cupy": importlib.util.find_spec("cupy") is not None,
        "backend": os.environ.get("CUDA_OPS_BACKEND", "default"),
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.+)$", file.read_text() if file.exists() else "", re.M)
    return model[1] if model else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The checkout's commit, ``-dirty`` added where files differ from it."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        said = subprocess.run([*words, "--exclude=*"], capture_output=True, text=True, check=True)
        return said.stdout.strip()


def missed(results: Sequence[Result]) -> list[str]:
    """Names of the rows that missed their bar or failed."""
    return [result.name for result in results if result.met is False]


def as_json(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """Everything: ``schema``, ``environment``, ``rows`` and the names ``missed``."""
    hidden = {"measure", "quick"}
    rows = [{k: v for k, v in vars(result).items() if k not in hidden} for result in results]
    document = {"schema": SCHEMA, "environment": facts, "rows": rows, "missed": missed(results)}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)


def as_table(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """A Markdown table under a line of facts, and what was missed below it."""
    lines = [_sentence(facts), "", "| " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + "|".join(["---"] * 3 + ["--:"] * 5 + [":-:", "--:"]) + "|")
    for result in results:
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in _cells(result))} |")
    failed, barred = missed(results), sum(result.met is not None for result in results)
    said = f"; missed: {', '.join(failed)}." if failed else "."
    return "\n".join([*lines, "", f"{barred - len(failed)} of {barred} bars met{said}"])


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
    usual = result.candidate in ("rolling", "rolled")
    unit = "" if result.unit == "×" else f" {result.unit}"
    return [
        result.name + ("" if usual else f" ({result.candidate})"),
        result.shape,
        result.baseline,
        result.note if result.value is None else _number(result.value) + unit,
        _number(result.lowest),
        _number(result.of_minima),
        str(result.rounds or "–"),
        "–" if result.bar is None else f"{'≥' if result.at_least else '≤'} {result.bar:g}",
        {True: "yes", False: "**no**", None: "–"}[result.met],
        _times(result),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _times(result: Result) -> str:
    """Milliseconds of the candidate and of the baseline, and the row's own remark."""
    names = (result.candidate, result.baseline)
    times = [f"{1e3 * result.seconds[name]:.3g}" for name in names if name in result.seconds]
    said = [f"{' : '.join(times)} ms"] if len(times) == 2 else []
    if result.note and result.value is not None:
        said.append(result.note)
    return ", ".join(said) or "–"
