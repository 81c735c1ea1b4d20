"""What a row of the benchmark is, and when its bar is met."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from cuda_ops.bench_clock import Call, Clock, Taken, compare, interleave, summary


@dataclass(frozen=True)
class Setting:
    """How to measure, the same for every row."""

    device: torch.device
    clock: Clock
    rounds: int
    seed: int = 0
    threads: int = 1
    least: float = 0.05
    """Seconds of a turn, see :func:`cuda_ops.bench_clock.interleave`."""


@dataclass(frozen=True)
class Result:
    """One line of the table.

    ``value`` is None where nothing could be measured; ``note`` says why. ``met`` is None
    without a bar and for a line that was skipped, False for one that failed.
    """

    name: str
    shape: str
    dtype: str
    memory_format: str
    candidate: str
    baseline: str
    value: float | None = None
    unit: str = "×"
    lowest: float | None = None
    of_minima: float | None = None
    rounds: int = 0
    bar: float | None = None
    at_least: bool = False
    met: bool | None = None
    seconds: dict[str, dict[str, Any]] = field(default_factory=dict)
    clock: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """Something to measure: usually a candidate against a baseline.

    Args:
        name: ``group/shape/...``, unique; ``--only`` chooses by it.
        shape: What is measured, in words of the specification.
        measure: Does it.
        dtype: Of weights and data.
        memory_format: Of weights and data.
        candidate: What is measured.
        baseline: Against what.
        bar: The limit of the value, or None.
        at_least: Whether the bar is a lower limit.
        cost: About how many seconds of one core a round takes; for the time left.
        quick: Whether ``--quick`` has it.
    """

    name: str
    shape: str
    measure: Callable[["Row", Setting], list[Result]]
    dtype: str = "fp32"
    memory_format: str = "contiguous"
    candidate: str = "rolling"
    baseline: str = "plain"
    bar: float | None = None
    at_least: bool = False
    cost: float = 0.1
    quick: bool = False

    @property
    def group(self) -> str:
        """The part of the name before the first slash."""
        return self.name.split("/")[0]

    def result(self, **changes: Any) -> Result:
        """A result of this row, with whether its bar is met."""
        result = Result(
            self.name, self.shape, self.dtype, self.memory_format, self.candidate, self.baseline,
            bar=self.bar, at_least=self.at_least,
        )  # fmt: skip
        result = replace(result, **changes)
        if result.met is None and result.bar is not None and result.value is not None:
            result = replace(result, met=meets(result.value, result.bar, result.at_least))
        return result


class SkipRow(Exception):  # noqa: N818  (nothing has gone wrong)
    """A row cannot be measured here; the message says why."""


def meets(value: float, bar: float, at_least: bool = False) -> bool:
    """Whether ``value`` keeps to ``bar``; NaN keeps to none."""
    return value >= bar if at_least else value <= bar


def run(row: Row, setting: Setting) -> list[Result]:
    """The results of a row; what goes wrong in it becomes a failed result, not an exception."""
    try:
        return row.measure(row, setting)
    except SkipRow as reason:
        return [row.result(note=f"skipped: {reason}")]
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        return [row.result(met=False, note=f"failed: {type(error).__name__}: {reason}")]


def timed(
    row: Row, setting: Setting, calls: dict[str, Call], factor: float = 1.0, **changes: Any
) -> Result:
    """Time ``row.candidate`` against ``row.baseline``, both keys of ``calls``.

    The ratio is multiplied by ``factor``; ``changes`` are further fields of the result.
    """
    return rated(row, setting, take(setting, calls), row.candidate, row.baseline, factor, **changes)


def take(setting: Setting, calls: dict[str, Call]) -> dict[str, list[Taken]]:
    """The times of ``calls``, as the setting wants them taken."""
    return interleave(calls, setting.clock, setting.rounds, setting.seed, setting.least)


def rated(
    row: Row,
    setting: Setting,
    taken: dict[str, list[Taken]],
    over: str,
    under: str,
    factor: float = 1.0,
    **changes: Any,
) -> Result:
    """The result of a row whose value is ``over``'s time divided by ``under``'s."""
    ratio = compare(taken[over], taken[under])
    return row.result(
        value=factor * ratio.median,
        lowest=factor * ratio.lowest,
        of_minima=factor * ratio.of_minima,
        rounds=setting.rounds,
        seconds=summary(taken),
        clock=setting.clock.name,
        **changes,
    )
