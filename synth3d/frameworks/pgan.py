"""pGAN (Dar et al. 2019): pix2pix and a loss between features of VGG16."""

from pathlib import Path
from typing import Self

from torch import Tensor, nn

from synth3d.config import PGanOptions, RunConfig
from synth3d.data import Batch
from synth3d.frameworks.adversarial import Adversarial, patch_critic
from synth3d.frameworks.base import counted, masked_l1
from synth3d.losses import feature_distance, least_squares, load_vgg16, orthogonal_slices


class PGan(Adversarial):
    """LSGAN + L1 + L1 between VGG16 features at relu2_2 (their k = 1, one slice at a time).

    The features are of whole 2-D patches, or of slices across each axis of 3-D ones, at places
    that follow from (seed, step). Pictures are brought from the network's scale to [−1, 1], where
    pGAN's are, and are background outside the brain. VGG16 is frozen and neither in ``parameters``
    nor in ``state_dict``.

    Args:
        generator: (B, S, *) → (B, T, *).
        critic: Of cat(sources, targets), or None for synthesis alone.
        features: VGG16 up to relu2_2; None without that term.
        options: Weights.
        seed: Of :meth:`Framework.randomness`.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module | None,
        features: nn.Module | None,
        options: PGanOptions,
        seed: int = 0,
    ) -> None:
        super().__init__(generator, critic, options, least_squares, seed)
        self._features = (features,)  # in a tuple, so that it is no part of this module

    @classmethod
    def from_config(cls, generator: nn.Module, config: RunConfig, training: bool = True) -> Self:
        """As :meth:`Framework.from_config`."""
        options = config.train.options
        n_channels = len(config.sources) + len(config.targets)
        critic = patch_critic(config, n_channels) if training else None
        features = None
        if training and options.perceptual_weight > 0:
            path = options.perceptual_weights
            features = load_vgg16(Path(path).expanduser() if path else None)
        return cls(generator, critic, features, options, config.train.seed)

    def fidelity(self, synthetic: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms ``l1`` and ``perceptual``."""
        terms = {"l1": self.options.l1_weight * masked_l1(synthetic, batch)}
        (features,) = self._features
        if features is not None and self.options.perceptual_weight > 0:
            distance = self._distance(features.to(synthetic.device), synthetic, batch, step)
            terms["perceptual"] = self.options.perceptual_weight * distance
        return terms

    def _distance(self, features: nn.Module, synthetic: Tensor, batch: Batch, step: int) -> Tensor:
        def pictures(volumes: Tensor) -> list[Tensor]:
            shown = 2 * (volumes * counted(batch))[batch.wanted] - 1
            return orthogonal_slices(shown, self.options.perceptual_slices, self.randomness(step))

        return feature_distance(features, pictures(synthetic), pictures(batch.targets))
