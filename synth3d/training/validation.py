"""How good a run is by now: scores of whole volumes inside the brain, and pictures."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synth3d.cohort import Modality
from synth3d.data import Prepared, Shelf, motion_seed, moved, shown, shown_of
from synth3d.errors import InputError
from synth3d.files import progress
from synth3d.images import Turn, turn_to
from synth3d.inference import SynthesisOptions, Tiling, sliding_window, synthesize_case
from synth3d.pictures import draw_contact_sheet, draw_curves
from synth3d.scoring import decibels, mae_brain, psnr_brain, similarity_map, ssim_brain
from synth3d.training.config import RunConfig
from synth3d.training.trainer import Trainer

Row = dict[str, float]
SCORES = {"psnr": psnr_brain, "ssim": ssim_brain, "mae": mae_brain}


def validate(
    trainer: Trainer, cases: Sequence[Prepared]
) -> tuple[dict[str, float], np.ndarray | None]:
    """Mean scores over whole volumes inside the brain, and the first case's synthesis.

    Of several processes each takes its turn of the cases; all know the scores, and the first one
    alone has the synthesis.

    The averaged weights are judged by the first target, in the network's scale (range 1), averaged
    over cases. In mode ``any`` each case has a gap of its own (:func:`posed`), and all that it then
    lacks is judged, inside the brain of what it is shown: nothing is made elsewhere. A run on
    slices has psnr_slices and ssim_slices beside the volumes' psnr, ssim, mae. Scores that are not
    finite are refused.
    """
    config, framework, data = trainer.config, trainer.framework, trainer.config.data
    options = SynthesisOptions(data.patch, data.overlap, steps=framework.validation_steps)
    ranks, own, first = trainer.ranks, [], None
    for number in range(ranks.rank, len(cases), ranks.size):
        case = cases[number]
        given, wanted = posed(config, case, number)
        with trainer.averaged():
            result = synthesize_case(framework, given, data, options)
        first = result if first is None else first
        found = []
        for target in wanted:
            pair = case.volumes[target], result[config.targets.index(target)]
            row = {name: score(*pair, given.brain) for name, score in SCORES.items()}
            if config.dim == 2:
                row |= slice_scores(*pair, given.brain, turn_to(data.plane, case.affine))
            found.append(row)
        own.append({name: float(np.mean([row[name] for row in found])) for name in found[0]})
    rows = merged(ranks.gather(own))
    scores = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if not np.isfinite(list(scores.values())).all():
        raise InputError(
            f"validation gives {scores} at step {trainer.step}; lower train.learning_rate or "
            "use fp32, and see that the validation cases hold a brain"
        )
    return scores, first if ranks.first else None


def posed(config: RunConfig, case: Prepared, number: int) -> tuple[Prepared, tuple[Modality, ...]]:
    """What the network is shown of validation case ``number``, and what it is judged by."""
    if config.mode == "fixed":
        return case, config.targets[:1]
    has: list[Modality] = [name for name in config.sources if name in case.volumes]
    names = shown_of(has, number)
    return shown(case, names), tuple(name for name in has if name not in names)


def merged(turns: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows in their first order, from those that each process had in turn."""
    return [row for turn in itertools.zip_longest(*turns) for row in turn if row is not None]


def slice_scores(
    real: np.ndarray, synthetic: np.ndarray, brain: np.ndarray, turn: Turn
) -> dict[str, float]:
    """``psnr_slices`` and ``ssim_slices``: 2-D scores inside the brain, averaged over its slices.

    All (D, H, W), in the network's scale (range 1); ``turn`` brings the slices to the front. SSIM
    has scikit-image's window, 7 x 7 within the slice. Slices without brain do not count; NaN where
    there are no others.
    """
    if not brain.any():
        return {"psnr_slices": math.nan, "ssim_slices": math.nan}
    real, synthetic, brain = (turn.apply(volume) for volume in (real, synthetic, brain))
    area = brain.sum(axis=(1, 2))
    holds = area > 0

    def mean(values: np.ndarray) -> np.ndarray:
        return np.where(brain, values, 0).sum(axis=(1, 2))[holds] / area[holds]

    errors = mean((synthetic.astype(np.float64) - real) ** 2)
    similarity = similarity_map(real, synthetic, 1.0, axes=(1, 2))
    return {
        "psnr_slices": float(np.mean([decibels(error) for error in errors])),
        "ssim_slices": float(mean(similarity).mean()),
    }


def held_back(trainer: Trainer, shelf: Shelf) -> dict[str, float]:
    """Per training case the share of its brain in which a label is moved as far as it may be.

    Tile by tile, as the network sees the case; empty where no labels are moved. It tells of pairs
    that lie too far apart, and no score and no picture has to do with it.
    """
    config, framework, task = trainer.config, trainer.framework, trainer.config.task
    shares: dict[str, float] = {}
    for number, case in enumerate(progress(shelf.cases, "looking at the pairs", unit="case")):
        prepared = shelf[number].prepared(case)
        seed = motion_seed(config.train.seed, case.name)
        if config.misalign.trained and config.misalign.source in task.targets:
            prepared = moved(prepared, task, config.data, config.misalign, seed)
        given, wanted = (prepared.stack(names) for names in (task.guides, task.targets))

        def network(tiles: Tensor, count: int = len(given)) -> Tensor:
            found = framework.held_back(tiles[:, :count], tiles[:, count:])
            return torch.zeros_like(tiles[:, count:]) if found is None else found.float()

        volume = torch.from_numpy(np.concatenate([given, wanted])).to(trainer.device)
        brain = torch.from_numpy(np.ascontiguousarray(prepared.brain))
        tiling = Tiling(config.data.patch, (0,) * task.dim)
        far = sliding_window(network, volume, tiling, brain, len(wanted)).cpu() > 0.5
        there = torch.tensor([name in prepared.volumes for name in task.targets])
        shares[case.name] = float(far[there].any(0)[brain].float().mean()) if brain.any() else 0.0
    return shares


def draw(
    config: RunConfig, run: Path, log: list[dict[str, Any]], case: Prepared, result: np.ndarray
) -> None:
    """``curves.png`` and ``contact.png`` in the folder ``run``: the log, and a case's synthesis.

    The error is shown where it counts, inside the brain of what the network was shown.
    """
    draw_curves(log, run / "curves.png")
    given, (target, *_) = posed(config, case, 0)
    real, made = case.volumes[target], result[config.targets.index(target)]
    guides = config.task.guides
    panels = {name: given.volumes[name] for name in guides if name in given.volumes}
    panels |= {f"poor {name}": volume for name, volume in given.poor.items()}
    panels |= {f"synthetic {target}": made, f"real {target}": real}
    title = f"{case.case.name}, step {log[-1]['step']}, {config.model.name}"
    error = np.where(given.brain, np.abs(made - real), 0)
    where = (given.brain, case.tumour, case.affine)
    draw_contact_sheet(panels, error, *where, title, run / "contact.png")
