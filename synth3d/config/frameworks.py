"""What each framework can be told: one frozen dataclass per name in ``FRAMEWORKS``.

The defaults are those of the framework's own paper or reference code. In a recipe they stand in a
table of the framework's name, ``[train.pgan]``, on the command line ``--set
train.pgan.perceptual_weight=50``; tables of frameworks that are not in use have no effect, so one
recipe can serve several. Imports no torch.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from synth3d.errors import InputError


def require(claim: bool, key: str, rule: str, value: object) -> None:
    """Refuse the ``value`` of ``key`` unless ``claim``.

    Raises:
        InputError: "``key`` must be ``rule``, got ``value``".
    """
    if not claim:
        raise InputError(f"{key} must be {rule}, got {value!r}")


class Options:
    """Checks that every set of options shares; ``name`` is the framework's."""

    name = ""

    def key(self, field: str) -> str:
        """The dotted key of ``field``, as users write it."""
        return f"train.{self.name}.{field}"

    def check_weights(self, *fields: str) -> None:
        """Weights are finite and not negative."""
        for field in fields:
            value = getattr(self, field)
            require(0 <= value < math.inf, self.key(field), "finite and ≥ 0", value)

    def check_counts(self, *fields: str) -> None:
        """Counts are positive."""
        for field in fields:
            require(getattr(self, field) >= 1, self.key(field), "at least 1", getattr(self, field))

    def check_choice(self, field: str, known: tuple[str, ...]) -> None:
        """One of a few names."""
        value = getattr(self, field)
        require(value in known, self.key(field), f"one of {', '.join(known)}", value)


@dataclass(frozen=True)
class L1Options(Options):
    """``l1``: ``l1_weight`` × mean absolute error."""

    name = "l1"
    l1_weight: float = 100.0

    def __post_init__(self) -> None:
        self.check_weights("l1_weight")


@dataclass(frozen=True)
class Pix2PixOptions(Options):
    """``pix2pix`` (Isola et al. 2017): 100 L1 + an adversarial term.

    ``adversarial_loss``: ``lsgan`` (least squares) or ``bce``. The critic rests, and only the other
    terms count, before step ``adversarial_start``. ``critic_width`` is the critic's first layer,
    ``critic_layers`` its halvings: 64 and 3 are the 70-voxel PatchGAN.
    """

    name = "pix2pix"
    l1_weight: float = 100.0
    adversarial_weight: float = 1.0
    adversarial_loss: str = "lsgan"
    adversarial_start: int = 0
    critic_width: int = 64
    critic_layers: int = 3

    def __post_init__(self) -> None:
        self.check_weights("l1_weight", "adversarial_weight", "adversarial_start")
        self.check_counts("critic_width", "critic_layers")
        self.check_choice("adversarial_loss", ("lsgan", "bce"))


@dataclass(frozen=True)
class PGanOptions(Options):
    """``pgan`` (Dar et al. 2019): 1 LSGAN + 100 L1 + 100 L1 between VGG16 features (relu2_2).

    ``perceptual_weights`` is the file of torchvision's VGG16 weights; empty is where torch.hub
    keeps them. In 3-D the features are of ``perceptual_slices`` slices along each axis, drawn
    anew at every step.
    """

    name = "pgan"
    l1_weight: float = 100.0
    adversarial_weight: float = 1.0
    adversarial_start: int = 0
    perceptual_weight: float = 100.0
    perceptual_weights: str = ""
    perceptual_slices: int = 2
    critic_width: int = 64
    critic_layers: int = 3

    def __post_init__(self) -> None:
        self.check_weights(
            "l1_weight", "adversarial_weight", "adversarial_start", "perceptual_weight"
        )
        self.check_counts("critic_width", "critic_layers", "perceptual_slices")


@dataclass(frozen=True)
class MMGanOptions(Options):
    """``mmgan`` (Sharma & Hamarneh 2020): 0.9 L1 + 0.1 LSGAN with one verdict per sequence.

    ``missing``: which channels are hidden in training: ``any`` (the paper's: every subset of
    sources and targets) or ``targets`` (always the targets, and sources at random).
    ``imputation``: what stands in for them: ``zeros``, ``noise`` or the ``mean`` of what is there.
    ``implicit_conditioning``: real channels go into the output as they are and only hidden ones
    count in L1. ``curriculum``: over this share of the steps the number of hidden channels
    rises from at most 1 to all but one.
    """

    name = "mmgan"
    l1_weight: float = 0.9
    adversarial_weight: float = 0.1
    adversarial_start: int = 0
    missing: str = "any"
    imputation: str = "zeros"
    implicit_conditioning: bool = True
    curriculum: float = 0.5
    critic_width: int = 64
    critic_layers: int = 3

    def __post_init__(self) -> None:
        self.check_weights("l1_weight", "adversarial_weight", "adversarial_start")
        self.check_counts("critic_width", "critic_layers")
        self.check_choice("missing", ("any", "targets"))
        self.check_choice("imputation", ("zeros", "noise", "mean"))
        require(0 <= self.curriculum <= 1, self.key("curriculum"), "in [0, 1]", self.curriculum)


