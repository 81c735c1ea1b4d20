"""How much of the tumour Dice lost with a missing sequence does synthesis recover?

From Python as from the command line ``seg_eval``::

    folder = seg_eval.run(missing="flair", data=Path("BraTS"))
    summary = seg_eval.read_summary(folder)

``run`` takes the attributes of :class:`seg_eval.experiment.RunRequest`, which are the flags of
`seg_eval run`, and returns the experiment's folder. It raises ``synth3d.errors.InputError`` where
the command line would end with exit code 2; whether the check of the export path passed stands in
the summary, under ``plumbing``. Nothing heavy is loaded before one of the two is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seg_eval.evaluation import run
    from seg_eval.report import read_summary

__all__ = ["read_summary", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from seg_eval.evaluation import run
    from seg_eval.report import read_summary

    return {"run": run, "read_summary": read_summary}[name]


def __dir__() -> list[str]:
    return [*__all__]
