"""The state of a run and one step of it; the loop around it is ``synth3d.training.loop``."""

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synth3d.config import RunConfig, TrainConfig
from synth3d.data import Batch, Prepared
from synth3d.errors import InputError
from synth3d.frameworks import build
from synth3d.images import Turn, turn_to
from synth3d.inference import memory_format, synthesize_case
from synth3d.scoring import decibels, mae_brain, psnr_brain, similarity_map, ssim_brain


def adam(
    parameters: Iterable[nn.Parameter],
    rate: float,
    betas: tuple[float, float],
    device: torch.device,
) -> torch.optim.Adam:
    """Adam, all parameters in one call where torch has one (on the CPU a sixth of the time)."""
    fused = True if device.type in ("cpu", "cuda") else None
    return torch.optim.Adam(parameters, rate, betas, fused=fused)


class Trainer:
    """The state of a run: framework, optimisers, averaged weights, step.

    Everything in it is in :meth:`state`, so a run goes on from a checkpoint as if it had
    never stopped.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        torch.manual_seed(config.train.seed)
        self.config, self.device, self.step = config, device, 0
        self.framework = build(config).to(device, memory_format=memory_format(config.dim))
        self.average = copy.deepcopy(self.framework.generator).requires_grad_(False)
        train = config.train
        generator = self.framework.generator.parameters()
        self.generator_step = adam(generator, train.learning_rate, train.betas, device)
        self.critic_step: torch.optim.Optimizer | None = None
        if self.framework.critic is not None:
            critic = self.framework.critic.parameters()
            self.critic_step = adam(critic, train.critic_learning_rate, train.betas, device)

    def advance(self, batch: Batch) -> dict[str, float]:
        """One step on ``batch``; the weighted loss terms.

        Raises:
            InputError: A loss is not finite; the weights are left as they were.
        """
        train = self.config.train
        batch = batch.to(self.device)
        self._set_rate(train)
        with self._autocast():
            terms = self.framework.generator_loss(batch, self.step)
        found = {name: term.item() for name, term in terms.items()}
        if not all(map(math.isfinite, found.values())):
            raise InputError(
                f"the loss is {found} at step {self.step}; lower train.learning_rate or use fp32"
            )
        self._descend(self.generator_step, self.framework.generator, terms)
        if self.critic_step is not None and self.framework.critic is not None:
            with self._autocast():
                terms = self.framework.critic_loss(batch, self.step)
            if terms:
                self._descend(self.critic_step, self.framework.critic, terms)
                found |= {name: term.item() for name, term in terms.items()}
        self.step += 1
        self._update_average(train.average)
        return found

    def _descend(
        self, optimizer: torch.optim.Optimizer, module: nn.Module, terms: Mapping[str, Tensor]
    ) -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        if self.config.train.clip_norm > 0:
            nn.utils.clip_grad_norm_(module.parameters(), self.config.train.clip_norm)
        optimizer.step()

    def _set_rate(self, train: TrainConfig) -> None:
        factor = rate_factor(self.step, train)
        for optimizer, rate in (
            (self.generator_step, train.learning_rate),
            (self.critic_step, train.critic_learning_rate),
        ):
            for group in optimizer.param_groups if optimizer is not None else []:
                group["lr"] = rate * factor

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        decay = min(decay, (1 + self.step) / (10 + self.step)) if decay > 0 else 0.0
        for mean, value in zip(
            self.average.parameters(), self.framework.generator.parameters(), strict=True
        ):
            mean.lerp_(value, 1 - decay)

    def _autocast(self) -> torch.autocast:
        enabled = self.config.train.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Synthesise with the averaged weights inside the block."""
        current = self.framework.generator
        self.framework.generator = self.average
        self.framework.eval()
        try:
            with torch.inference_mode(), self._autocast():
                yield
        finally:
            self.framework.generator = current
            self.framework.train()

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, besides (seed, leg)."""
        return {
            "step": self.step,
            "framework": self.framework.state_dict(),
            "average": self.average.state_dict(),
            "generator_step": self.generator_step.state_dict(),
            "critic_step": self.critic_step.state_dict() if self.critic_step else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.step = int(state["step"])
        self.framework.load_state_dict(state["framework"])
        self.average.load_state_dict(state["average"])
        self.generator_step.load_state_dict(state["generator_step"])
        if self.critic_step is not None:
            self.critic_step.load_state_dict(state["critic_step"])


def rate_factor(step: int, train: TrainConfig) -> float:
    """Learning rate over its configured value: linear warm-up, then constant or cosine to 0."""
    if step < train.warmup:
        return (step + 1) / train.warmup
    if train.decay == "constant":
        return 1.0
    share = (step - train.warmup) / max(1, train.steps - train.warmup)
    return 0.5 * (1 + math.cos(math.pi * share))


def validate(trainer: Trainer, cases: Sequence[Prepared]) -> tuple[dict[str, float], np.ndarray]:
    """Mean scores over whole volumes inside the brain, and the first case's synthesis.

    The scores are of the first target, in the network's scale (range 1), averaged over cases. A run
    on slices has those of its slices beside those of the volumes they make.

    Returns:
        ({psnr, ssim, mae}, (T, D, H, W) of the first case); for ``dim`` 2 also psnr_slices and
        ssim_slices.
    """
    config = trainer.config
    rows, first = [], None
    for case in cases:
        result = synthesize_prepared(trainer, case)
        first = result if first is None else first
        pair = case.volumes[config.targets[0]], result[0]
        scores = {"psnr": psnr_brain, "ssim": ssim_brain, "mae": mae_brain}
        row = {name: score(*pair, case.brain) for name, score in scores.items()}
        if config.dim == 2:
            row |= slice_scores(*pair, case.brain, turn_to(config.data.plane, case.affine))
        rows.append(row)
    assert first is not None
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, first


def slice_scores(
    real: np.ndarray, synthetic: np.ndarray, brain: np.ndarray, turn: Turn
) -> dict[str, float]:
    """``psnr_slices`` and ``ssim_slices``: 2-D scores inside the brain, averaged over its slices.

    SSIM has scikit-image's window, 7 x 7 within the slice. Slices without brain do not count; NaN
    where there are no others.

    Args:
        real: (D, H, W) in the network's scale (range 1).
        synthetic: The same shape and scale.
        brain: (D, H, W) bool.
        turn: What brings the slices to the front.
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


def synthesize_prepared(trainer: Trainer, case: Prepared) -> np.ndarray:
    """All targets of one prepared case, (T, D, H, W) in network scale, 0 outside the brain."""
    with trainer.averaged():
        steps = trainer.framework.validation_steps
        return synthesize_case(trainer.framework, case, trainer.config, steps=steps)
