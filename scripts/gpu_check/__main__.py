"""What this project claims of a GPU, checked on one in about ten minutes.

The steps run in order, a line each, and the first wrong number or missed bar is the end, unless
--keep-going is given. What cannot run here (nnU-Net is not installed, there is no second GPU) is
told and makes the result incomplete. OUT gets gpu-check.json, gpu-check.md (a table for
docs/benchmarks.md) and what each program said (logs).

Exit codes: 0 all is well, 1 something is wrong or was not run, 2 there is no such GPU, 130
interrupted.
"""

import argparse
import contextlib
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.gpu_check.session import (
    NOT_RUN,
    OK,
    ROOT,
    WRONG,
    Finding,
    Session,
    Step,
    WrongError,
    lacks,
)
from scripts.gpu_check.steps import STEPS
from synth3d.errors import InputError, run_guarded
from synth3d.files import write_json, write_text

EXAMPLES = """examples:
  python -m scripts.gpu_check                     about ten minutes on an H200
  python -m scripts.gpu_check --quick             about five; --keep-going: over everything
  python -m scripts.gpu_check --only launches     some steps; --list shows them
  python -m scripts.gpu_check --rehearse          on a CPU, in small: proves no number
"""
Results = list[tuple[Step, float, list[Finding]]]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.gpu_check",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("work/gpu-check"), help="default: %(default)s")
    add("--device", default="cuda", help="cuda or cuda:1")
    add("--quick", action="store_true", help="fewer rows and one precision")
    add("--only", metavar="STEP,STEP", help="only these steps")
    add("--list", action="store_true", help="show the steps and stop")
    add("--keep-going", action="store_true", help="go on after a wrong number")
    add("--allow-missing", action="store_true", help="exit code 0 also if something was not run")
    add("--rehearse", action="store_true", help="on the CPU, without what only a GPU has")
    return parser


def chosen(only: str | None, quick: bool, rehearse: bool) -> list[Step]:
    """The steps that the flags ask for, in their order."""
    possible = [step for step in STEPS if step.seconds[quick] and not (rehearse and step.cuda)]
    names = [step.name for step in possible]
    wanted = only.split(",") if only else names
    if unknown := [name for name in wanted if name not in names]:
        raise InputError(f"--only {','.join(unknown)}: the steps here are {', '.join(names)}")
    return [step for step in possible if step.name in wanted]


def machine(session: Session) -> dict[str, Any]:
    """What the numbers depend on.

    Raises:
        InputError: There is no such device, or this Python cannot use one.
    """
    _refuse_without("torch", "numpy")
    session.step, session.deadline = "facts", time.monotonic() + 120
    try:
        found = session.work("facts")
    except WrongError as error:
        raise InputError(error.last.removeprefix("error: ") or str(error)) from error
    extra = "gpu-cuda12" if (found.get("cuda") or "").startswith("12.") else "gpu"
    _refuse_without(*(["cupy"] if session.cuda else []), "pytest", "hypothesis", extra=extra)
    commit = "unknown"
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
        commit = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "commit": commit, "quick": session.quick} | found


def _refuse_without(*libraries: str, extra: str = "gpu") -> None:
    if lacking := lacks(libraries):
        said = ", ".join(lacking)
        raise InputError(
            f"{sys.executable} cannot import {said}; install synth3d[{extra},test] there"
        )


def work_through(steps: Sequence[Step], session: Session, out: Path, keep_going: bool) -> Results:
    """Run the steps; after each the tables are written anew."""
    results: Results = []
    begin, about = time.monotonic(), [step.seconds[session.quick] for step in steps]
    for number, step in enumerate(steps):
        spent = time.monotonic() - begin
        pace = max(1.0, spent / sum(about[:number])) if number else 1.0
        left = f"{pace * sum(about[number:]) / 60:.1f} min left"
        print(f"[{number + 1:2}/{len(steps)}] {step.name:12} {left} ...", end=" ", flush=True)
        findings = step.run(session)
        seconds = time.monotonic() - begin - spent
        results.append((step, seconds, findings))
        print(f"{seconds:.0f} s: {summary(findings)}", flush=True)
        write_tables(results, steps, session.facts, out)
        wrong = [each for each in findings if each.state == WRONG]
        for each in [*wrong, *(each for each in findings if each.state == NOT_RUN)]:
            print(f"        {each.state}: {' '.join(cells(each)[:3])} {each.note}".rstrip())
        if wrong and not keep_going:
            break
    return results


def summary(findings: Sequence[Finding]) -> str:
    """How many numbers are in which state."""
    states = [each.state for each in findings]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def verdict(results: Results, steps: Sequence[Step]) -> str:
    """``WRONG``, ``incomplete`` or ``ok``."""
    states = {each.state for *_, findings in results for each in findings}
    if WRONG in states or len(results) < len(steps):
        return WRONG
    return "incomplete" if NOT_RUN in states else OK


def write_tables(results: Results, steps: Sequence[Step], facts: dict[str, Any], out: Path) -> None:
    """The JSON and the Markdown table of what has run so far."""
    found = [
        {"step": step.name, "seconds": round(seconds, 1), "findings": [*map(record, findings)]}
        for step, seconds, findings in results
    ]
    after = [step.name for step in steps[len(results) :]]
    said = verdict(results, steps[: len(results)])
    document = {"schema": 1, "facts": facts, "verdict": said, "steps": found, "not_reached": after}
    write_json(out / "gpu-check.json", document)
    told = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "uuids")
    lines = [f"`make gpu-check`, {told}: {said}.", ""]
    lines += ["| step | what | value | bar | | note |", "|---|---|--:|--:|:-:|---|"]
    for step, _, findings in results:
        rows = [[step.name, *cells(each), each.state, each.note] for each in findings]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    lines += [f"| {name} | | | | not reached | |" for name in after]
    write_text(out / "gpu-check.md", "\n".join(lines) + "\n")


def record(finding: Finding) -> dict[str, Any]:
    """As JSON has it, which knows no NaN."""
    known = finding.value is not None and math.isfinite(finding.value)
    return {**vars(finding), "value": finding.value if known else None, "state": finding.state}


def cells(finding: Finding) -> tuple[str, str, str]:
    """Name, value with its unit, and bar."""
    if finding.unit == "yes/no":
        return finding.name, "yes" if finding.value else "no", "yes"
    value = "–" if finding.value is None else f"{finding.value:.3g} {finding.unit}".rstrip()
    sign = "≥" if finding.at_least else "≤"
    return finding.name, value, "–" if finding.bar is None else f"{sign} {finding.bar:g}"


def check(args: argparse.Namespace) -> int:
    """Do what the flags ask for; the exit code."""
    steps = chosen(args.only, args.quick, args.rehearse)
    if args.list:
        for step in steps:
            print(f"{step.name:12} {step.seconds[args.quick]:4} s  {step.about}")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    logs = (args.out / "logs").resolve()
    shutil.rmtree(logs, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as scratch:
        device = "cpu" if args.rehearse else args.device
        session = Session(device, args.quick, Path(scratch), logs)
        session.facts = machine(session)
        results = work_through(steps, session, args.out, args.keep_going)
    said = verdict(results, steps)
    print(f"{said}: {args.out / 'gpu-check.md'}, {args.out / 'gpu-check.json'}, {logs}")
    return 0 if said == OK or (said == "incomplete" and args.allow_missing) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Check the GPU; the exit code."""
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are killed, too
    return run_guarded(check, args)


if __name__ == "__main__":
    raise SystemExit(main())
