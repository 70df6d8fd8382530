"""Taking values out of the rows of a file, and noting everything wrong with them."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any, Literal

from lofit_lens.tasks.columns import as_list, template_parts, value_at
from lofit_lens.tasks.readers import Problem, Row

AnswerIs = Literal["text", "letter", "index0", "index1"]


class Cells:
    """The cells of one row. What is wrong with one is noted, and something empty is given back."""

    def __init__(self, row: Row, problems: list[Problem], separator: str | None = None) -> None:
        self._row = row
        self._problems = problems
        self._separator = separator

    def value(self, column: str) -> Any:
        """What a cell holds; see `value_at`."""
        return value_at(self._row.values, column)

    def problem(self, column: str, what: str) -> None:
        """Note what is wrong with a cell."""
        self._problems.append(Problem(self._row.line, f", column {column!r}: {what}"))

    def text(self, column: str) -> str:
        """The text of a cell, without outer white space; numbers count as text."""
        return self.exact(column).strip()

    def exact(self, column: str) -> str:
        """The text of a cell as it stands there."""
        value = self.value(column)
        text = as_text(value)
        if not text.strip():
            self.problem(column, f"{shown(value)}, expected text")
        return text

    def texts(self, column: str, at_least: int = 0) -> list[str]:
        """The texts of a cell that holds a list, or text to be cut at the separator."""
        value = self.value(column)
        listed = as_list(value)
        if listed is None and self._separator is not None and isinstance(value, str):
            listed = [part for part in value.split(self._separator) if part.strip()]
        texts = [as_text(part).strip() for part in listed or ()]
        if listed is not None and all(texts) and len(texts) >= at_least:
            return texts
        self.problem(
            column, f"{shown(value)}, expected a list of texts (for text, name the separator)"
        )
        return []

    def filled(self, template: str) -> str:
        """A template with its columns filled in; a list of texts is joined by commas."""
        pieces = []
        for text, column in template_parts(template):
            pieces.append(text)
            if column is not None:
                listed = isinstance(self.value(column), list)
                pieces.append(", ".join(self.texts(column)) if listed else self.text(column))
        return "".join(pieces)

    def choices(self, columns: Sequence[str]) -> list[str]:
        """The candidates of a row: several columns, or one with a list or with text to be cut."""
        before = len(self._problems)
        if len(columns) > 1:
            found = [self.text(column) for column in columns]
        elif self._separator is not None:
            found = [part.strip() for part in self.text(columns[0]).split(self._separator)]
        else:
            found = self.texts(columns[0])
        if len(self._problems) == before and (len(set(found)) < max(2, len(found)) or "" in found):
            self.problem(", ".join(columns), f"{found}, expected two or more different choices")
        return found

    def chosen(
        self, column: str, answer_is: AnswerIs, candidates: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        """The candidate that a column names in a certain way, and the others."""
        letters = list(string.ascii_uppercase[: len(candidates)])
        namings = {
            "text": [candidates],
            "letter": [letters, [letter.lower() for letter in letters]],
            "index0": [counted(candidates, 0)],
            "index1": [counted(candidates, 1)],
        }
        expected = f"the {answer_is} of one of {list(candidates)} (see answer_is)"
        return self.named(column, candidates, namings[answer_is], expected)

    def named(
        self,
        column: str,
        candidates: Sequence[str],
        namings: Sequence[Sequence[str]],
        expected: str,
    ) -> tuple[list[str], list[str]]:
        """The candidate that a column names, and those with another text.

        Args:
            column: The column of the answer.
            candidates: The candidates.
            namings: Ways to name them, each a name for every candidate; the first that fits counts.
            expected: What is said to be expected where none fits.
        """
        value = self.value(column)
        spellings = _TRUTH[value] if isinstance(value, bool) else (self.text(column),)
        for spelling in spellings:
            for names in namings:
                if spelling in names:
                    right = candidates[list(names).index(spelling)]
                    return [right], [text for text in candidates if text != right]
        if spellings[0] and candidates:
            self.problem(column, f"{shown(value)}, expected {expected}")
        return [""], []


_TRUTH = {True: ("true", "True", "yes", "Yes", "1"), False: ("false", "False", "no", "No", "0")}


def counted(candidates: Sequence[str], first: int) -> list[str]:
    """The places of candidates as text, from `first` on."""
    return [str(place) for place in range(first, first + len(candidates))]


def as_text(value: Any) -> str:
    """A value as text, numbers included; empty where it is neither."""
    if isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and math.isfinite(value) else ""


def shown(value: Any) -> str:
    """A value as messages show it."""
    return "nothing" if value is None or value == "" else repr(value)[:60]
