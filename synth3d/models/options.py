"""The generator as a run asks for it: its name and its shape."""

from dataclasses import dataclass

from synth3d.settings import require

MOST_LEVELS, MOST_CHANNELS = 10, 2**14
"""Of a generator; more is a slip of the hand, and would be built for ever."""


@dataclass(frozen=True)
class ModelConfig:
    """The generator: its name and its shape; see ``synth3d.models`` for the meaning.

    ``stages`` counts the leading stages with the special convolution, or names them
    (``["down1", "body"]``). ``groups`` to ``head`` are AGI-Net's, ``deform`` is
    deform-resunet's, ``rotated_kernels`` arc-resunet's and ``banks`` to ``faithful`` tsf's; each
    model takes what it knows, and restormer none of these.
    ``checkpoint_routing`` is true, false or ``auto``: only where memory asks for it.
    ``residual_init="zero"`` starts every ResBlock as the identity (its second convolution at 0).
    ``centred`` feeds and reads intensities around 0 instead of 1/2 (``synth3d.models.centred``).
    Both help networks that, as published, have neither normalisation nor biases.
    """

    RETIRED = (("base", False),)

    name: str = "agi-net"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    groups: int = 8
    stages: int | tuple[str, ...] = 5
    module: str = "cagr"
    routing: str = "stacked"
    attn_init: str = "default"
    shuffle: bool = True
    offsets: str = "learned"
    scale: str = "learned"
    scale_init: float = 1.0
    checkpoint_routing: bool | str = "auto"
    routing_stride: int = 1
    head: str = "plain"
    deform: str = "auto"
    rotated_kernels: int = 4
    banks: int = 16
    fusion_banks: int = 4
    recurrent: bool = False
    fusion: str = "full"
    faithful: bool = False
    residual_init: str = "default"
    centred: bool = False

    def __post_init__(self) -> None:
        require(len(self.widths) >= 2, "model.widths", "at least two numbers", self.widths)
        levels = f"at most {MOST_LEVELS} numbers"
        require(len(self.widths) <= MOST_LEVELS, "model.widths", levels, self.widths)
        rule = f"positive and at most {MOST_CHANNELS}"
        require(min(self.widths) > 0, "model.widths", rule, self.widths)
        require(max(self.widths) <= MOST_CHANNELS, "model.widths", rule, self.widths)
        require(self.blocks >= 1, "model.blocks", "at least 1", self.blocks)
        require(self.blocks <= 64, "model.blocks", "at most 64", self.blocks)
        for key in ("groups", "rotated_kernels", "routing_stride", "banks", "fusion_banks"):
            value = getattr(self, key)
            require(value <= MOST_CHANNELS, f"model.{key}", f"at most {MOST_CHANNELS}", value)
        known = self.residual_init in ("default", "zero")
        require(known, "model.residual_init", "default or zero", self.residual_init)
        both = self.name == "tsf" and self.faithful and self.centred
        rule = "false where model.faithful, which has a scale of its own"
        require(not both, "model.centred", rule, self.centred)

    @property
    def divisor(self) -> int:
        """Every patch side must be a multiple of this."""
        return 2 ** (len(self.widths) - 1)
