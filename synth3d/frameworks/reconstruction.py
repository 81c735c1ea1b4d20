"""L1 alone: the floor every other framework must beat."""

from torch import Tensor, nn

from synth3d.batch import Batch
from synth3d.frameworks.base import Framework, masked_l1


class Reconstruction(Framework):
    """Minimises ``l1_weight`` × mean absolute error inside the brain."""

    def __init__(self, generator: nn.Module, l1_weight: float = 100.0) -> None:
        super().__init__(generator)
        self.l1_weight = l1_weight

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One term, ``l1``."""
        synthetic = self.generator(batch.sources, batch.present, batch.wanted)
        return {"l1": self.l1_weight * masked_l1(synthetic.float(), batch)}

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor) -> Tensor:
        """The generator's output as it is."""
        return self.generator(sources, present, wanted)
