"""JSON and TOML that says other things, or nothing that can be read."""

import copy
import json
import math
import tomllib
from collections.abc import Callable
from random import Random
from typing import Any

from tests.fuzz.mutants import raw

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 10**12, -(2**63), 2**64, 10**400, 0.5, -0.0, 1e-320, 1e308,
    math.nan, math.inf, -math.inf, "", "x", "0", "nan", "1e999", "t1c", "t2f,t1n", "..", "../../x",
    "/abs/x", "~", "a\0b", "\ud800", "\udcff", "a\nerror: forged", "\x1b[2J", "\u202eabc",
    "é\u0301", "--overwrite", "$HOME", "CON", "x" * 300, "x" * 100_000, "9" * 5000, [], {}, [[]],
    [None], {"": None}, [0] * 1000, {"x": {"y": 1}}, [1, "1", None],
)  # fmt: skip


def mutate_json(content: bytes, chance: Random) -> bytes:
    """A JSON value changed in one to three places, or its text."""
    return _mutate(content, chance, json.loads, json.dumps)


def mutate_lines(content: bytes, chance: Random) -> bytes:
    """The same for a line of JSON, or the order and number of the lines."""
    lines = content.splitlines()
    place = chance.randrange(len(lines))
    lines[place] = mutate_json(lines[place], chance)
    if chance.random() < 0.3:
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
    return b"\n".join(lines) + b"\n"


def mutate_toml(content: bytes, chance: Random) -> bytes:
    """A TOML table changed in one to three places, or its text."""
    return _mutate(content, chance, tomllib.loads, to_toml)


def _mutate(
    content: bytes, chance: Random, loads: Callable[[str], Any], dumps: Callable[[Any], str]
) -> bytes:
    if chance.random() < 0.15:
        return raw.mutate(content, chance)
    value = [loads(content.decode())]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _change(value, chance)
    text = dumps(value[0])
    if chance.random() < 0.03:
        depth = chance.choice((60, 70, 3000, 100_000))
        text = chance.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth))
    if chance.random() < 0.05:
        place = chance.randrange(len(text) + 1)
        text = text[:place] + chance.choice((", ", text[:40], '"x": 1, ', "// x\n")) + text[place:]
    code = chance.choice(("utf-8",) * 20 + ("utf-16", "utf-8-sig", "latin-1", "utf-32"))
    return text.encode(code, "replace" if code == "latin-1" else "surrogatepass")


def _change(value: list[Any], chance: Random) -> None:
    """Walk to a random place below ``value`` and change what is there."""
    holder, key = value, 0
    while chance.random() < 0.85 and (inner := holder[key]) and isinstance(inner, dict | list):
        holder = inner
        key = chance.choice([*inner]) if isinstance(inner, dict) else chance.randrange(len(inner))
    kind = chance.randrange(9)
    if kind == 0 and holder is not value:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[str(chance.choice(ODD))[:400]] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list) and holder is not value:
        holder.insert(chance.randrange(len(holder)), copy.deepcopy(holder[key]))
    elif kind == 3 and isinstance(holder, dict):
        holder[key] = copy.deepcopy(holder[chance.choice([*holder])])
    elif kind == 4 and type(holder[key]) in (int, float) and abs(holder[key]) < 1e9:
        holder[key] *= chance.choice((-1, 0, 2, 1e-9, 10**6, 10**18, 0.5))
    elif kind == 5:
        holder[key] = chance.choice(([holder[key]], {"x": holder[key]}, str(holder[key])))
    else:
        holder[key] = copy.deepcopy(chance.choice(ODD))


def to_toml(value: Any, table: str = "") -> str:
    """``value`` as TOML, or as what somebody might take for it."""
    if not isinstance(value, dict):
        return _inline(value)
    plain = [f"{_key(k)} = {_inline(v)}" for k, v in value.items() if not isinstance(v, dict)]
    head = [f"[{table}]"] if table else []
    inner = [to_toml(v, f"{table}.{_key(k)}".strip(".")) for k, v in value.items()
             if isinstance(v, dict)]  # fmt: skip
    return "\n".join([*head, *plain, *inner])


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name.isascii() else json.dumps(name)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
