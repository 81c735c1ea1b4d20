"""``python -m cuda_ops.bench``: how fast the rolling convolution is, as a table."""

import sys
from collections.abc import Sequence

import torch

from cuda_ops.bench.command import serve
from cuda_ops.bench.gpu import cuda_rows
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


def rows(device: torch.device) -> list[Row]:
    """Every row for a device, in the order of the table."""
    if device.type == "cuda":
        return [*generate_rows(), *cuda_rows()]
    return [*generate_rows(), *layer_rows(), *memory_rows()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return serve(arguments, "python -m cuda_ops.bench", DESCRIPTION, EXAMPLES, rows)


if __name__ == "__main__":
    sys.exit(main())
