"""Tables that a spreadsheet, a script or a tired hand has spoilt."""

from random import Random

from tests.fuzz.mutants import raw
from tests.fuzz.mutants.values import ODD


def mutate(content: bytes, chance: Random) -> bytes:
    """CSV with other cells, rows, columns, quotes and separators."""
    if chance.random() < 0.15:
        return raw.mutate(content, chance)
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(chance.choice((1, 1, 2, 3))):
        chance.choice((_rows, _columns, _cell, _cell))(rows, chance)
        rows = [each or [""] for each in rows] or [[""]]
    comma = chance.choice((",",) * 10 + (";", "\t", "|", ", "))
    text = chance.choice(("\n",) * 5 + ("\r\n", "\r", "\n\n")).join(map(comma.join, rows))
    return text.encode(chance.choice(("utf-8",) * 9 + ("utf-16", "utf-8-sig")), "surrogatepass")


def _rows(rows: list[list[str]], chance: Random) -> None:
    """One row twice, or not at all."""
    row = chance.choice(rows)
    if chance.random() < 0.5:
        rows.insert(chance.randrange(len(rows) + 1), list(row))
    else:
        rows.remove(row)


def _columns(rows: list[list[str]], chance: Random) -> None:
    """One column gone, or another one there."""
    place, gone = chance.randrange(len(rows[0])), chance.random() < 0.5
    for row in rows:
        row[place : place + 1] = [] if gone else [*row[place : place + 1], row[-1]]


def _cell(rows: list[list[str]], chance: Random) -> None:
    """One cell that is another's, odd, or has something more."""
    row = chance.choice(rows)
    more = row[0] + chance.choice(('"', ",", ";", "\t", "\r", "\n", "/..", " ", "\0", "#"))
    other = chance.choice(chance.choice(rows)), str(chance.choice(ODD)), more
    row[chance.randrange(len(row))] = chance.choice(other)
