"""A made-up experiment with phantom heads, as the report takes it; made once, never changed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from seg_eval.report.page import ArmVolumes, CaseVolumes
from seg_eval.scoring.scores import METRICS, Score

LAS = np.diag([-1.0, 1, 1, 1])
"""BraTS as its files are read in RAS+: x runs to the patient's left."""
KINDS = {
    "full": ("full", "reference", "All four sequences real."),
    "zero": ("zero", "reference", "The sequence replaced by zeros."),
    "copy": ("copy", "naive", "The most similar real sequence copied in."),
    "template": ("template", "naive", "The training cases' mean sequence."),
    "ridge": ("ridge", "voxel-wise", "Ridge regression of the real sequences, voxel by voxel."),
    "boosted": ("boosted", "voxel-wise", "Boosted trees on the real sequences, voxel by voxel."),
    "t2f-agi-net-cohort-1234abcd": ("synthetic", "synthesis", "AGI-Net, trained by synth3d."),
    "other-tool": ("synthetic", "synthesis", "Completed files of another tool."),
    "plumbing": ("plumbing", "check", "The real sequence through the export path."),
    "specialist": ("specialist", "rival", "A segmenter that never saw the sequence."),
    "dropout": ("dropout", "rival", "A segmenter trained with channels dropped."),
}
PRIMARY = "t2f-agi-net-cohort-1234abcd"
LEVEL = {
    "WT": (0.90, 0.62), "TC": (0.84, 0.78), "ET": (0.80, 0.79)
}  # fmt: skip
SHARE = {
    "full": 1, "zero": 0, "copy": 0.2, "template": 0.35, "ridge": 0.5, "boosted": 0.62,
    PRIMARY: 0.78, "other-tool": 0.7, "plumbing": 1, "specialist": 0.85, "dropout": 0.8,
}  # fmt: skip


def make_scores(cases: int = 18, seeds: int = 3, arms: tuple[str, ...] = tuple(KINDS)) -> list:
    """Rows with Dice between those of zero and full, by arm."""
    rng = np.random.default_rng(7)
    rows = []
    for case in range(cases):
        loss = rng.uniform(0.3, 1.9)
        own = rng.normal(0, 0.03)
        for region, (full, zero) in LEVEL.items():
            for arm in arms:
                for seed in range(seeds):
                    mean = full - (full - zero) * (1 - SHARE[arm]) * loss + own
                    dice = float(np.clip(mean + rng.normal(0, 0.012), 0, 1))
                    rows.append(make_score(f"Brats18_P{case:02}_1", arm, seed, region, dice))
    return rows


def make_score(case: str, arm: str, seed: int, region: str, dice: float) -> Score:
    """A row whose other scores follow from its Dice."""
    return Score(
        case=case, patient=case, arm=arm, seed=seed, region=region, dice=dice,
        hd95_mm=30 * (1 - dice), nsd=dice, lesion_dice=0.9 * dice, lesion_hd95_mm=60 * (1 - dice),
        lesions=1, found_lesions=1, false_lesions=0, sensitivity=dice, precision=dice,
        reference_ml=40.0, predicted_ml=40 * dice, volume_error_ml=40 * dice - 40,
        reference_voxels=5000, predicted_voxels=int(5000 * dice),
    )  # fmt: skip


def spread(values: np.ndarray) -> dict[str, float]:
    """A mean with a rough interval."""
    half = 1.96 * float(np.std(values)) / max(len(values), 1) ** 0.5
    mean = float(np.mean(values))
    return {"value": mean, "low": mean - half, "high": mean + half}


