"""Examples out of the rows of some data; everything wrong with the rows is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lofit_lens.errors import DataError
from lofit_lens.tasks.columns import template_columns
from lofit_lens.tasks.data import SPLITS, Data
from lofit_lens.tasks.kinds import Kind
from lofit_lens.tasks.readers import Row
from lofit_lens.tasks.recognised import has_column
from lofit_lens.tasks.rows import Cells, row_errors
from lofit_lens.tasks.task import Example, Split


@dataclass(frozen=True)
class Builder:
    """Makes examples of rows.

    Attributes:
        kind: What is read out of a row.
        prefix: Text between prompt and answer.
        group: Column whose equal values belong together; else equal prompts do.
        split: Column of the split, if there is one.
        stop: Text that no answer may hold.
    """

    kind: Kind
    prefix: str
    group: str | None
    split: str | None
    stop: str | None
    _first_alike: dict[str, str] = field(default_factory=dict)

    def examples(self, data: Data) -> list[tuple[Split | None, Example]]:
        """The examples of all rows, with their splits where those are ready.

        Raises:
            DataError: A column that is needed does not exist.
            RowErrors: Rows are malformed.
        """
        self._require_columns(data)
        found = [
            self._example(row, split, Cells(row, table.problems, self.kind.separator), table.unit)
            for split, table in data.tables.items()
            for row in table.rows
        ]
        if any(table.problems for table in data.tables.values()):
            raise row_errors(list(data.tables.values()))
        return found

    def _require_columns(self, data: Data) -> None:
        of_prompt = template_columns(self.kind.prompt)
        named = (*self.kind.columns, *of_prompt, self.group, self.split)
        wanted = [column for column in named if column is not None]
        missing = [column for column in dict.fromkeys(wanted) if not has_column(data.rows, column)]
        if missing:
            hints = " It is named in the prompt template." if set(missing) & set(of_prompt) else ""
            if len(set(self.kind.choices) & set(missing)) > 1:
                hints += " If these are the candidates themselves, give them as labels."
            raise DataError(
                f"{data.called} has no column {', '.join(map(repr, missing))}. "
                f"Its columns: {', '.join(data.columns)}.{hints}"
            )

    def _example(
        self, row: Row, split: Split | None, cells: Cells, unit: str
    ) -> tuple[Split | None, Example]:
        parts = self.kind.read(cells)
        prompt = cells.filled(self.kind.prompt) if self.kind.prompt else parts.prompt
        if self.stop and any(self.stop in text for text in parts.correct):
            what = f"holds the stop text {self.stop!r}, which ends a prediction"
            cells.problem(self.kind.columns[-1], what)
        name = f"{unit}-{row.line}" if split is None else f"{split}-{unit}-{row.line}"
        if self.group is not None:
            together = cells.text(self.group)
        else:
            alike = prompt or "\0".join((*parts.correct, *parts.incorrect))
            together = self._first_alike.setdefault(alike, name)
        if self.split is not None:
            split = _split(cells, self.split)
        return split, Example(
            id=name,
            prompt=prompt,
            correct=self._glued(prompt, parts.correct),
            incorrect=self._glued(prompt, parts.incorrect),
            group=together,
            messages=() if self.kind.prompt else parts.messages,
        )

    def _glued(self, prompt: str, texts: Sequence[str]) -> tuple[str, ...]:
        """Answers as they stand behind a prompt."""
        return tuple(self._prefix(prompt, text) + text for text in texts)

    def _prefix(self, prompt: str, text: str) -> str:
        blank = prompt[-1:].isspace() or text[:1].isspace()
        unwanted = self.kind.prefixed == "never" or (blank and self.kind.prefixed != "always")
        return "" if unwanted or not prompt else self.prefix


def _split(cells: Cells, column: str) -> Split | None:
    value = cells.text(column)
    if value and value.lower() not in SPLITS:
        cells.problem(column, f"{value!r}, expected train, val or test (or {', '.join(SPLITS)})")
    return SPLITS.get(value.lower())
