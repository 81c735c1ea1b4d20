"""How far the intervals around a run's pictures reach: measured, written down, and applied."""

from synth3d.completion.calibration.measuring import CalibrateRequest, calibrate_run
from synth3d.completion.calibration.record import (
    MEANING,
    WRITTEN,
    CalibrationRecord,
    calibration_of,
    read_record,
)

__all__ = [
    "MEANING",
    "WRITTEN",
    "CalibrateRequest",
    "CalibrationRecord",
    "calibrate_run",
    "calibration_of",
    "read_record",
]
