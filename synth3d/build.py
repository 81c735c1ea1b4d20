"""Any generator under any framework, by name: one cell of the table."""

from typing import Any

from torch import nn

from synth3d.config import RunConfig
from synth3d.files import InputError
from synth3d.frameworks import FRAMEWORKS
from synth3d.frameworks.base import Framework
from synth3d.models import GENERATORS
from synth3d.models.blocks import ResBlock
from synth3d.models.centred import Centred
from synth3d.models.discriminators import PatchCritic


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
    ours = ("name", "residual_init", "centred")
    shape = {key: getattr(model, key) for key in model.__dataclass_fields__ if key not in ours}
    channels = framework.channels(len(config.sources), len(config.targets))
    try:
        built = generator(*channels, dim=config.dim, **shape)
    except ValueError as error:
        raise InputError(f"model {model.name} cannot be built: {error}") from error
    if model.residual_init == "zero":
        start_as_identity(built)
    return Centred(built) if model.centred else built


def start_as_identity(generator: nn.Module) -> None:
    """Set the last convolution of every ResBlock to 0, so that the block returns its input."""
    for module in generator.modules():
        if isinstance(module, ResBlock):
            nn.init.zeros_(module.second.weight)


def build(config: RunConfig) -> Framework:
    """The framework of ``config`` around a fresh generator, with a critic if it has one.

    Raises:
        InputError: As :func:`build_generator`.
    """
    train = config.train
    generator = build_generator(config)
    if train.framework == "l1":
        return FRAMEWORKS["l1"](generator, train.l1_weight)
    n_channels = len(config.sources) + len(config.targets)
    critic = PatchCritic(n_channels, config.dim, train.critic_width, train.critic_layers)
    if min(config.data.patch) < critic.smallest:
        raise InputError(
            f"data.patch {config.data.patch} is too small for a critic of {train.critic_layers} "
            f"layers, which needs {critic.smallest}; lower train.critic_layers or use "
            "train.framework=l1"
        )
    return FRAMEWORKS["pix2pix"](
        generator, critic, train.l1_weight, train.adversarial_weight, train.adversarial_start
    )
