"""The door for what others wrote: JSON within limits, made into the types it is declared as."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import msgspec

from lofit_lens.errors import LofitLensError

T = TypeVar("T")

MOST_BYTES = 64 * 2**20
"""Of a document, unzipped. What we write is a few MB."""

MOST_VALUES = 5_000_000
"""In a document; as objects of Python they take up to 110 bytes each."""

DEEPEST = 64
"""Lists and objects inside each other."""

TOO_DEEP = f"lists and objects lie more than {DEEPEST} deep inside each other"


def decoded(raw: bytes) -> Any:
    """The content of a JSON document.

    Raises:
        LofitLensError: It is not JSON in UTF-8, or goes beyond a limit: too long, too deep, a whole
            number that does not fit into 64 bits, half of a surrogate pair.
    """
    check_size(raw)
    try:
        content = json.loads(raw.decode())
    except RecursionError as error:
        raise LofitLensError(TOO_DEEP) from error
    except ValueError as error:
        raise LofitLensError(f"not JSON in UTF-8: {error}") from error
    check_content(content)
    return content


def check_size(raw: bytes) -> None:
    """Refuse the text of a document that would take too much memory.

    Raises:
        LofitLensError: It is too long, or holds too many values.
    """
    if len(raw) > MOST_BYTES:
        raise LofitLensError(f"it is longer than {MOST_BYTES // 2**20} MB")
    if sum(map(raw.count, (b",", b";", b"\t", b"|", b"[", b"{", b"\n"))) > MOST_VALUES:
        raise LofitLensError(f"it holds more than {MOST_VALUES:,} values")


def check_content(content: Any) -> None:
    """Refuse values of a document that we could not handle or write again.

    Raises:
        LofitLensError: Lists and objects lie too deep inside each other, a whole number does not fit
            into 64 bits, or a text holds half of a surrogate pair.
    """
    level = [content]
    for _ in range(DEEPEST):
        for one in level:
            if isinstance(one, str) and not one.isascii():
                try:
                    one.encode()
                except UnicodeEncodeError as error:
                    raise LofitLensError(
                        f"the text {one[:40]!r} holds half of a surrogate pair"
                    ) from error
            elif isinstance(one, int) and not -(2**63) <= one < 2**63:
                raise LofitLensError("a whole number does not fit into 64 bits")
        level = [part for one in level for part in _parts(one)]
    if level:
        raise LofitLensError(TOO_DEEP)


def check_finite(content: Any) -> None:
    """Refuse NaN and infinity anywhere in a document.

    Raises:
        LofitLensError: There is one.
    """
    try:
        json.dumps(content, allow_nan=False)
    except ValueError as error:
        raise LofitLensError("a number is not finite") from error


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value, *value.values())
    return value if isinstance(value, list | tuple) else ()


def check_schema(content: Any, *known: int) -> None:
    """Refuse a document that is not an object with one of some numbers as its `schema`.

    Raises:
        LofitLensError: It is not.
    """
    if not isinstance(content, dict):
        raise LofitLensError(f"Expected `object`, got `{type(content).__name__}`")
    found = content.get("schema")
    if type(found) is not int or found not in known:
        valid = " or ".join(map(str, known))
        raise LofitLensError(f"schema {found!r}, this version reads {valid}")


def typed(content: Any, kind: type[T] | Any) -> T:
    """What a document declares: a dataclass made of an object, with every field of its type.

    Nothing is converted but what JSON cannot tell apart: lists to tuples, whole numbers to floats.

    Raises:
        LofitLensError: A field is missing, unknown or of another type; the message says where.
    """
    try:
        made = msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise LofitLensError(f"{error}") from error
    _check_known(content, made, "$")
    return made


def _check_known(content: Any, made: Any, place: str) -> None:
    """Refuse fields that the dataclass made of an object does not have, here and further inside."""
    if isinstance(made, tuple) and made and is_dataclass(made[0]):
        for number, part in enumerate(made):
            _check_known(content[number], part, f"{place}[{number}]")
    elif is_dataclass(made) and isinstance(content, Mapping):
        known = {field.name for field in fields(made)}
        for name, part in content.items():
            if name not in known:
                raise LofitLensError(f"Object contains unknown field `{name}` - at `{place}`")
            _check_known(part, getattr(made, name), f"{place}.{name}")
