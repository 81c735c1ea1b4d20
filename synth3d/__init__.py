"""Synthesise the MRI sequence a case lacks, in 3-D, and write it as if it had been acquired.

``cohort`` knows the files, ``data`` makes batches of them, ``models`` and ``frameworks`` are the
two halves of what is trained, ``training`` trains it, ``completion`` fills the gap. The command
line is ``synth3d``; whether the gap was worth filling is ``seg_eval``. From Python, see
``docs/api.md``; nothing heavy is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synth3d.cohort import find_cases
    from synth3d.completion import Run, calibrate, complete, load_run, train

__version__ = "0.1.0"

__all__ = ["Run", "__version__", "calibrate", "complete", "find_cases", "load_run", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = "cohort" if name == "find_cases" else "completion"
    return getattr(importlib.import_module(f"{__name__}.{room}"), name)


def __dir__() -> list[str]:
    return [*__all__]
