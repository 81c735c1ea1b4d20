"""Plain TOML or JSON values to frozen dataclasses and back, strictly. Nothing evaluates code."""

import contextlib
import json
import math
import tomllib
import types
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from synth3d.errors import InputError
from synth3d.files import read_json


def require(claim: bool, key: str, rule: str, value: object) -> None:
    """Refuse the ``value`` of ``key`` unless ``claim``: it "must be ``rule``"."""
    if not claim:
        raise InputError(f"{key} must be {rule}, got {value!r}")


def parse(schema: Any, data: Any, where: str = "config") -> Any:
    """Build ``schema`` from plain TOML or JSON values, strictly.

    ``schema`` is a dataclass, ``tuple[...]``, ``dict[str, ...]``, a union, ``Any`` or a plain type.
    A dataclass may name in ``RETIRED`` keys of older versions, each with the value at which
    nothing changes without the key: given so, it is passed over.

    Raises:
        InputError: Unknown, missing or retired key, or wrong type; the message has its path, as
            in ``config.data.patch[1]``.
    """
    if schema is Any:
        return data
    origin, inner = get_origin(schema), get_args(schema)
    if is_dataclass(schema) or origin is dict:
        return _parse_table(schema, data, where)
    if origin is tuple:
        return _parse_list(inner, data, where)
    if origin in (Union, types.UnionType):
        if data is None and type(None) in inner:
            return None
        return _parse_union([one for one in inner if one is not type(None)], data, where)
    # Of a Literal the names are checked by the dataclass.
    return _parse_plain(schema if origin is None else str, data, where)


def _parse_plain(schema: Any, data: Any, where: str) -> Any:
    if schema is float and type(data) in (int, float):
        with contextlib.suppress(OverflowError):
            if math.isfinite(data):
                return float(data)
        raise InputError(f"{where}: expected a finite number, got {data!r:.60}")
    if type(data) is not schema:
        raise InputError(f"{where}: expected {schema.__name__}, got {data!r:.60}")
    if schema is int and not -(2**63) <= data < 2**63:
        raise InputError(f"{where}: expected a whole number of 64 bits, got one of more")
    return data


def _parse_union(schemas: list[Any], data: Any, where: str) -> Any:
    if len(schemas) == 1:
        return parse(schemas[0], data, where)
    for schema in schemas:
        with contextlib.suppress(InputError):
            return parse(schema, data, where)
    names = ["list" if get_origin(schema) is tuple else schema.__name__ for schema in schemas]
    raise InputError(f"{where}: expected {' or '.join(names)}, got {data!r:.60}")


def _parse_table(schema: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a table, got {data!r:.60}")
    if get_origin(schema) is dict:
        hints = dict.fromkeys(data, get_args(schema)[1])
    else:
        hints = get_type_hints(schema)
        data = _without_retired(schema, data, where)
    if unknown := sorted(data.keys() - hints.keys()):
        raise InputError(f"{where}: unknown key(s) {unknown}; known: {sorted(hints)}")
    values = {k: parse(hints[k], v, f"{where}.{k}") for k, v in data.items()}
    known = () if get_origin(schema) is dict else fields(schema)
    needed = {each.name for each in known if each.default is each.default_factory is MISSING}
    if lacking := sorted(needed - values.keys()):
        raise InputError(f"{where}: lacks the key(s) {lacking}")
    return schema(**values)


def _without_retired(schema: Any, data: dict[str, Any], where: str) -> dict[str, Any]:
    """``data`` without the keys that are gone, where they say what holds without them."""
    gone = dict(getattr(schema, "RETIRED", ()))
    for key in data.keys() & gone.keys():
        if data[key] is not gone[key]:
            raise InputError(
                f"{where}.{key}: this setting is gone, and only {json.dumps(gone[key])}, which "
                f"changes nothing, may still be given; got {data[key]!r:.60}"
            )
    return {key: value for key, value in data.items() if key not in gone}


def _parse_list(items: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    length = None if items[1:] == (...,) else len(items)
    if not isinstance(data, (list, tuple)) or length not in (None, len(data)):
        raise InputError(f"{where}: expected a list of {length or 'any'} values, got {data!r:.60}")
    kinds = items if length else items[:1] * len(data)
    return tuple(
        parse(kind, value, f"{where}[{i}]")
        for i, (kind, value) in enumerate(zip(kinds, data, strict=True))
    )


def read_as(schema: Any, path: Path, remedy: str = "remove it and run again") -> Any:
    """The values of a JSON file that this project wrote, as :func:`parse` builds ``schema``.

    ``remedy`` is what to do about a damaged one; one that guards its folder is not to be removed.

    Raises:
        InputError: It cannot be read, or holds anything else: it was cut off, changed by hand, or
            written by another version.
    """
    value = read_json(path)
    try:
        parsed = parse(schema, value, path.name)
        json.dumps(value, allow_nan=False)  # we write no NaN, and what is read may be written again
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged or of another version: {error}; {remedy}") from error
    return parsed


def override(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key`` (``train.steps``) in the nested ``values``, making tables."""
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise InputError(f"{key}: {name} is a value, not a table")
    values[last] = value


def parse_assignment(text: str) -> tuple[str, Any]:
    """``key=value`` with a TOML value (a bare word is a string): ``("train.steps", 100)``."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise InputError(f"--set takes key=value, as in --set train.steps=1000, got {text!r}")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
    except RecursionError as error:
        raise InputError(f"--set {key}: the value is nested too deeply") from error


def to_plain(config: Any) -> dict[str, Any]:
    """``config`` as plain JSON values; :func:`parse` is the inverse."""
    return json.loads(json.dumps(asdict(config)))


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables to dotted keys: ``{"train": {"steps": 1}}`` → ``{"train.steps": 1}``."""
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
