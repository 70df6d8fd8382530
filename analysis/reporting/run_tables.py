"""Tables of runs on the page, with one column per task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lofit_lens.analysis.reporting.markup import details, paragraph, table
from lofit_lens.analysis.reporting.section import Section, percent
from lofit_lens.analysis.study.paired import mark
from lofit_lens.analysis.tables.cells import interval

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.reading.study import Study

SCORES = "Scores in %, with 95% intervals."
MARKED = "* p < 0.05, + p < 0.1: LoFiT on the heads chosen for the task is better, Holm-corrected."


def tables_section(study: Study) -> Iterator[Section]:
    """The tables of a study, whichever kind made them."""
    parts = []
    for name, frame in study.tables.items():
        rows = "With tests, row by row" if "p_holm" in frame else "Row by row"
        whole = details(rows, table(percent(frame), name))
        note = f"{SCORES} {MARKED}" if "p_holm" in frame else SCORES
        parts += [table(by_task(frame), name), paragraph(note), whole]
    if parts:
        yield Section("scores", "Scores", "\n".join(parts))


def by_task(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of a run with one row per method and one column per task and metric."""
    import pandas as pd

    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in frame.to_dict("records"):
        heads = f"{row['heads']:.0f}" if row.get("heads", 0) > 0 else ""
        cell = f"{100 * row['value']:.1f}{interval(row)}"
        if row.get("difference", 0) > 0:
            cell += mark(row["p_holm"])
        rows.setdefault((row["method"], heads), {})[f"{row['task']}, {row['metric']}"] = cell
    columns = dict.fromkeys(column for cells in rows.values() for column in cells)
    lines = [
        {"method": method, "heads": heads} | {column: cells.get(column, "") for column in columns}
        for (method, heads), cells in rows.items()
    ]
    found = pd.DataFrame(lines)
    return found if found["heads"].any() else found.drop(columns="heads")
