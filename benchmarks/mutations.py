"""Good documents made bad: in their values, in their text, in their bytes."""

from __future__ import annotations

import copy
import gzip
import json
import random
from typing import Any

DEEP = 10_000

MARK = "\x00raw\x00"
"""Stands in a document where a piece of text is to be put that no value gives."""

RAW = (
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
    "[" * DEEP,
    "9" * 5000,
    "-" + "9" * 30,
    "1e999",
    "NaN",
    "-Infinity",
    '"\\ud800"',
    '{"\\udfff": 1}',
    "1" * 200 + ".5",
    "nul",
    "",
)

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 0.768, -0.0, 2**31, 2**32, 2**63, 2**64, 10**18, 1e308, "", "x",
    "0", "\x00", "../../x", "<script>", "\u202e", [], [[]], [None], [1, 2], [1.5], ["x"], [[0, 0]], {},
    {"x": 1}, {"kind": "heads"}, {"kind": ["heads"]}, "nan", "L1H1", "a" * 100_000,
)  # fmt: skip


def mutated(good: bytes, rng: random.Random) -> bytes:
    """A bad or odd neighbour of a file."""
    zipped = good.startswith(b"\x1f\x8b")
    if rng.random() < 0.15:
        return _of_bytes(good, rng)
    raw = gzip.decompress(good) if zipped else good
    try:
        content = json.loads(raw)
    except ValueError:
        found = _of_bytes(raw, rng) if rng.random() < 0.5 else _of_text(raw, rng)
    else:
        found = _of_values(content, rng)
    return gzip.compress(found, 1) if zipped else found


def _of_bytes(good: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(good) + 1)
    kind = rng.randrange(8)
    if kind == 0:
        return good[:place]
    if kind == 1:
        return good[place:]
    if kind == 2:
        return good[:place] + rng.randbytes(rng.randrange(1, 9)) + good[place + 1 :]
    if kind == 3:
        return rng.choice((b"", b"\x00" * 64, b"\xff\xfe", b"\x1f\x8b", b"PK\x03\x04", b"PAR1"))
    if kind == 4:
        return b"\xff\xfe" + good.decode("latin1").encode("utf-16-le")
    if kind == 5:
        return good + good
    if kind == 6:
        return gzip.compress(b"0" * 2**28, 1) if rng.random() < 0.05 else gzip.compress(good)
    return rng.randbytes(place % 200)


def _of_text(raw: bytes, rng: random.Random) -> bytes:
    """Another token, or none, where one stands."""
    tokens = raw.replace(b",", b" , ").split(b" ")
    some = rng.choice((*RAW, *map(str, ODD))).encode(errors="replace")
    tokens[rng.randrange(len(tokens))] = some
    return b" ".join(tokens).replace(b" , ", b",")


def _of_values(content: Any, rng: random.Random) -> bytes:
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places: list[tuple[Any, Any]] = list(_places(content))
        if places:
            _change(*rng.choice(places), rng)
    text = json.dumps(rng.choice(ODD) if rng.random() < 0.01 else content)
    return text.replace(json.dumps(MARK), rng.choice(RAW)).encode()


def _change(where: Any, key: Any, rng: random.Random) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        del where[key]
    elif kind == 1:
        where[key] = MARK
    elif kind == 2 and isinstance(where, dict):
        where[rng.choice(("x", "", "schema", "kind", "edit", "task", "\x00", key + "x"))] = where[
            key
        ]
    elif kind == 3:
        where[key] = [where[key]]
    elif kind == 4 and isinstance(where[key], int | float):
        where[key] = rng.choice(
            (-where[key], where[key] + 0.5, where[key] * 10**6, str(where[key]))
        )
    else:
        where[key] = copy.deepcopy(rng.choice(ODD))


def _places(content: Any) -> Any:
    """Every place in a document; of long lists the first few."""
    if isinstance(content, dict):
        keys: Any = list(content)
    elif isinstance(content, list):
        keys = range(min(4, len(content)))
    else:
        return
    for key in keys:
        yield content, key
        yield from _places(content[key])
