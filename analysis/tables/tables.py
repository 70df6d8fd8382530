"""The table of a comparison for a terminal, in Markdown and in HTML; LaTeX is `comparison_latex`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from lofit_lens.analysis.tables.cells import TaskTable, legend, overview, task_tables

if TYPE_CHECKING:
    from lofit_lens.analysis.kinds.comparison import Comparison


_STYLE = """<style>
.lofit-comparison table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  margin: 0 0 1.5em; border-top: 2px solid; border-bottom: 2px solid; }
.lofit-comparison caption { text-align: left; font-weight: bold; padding: 0.3em 0; }
.lofit-comparison th, .lofit-comparison td { padding: 0.2em 0.8em 0.2em 0; text-align: right;
  white-space: nowrap; border: 0; background: none; }
.lofit-comparison th[scope=row], .lofit-comparison thead tr:first-child th:first-child { text-align: left; }
.lofit-comparison th[scope=colgroup] { text-align: center; }
.lofit-comparison tbody { border-top: 1px solid; }
.lofit-comparison th[scope=row] { font-weight: normal; }
.lofit-comparison p { max-width: 60em; }
</style>"""


def as_text(
    comparison: Comparison, *, base: str | None = None, published: str | None = None
) -> str:
    """The table for a terminal, task by task.

    Args:
        comparison: The comparison.
        base: The method to compare with; default that of the comparison.
        published: Show the paper's numbers for a model beside: "gemma-7b", "llama2-7b" or
            "llama2-13b".

    Raises:
        LofitLensError: As `Comparison.frame`, or the paper has no such model.
    """
    lines = []
    for table in task_tables(comparison, base=base, published=published):
        grid = _grid(table)
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        lines.append(_caption(table, comparison))
        for name, *cells in grid:
            padded = (f"{c:>{w}}" for c, w in zip(cells, widths[1:], strict=True))
            lines.append(f"  {name:<{widths[0]}}  {'  '.join(padded)}".rstrip())
        lines.append("")
    for line in legend(comparison, base=base, published=published).values():
        lines += textwrap.wrap(line, 100, subsequent_indent="  ")
    return "\n".join(lines)


def as_markdown(
    comparison: Comparison, *, base: str | None = None, published: str | None = None
) -> str:
    """The table in Markdown, task by task; arguments and errors are those of `as_text`."""
    lines = []
    for table in task_tables(comparison, base=base, published=published):
        head, *rows = (_markdown_row(row) for row in _grid(table))
        rule = "|---|" + "---:|" * (table.scores.shape[1] + table.details.shape[1])
        lines += [f"**{_markdown(_caption(table, comparison))}**", "", head, rule, *rows, ""]
    sentences = legend(comparison, base=base, published=published).values()
    return "\n".join([*lines, *(f"{_markdown(line)}\n" for line in sentences)])


def as_html(
    comparison: Comparison, *, base: str | None = None, published: str | None = None
) -> str:
    """The table in HTML: all tasks side by side, then each with its tests and costs.

    A part of a page that needs nothing else, in ASCII. Arguments and errors are those of `as_text`.
    """
    tables = task_tables(comparison, base=base, published=published)
    parts = [_overview(comparison.methods, tables)] if len(tables) > 1 else []
    for table in tables:
        head, *rows = _grid(table)
        columns = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
        caption = _caption(table, comparison)
        parts.append(_html_table(caption, [columns], "".join(map(_html_row, rows))))
    sentences = legend(comparison, base=base, published=published).values()
    parts += [f"<p>{escape(line)}</p>" for line in sentences]
    page = "\n".join(['<div class="lofit-comparison">', _STYLE, *parts, "</div>"])
    return page.encode("ascii", "xmlcharrefreplace").decode() + "\n"


def _caption(table: TaskTable, comparison: Comparison) -> str:
    seeds = ", ".join(map(str, comparison.seeds))
    return f"{table.task} (n = {table.items}, seeds {seeds})"


def _grid(table: TaskTable) -> list[list[str]]:
    """Header, a row per method, a row per floor."""
    whole = pd.concat([table.scores, table.details], axis=1)
    return [["method", *whole.columns], *map(list, whole.itertuples(name=None))]


def _overview(methods: Sequence[str], tables: Sequence[TaskTable]) -> str:
    names = "".join(f'<th scope="col" rowspan="2">{name}</th>' for name in ("method", "parameters"))
    tasks = "".join(
        f'<th scope="colgroup" colspan="{table.scores.shape[1]}">{escape(table.task)}</th>'
        for table in tables
    )
    titles = "".join(
        f'<th scope="col">{escape(str(title))}</th>' for table in tables for title in table.scores
    )
    spans = (1, 1, *(table.scores.shape[1] for table in tables))
    rows = "".join(map(_html_row, overview(methods, tables)))
    return _html_table("All tasks", [names + tasks, titles], rows, groups=spans)


def _html_table(
    caption: str, header: Sequence[str], rows: str, *, groups: Sequence[int] = ()
) -> str:
    title = f"<caption>{escape(caption)}</caption>"
    columns = "".join(f'<colgroup span="{span}"></colgroup>' for span in groups)
    head = "".join(f"<tr>{row}</tr>" for row in header)
    return f"<table>{title}{columns}\n<thead>{head}</thead>\n<tbody>{rows}</tbody></table>"


def _html_row(row: Sequence[str]) -> str:
    name, *cells = map(escape, row)
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>\n'


def _markdown_row(row: Sequence[str]) -> str:
    return "| " + " | ".join(map(_markdown, row)) + " |"


def _markdown(text: str) -> str:
    for sign in r"\|*_<":
        text = text.replace(sign, "\\" + sign)
    return text
