"""Where in a TOML file something stands, which `tomllib` does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

Place = tuple[str | int, ...]
"""A way into a document, as ("models", 1, "dtype")."""

_TABLE = re.compile(r"\s*(\[\[?.+\]\]?)\s*(?:#.*)?")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def lines_of(text: str) -> dict[Place, int]:
    """The line, from 1, of each table and key that has one of its own in a valid document."""
    found: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.fullmatch(line):
            table = _way(header[1])
            if header[1].startswith("[["):
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault(table + _way(f"{key[1]} = 0"), number)
    return found


def line_at(lines: Mapping[Place, int], place: Place) -> int:
    """The line of a place, or of the nearest thing around it; 1 if there is none."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _way(line: str) -> Place:
    """The names in a header, or on the left of an equals sign; none where a text looks like one."""
    try:
        inside: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    way: list[str] = []
    while isinstance(inside, dict) and inside:
        name, inside = next(iter(inside.items()))
        way.append(name)
    return tuple(way)
