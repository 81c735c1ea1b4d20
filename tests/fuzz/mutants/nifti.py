"""NIfTI files whose header says extreme things, or whose voxels are no picture."""

import contextlib
import gzip
import struct
from random import Random

import nibabel as nib
import numpy as np

from tests.fuzz.mutants import raw

FLOATS = (0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-40, 1e-3, 1e15, 3e38)
INTEGERS = (0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 64, 128, 348, 540, 768, 1536, 32767, -32768, 2**31 - 1)
SPOILT = (
    lambda v, chance: np.where(v > np.median(v), chance.choice(FLOATS), v),
    lambda v, chance: np.full_like(v, chance.choice((0, 1, -1024, 3e38, float("nan")))),
    lambda v, chance: v * chance.choice((-1, 1e-30, 1e30, 1e6, 1e-6)) + chance.choice((0, -1e3)),
    lambda v, chance: v[::-1],
    lambda v, chance: v > 0,
    lambda v, chance: np.random.default_rng(chance.randrange(99)).normal(size=v.shape),
    lambda v, chance: v % chance.randint(1, 9),
)


def mutate(content: bytes, chance: Random) -> bytes:
    """``content``, packed, with other fields, voxels, byte order or version; or spoilt as it is."""
    if chance.random() < 0.2:
        return raw.mutate(content, chance)
    plain = bytearray(gzip.decompress(content))
    kind = chance.random()
    if kind < 0.25:
        plain = _voxels(bytes(plain), chance)
    elif kind < 0.3:
        plain = bytearray(raw.mutate(bytes(plain), chance))
    if kind > 0.2 or chance.random() < 0.3:
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            _field(plain, chance)
    return gzip.compress(bytes(plain), 1) if chance.random() < 0.98 else bytes(plain)


def _field(plain: bytearray, chance: Random) -> None:
    """One field of the header, or one of its numbers, becomes extreme."""
    name = chance.choice(nib.nifti1.header_dtype.names)
    kind, start = nib.nifti1.header_dtype.fields[name][:2]
    item, count = (kind.subdtype[0], kind.shape[0]) if kind.subdtype else (kind, 1)
    start += item.itemsize * chance.randrange(count)
    if item.kind == "S":
        value = chance.randbytes(item.itemsize)
    elif item.kind == "f":
        value = struct.pack("<f", chance.choice((*FLOATS, chance.uniform(-3, 3))))
    else:
        number = chance.choice((*INTEGERS, chance.randrange(2**31)))
        value = number.to_bytes(8, "little", signed=True)[: item.itemsize]
    plain[start : start + len(value)] = value


def _voxels(plain: bytes, chance: Random) -> bytearray:
    """Other voxels, type, number of axes, byte order or version of NIfTI."""
    image = nib.Nifti1Image.from_bytes(plain)
    values = np.asarray(image.dataobj, dtype=np.float64)
    with np.errstate(all="ignore"), contextlib.suppress(Exception):
        if chance.random() < 0.7:
            values = chance.choice(SPOILT)(values, chance)
        kind = chance.choice((np.int16, np.uint8, np.float32, np.float32, np.float64, np.uint16))
        if chance.random() < 0.1:
            values = chance.choice((values[..., None], values[:, :, 0], values[..., :1, None]))
        made = chance.choice((nib.Nifti1Image, nib.Nifti1Image, nib.Nifti2Image))
        header = made.header_class(endianness=chance.choice("<<<>"))
        made = made(values.astype(kind), image.affine, header)
        made.header.set_xyzt_units(chance.choice(("mm", "mm", "micron", "meter", "unknown")))
        return bytearray(made.to_bytes())
    return bytearray(plain)
