"""A made-up experiment with phantom heads, as the report takes it; made once, never changed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from seg_eval.analysis.summary import Question, summarise
from seg_eval.arms.kinds import Arm, kinds_with
from seg_eval.report.context import put_into_words
from seg_eval.report.volumes import ArmVolumes, CaseVolumes
from seg_eval.scoring.image_scores import IMAGE_SCORES
from seg_eval.scoring.scores import Score

LAS = np.diag([-1.0, 1, 1, 1])
"""BraTS as its files are read in RAS+: x runs to the patient's left."""
PRIMARY = "t2f-agi-net-cohort-1234abcd"
LEVEL = {"WT": (0.90, 0.62), "TC": (0.84, 0.78), "ET": (0.80, 0.79)}
"""Dice of full and zero."""
SHARE = {
    "full": 1, "zero": 0, "copy": 0.2, "template": 0.35, "ridge": 0.5, "boosted": 0.62,
    PRIMARY: 0.78, "other-tool": 0.7, "plumbing": 1, "specialist": 0.85, "dropout": 0.8,
}  # fmt: skip
"""What each arm wins back."""


def make_arms(names: Any = SHARE) -> list[Arm]:
    """Arms by name; what is no kind's name is synthetic."""
    kinds = {PRIMARY: "synthetic", "other-tool": "synthetic"}
    return [Arm(name, kinds.get(name, name)) for name in names]


@pytest.fixture(scope="session")
def make_scores() -> Callable[..., list[Score]]:
    """Makes rows with Dice between those of zero and full: (cases, seeds, shares)."""

    def make(cases: int = 18, seeds: int = 3, shares: dict[str, float] = SHARE) -> list[Score]:
        rng, rows = np.random.default_rng(7), []
        for case in range(cases):
            real: dict[int, float] = {}
            loss, own = rng.uniform(0.3, 1.9), rng.normal(0, 0.03)
            for region, (full, zero) in LEVEL.items():
                for arm, share in shares.items():
                    for seed in range(seeds):
                        mean = full - (full - zero) * (1 - share) * loss + own
                        dice = float(np.clip(mean + rng.normal(0, 0.012), 0, 1))
                        if (arm, share) == ("plumbing", 1):  # the same files
                            dice = real[seed]
                        elif arm == "full":
                            real[seed] = dice
                        rows.append(make_score(f"Brats18_P{case:02}_1", arm, seed, region, dice))
        return rows

    return make


