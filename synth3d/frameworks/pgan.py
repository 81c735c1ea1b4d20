"""pGAN (Dar et al. 2019): pix2pix and a loss between features of VGG16."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from synth3d.data import Batch
from synth3d.frameworks.adversarial import Adversarial, AdversarialOptions
from synth3d.frameworks.base import counted, masked_l1
from synth3d.losses import feature_distance, load_vgg16, orthogonal_slices


@dataclass(frozen=True)
class PGanOptions(AdversarialOptions):
    """``pgan`` (Dar et al. 2019): 1 LSGAN + 100 L1 + 100 L1 between VGG16 features (relu2_2).

    ``perceptual_weights`` is the file of torchvision's VGG16 weights; empty is where torch.hub
    keeps them. In 3-D the features are of ``perceptual_slices`` slices along each axis, drawn
    anew at every step.
    """

    name = "pgan"
    l1_weight: float = 100.0
    perceptual_weight: float = 100.0
    perceptual_weights: str = ""
    perceptual_slices: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_weights("l1_weight", "perceptual_weight")
        self.check_counts("perceptual_slices")


class PGan(Adversarial):
    """LSGAN + L1 + L1 between VGG16 features at relu2_2 (their k = 1, one slice at a time).

    The features are of whole 2-D patches, or of slices across each axis of 3-D ones, at places
    that follow from (seed, step). Pictures are brought from the network's scale to [−1, 1], where
    pGAN's are, and are background outside the brain. VGG16 is frozen and neither in ``parameters``
    nor in ``state_dict``.
    """

    Options = PGanOptions

    def prepare(self) -> None:
        """The critic and, if it counts, VGG16."""
        super().prepare()
        features = None
        if self.plan is not None and self.options.perceptual_weight > 0:
            path = self.options.perceptual_weights
            features = load_vgg16(Path(path).expanduser() if path else None)
        self._features = (features,)  # in a tuple, so that it is no part of this module

    def fidelity(self, synthetic: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        """Terms ``l1`` and ``perceptual``."""
        terms = {"l1": self.options.l1_weight * masked_l1(synthetic, batch)}
        (features,) = self._features
        if features is not None:
            distance = self._distance(features.to(synthetic.device), synthetic, batch, step)
            distance = distance * batch.weight("pictures")
            terms["perceptual"] = self.options.perceptual_weight * distance
        return terms

    def masks(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """And the wanted targets, whose slices are compared."""
        return super().masks(batch, step) | {"pictures": batch.wanted}

    def _distance(self, features: nn.Module, synthetic: Tensor, batch: Batch, step: int) -> Tensor:
        wanted = batch.known[:, len(self.task.sources) :].flatten().nonzero().flatten()
        wanted = wanted.to(synthetic.device, non_blocking=True)

        def pictures(volumes: Tensor) -> list[Tensor]:
            masked = (volumes * counted(batch)).flatten(0, 1)
            shown = 2 * masked.index_select(0, wanted) - 1
            return orthogonal_slices(shown, self.options.perceptual_slices, self.randomness(step))

        return feature_distance(features, pictures(synthetic), pictures(batch.targets))
