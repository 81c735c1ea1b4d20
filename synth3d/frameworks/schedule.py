"""The Gaussian process of a diffusion: how much noise when, and what follows from it.

An image x becomes x_t = √ᾱ_t x + √(1 − ᾱ_t) ε at t = 0 … T − 1, with ᾱ_t = Π_{s ≤ t} (1 − β_s) and
ᾱ_{−1} = 1. Our t is the papers' t − 1: their x_0 is the image itself, our x_0 is once noised.
Coefficients are kept in float64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MOST_BETA = 0.999
"""No step adds more noise than this (Nichol & Dhariwal 2021, below eq. 17)."""

REFERENCE_STEPS = 1000
"""Ho et al.'s T: their β are for so many steps, and generators are told times in [0, so many)."""


class Schedule:
    """A forward process, and the reverse one's coefficients.

    Args:
        alpha_bar: ᾱ of each step that is kept, falling, in (0, 1); float64 on the CPU.
        times: The step of the full process that each one is; rising.
    """

    def __init__(self, alpha_bar: Tensor, times: Sequence[int]) -> None:
        before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        self.alpha_bar, self.times = alpha_bar, tuple(times)
        self.beta = 1 - alpha_bar / before
        self.posterior_variance = self.beta * (1 - before) / (1 - alpha_bar)
        self.to_image = self.beta * before.sqrt() / (1 - alpha_bar)
        self.to_state = (1 - before) * (1 - self.beta).sqrt() / (1 - alpha_bar)
        # The first step's posterior has no width; a learned variance takes the second's there.
        widths = self.posterior_variance.clone()
        widths[0] = widths[1] if len(widths) > 1 else self.beta[0]
        self.log_posterior_variance, self.log_beta = widths.log(), self.beta.log()

    def __len__(self) -> int:
        return len(self.times)

    @classmethod
    def linear(cls, steps: int) -> "Schedule":
        """β from 1e-4 to 0.02 (Ho et al. 2020, section 4), scaled where ``steps`` is not 1000."""
        scale = REFERENCE_STEPS / steps
        ends = (1e-4 * scale, 0.02 * scale)
        beta = torch.linspace(*ends, steps, dtype=torch.float64, device="cpu").clamp(max=MOST_BETA)
        return cls(torch.cumprod(1 - beta, 0), range(steps))

    @classmethod
    def cosine(cls, steps: int, offset: float = 0.008) -> "Schedule":
        """ᾱ = f(t) / f(0), f(t) = cos²(π/2 (t/T + s) / (1 + s)) (Nichol & Dhariwal 2021, eq. 17).

        ``steps`` is T, ``offset`` s.
        """
        at = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
        f = torch.cos((at + offset) / (1 + offset) * math.pi / 2).square()
        beta = (1 - f[1:] / f[:-1]).clamp(max=MOST_BETA)
        return cls(torch.cumprod(1 - beta, 0), range(steps))

    def respaced(self, count: int) -> "Schedule":
        """``count`` evenly spread steps, first and last among them, each with its own ᾱ.

        Nichol & Dhariwal 2021, section 4 and eq. 19; a single step is the last.
        """
        last = len(self) - 1
        kept = [round(k * last / (count - 1)) for k in range(count)] if count > 1 else [last]
        return Schedule(self.alpha_bar[kept], [self.times[k] for k in kept])

    def noised(self, image: Tensor, noise: Tensor, index: Tensor | int) -> Tensor:
        """√ᾱ image + √(1 − ᾱ) noise; ``index`` is one step, or one per sample (B,)."""
        alpha_bar = self.alpha_bar[index]
        return at(alpha_bar.sqrt(), image) * image + at((1 - alpha_bar).sqrt(), image) * noise

    def image_of(self, state: Tensor, noise: Tensor, index: Tensor | int) -> Tensor:
        """The image that ``noise`` makes of ``state``: the inverse of :meth:`noised`."""
        alpha_bar = self.alpha_bar[index]
        part = at((1 - alpha_bar).sqrt(), state) * noise
        return (state - part) * at(alpha_bar.rsqrt(), state)

    def posterior_mean(self, image: Tensor, state: Tensor, index: Tensor | int) -> Tensor:
        """The mean of q(x_{t−1} | x_t, image) (Ho et al. 2020, eq. 7)."""
        return at(self.to_image[index], state) * image + at(self.to_state[index], state) * state

    def learned_log_variance(self, share: Tensor, index: Tensor | int) -> Tensor:
        """From log β̃ (``share`` −1) to log β (1), linear (Nichol & Dhariwal 2021, eq. 15)."""
        low, high = self.log_posterior_variance[index], self.log_beta[index]
        share = (share + 1) / 2
        return share * at(high, share) + (1 - share) * at(low, share)


def at(coefficient: Tensor, like: Tensor) -> Tensor:
    """A scalar, or one value per sample of ``like``, as something to multiply ``like`` with."""
    if coefficient.ndim:
        coefficient = coefficient.view(-1, *[1] * (like.ndim - 1))
    return coefficient.to(like.dtype).to(like.device, non_blocking=True)


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, mean_2: Tensor, log_variance_2: Tensor
) -> Tensor:
    """KL(N(mean, variance) ‖ N(mean_2, variance_2)) per element, in nats; ≥ 0."""
    ratio = log_variance - log_variance_2
    distance = (mean - mean_2).square() * torch.exp(-log_variance_2)
    return 0.5 * (torch.exp(ratio) - 1 - ratio + distance)


def gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """−log N(x; mean, variance) per element, in nats."""
    distance = (x - mean).square() * torch.exp(-log_variance)
    return 0.5 * (math.log(2 * math.pi) + log_variance + distance)
