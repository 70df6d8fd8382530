"""What a column's name means: a value of a row, or a part of one that is nested."""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Mapping
from typing import Any

from lofit_lens.documents import check_content
from lofit_lens.errors import LofitLensError

_STEP = re.compile(r"[^.\[\]]+|\[-?\d+\]")
_PATH = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[-?\d+\])*")


def value_at(values: Any, column: str) -> Any:
    """The value of a column; None where there is none.

    Behind a column's name may stand `.part` (of a nested object, or of each object in a list) and
    `[0]` (of a list). Text that is written as a list or an object, in JSON or in Python, is taken
    apart as such; nothing is executed.

    Examples:
        >>> value_at({"choices": {"text": ["red", "blue"]}}, "choices.text[1]")
        'blue'
        >>> value_at({"query": "('Jason', 'Lewis')"}, "query[0]")
        'Jason'
    """
    if isinstance(values, Mapping) and column in values:
        return values[column]
    if not _PATH.fullmatch(column):
        return None
    value: Any = values
    for step in _STEP.findall(column):
        value = _part(value, step)
    return value


def as_list(value: Any) -> list[Any] | None:
    """A list, also one that is written as text; None where the value is neither."""
    value = literal(value) if isinstance(value, str) else value
    return list(value) if isinstance(value, list | tuple) else None


def literal(text: str) -> Any:
    """A list, tuple or object written in JSON or Python; None where the text is something else."""
    if text.strip()[:1] not in ("[", "{", "("):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
            check_content(found)
            return found
        except (ValueError, SyntaxError, RecursionError, MemoryError, LofitLensError):
            continue
    return None


def template_parts(template: str) -> list[tuple[str, str | None]]:
    """A template as pieces of text, each with the column that follows it, or None.

    Raises:
        LofitLensError: The template is malformed.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise LofitLensError(
            f"The prompt template {template!r} is malformed: {error}. Write columns as {{column}} "
            "and a brace itself as {{ or }}."
        ) from error
    for _, field, specification, conversion in parsed:
        if field is not None and (specification or conversion or not field):
            raise LofitLensError(
                f"The prompt template {template!r} has {{{field}…}}; expected a column's name alone in "
                "braces, without format; parts of a nested one as {column.part} or {column[0]}."
            )
    return [(text, field) for text, field, _, _ in parsed]


def _part(value: Any, step: str) -> Any:
    if isinstance(value, str):
        value = literal(value)
    if step.startswith("["):
        place = int(step[1:-1])
        inside = isinstance(value, list | tuple) and -len(value) <= place < len(value)
        return value[place] if inside else None
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        return [part.get(step) for part in value] if value else None
    return value.get(step) if isinstance(value, Mapping) else None
