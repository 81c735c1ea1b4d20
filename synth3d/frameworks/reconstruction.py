"""L1 alone: the floor every other framework must beat."""

from typing import Self

from torch import Tensor, nn

from synth3d.config import L1Options, RunConfig
from synth3d.data import Batch
from synth3d.frameworks.base import Framework, masked_l1


class Reconstruction(Framework):
    """Minimises ``l1_weight`` × mean absolute error inside the brain."""

    def __init__(self, generator: nn.Module, options: L1Options) -> None:
        super().__init__(generator)
        self.options = options

    @classmethod
    def from_config(cls, generator: nn.Module, config: RunConfig, training: bool = True) -> Self:
        """As :meth:`Framework.from_config`."""
        return cls(generator, config.train.options)

    def generator_loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One term, ``l1``."""
        synthetic = self.generator(batch.sources, batch.present, batch.wanted)
        return {"l1": self.options.l1_weight * masked_l1(synthetic.float(), batch)}

    def synthesize(self, sources: Tensor, present: Tensor, wanted: Tensor, seed: int = 0) -> Tensor:
        """The generator's output as it is."""
        return self.generator(sources, present, wanted)
