"""Examples out of the rows of some data; everything wrong with the rows is told at once."""

from __future__ import annotations

from lofit_lens.errors import DataError
from lofit_lens.tasks.columns import template_parts
from lofit_lens.tasks.data import SPLITS, Data
from lofit_lens.tasks.kinds import Kind
from lofit_lens.tasks.recognised import has_column
from lofit_lens.tasks.rows import Cells
from lofit_lens.tasks.task import Example, Split


def examples_of(
    data: Data, kind: Kind, *, prefix: str, group: str | None, column: str | None, stop: str | None
) -> list[tuple[Split | None, Example]]:
    """The examples of all rows, with their splits where those are ready.

    Args:
        data: The rows.
        kind: What is read out of a row.
        prefix: Text between prompt and answer.
        group: Column whose equal values belong together; else equal prompts do.
        column: Column of the split, if there is one.
        stop: Text that no answer may hold.

    Raises:
        DataError: A column that is needed does not exist.
        RowErrors: Rows are malformed.
    """
    _require_columns(data, kind, group, column)
    first_alike: dict[str, str] = {}
    found: list[tuple[Split | None, Example]] = []
    for ready, table in data.tables.items():
        for row in table.rows:
            cells = Cells(row, table.problems, kind.separator)
            parts = kind.read(cells)
            prompt = cells.filled(kind.prompt) if kind.prompt else parts.prompt
            if stop and any(stop in text for text in parts.correct):
                what = f"holds the stop text {stop!r}, which ends a prediction"
                cells.problem(kind.columns[-1], what)
            name = "-".join([*([ready] if ready else []), table.unit, str(row.line)])
            alike = prompt or "\0".join((*parts.correct, *parts.incorrect))
            correct, incorrect = (
                tuple(_prefix(kind, prefix, prompt, text) + text for text in texts)
                for texts in (parts.correct, parts.incorrect)
            )
            example = Example(
                id=name,
                prompt=prompt,
                correct=correct,
                incorrect=incorrect,
                group=cells.text(group) if group else first_alike.setdefault(alike, name),
                messages=() if kind.prompt else parts.messages,
            )
            found.append((_split(cells, column) if column else ready, example))
    if any(table.problems for table in data.tables.values()):
        raise data.row_errors()
    return found


def _require_columns(data: Data, kind: Kind, *further: str | None) -> None:
    of_prompt = [column for _, column in template_parts(kind.prompt)]
    wanted = [name for name in (*kind.columns, *of_prompt, *further) if name is not None]
    missing = [name for name in dict.fromkeys(wanted) if not has_column(data.rows, name)]
    if missing:
        hints = " It is named in the prompt template." if set(missing) & set(of_prompt) else ""
        if len(set(kind.choices) & set(missing)) > 1:
            hints += " If these are the candidates themselves, give them as labels."
        raise DataError(
            f"{data.called} has no column {', '.join(map(repr, missing))}. "
            f"Its columns: {', '.join(data.columns)}.{hints}"
        )


def _prefix(kind: Kind, prefix: str, prompt: str, text: str) -> str:
    """What stands between a prompt and an answer."""
    blank = prompt[-1:].isspace() or text[:1].isspace()
    unwanted = kind.prefixed == "never" or (blank and kind.prefixed != "always")
    return "" if unwanted or not prompt else prefix


def _split(cells: Cells, column: str) -> Split | None:
    value = cells.text(column)
    if value and value.lower() not in SPLITS:
        cells.problem(column, f"{value!r}, expected train, val or test (or {', '.join(SPLITS)})")
    return SPLITS.get(value.lower())
