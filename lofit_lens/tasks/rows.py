"""Turning the rows of a file into examples, and collecting everything wrong with them."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from lofit_lens.errors import DataError, LofitLensError, RowErrors
from lofit_lens.tasks.tables import Problem, Row
from lofit_lens.tasks.task import Example

AnswerIs = Literal["text", "letter", "index0", "index1"]


class RowReader:
    """Takes values out of rows and collects what is wrong with them."""

    def __init__(self, file: Path, columns: list[str], problems: list[Problem]) -> None:
        self._file = file
        self._columns = columns
        self._problems = problems
        self._first_alike: dict[str, str] = {}

    def require(self, *columns: str | None) -> None:
        """Refuse a column that no row has."""
        missing = [c for c in columns if c is not None and c not in self._columns]
        if missing:
            raise DataError(
                f"{self._file} has no column {', '.join(map(repr, missing))}. "
                f"Its columns: {', '.join(self._columns)}."
            )

    def problem(self, row: Row, column: str, what: str) -> None:
        """Note what is wrong with a cell."""
        self._problems.append(Problem(row.line, f", column {column!r}: {what}"))

    def text(self, row: Row, column: str) -> str:
        """The text of a cell; numbers count as text."""
        value = row.values.get(column)
        text = _as_text(value)
        if not text:
            self.problem(row, column, f"{_shown(value)}, expected text")
        return text

    def texts(self, row: Row, column: str) -> list[str]:
        """The texts of a cell that holds a list."""
        value = row.values.get(column)
        if isinstance(value, list):
            texts = [_as_text(part) for part in value]
            if all(texts):
                return texts
        self.problem(
            row, column, f"{_shown(value)}, expected a list of texts (for text, name the separator)"
        )
        return []

    def choices(self, row: Row, columns: list[str], separator: str | None) -> list[str]:
        """The candidates of a row."""
        before = len(self._problems)
        if len(columns) > 1:
            found = [self.text(row, column) for column in columns]
        elif separator is not None:
            found = [part.strip() for part in self.text(row, columns[0]).split(separator)]
        else:
            found = self.texts(row, columns[0])
        if len(self._problems) == before and (len(set(found)) < max(2, len(found)) or "" in found):
            self.problem(
                row, ", ".join(columns), f"{found}, expected two or more different choices"
            )
        return found

    def chosen(self, row: Row, column: str, answer_is: AnswerIs, candidates: list[str]) -> str:
        """The candidate that the answer column names."""
        value = self.text(row, column)
        if answer_is == "text":
            place = candidates.index(value) if value in candidates else -1
        elif answer_is == "letter":
            place = string.ascii_uppercase.find(value.upper()) if len(value) == 1 else -1
        else:
            place = int(value) - int(answer_is[-1]) if value.isdecimal() else -1
        if 0 <= place < len(candidates):
            return candidates[place]
        if value and candidates:
            self.problem(
                row,
                column,
                f"{value!r}, expected the {answer_is} of one of {candidates} (see answer_is)",
            )
        return ""

    def example(
        self,
        row: Row,
        template: str,
        correct: list[str],
        incorrect: list[str],
        prefix: str,
        group: str | None,
    ) -> Example:
        """The example of a row; rows with equal prompts share a group unless one is named."""
        fields = {column: self.text(row, column) for column in template_columns(template)}
        prompt = template.format(**fields)
        example_id = f"line-{row.line}"
        if group is not None:
            together = self.text(row, group)
        else:
            alike = prompt or "\0".join(correct + incorrect)
            together = self._first_alike.setdefault(alike, example_id)
        return Example(
            id=example_id,
            prompt=prompt,
            correct=tuple(prefix + text for text in correct),
            incorrect=tuple(prefix + text for text in incorrect),
            group=together,
        )

    def build_all(self, rows: list[Row], build: Callable[[Row], Example]) -> list[Example]:
        """Build every example, then refuse the file if any row had a problem."""
        examples = [build(row) for row in rows]
        if self._problems:
            raise row_errors(self._file, self._problems)
        return examples


def row_errors(file: Path, problems: Sequence[Problem]) -> RowErrors:
    """One error for all problems of a file, in the order of its lines."""
    ordered = sorted(problems, key=lambda problem: problem.line)
    return RowErrors([f"{file.name} line {problem.line}{problem.what}" for problem in ordered])


def template_columns(template: str) -> list[str]:
    """The columns a template names.

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
        if field is not None and (
            specification or conversion or set(field) & set(".[]") or not field
        ):
            raise LofitLensError(
                f"The prompt template {template!r} has {{{field}…}}; expected a column's name alone in "
                "braces, without format and without the characters . [ ]."
            )
    return list(dict.fromkeys(field for _, field, _, _ in parsed if field is not None))


def _as_text(value: Any) -> str:
    """A value as text, numbers included; empty where it is neither."""
    if isinstance(value, str):
        return value.strip()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and math.isfinite(value) else ""


def _shown(value: Any) -> str:
    return "nothing" if value is None or value == "" else repr(value)[:60]
