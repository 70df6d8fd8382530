"""The tables of a comparison for a terminal, in Markdown and in HTML, and matrices of transfer as text.

LaTeX is in `latex`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

import pandas as pd

from lofit_lens.analysis.figures.transfer_cells import cell_text
from lofit_lens.analysis.tables.cells import Tables, TaskTable

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


def as_text(tables: Tables) -> str:
    """For a terminal, task by task."""
    lines = []
    for table in tables.tasks:
        grid = _grid(table)
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        lines.append(table.caption)
        for name, *cells in grid:
            padded = (f"{c:>{w}}" for c, w in zip(cells, widths[1:], strict=True))
            lines.append(f"  {name:<{widths[0]}}  {'  '.join(padded)}".rstrip())
        lines.append("")
    for line in tables.sentences.values():
        lines += textwrap.wrap(line, 100, subsequent_indent="  ")
    return "\n".join(lines)


def matrix_as_text(cells: pd.DataFrame, corner: str) -> str:
    """A matrix of transfer: rows are sources of heads, columns the tasks tuned and tested on."""
    tasks = list(dict.fromkeys(cells["task"]))
    wide = max(12, *(len(name) + 2 for name in (corner, *tasks, *cells["source"])))
    lines = [f"{corner:<{wide}}" + "".join(f"{task:>{wide}}" for task in tasks)]
    for source, rows in cells.groupby("source", sort=False):
        texts = map(cell_text, 100 * rows["value"], rows["mark"])
        lines.append(f"{source:<{wide}}" + "".join(f"{text:>{wide}}" for text in texts))
    return "\n".join(lines)


def as_markdown(tables: Tables) -> str:
    """In Markdown, task by task."""
    lines = []
    for table in tables.tasks:
        head, *rows = ("| " + " | ".join(map(_markdown, row)) + " |" for row in _grid(table))
        rule = "|---|" + "---:|" * (table.scores.shape[1] + table.details.shape[1])
        lines += [f"**{_markdown(table.caption)}**", "", head, rule, *rows, ""]
    return "\n".join([*lines, *(f"{_markdown(line)}\n" for line in tables.sentences.values())])


def as_html(tables: Tables) -> str:
    """In HTML: all tasks side by side, then each with its tests and costs.

    A part of a page that needs nothing else, in ASCII.
    """
    parts = [_overview(tables)] if len(tables.tasks) > 1 else []
    for table in tables.tasks:
        head, *rows = _grid(table)
        columns = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
        parts.append(_html_table(table.caption, [columns], "".join(map(_html_row, rows))))
    parts += [f"<p>{escape(line)}</p>" for line in tables.sentences.values()]
    page = "\n".join(['<div class="lofit-comparison">', _STYLE, *parts, "</div>"])
    return page.encode("ascii", "xmlcharrefreplace").decode() + "\n"


def _grid(table: TaskTable) -> list[list[str]]:
    """Header, a row per method, a row per floor."""
    whole = pd.concat([table.scores, table.details], axis=1)
    return [["method", *whole.columns], *map(list, whole.itertuples(name=None))]


def _overview(tables: Tables) -> str:
    names = "".join(f'<th scope="col" rowspan="2">{name}</th>' for name in ("method", "parameters"))
    tasks = "".join(
        f'<th scope="colgroup" colspan="{table.scores.shape[1]}">{escape(table.task)}</th>'
        for table in tables.tasks
    )
    titles = "".join(
        f'<th scope="col">{escape(str(title))}</th>'
        for table in tables.tasks
        for title in table.scores
    )
    spans = (1, 1, *(table.scores.shape[1] for table in tables.tasks))
    rows = "".join(map(_html_row, tables.overview()))
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


def _markdown(text: str) -> str:
    for sign in r"\|*_<":
        text = text.replace(sign, "\\" + sign)
    return text
