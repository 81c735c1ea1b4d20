"""``python -m synth3d.bench``: what AGI-Net costs more than the plain network, as a table.

Every figure is a ratio of two networks measured in the same rounds of one process; see
:mod:`cuda_ops.bench_clock`. :mod:`synth3d.bench_rows` lists the rows and their bars. torch alone.
"""

import sys
from collections.abc import Sequence

from cuda_ops.bench import serve
from synth3d.bench_rows import rows

DESCRIPTION = """Measure training steps, forward passes and memory of AGI-Net and its rivals against
the plain ResUNet: seconds of CPU time of the process with one thread, medians of the ratios of
interleaved rounds. Exit code: 0; 1 if --check is given and a bar was missed or a row failed; 2 if
an argument cannot be used; 130 if interrupted."""
EXAMPLES = """examples:
  python -m synth3d.bench                     the whole table (an hour and more on one core)
  python -m synth3d.bench --quick             about two minutes
  python -m synth3d.bench --only train/recipe rows by name; --list shows the names
  python -m synth3d.bench --json bench.json   the table, and JSON in a file"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    program = "python -m synth3d.bench"
    return serve(arguments, program, DESCRIPTION, EXAMPLES, lambda device: rows())


if __name__ == "__main__":
    sys.exit(main())
