"""``python -m synth3d.bench``: what AGI-Net costs more than the plain network, as a table.

Every figure is a ratio of two networks measured in the same rounds of one process; see
:mod:`cuda_ops.bench_clock`. :mod:`synth3d.bench_rows` lists the rows and their bars. torch alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from cuda_ops.bench import choose, measure, pick_device
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
from cuda_ops.bench_rows import Result, Setting
from synth3d.bench_rows import rows

ROUNDS, QUICK_ROUNDS = 7, 3
DESCRIPTION = """Measure training steps, forward passes and memory of AGI-Net and its rivals against
the plain ResUNet: seconds of CPU time of the process with one thread, medians of the ratios of
interleaved rounds. Exit code: 0; 1 if --check is given and a bar was missed or a row failed; 2 if
an argument cannot be used; 130 if interrupted."""
EXAMPLES = """examples:
  python -m synth3d.bench                     the whole table (an hour and more on one core)
  python -m synth3d.bench --quick             about two minutes
  python -m synth3d.bench --only train/recipe rows by name; --list shows the names
  python -m synth3d.bench --json bench.json   the table, and JSON in a file"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see python -m synth3d.bench --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(
        prog="python -m synth3d.bench",
        description=DESCRIPTION,
        epilog=EXAMPLES,
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
    add("--rounds", type=int, metavar="N", help=f"default {ROUNDS}, {QUICK_ROUNDS} with --quick")
    add("--seed", type=int, default=0, help="of the order within a round; default %(default)s")
    add("--device", default="cpu", help="cpu, cuda or cuda:N; default %(default)s")
    add("--threads", type=int, default=1, metavar="N", help="default %(default)s")
    add(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print JSON instead of the table, or write it to FILE beside the table",
    )
    add("--check", action="store_true", help="exit code 1 if a bar is missed or a row failed")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        if args.threads < 1 or (args.rounds is not None and args.rounds < 1):
            raise ValueError("--threads and --rounds take whole numbers from 1")
        device = pick_device(args.device)
        chosen = choose(rows(), args.only, args.quick)
        target = None if args.json in (None, "-") else check_writable(Path(args.json))
    except ValueError as error:
        parser.error(str(error))
    if args.list:
        print("\n".join(f"{row.name}{'  (quick)' if row.quick else ''}" for row in chosen))
        return 0
    torch.set_num_threads(args.threads)
    clock = CudaClock(device) if device.type == "cuda" else CpuClock()
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    setting = Setting(device, clock, rounds, args.seed, args.threads, 0.0)
    facts = environment(setting, "keep" if keep_memory() else "default", arguments)
    facts["command"] = facts["command"].replace("cuda_ops.bench", "synth3d.bench")
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


if __name__ == "__main__":
    sys.exit(main())
