"""A run's log for TensorBoard, where that is installed; the record is ``log.jsonl``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"


class Board:
    """Writes scalars to ``RUN/tensorboard``; does nothing where TensorBoard is not installed.

    Args:
        run: The run folder.
        step: Where training goes on; what a killed process wrote of later steps is taken back.
    """

    def __init__(self, run: Path, step: int) -> None:
        folder = run / FOLDER
        self.told = step if folder.is_dir() else 0
        self._writer = _writer(folder, self.told)

    def add(self, log: Sequence[Mapping[str, Any]]) -> None:
        """Write the lines of ``log`` that are later than all that was added before."""
        if self._writer is None:
            return
        for line in log:
            if line["step"] > self.told:
                for name, value in _scalars(line).items():
                    self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()
        self.told = max((line["step"] for line in log), default=self.told)

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()


def _scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """``loss/l1``, ``validation/psnr``, ``seconds/step``: the tables of a line of the log."""
    tables = {key: table for key, table in line.items() if isinstance(table, Mapping)}
    return {f"{key}/{name}": float(v) for key, table in tables.items() for name, v in table.items()}


def _writer(folder: Path, step: int) -> Any:
    """TensorBoard's, or None; a TensorBoard that is broken stops no training."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        return None
    except Exception as error:  # whatever its own libraries raise when they do not fit
        print(f"warning: TensorBoard is installed but cannot be used: {error}")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
