"""Diffusion in the space of the targets, conditioned on the sources: DDPM and improved DDPM.

The generator sees cat(sources, noisy targets), and the step. Noise lies on the targets alone. The
state is 2 x − 1 of the network's scale: healthy tissue at 0. Where no source has a signal there is
nothing to make: the state is blanked there in training and in sampling alike, and losses count
inside the brain alone (the papers' count whole images).
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from synth3d.data import Batch, Task, head_of, only
from synth3d.frameworks.base import EITHER, Framework, Options, counted
from synth3d.frameworks.schedule import REFERENCE_STEPS, Schedule, gaussian_kl, gaussian_nll
from synth3d.losses import masked_mean
from synth3d.models import Centred


@dataclass(frozen=True)
class DiffusionOptions(Options):
    """What both diffusions can be told.

    ``sampling_steps`` fewer than ``diffusion_steps`` are strided (0: all of them);
    ``validation_steps`` at most are taken while training. What a step predicts of the image is
    kept within ``clip``, in the network's scale.
    """

    diffusion_steps: int = 1000
    sampling_steps: int = 0
    validation_steps: int = 50
    clip: tuple[float, float] = (-0.5, 2.0)

    def __post_init__(self) -> None:
        self.check_counts("diffusion_steps", "validation_steps")
        rule = f"from 0 (all) to diffusion_steps ({self.diffusion_steps})"
        self.require(0 <= self.sampling_steps <= self.diffusion_steps, "sampling_steps", rule)
        self.require(self.clip[0] < self.clip[1], "clip", "a lower and a higher number")


@dataclass(frozen=True)
class Noised:
    """Targets as a state without noise, noise, and their sum x_t, (B, T, *) each; t is (B,)."""

    image: Tensor
    noise: Tensor
    state: Tensor
    index: Tensor


class Diffusion(Framework):
    """What diffusions share; a subclass says what the generator's output means.

    A volume is made by ``start``, for each of ``times`` one ``predict`` and one ``step``, and
    ``finish``. ``predict`` is of tiles, what it gives is blended, and all else is of the whole
    volume, where all randomness is: :func:`synth3d.inference.volume.synthesize_volume`. The
    generator takes (B, S + T, *) and a time and gives (B, K, *), K = T or 2 T as in ``channels``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"time"})
    modes: ClassVar[frozenset[str]] = EITHER

    def prepare(self) -> None:
        """The schedule."""
        self.schedule = self.make_schedule(self.options.diffusion_steps)
        self.validation_steps = min(self.options.validation_steps, len(self.schedule))
        self._respaced = lru_cache(maxsize=4)(self.schedule.respaced)

    @staticmethod
    @abstractmethod
    def make_schedule(steps: int) -> Schedule:
        """The paper's forward process with so many steps."""

    @classmethod
    def centre(cls, generator: nn.Module, task: Task, options: Any) -> nn.Module:
        """Centres the sources alone; states and noise lie around 0 already."""
        return Centred(generator, len(task.sources), offset=0, gain=1)

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The terms of :meth:`terms` at a time drawn for each sample."""
        image, index, noise = to_state(batch.targets), *self.drawn(batch, step)
        noise = noise.to(image, non_blocking=True)
        noised = Noised(image, noise, self.schedule.noised(image, noise, index), index)
        output = self._ask(batch.sources, noised.state, index, batch.present, batch.wanted)
        terms, weight = self.terms(output, noised, counted(batch)), batch.weight("voxels")
        return {name: weight * term for name, term in terms.items()}

    def drawn(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """The times (B,) and the noise (B, T, *) of ``step``, on the CPU; each sample's its own."""
        shape, times, noise = batch.targets.shape[1:], [], []
        for draws in self.draws(batch, step):
            times.append(torch.randint(len(self.schedule), (), generator=draws))
            noise.append(torch.randn(shape, generator=draws))
        return torch.stack(times), torch.stack(noise)

    @abstractmethod
    def terms(self, output: Tensor, noised: Noised, mask: Tensor) -> dict[str, Tensor]:
        """Named loss terms of the generator's ``output`` (B, K, *), float32, for ``noised.state``.

        ``mask`` (B, T, *) says what counts: all terms are means over it.
        """

    def sampling(self, steps: int | None = None) -> Schedule:
        """The schedule of sampling in so many steps; None is what the options say."""
        return self._respaced(steps or self.options.sampling_steps or len(self.schedule))

    def times(self, steps: int | None = None) -> Sequence[int]:
        """The times of sampling in so many steps, from the noisiest to the last."""
        return self.sampling(steps).times[::-1]

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Pure noise (T, *shape), float32 on the CPU, where ``generator`` is too."""
        return torch.randn((len(self.task.targets), *shape), generator=generator)

    @torch.no_grad()
    def predict(
        self, sources: Tensor, state: Tensor, time: int, present: Tensor, wanted: Tensor
    ) -> Tensor:
        """The generator's output for tiles at one of :meth:`times`, (B, K, *) float32."""
        index = torch.full((len(sources),), time)
        return self._ask(sources, state, index, present, wanted)

    def step(
        self,
        state: Tensor,
        prediction: Tensor,
        index: int,
        generator: torch.Generator,
        steps: int | None = None,
    ) -> Tensor:
        """One step towards the image: a draw from p(x_{t−1} | x_t) (Ho et al. 2020, algorithm 2).

        Args:
            state: (T, *).
            prediction: (K, *), what :meth:`predict` gave, blended over the volume.
            index: Which of :meth:`times`, from 0.
            generator: On the CPU; drawn from once, except at the last step, which gives the image.
            steps: As given to :meth:`times`.
        """
        schedule = self.sampling(steps)
        at = len(schedule) - 1 - index
        noise, log_variance = self.read(prediction, schedule, at)
        low, high = (2 * bound - 1 for bound in self.options.clip)
        image = schedule.image_of(state, noise, at).clamp(low, high)
        mean = schedule.posterior_mean(image, state, at)
        if at == 0:
            return mean
        fresh = torch.randn(state.shape, generator=generator).to(state, non_blocking=True)
        return mean + torch.exp(0.5 * log_variance) * fresh

    @abstractmethod
    def read(self, prediction: Tensor, schedule: Schedule, at: int) -> tuple[Tensor, Tensor]:
        """(noise, log variance of the reverse step) in ``prediction`` (K, *) for step ``at``."""

    def finish(self, state: Tensor) -> Tensor:
        """The last state in the network's scale."""
        return (state + 1) / 2

    @torch.no_grad()
    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """All steps for patches (B, S, *) → (B, T, *); sample b draws from ``seed`` + b."""
        draws = [torch.Generator().manual_seed(seed + b) for b in range(len(sources))]
        states = [self.start(sources.shape[2:], draw).to(sources.device) for draw in draws]
        for index, time in enumerate(self.times()):
            predictions = self.predict(sources, torch.stack(states), time, present, wanted)
            states = [
                self.step(state, prediction, index, draw)
                for state, prediction, draw in zip(states, predictions, draws, strict=True)
            ]
        return self.finish(torch.stack(states))

    def _ask(
        self, sources: Tensor, state: Tensor, index: Tensor, present: Tensor, wanted: Tensor
    ) -> Tensor:
        """The generator's output, float32, at the steps ``index`` (B,) of the whole schedule.

        The state of what is not wanted is not looked at: in training it would be its truth.
        """
        sources = only(sources, present)
        given = torch.cat([sources, only(state * head_of(sources), wanted)], dim=1)
        here = torch.cat([present, wanted], dim=1)
        time = (index * (REFERENCE_STEPS / len(self.schedule))).to(torch.float32)
        time = time.to(sources.device, non_blocking=True)
        n_targets = wanted.shape[1]
        asked = wanted.repeat(1, self.channels(sources.shape[1], n_targets)[1] // n_targets)
        return self.generator(given, here, asked, time).float()


@dataclass(frozen=True)
class DDPMOptions(DiffusionOptions):
    """``ddpm`` (Ho et al. 2020): 1000 steps, linear β, mean squared error of the noise.

    ``variance`` of a sampling step: ``posterior`` or ``beta``.
    """

    name = "ddpm"
    variance: str = "posterior"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("variance", ("posterior", "beta"))


class DDPM(Diffusion):
    """Denoising diffusion (Ho et al. 2020): the generator predicts the noise.

    Linear β, mean squared error (their L_simple, eq. 14), fixed variance, ancestral sampling.
    """

    Options = DDPMOptions

    @staticmethod
    def make_schedule(steps: int) -> Schedule:
        """Linear β."""
        return Schedule.linear(steps)

    @staticmethod
    def channels(n_sources: int, n_targets: int) -> tuple[int, int]:
        """Sources and noisy targets in, noise out."""
        return n_sources + n_targets, n_targets

    def terms(self, output: Tensor, noised: Noised, mask: Tensor) -> dict[str, Tensor]:
        """One term, ``noise``."""
        return {"noise": masked_mean((output - noised.noise).square(), mask)}

    def read(self, prediction: Tensor, schedule: Schedule, at: int) -> tuple[Tensor, Tensor]:
        """The prediction is the noise; the variance is fixed."""
        fixed = self.options.variance == "beta"
        table = schedule.log_beta if fixed else schedule.log_posterior_variance
        return prediction, table[at].to(prediction)


@dataclass(frozen=True)
class IDDPMOptions(DiffusionOptions):
    """``iddpm`` (Nichol & Dhariwal 2021): cosine schedule, learned variance, strided sampling.

    ``vlb_weight`` × the variational bound joins the noise's squared error; the rest as ``ddpm``.
    """

    name = "iddpm"
    diffusion_steps: int = 4000
    sampling_steps: int = 100
    validation_steps: int = 25
    vlb_weight: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_weights("vlb_weight")


class IDDPM(Diffusion):
    """Improved DDPM (Nichol & Dhariwal 2021): cosine schedule, learned variance, strided sampling.

    The generator predicts the noise and, per voxel, where between β̃ and β the variance lies
    (−1 and 1, not limited). The loss is L_simple + ``vlb_weight`` · L_vlb (eq. 16), with the mean's
    gradient stopped in L_vlb; as in their code L_vlb is in bits per voxel, the sum over all T
    steps estimated by the one drawn. Their images have 256 levels and ours are continuous: the
    last step's likelihood is the Gaussian density itself.
    """

    Options = IDDPMOptions

    @staticmethod
    def make_schedule(steps: int) -> Schedule:
        """The cosine."""
        return Schedule.cosine(steps)

    @staticmethod
    def channels(n_sources: int, n_targets: int) -> tuple[int, int]:
        """Sources and noisy targets in, noise and variance out."""
        return n_sources + n_targets, 2 * n_targets

    def terms(self, output: Tensor, noised: Noised, mask: Tensor) -> dict[str, Tensor]:
        """Terms ``noise`` and ``vlb``."""
        predicted, share = output.chunk(2, dim=1)
        terms = {"noise": masked_mean((predicted - noised.noise).square(), mask)}
        if self.options.vlb_weight > 0:
            bits = self.bound(predicted.detach(), share, noised) / math.log(2)
            weight = self.options.vlb_weight * len(self.schedule)
            terms["vlb"] = weight * masked_mean(bits, mask)
        return terms

    def bound(self, predicted: Tensor, share: Tensor, noised: Noised) -> Tensor:
        """One step's term of the variational bound per voxel, (B, T, *) in nats.

        KL(q(x_{t−1} | x_t, image) ‖ p(x_{t−1} | x_t)), or −log p(image | x_0) at the last step
        (their eqs. 5 and 6).
        """
        schedule, index = self.schedule, noised.index
        image, state = noised.image, noised.state
        mean = schedule.posterior_mean(schedule.image_of(state, predicted, index), state, index)
        log_variance = schedule.learned_log_variance(share, index)
        true_mean = schedule.posterior_mean(image, state, index)
        true_log = schedule.learned_log_variance(torch.full_like(share, -1), index)
        kl = gaussian_kl(true_mean, true_log, mean, log_variance)
        nll = gaussian_nll(image, mean, log_variance)
        first = (index == 0).view(-1, *[1] * (kl.ndim - 1)).to(kl.device, non_blocking=True)
        return torch.where(first, nll, kl)

    def read(self, prediction: Tensor, schedule: Schedule, at: int) -> tuple[Tensor, Tensor]:
        """The first half is the noise, the second the variance's place."""
        noise, share = prediction.chunk(2, dim=0)
        return noise, schedule.learned_log_variance(share, at)


def to_state(image: Tensor) -> Tensor:
    """The network's scale as a state of the diffusion."""
    return 2 * image - 1
