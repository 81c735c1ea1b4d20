"""Ways of training and sampling a generator: name → class."""

from synth3d.frameworks.adversarial import Pix2Pix
from synth3d.frameworks.base import Framework
from synth3d.frameworks.diffusion import DDPM, IDDPM
from synth3d.frameworks.medsynth import MedSynth
from synth3d.frameworks.mmgan import MMGan
from synth3d.frameworks.pgan import PGan
from synth3d.frameworks.reconstruction import Reconstruction

FRAMEWORKS: dict[str, type[Framework]] = {
    "l1": Reconstruction,
    "pix2pix": Pix2Pix,
    "pgan": PGan,
    "mmgan": MMGan,
    "medsynth": MedSynth,
    "ddpm": DDPM,
    "iddpm": IDDPM,
}
