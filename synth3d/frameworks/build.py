"""Any generator under any framework, by name: one cell of the table."""

from torch import nn

from synth3d.data import Task
from synth3d.errors import InputError
from synth3d.frameworks.adversarial import Pix2Pix
from synth3d.frameworks.base import Framework, Options, TrainingPlan
from synth3d.frameworks.diffusion import DDPM, IDDPM
from synth3d.frameworks.fgdl import FGDL
from synth3d.frameworks.medsynth import MedSynth
from synth3d.frameworks.mmgan import MMGan
from synth3d.frameworks.pgan import PGan
from synth3d.frameworks.reconstruction import Reconstruction
from synth3d.frameworks.tsf import TSF
from synth3d.models import GENERATORS, ModelConfig, ResBlock, options_of

FRAMEWORKS: dict[str, type[Framework]] = {
    "l1": Reconstruction,
    "pix2pix": Pix2Pix,
    "pgan": PGan,
    "mmgan": MMGan,
    "medsynth": MedSynth,
    "ddpm": DDPM,
    "iddpm": IDDPM,
    "tsf": TSF,
    "fgdl": FGDL,
}
"""Ways of training and sampling a generator: name → class."""


def build(
    task: Task, model: ModelConfig, name: str, options: Options, plan: TrainingPlan | None = None
) -> Framework:
    """The framework ``FRAMEWORKS[name]`` around a fresh generator; without a plan it only makes.

    Raises:
        InputError: An unknown model, one whose parts do not fit (groups, widths) or that cannot
            do what the framework needs, or as :class:`Framework`.
    """
    framework = FRAMEWORKS[name]
    if model.name not in GENERATORS:
        raise InputError(f"unknown model {model.name!r}; known: {sorted(GENERATORS)}")
    generator = GENERATORS[model.name]
    needs = framework.needs_of(task)
    if lacking := needs - generator.offers:
        able = sorted(known for known, g in GENERATORS.items() if needs <= g.offers)
        raise InputError(f"{name} needs {sorted(lacking)} of {model.name}; able: {able}")
    if task.mode not in framework.modes:
        able = sorted(known for known, f in FRAMEWORKS.items() if task.mode in f.modes)
        raise InputError(f"{name} cannot learn mode {task.mode}; able: {able}")
    if task.poor and framework.hides_sources:
        able = sorted(known for known, f in FRAMEWORKS.items() if not f.hides_sources)
        raise InputError(f"{name} hides sources and cannot restore {task.poor[0]}; able: {able}")
    taken = options_of(model.name) & model.__dataclass_fields__.keys()
    shape = {key: getattr(model, key) for key in taken}
    if "time" in framework.needs:
        shape["time_embedding"] = True
    channels = framework.channels_of(task, options)
    try:
        built = generator(*channels, dim=task.dim, **shape)
    except ValueError as error:
        raise InputError(f"model {model.name} cannot be built: {error}") from error
    if model.residual_init == "zero":
        start_as_identity(built)
    if model.centred:
        built = framework.centre(built, task, options)
    return framework(built, task, options, plan)


def start_as_identity(generator: nn.Module) -> None:
    """Set the last convolution of every ResBlock to 0, so that the block returns its input."""
    for module in generator.modules():
        if isinstance(module, ResBlock):
            nn.init.zeros_(module.get_parameter("second.weight"))
