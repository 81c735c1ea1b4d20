"""Prepared cases on disk: what is kept of one, under which name, for how long."""

from synth3d.data.cache.levels import Levels, levels_of, region_of, scored
from synth3d.data.cache.packed import BRAIN, CLASS, TUMOUR, Packed, pack
from synth3d.data.cache.store import LIMIT_GB, Hashes, Store, hashes_of, key_of, make

__all__ = [
    "BRAIN",
    "CLASS",
    "Hashes",
    "LIMIT_GB",
    "Levels",
    "Packed",
    "Store",
    "TUMOUR",
    "hashes_of",
    "key_of",
    "levels_of",
    "make",
    "pack",
    "region_of",
    "scored",
]
