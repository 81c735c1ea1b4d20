"""Ways of training and sampling a generator: name → class."""

from synth3d.frameworks.adversarial import Pix2Pix
from synth3d.frameworks.base import Framework
from synth3d.frameworks.reconstruction import Reconstruction

FRAMEWORKS: dict[str, type[Framework]] = {"l1": Reconstruction, "pix2pix": Pix2Pix}