def region_of(scores: list, region: str) -> dict[str, Any]:
    """A region's entry of ``summary.json`` from rows."""
    cases = sorted({row.case for row in scores})

    def column(arm: str, metric: str = "dice") -> np.ndarray:
        rows = [r for r in scores if (r.arm, r.region) == (arm, region)]
        return np.array([np.mean([getattr(r, metric) for r in rows if r.case == c])
                         for c in cases])  # fmt: skip

    full, zero = column("full"), column("zero")
    gap, arms = spread(full - zero), {}
    for arm in dict.fromkeys(row.arm for row in scores):
        own = column(arm)
        metrics = {}
        for name in METRICS:
            found = spread(column(arm, name))
            metrics[name] = {"mean": found.pop("value"), **found, "n": len(cases)}
        share = {k: v / gap["value"] for k, v in spread(own - zero).items()}
        arms[arm] = {
            "dice": float(own.mean()),
            "metrics": metrics,
            "gain": spread(own - zero),
            "loss": spread(full - own),
            "recovery": share if gap["value"] > 0.02 else None,
        }
    return {
        "cases": len(cases),
        "patients": len(cases),
        "cases_without_region": [],
        "gap": gap,
        "gap_defined": gap["value"] > 0.02,
        "gap_reason": "" if gap["value"] > 0.02 else
        f"blanking it costs {gap['value']:.3f} Dice, under 0.02: no measurable loss",
        "arms": arms,
    }  # fmt: skip


@pytest.fixture(scope="session")
def scores() -> list:
    """18 cases, 3 seeds, all arms."""
    return make_scores()


@pytest.fixture(scope="session")
def images(scores: list) -> list[dict[str, Any]]:
    """Image scores of the arms that fill the channel."""
    rng = np.random.default_rng(3)
    filled = [a for a, (kind, *_) in KINDS.items() if kind in ("copy", "boosted", "synthetic")]
    return [
        {"case": c, "patient": c, "arm": arm, "mae_brain": 0.03, "ssim_brain": 0.9,
         "mae_tumour": float(0.3 - 0.25 * SHARE[arm] + rng.normal(0, 0.02))}
        for c in sorted({row.case for row in scores}) for arm in filled
    ]  # fmt: skip


@pytest.fixture(scope="session")
def summary(scores: list) -> dict[str, Any]:
    """``summary.json`` of schema 2."""
    names = [f"Brats18_P{i:02}_1" for i in range(60)]
    return {
        "schema": 2,
        "config": {"missing": ["t2f"], "data": "cohorts/brats18", "train": names[18:],
                   "test": names[:18], "preset": "cpu-small", "seeds": [0, 1, 2], "threads": 1,
                   "empty": "brats", "margin": 0.02, "arms": {}},
        "title": "Dice recovery without FLAIR (t2f)",
        "headline": {
            "sentence": "Without FLAIR, synthesis wins back 78 % of the whole-tumour Dice that is "
            "lost, clearly more than the best cheap fill (boosted, 62 %); a segmenter trained "
            "without FLAIR does better still (specialist, 85 %).",
            "worth": "yes", "primary": PRIMARY, "better": "specialist",
        },
        "arms": [{"name": name, "kind": kind, "group": group, "what": what,
                  "segmenter": kind if kind in ("specialist", "dropout") else "frozen"}
                 for name, (kind, group, what) in KINDS.items()],
        "regions": {region: region_of(scores, region) for region in LEVEL},
        "tests": [
            {"region": r, "arm": PRIMARY, "against": "boosted", "alternative": "greater", "n": 18,
             "statistic": 160.0, "p": p, "p_holm": 3 * p, "significant": 3 * p < 0.05,
             "mean_difference": d} for r, p, d in (("WT", 0.00004, 0.045), ("TC", 0.03, 0.01),
                                                   ("ET", 0.4, 0.001))],
        "noninferiority": [{"region": "WT", "arm": PRIMARY, "against": "full", "margin": 0.02,
                            "mean_loss": 0.061, "upper_bound": 0.078, "passed": False}],
        "images": {PRIMARY: {"mae_brain": 0.031, "ssim_brain": 0.92, "mae_tumour": 0.104},
                   "other-tool": {"mae_brain": 0.036, "ssim_brain": 0.91, "mae_tumour": 0.125}},
        "image_benefit": [{"arm": PRIMARY, "score": "mae_tumour", "against": "dice_loss",
                           "spearman": 0.41, "n": 18, "p": 0.09}],
        "plumbing": {"passed": True, "tolerance": 0.002,
                     "dice_change": {"WT": 0.0001, "TC": -0.0002, "ET": 0.0}},
        "verdict": [f"Synthesis {PRIMARY} beats the best cheap rival (boosted)."],
        "empty_rule": "both masks empty: Dice 1; one empty: Dice 0 (as BraTS ranks it)",
        "bootstrap": {"resamples": 10000, "seed": 0, "unit": "patient"},
        "warnings": ["ET: leaving FLAIR out costs no measurable Dice, so nothing can be recovered",
                     "the segmenter was trained on 42 cases at 2 mm; absolute Dice is below that "
                     "of published systems"],
        "notes": {"copy": "copies t2w (mean |r| with t2f: t1n 0.21, t1c 0.30, t2w 0.62)"},
        "seconds": {"train segmenter": 5210.4, "arms": 812.0, "predict": 1933.8},
        "peak_memory_mb": 2310,
        "versions": {"torch": "2.15.0", "nnunetv2": "2.8.1", "numpy": "2.4.6"},
        "hashes": {"segmenter seed 0": "9f" * 32, "weights": "0a" * 32},
        "commands": ["seg_eval run --missing flair --data cohorts/brats18 --arms all --seeds 3"],
        "pictures": [], "cases": [],
    }  # fmt: skip


