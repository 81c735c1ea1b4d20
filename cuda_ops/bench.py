"""``python -m cuda_ops.bench``: how fast the rolling convolution is, as a table.

Every figure is a ratio of two things measured in the same rounds of one process; see
:mod:`cuda_ops.bench_clock`. :mod:`cuda_ops.bench_suite` lists the rows and their bars.
"""

import argparse
import fnmatch
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from cuda_ops.bench_allocator import keep_memory
from cuda_ops.bench_clock import CpuClock, CudaClock
from cuda_ops.bench_report import (
    as_document,
    as_table,
    check_writable,
    environment,
    to_json,
    write_atomically,
)
from cuda_ops.bench_rows import Result, Row, Setting, run
from cuda_ops.bench_suite import rows

ROUNDS, QUICK_ROUNDS = 7, 3
TURN, QUICK_TURN = 0.05, 0.02  # seconds
DESCRIPTION = """Measure the rolling convolution against the naive roll and a plain convolution.

Every row times its candidates once per round, in shuffled order; a ratio is the median of the
rounds' ratios. On the CPU the seconds are CPU seconds of the process with one thread, on CUDA
they come from events on the stream. Exit code: 0; 1 if --check is given and a bar was missed
or a row failed; 2 if an argument cannot be used; 130 if interrupted."""
EXAMPLES = """examples:
  python -m cuda_ops.bench                        the whole table (about half an hour on a CPU)
  python -m cuda_ops.bench --quick                under a minute
  python -m cuda_ops.bench --only 'layer/64@*'    rows by name; --list shows the names
  python -m cuda_ops.bench --quick --json         as JSON instead of a table
  python -m cuda_ops.bench --json bench.json      the table, and JSON in a file
  python -m cuda_ops.bench --device cuda --check  on a GPU; exit code 1 if a bar is missed"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def build_parser(program: str, description: str, examples: str) -> argparse.ArgumentParser:
    """The command line of a benchmark, ``program`` being how it is called."""
    parser = _Parser(
        prog=program,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="the few rows that tell most, fewer rounds")
    add(
        "--only",
        metavar="PATTERN",
        action="append",
        default=[],
        help="rows whose name contains PATTERN, or matches it if it has * or ?; repeatable",
    )
    add("--list", action="store_true", help="print the names of the rows and measure nothing")
    add("--rounds", type=_at_least_one, metavar="N", help=f"default {ROUNDS}, {QUICK_ROUNDS} "
        "with --quick")  # fmt: skip
    add("--seed", type=int, default=0, help="of the order within a round; default %(default)s")
    add("--device", default="cpu", help="cpu, cuda or cuda:N; default %(default)s")
    add("--threads", type=_at_least_one, default=1, metavar="N", help="default %(default)s")
    add("--allocator", choices=("keep", "default"), default="keep",
        help="keep: freed memory stays with the process, as in training (glibc only); default: "
        "the system's way, where page faults are part of the time")  # fmt: skip
    add(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print JSON instead of the table, or write it to FILE, row by row, beside the table",
    )
    add("--check", action="store_true", help="exit code 1 if a bar is missed or a row failed")
    return parser


def _at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return serve(arguments, "python -m cuda_ops.bench", DESCRIPTION, EXAMPLES, rows)


def serve(
    arguments: Sequence[str] | None,
    program: str,
    description: str,
    examples: str,
    rows: Callable[[torch.device], list[Row]],
) -> int:
    """Run the command line of any benchmark, this one's or another package's.

    Args:
        arguments: Of the command line; None for the process's own.
        program: How it is called, as in ``python -m cuda_ops.bench``.
        description: For ``--help``.
        examples: For the end of ``--help``.
        rows: All rows for a device, in the order of the table.

    Returns:
        The exit code, as ``description`` should say: 0, 1, 2 or 130.
    """
    parser = build_parser(program, description, examples)
    args = parser.parse_args(arguments)
    try:
        device = pick_device(args.device)
        chosen = choose(rows(device), args.only, args.quick)
        target = None if args.json in (None, "-") else check_writable(Path(args.json))
    except ValueError as error:
        parser.error(str(error))
    if args.list:
        print("\n".join(f"{row.name}{'  (quick)' if row.quick else ''}" for row in chosen))
        return 0
    torch.set_num_threads(args.threads)
    kept = args.allocator == "keep" and keep_memory()
    clock = CudaClock(device) if device.type == "cuda" else CpuClock()
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    least = QUICK_TURN if args.quick else TURN
    setting = Setting(device, clock, rounds, args.seed, args.threads, least)
    facts = environment(setting, "keep" if kept else "default", program, arguments)
    results: list[Result] = []
    try:
        for _ in measure(chosen, setting, results, facts):
            if target:  # a long run that is killed leaves what it had
                write_atomically(target, as_document(facts, results))
        facts["complete"] = True
    except KeyboardInterrupt:
        print("\ninterrupted; what follows is all that was measured", file=sys.stderr)
    document = as_document(facts, results)
    if target:
        write_atomically(target, document)
    print(to_json(document) if args.json == "-" else as_table(facts, results))
    if not facts["complete"]:
        return 130
    return 1 if args.check and document["missed"] else 0


def pick_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        ValueError: It is neither cpu nor cuda, or the machine does not have it.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: torch finds no CUDA device here; use --device cpu")
        device = torch.device("cuda", device.index or 0)
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} of them")
        torch.cuda.set_device(device)
    return device


def choose(all_rows: Sequence[Row], patterns: Sequence[str], quick: bool) -> list[Row]:
    """The rows that the flags ask for, in their order.

    Raises:
        ValueError: A pattern fits none.
    """
    pool = [row for row in all_rows if row.quick or not quick]
    if not patterns:
        return pool
    taken = set()
    for pattern in patterns:
        fits = {row.name for row in pool if _fits(row.name, pattern)}
        if not fits:
            where = "of --quick " if quick else ""
            raise ValueError(f"--only {pattern}: no row {where}has such a name; --list shows them")
        taken |= fits
    return [row for row in pool if row.name in taken]


def _fits(name: str, pattern: str) -> bool:
    if any(sign in pattern for sign in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name


def measure(
    chosen: Sequence[Row], setting: Setting, results: list[Result], facts: dict[str, Any]
) -> Iterator[Row]:
    """Run the rows, telling on standard error what is done and how long the rest will take.

    Args:
        chosen: The rows.
        setting: How to measure.
        results: Is filled.
        facts: Its ``seconds`` follow the time that has passed.

    Yields:
        Every row once its results are there.
    """
    start, total, spent = time.perf_counter(), sum(map(_share, chosen)), 0.0
    for number, row in enumerate(chosen, 1):
        found = run(row, setting)
        results += found
        spent += _share(row)
        past = time.perf_counter() - start
        facts["seconds"] = round(past, 1)
        left = past * (total - spent) / spent
        said = "; ".join(_outcome(result) for result in found)
        line = f"[{number}/{len(chosen)}] {row.name}: {said} ({_span(left)} left)"
        print(line, file=sys.stderr, flush=True)
        yield row


def _share(row: Row) -> float:
    """Of the time; quick calls are repeated, see :func:`cuda_ops.bench_clock.interleave`."""
    return max(row.cost, 0.15)


def _outcome(result: Result) -> str:
    if result.value is None:
        return result.note
    bar = f", bar {result.bar:g}" if result.bar is not None else ""
    return f"{result.value:.3g} {result.unit}{bar}{', MISSED' if result.met is False else ''}"


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
