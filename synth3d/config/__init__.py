"""What a run is, strictly read."""

from synth3d.config.frameworks import (
    FRAMEWORK_OPTIONS,
    SHARED_KEYS,
    DDPMOptions,
    IDDPMOptions,
    L1Options,
    MedSynthOptions,
    MMGanOptions,
    PGanOptions,
    Pix2PixOptions,
    check_keys,
)
from synth3d.config.run import DataConfig, MisalignConfig, RunConfig, TrainConfig, sources_for

__all__ = [
    "DDPMOptions",
    "DataConfig",
    "FRAMEWORK_OPTIONS",
    "IDDPMOptions",
    "L1Options",
    "MMGanOptions",
    "MedSynthOptions",
    "MisalignConfig",
    "PGanOptions",
    "Pix2PixOptions",
    "RunConfig",
    "SHARED_KEYS",
    "TrainConfig",
    "check_keys",
    "sources_for",
]
