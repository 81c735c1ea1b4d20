"""Any generator under any framework, by name: one cell of the table."""

from typing import Any

from torch import nn

from synth3d.config import RunConfig
from synth3d.errors import InputError
from synth3d.frameworks.adversarial import Pix2Pix
from synth3d.frameworks.base import Framework
from synth3d.frameworks.diffusion import DDPM, IDDPM
from synth3d.frameworks.medsynth import MedSynth
from synth3d.frameworks.mmgan import MMGan
from synth3d.frameworks.pgan import PGan
from synth3d.frameworks.reconstruction import Reconstruction
from synth3d.models import GENERATORS, ResBlock, options_of

FRAMEWORKS: dict[str, type[Framework]] = {
    "l1": Reconstruction,
    "pix2pix": Pix2Pix,
    "pgan": PGan,
    "mmgan": MMGan,
    "medsynth": MedSynth,
    "ddpm": DDPM,
    "iddpm": IDDPM,
}
"""Ways of training and sampling a generator: name → class."""


def pick(table: dict[str, Any], name: str, what: str) -> Any:
    """``table[name]``, or an error that lists the names there are.

    Raises:
        InputError: The name is unknown.
    """
    if name not in table:
        raise InputError(f"unknown {what} {name!r}; known: {sorted(table)}")
    return table[name]


def build_generator(config: RunConfig) -> nn.Module:
    """The generator of ``config``, freshly initialised.

    Raises:
        InputError: Unknown model, or one whose parts do not fit (groups, widths).
    """
    model = config.model
    framework = pick(FRAMEWORKS, config.train.framework, "framework")
    generator = pick(GENERATORS, model.name, "model")
    if lacking := framework.needs - generator.offers:
        able = sorted(name for name, g in GENERATORS.items() if framework.needs <= g.offers)
        raise InputError(
            f"{config.train.framework} needs {sorted(lacking)} of {model.name}; able: {able}"
        )
    taken = options_of(model.name)
    shape = {key: getattr(model, key) for key in model.__dataclass_fields__ if key in taken}
    if "time" in framework.needs:
        shape["time_embedding"] = True
    channels = framework.channels(len(config.sources), len(config.targets))
    try:
        built = generator(*channels, dim=config.dim, **shape)
    except ValueError as error:
        raise InputError(f"model {model.name} cannot be built: {error}") from error
    if model.residual_init == "zero":
        start_as_identity(built)
    return framework.centre(built, config) if model.centred else built


def start_as_identity(generator: nn.Module) -> None:
    """Set the last convolution of every ResBlock to 0, so that the block returns its input."""
    for module in generator.modules():
        if isinstance(module, ResBlock):
            nn.init.zeros_(module.second.weight)


def build(config: RunConfig, training: bool = True) -> Framework:
    """The framework of ``config`` around a fresh generator.

    Args:
        config: What to build.
        training: With what only losses need: a critic, a perceptual network. Without, nothing
            but the generator has weights and no file is read.

    Raises:
        InputError: As :func:`build_generator`; patches too small for the critic, options that do
            not fit the sources, or weights that are not on this machine.
    """
    framework = pick(FRAMEWORKS, config.train.framework, "framework")
    return framework.from_config(build_generator(config), config, training)