def make_score(case: str, arm: str, seed: int, region: str, dice: float) -> Score:
    """A row whose other scores follow from its Dice, at voxels of 8 mm³; sizes differ by case."""
    size = 1500 + 500 * (sum(map(ord, case)) % 9)
    voxels = int(size * dice)
    return Score(
        case=case, patient=case, arm=arm, seed=seed, region=region, dice=dice,
        hd95_mm=30 * (1 - dice), nsd=dice, lesion_dice=0.9 * dice, lesion_hd95_mm=60 * (1 - dice),
        lesions=1, found_lesions=1, false_lesions=0, sensitivity=dice, precision=dice,
        reference_ml=size / 125, predicted_ml=voxels / 125, volume_error_ml=(voxels - size) / 125,
        reference_voxels=size, predicted_voxels=voxels,
        nsd_tolerance_mm=1.0, lesion_rule="ours", longest_side_mm=2.0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_summary() -> Callable[..., dict[str, Any]]:
    """Makes ``summary.json``: (scores, images, centres, config), where config changes its own."""

    def make(
        scores: list[Score], images: Any = (), centres: Any = None, **config: Any
    ) -> dict[str, Any]:
        names = list(dict.fromkeys(row.case for row in scores))
        arms = make_arms(dict.fromkeys(row.arm for row in scores))
        config = {
            "missing": ["t2f"], "data": "cohorts/brats18", "train": [f"T{i:02}" for i in range(42)],
            "test": names, "preset": "cpu-small", "segmenter": None,
            "seeds": sorted({row.seed for row in scores}), "threads": 1, "empty": "brats",
            "margin": 0.02, "nsd_tolerance_mm": 1.0, "arms": {}, "seed": 0,
        } | config  # fmt: skip
        about = arms, config["missing"], config["empty"]
        regions = config.get("regions", ("WT", "TC", "ET"))
        question = Question(*about, centres=centres or {}, regions=regions)
        return put_into_words(summarise(scores, images, question), question) | {
            "config": config,
            "notes": {arm.name: "" for arm in arms}
            | {"copy": "copies t2w (mean |r| with t2f: t1n 0.21, t1c 0.30, t2w 0.62)"},
            "uncertainty": [],
            "seconds": {"train segmenter": 5210.4, "arms": 812.0, "predict": 1933.8},
            "peak_memory_mb": 2310,
            "versions": {"torch": "2.15.0", "nnunetv2": "2.8.1", "synth3d": "0.1.0"},
            "setting": {"date": "2026-11-30", "simulated": False, "iterations": 1250},
            "hashes": {"segmenter seed 0": "9f" * 32, "weights": "0a" * 32},
            "commands": ["seg_eval run --missing flair --data cohorts/brats18 --arms all"],
            "pictures": [], "cases": [], "transfer": [],
        }  # fmt: skip

    return make


@pytest.fixture(scope="session")
def scores(make_scores: Callable[..., list[Score]]) -> list[Score]:
    """18 cases, 3 seeds, all arms."""
    return make_scores()


@pytest.fixture(scope="session")
def images(scores: list[Score]) -> list[dict[str, Any]]:
    """Image scores of the arms that fill the channel."""
    rng = np.random.default_rng(3)
    filled = [arm for arm in make_arms() if arm.has_files]
    other = dict.fromkeys(IMAGE_SCORES, 0.9)
    return [
        {"case": c, "patient": c, "arm": arm.name, "modality": "t2f"} | other
        | {"mae_tumour@own-scale": float(0.3 - 0.25 * SHARE[arm.name] + rng.normal(0, 0.02))}
        for c in sorted({row.case for row in scores}) for arm in filled
        if arm.kind not in kinds_with("own_segmenter")
    ]  # fmt: skip


@pytest.fixture(scope="session")
def summary(make_summary: Any, scores: list[Score], images: list[dict[str, Any]]) -> dict[str, Any]:
    """``summary.json``."""
    return make_summary(scores, images)


def blob(shape: tuple[int, ...], centre: tuple, radii: tuple) -> np.ndarray:
    """An ellipsoid; centre and radii as shares of the half-axes."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) < 1


def make_case(
    name: str, role: str, shape: tuple[int, int, int] = (39, 60, 60),
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0), seed: int = 0, lost: float = 0.3,
) -> CaseVolumes:  # fmt: skip
    """A grainy head with a tumour; the synthetic FLAIR is blurred and duller."""
    rng, at = np.random.default_rng(seed), (0.2, -0.25, 0.32)
    head, core = blob(shape, (0, 0, 0), (0.82, 0.86, 0.7)), blob(shape, at, (0.13, 0.12, 0.1))
    truth = {"WT": blob(shape, at, (0.34, 0.36, 0.27)), "TC": blob(shape, at, (0.25, 0.25, 0.2))}
    truth["ET"] = truth["TC"] & ~core
    brain = 0.5 + 0.09 * gaussian_filter(rng.standard_normal(shape), 0.7)
    bright = 0.42 * gaussian_filter(truth["WT"].astype(float), 0.8) - 0.2 * core
    real = ((brain + bright) * head).astype(np.float32)
    synthetic = gaussian_filter((brain + (1 - lost) * bright) * head, 0.9).astype(np.float32)

    def predicted(width: float, level: float) -> dict[str, np.ndarray]:
        return {r: gaussian_filter(m.astype(float), width) > level for r, m in truth.items()}

    close = predicted(1.2, 0.45 + 0.2 * lost)
    arms = {
        "full": ArmVolumes(real, predicted(1.6, 0.44)),
        "zero": ArmVolumes(None, predicted(1.5, 0.62 + 0.3 * lost)),
        PRIMARY: ArmVolumes(synthetic, close),
        "specialist": ArmVolumes(None, close),
    }
    return CaseVolumes(name, name, role, "t2f", real, arms, truth, LAS, spacing)


@pytest.fixture(scope="session")
def phantom() -> Callable[..., CaseVolumes]:
    """Makes cases: (name, role, shape, spacing, seed, lost)."""
    return make_case


@pytest.fixture(scope="session")
def cases() -> list[CaseVolumes]:
    """A best, a median and a worst case, small."""
    return [
        make_case("Brats18_P03_1", "best", seed=1, lost=0.1),
        make_case("Brats18_P07_1", "median", seed=2, lost=0.3),
        make_case("Brats18_P11_1", "worst", seed=3, lost=0.8),
    ]
