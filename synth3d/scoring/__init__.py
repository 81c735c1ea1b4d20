"""How good a synthetic picture is."""

from synth3d.scoring.case import score_case
from synth3d.scoring.cohort import ScoreRequest, find_lpips, load_lpips
from synth3d.scoring.conformal import (
    Calibration,
    calibrate,
    conformal_quantile,
    covered,
    fewest_patients,
    patientwise_quantiles,
)
from synth3d.scoring.conventions import CONVENTIONS, Convention
from synth3d.scoring.explanation import CHANCE, find_errors
from synth3d.scoring.formulas import decibels, mae_brain, psnr_brain, ssim_brain
from synth3d.scoring.intervals import (
    CONFIDENCE,
    FEW_CASES,
    FEWEST_CENTRES,
    FEWEST_TRAININGS,
    Crossed,
    Estimate,
    Over,
    clusters_by_patient,
    mean_squares,
)
from synth3d.scoring.pairs import Files, files_by_case
from synth3d.scoring.report import score
from synth3d.scoring.similarity import similarity_map

__all__ = [
    "CHANCE",
    "CONFIDENCE",
    "CONVENTIONS",
    "Calibration",
    "Convention",
    "Crossed",
    "Estimate",
    "FEWEST_CENTRES",
    "FEWEST_TRAININGS",
    "FEW_CASES",
    "Files",
    "Over",
    "ScoreRequest",
    "calibrate",
    "clusters_by_patient",
    "conformal_quantile",
    "covered",
    "decibels",
    "fewest_patients",
    "files_by_case",
    "find_errors",
    "find_lpips",
    "load_lpips",
    "mae_brain",
    "patientwise_quantiles",
    "mean_squares",
    "psnr_brain",
    "score",
    "score_case",
    "similarity_map",
    "ssim_brain",
]
