"""Bytes that a disk, a wire or an editor has spoilt."""

from random import Random


def mutate(content: bytes, chance: Random) -> bytes:
    """``content`` with flipped bits, holes, doubles, junk, or an end that is gone or too much."""
    size = max(len(content), 1)
    one, other = sorted((chance.randrange(size), chance.randrange(size)))
    kind = chance.randrange(8)
    if kind == 0:
        changed = bytearray(content or b"\0")
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(size)] ^= 1 << chance.randrange(8)
        return bytes(changed)
    junk = chance.choice([b"\0", b"\xff", b"\xed\xa0\x80", b"\r\n", b'"', b"{", b"\xef\xbb\xbf"])
    return (
        content[:one],
        content[:one] + content[other:],
        content[:other] + content[one:],
        content[:one] + chance.randbytes(chance.randint(1, 64)) + content[one:],
        content[:one] + junk * chance.choice([1, 3, 1000]) + content[one:],
        content + chance.choice([bytes(100_000), content, b"x", chance.randbytes(300)]),
        chance.choice([b"", b"\0" * size, chance.randbytes(size), b"\xff\xfe", junk]),
    )[kind - 1]