@dataclass(frozen=True)
class MedSynthOptions(Options):
    """``medsynth`` (Nie et al. 2018): L1 + 0.05 gradient difference + 0.05 adversarial (BCE).

    ``distance``: ``l1`` or ``l2``, weighted with ``pixel_weight``. ``gradient_power``: p of the
    gradient difference. ``residual``: the source that is added to the generator's output:
    ``first`` (of those that are present), a source's name, or ``none``.
    """

    name = "medsynth"
    distance: str = "l1"
    pixel_weight: float = 1.0
    gradient_weight: float = 0.05
    gradient_power: float = 2.0
    adversarial_weight: float = 0.05
    adversarial_start: int = 0
    residual: str = "first"
    critic_width: int = 32
    critic_layers: int = 3

    def __post_init__(self) -> None:
        self.check_weights("pixel_weight", "gradient_weight")
        self.check_weights("adversarial_weight", "adversarial_start")
        self.check_counts("critic_width", "critic_layers", "gradient_power")
        self.check_choice("distance", ("l1", "l2"))


@dataclass(frozen=True)
class DDPMOptions(Options):
    """``ddpm`` (Ho et al. 2020): 1000 steps, linear β, mean squared error of the noise.

    ``sampling_steps`` fewer than ``diffusion_steps`` are strided (0: all of them);
    ``validation_steps`` at most are taken while training. ``variance`` of a sampling step:
    ``posterior`` or ``beta``. What a step predicts of the image is kept within ``clip``, in the
    network's scale.
    """

    name = "ddpm"
    diffusion_steps: int = 1000
    sampling_steps: int = 0
    validation_steps: int = 50
    variance: str = "posterior"
    clip: tuple[float, float] = (-0.5, 2.0)

    def __post_init__(self) -> None:
        check_diffusion(self)
        self.check_choice("variance", ("posterior", "beta"))


@dataclass(frozen=True)
class IDDPMOptions(Options):
    """``iddpm`` (Nichol & Dhariwal 2021): cosine schedule, learned variance, strided sampling.

    ``vlb_weight`` × the variational bound joins the noise's squared error; the rest as ``ddpm``.
    """

    name = "iddpm"
    diffusion_steps: int = 4000
    sampling_steps: int = 100
    validation_steps: int = 25
    vlb_weight: float = 0.001
    clip: tuple[float, float] = (-0.5, 2.0)

    def __post_init__(self) -> None:
        check_diffusion(self)
        self.check_weights("vlb_weight")


def check_diffusion(options: DDPMOptions | IDDPMOptions) -> None:
    """What both diffusions ask of their numbers.

    Raises:
        InputError: No steps, more sampling steps than there are, or an empty range.
    """
    options.check_counts("diffusion_steps", "validation_steps")
    steps, most = options.sampling_steps, options.diffusion_steps
    rule = f"from 0 (all) to diffusion_steps ({most})"
    require(0 <= steps <= most, options.key("sampling_steps"), rule, steps)
    low, high = options.clip
    require(low < high, options.key("clip"), "a lower and a higher number", options.clip)


FrameworkOptions = (
    L1Options
    | Pix2PixOptions
    | PGanOptions
    | MMGanOptions
    | MedSynthOptions
    | DDPMOptions
    | IDDPMOptions
)

FRAMEWORK_OPTIONS: dict[str, type[FrameworkOptions]] = {
    options.name: options
    for options in (
        L1Options,
        Pix2PixOptions,
        PGanOptions,
        MMGanOptions,
        MedSynthOptions,
        DDPMOptions,
        IDDPMOptions,
    )
}
"""Framework → its options; ``TrainConfig`` has a table of each name."""


def check_keys(keys: Iterable[str], framework: str) -> None:
    """Refuse keys given one by one that belong to another framework than the one in use.

    A recipe may hold tables for several frameworks; who sets ``train.pgan.…`` by hand means pgan.

    Args:
        keys: Dotted, as in ``train.pgan.perceptual_weight``.
        framework: The one in use.

    Raises:
        InputError: One of them would have no effect.
    """
    for key in keys:
        head, _, rest = key.partition(".")
        table = rest.partition(".")[0]
        if head == "train" and table in FRAMEWORK_OPTIONS and table != framework:
            raise InputError(
                f"{key} has no effect under train.framework={framework}; leave it away, or use "
                f"train.framework={table}"
            )


SHARED_KEYS = (
    "l1_weight",
    "adversarial_weight",
    "adversarial_start",
    "critic_width",
    "critic_layers",
)
"""Keys of ``[train]`` that stand for the option of that name of the framework in use."""
