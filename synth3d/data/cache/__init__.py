"""Prepared cases on disk: what is kept of one, under which name, for how long."""

from synth3d.data.cache.levels import head_in, holes_of, levels_of, region_of
from synth3d.data.cache.packed import BRAIN, CLASS, TUMOUR, Packed, pack
from synth3d.data.cache.store import LIMIT_GB, Hashes, Store, hashes_of, key_of, make

__all__ = [
    "BRAIN",
    "CLASS",
    "Hashes",
    "LIMIT_GB",
    "Packed",
    "Store",
    "TUMOUR",
    "hashes_of",
    "head_in",
    "holes_of",
    "key_of",
    "levels_of",
    "make",
    "pack",
    "region_of",
]
