"""The command line of a benchmark: choice of rows, progress, table or JSON, exit code."""

import argparse
import fnmatch
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from cuda_ops.bench.clock import CpuClock, CudaClock, keep_memory
from cuda_ops.bench.report import as_json, as_table, environment, missed
from cuda_ops.bench.rows import Result, Row, Setting, run

ROUNDS, QUICK_ROUNDS = 7, 3
TURN, QUICK_TURN = 0.05, 0.02  # seconds


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _parser(program: str, description: str, examples: str) -> _Parser:
    parser = _Parser(
        prog=program,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="the few rows that tell most, fewer rounds")
    add("--only", metavar="PATTERN", action="append", default=[],
        help="rows whose name contains PATTERN, which may have * and ?; repeatable")  # fmt: skip
    add("--list", action="store_true", help="print the names of the rows and measure nothing")
    add("--rounds", type=_at_least_one, metavar="N",
        help=f"default {ROUNDS}, {QUICK_ROUNDS} with --quick")  # fmt: skip
    add("--device", default="cpu", help="cpu, cuda or cuda:N; default %(default)s")
    add("--threads", type=_at_least_one, default=1, metavar="N", help="default %(default)s")
    add("--json", metavar="FILE", type=Path, help="write everything to FILE beside the table")
    add("--check", action="store_true", help="exit code 1 if a bar is missed or a row failed")
    return parser


def _at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def serve(
    arguments: Sequence[str] | None,
    program: str,
    description: str,
    examples: str,
    rows: Callable[[torch.device], list[Row]],
) -> int:
    """Run the command line of any benchmark, this one's or another package's.

    ``program`` is how it is called, ``description`` and ``examples`` are for ``--help``, ``rows``
    gives all rows for a device. The exit code is 0, 1, 2 or 130, as ``description`` should say.
    """
    parser = _parser(program, description, examples)
    args = parser.parse_args(arguments)
    try:
        device = pick_device(args.device)
        chosen = choose(rows(device), args.only, args.quick)
        if args.json and not args.json.absolute().parent.is_dir():
            raise ValueError(f"--json {args.json}: there is no such folder")
    except ValueError as error:
        parser.error(str(error))
    if args.list:
        print("\n".join(f"{row.name}{'  (quick)' if row.quick else ''}" for row in chosen))
        return 0
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = device.type == "cuda"  # shapes repeat, as in a training
    clock = CudaClock(device) if device.type == "cuda" else CpuClock()
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    setting = Setting(device, clock, rounds, args.threads, QUICK_TURN if args.quick else TURN)
    words = sys.argv[1:] if arguments is None else arguments
    facts = environment(setting, keep_memory(), [program, *words])
    results: list[Result] = []
    start = time.perf_counter()
    try:
        for number, row in enumerate(chosen, 1):
            found = run(row, setting)
            results += found
            facts["seconds"] = round(time.perf_counter() - start, 1)
            said = "; ".join(map(_outcome, found))
            print(f"[{number}/{len(chosen)}] {row.name}: {said}", file=sys.stderr, flush=True)
        facts["complete"] = True
    except KeyboardInterrupt:
        print("\ninterrupted; what follows is all that was measured", file=sys.stderr)
    if args.json:
        args.json.write_text(as_json(facts, results) + "\n", "utf-8")
    print(as_table(facts, results))
    if not facts["complete"]:
        return 130
    return 1 if args.check and missed(results) else 0


def pick_device(name: str) -> torch.device:
    """The device of a name, made the current one; a ValueError if it is not here."""
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]?))?", name):
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got {name!r}")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: torch finds no CUDA device here; use --device cpu")
        device = torch.device("cuda", device.index or 0)
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} of them")
        torch.cuda.set_device(device)
        # Torch's form must not be measured in the fused kernel's name.
        os.environ.setdefault("CUDA_OPS_BACKEND", "cupy")
    return device


def choose(all_rows: Sequence[Row], patterns: Sequence[str], quick: bool) -> list[Row]:
    """The rows that the flags ask for, in their order; a ValueError if a pattern fits none."""
    pool = [row for row in all_rows if row.quick or not quick]
    taken: set[str] = set()
    for pattern in patterns:
        fits = fnmatch.filter([row.name for row in pool], f"*{pattern}*")
        if not fits:
            where = "of --quick " if quick else ""
            raise ValueError(f"--only {pattern}: no row {where}has such a name; --list shows them")
        taken |= {*fits}
    return [row for row in pool if row.name in taken or not patterns]


def _outcome(result: Result) -> str:
    if result.value is None:
        return result.note
    bar = f", bar {result.bar:g}" if result.bar is not None else ""
    return f"{result.value:.3g} {result.unit}{bar}{', MISSED' if result.met is False else ''}"
