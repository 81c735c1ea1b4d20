"""``python -m cuda_ops.bench``: how fast the rolling convolution is, as a table."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch

from cuda_ops.bench.command import serve
from cuda_ops.bench.gpu import gpu_rows
from cuda_ops.bench.memory import memory_rows
from cuda_ops.bench.rows import Row, generate_rows, layer_rows

DESCRIPTION = """Measure the rolling convolution against the naive roll and a plain convolution.

Every row times its candidates once per round, in shuffled order; a ratio is the median of the
rounds' ratios. On the CPU the seconds are CPU seconds of the process with one thread, on CUDA
they come from events on the stream. Exit code: 0; 1 if --check is given and a bar was missed
or a row failed; 2 if an argument cannot be used; 130 if interrupted."""
EXAMPLES = """examples:
  python -m cuda_ops.bench                        the whole table (some minutes on a CPU)
  python -m cuda_ops.bench --quick                under a minute
  python -m cuda_ops.bench --only 'layer/64@*'    rows by name; --list shows the names
  python -m cuda_ops.bench --json bench.json      the table, and JSON in a file
  python -m cuda_ops.bench --device cuda --check  on a GPU; exit code 1 if a bar is missed"""

QUICK = {
    "cpu": (
        "generate/3d-2x*", "layer/32@32^3-b2/*last", "layer/64@16^3-b2/*last",
        "layer/512@4^3-b2/*last", "memory/64@32^3-b2/*last",
    ),
    "cuda": (
        "generate/3d-2x*", "gpu/launches/*", "gpu/fused/3d-2x64/*", "gpu/bandwidth/3d-4x512/*",
        "*/32@64^3-b2/*",
    ),
}  # fmt: skip


def rows(device: torch.device) -> list[Row]:
    """Every row for a device, in the order of the table."""
    kind = device.type
    made = [*generate_rows(), *layer_rows(kind), *memory_rows(kind)]
    if kind == "cuda":
        made = [*made, *gpu_rows()]
    return [replace(row, quick=any(fnmatchcase(row.name, q) for q in QUICK[kind])) for row in made]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return serve(arguments, "python -m cuda_ops.bench", DESCRIPTION, EXAMPLES, rows)


if __name__ == "__main__":
    sys.exit(main())