def blob(
    shape: tuple[int, int, int], centre: tuple, radii: tuple, rng: Any, lumps: float = 0.2
) -> np.ndarray:
    """A lumpy ellipsoid; centre and radii as shares of the half-axes."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    distance = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
    noise = gaussian_filter(rng.standard_normal(shape), [n / 24 for n in shape])
    return distance + lumps * noise / noise.std() < 1


def make_case(
    name: str, role: str, shape: tuple[int, int, int] = (39, 60, 60),
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0), seed: int = 0, lost: float = 0.3,
    affine: np.ndarray = LAS,
) -> CaseVolumes:  # fmt: skip
    """A head with ventricles, folds and a tumour; the synthetic FLAIR is blurred and duller."""
    rng = np.random.default_rng(seed)
    head = blob(shape, (0, 0, 0), (0.82, 0.86, 0.7), rng, 0.04)
    ventricle = blob(shape, (0.08, -0.02, 0.1), (0.2, 0.34, 0.08), rng)
    ventricle |= blob(shape, (0.08, -0.02, -0.1), (0.2, 0.34, 0.08), rng)
    fold = gaussian_filter(rng.standard_normal(shape), [n / 60 for n in shape])
    brain = 0.5 + 0.09 * fold / fold.std() - 0.32 * gaussian_filter(ventricle.astype(float), 0.7)
    at = (0.2, -0.25, 0.32)
    core, ring = blob(shape, at, (0.13, 0.12, 0.1), rng), blob(shape, at, (0.2, 0.18, 0.15), rng)
    oedema = blob(shape, at, (0.34, 0.36, 0.27), rng)
    truth = {"WT": oedema | ring | core, "TC": ring | core, "ET": ring & ~core}
    truth = {region: mask & head for region, mask in truth.items()}
    bright = 0.42 * gaussian_filter(truth["WT"].astype(float), 0.8) - 0.2 * core
    grain = 0.02 * rng.standard_normal(shape)
    real = (np.clip(brain + bright + grain, 0.02, 1.3) * head).astype(np.float32)
    dull = brain + (1 - lost) * bright
    synthetic = (np.clip(gaussian_filter(dull, 0.9), 0.02, 1.3) * head).astype(np.float32)
    small = {r: gaussian_filter(m.astype(float), 1.5) > 0.62 + 0.3 * lost for r, m in truth.items()}
    close = {r: gaussian_filter(m.astype(float), 1.2) > 0.45 + 0.2 * lost for r, m in truth.items()}
    full = {r: gaussian_filter(m.astype(float), 1.6) > 0.44 for r, m in truth.items()}
    arms = {
        "full": ArmVolumes(real, full),
        "zero": ArmVolumes(None, small),
        PRIMARY: ArmVolumes(synthetic, close),
        "specialist": ArmVolumes(None, close),
    }
    return CaseVolumes(name, name, role, "t2f", real, arms, truth, affine, spacing)


@pytest.fixture(scope="session")
def phantom() -> Callable[..., CaseVolumes]:
    """Makes cases: (name, role, shape, spacing, seed, lost, affine)."""
    return make_case


@pytest.fixture(scope="session")
def cases() -> list[CaseVolumes]:
    """A best, a median and a worst case, small."""
    return [
        make_case("Brats18_P03_1", "best", seed=1, lost=0.1),
        make_case("Brats18_P07_1", "median", seed=2, lost=0.3),
        make_case("Brats18_P11_1", "worst", seed=3, lost=0.8),
    ]
