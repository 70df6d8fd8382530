"""The demo in the table of kinds: a table, and a matrix for each share of heads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from lofit_lens.analysis.kinds.demo import KIND, part_of
from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.analysis.kinds.transfer_row import own_heads
from lofit_lens.analysis.reading.folders import scores_in, settings_in, stage, task_and_seed
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.markup import details, paragraph, table
from lofit_lens.analysis.reporting.section import Section, percent
from lofit_lens.analysis.study.earlier import earlier_demo
from lofit_lens.analysis.study.experiment_folder import EDITS, RECORDS, read_records
from lofit_lens.analysis.study.paired import mark
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.tables.cells import interval
from lofit_lens.documents import typed
from lofit_lens.edits.on_heads import HeadIntervention

if TYPE_CHECKING:
    import pandas as pd

SCORES = "Scores in %, with 95% intervals."
MARKED = "* p < 0.05, + p < 0.1: LoFiT on the heads chosen for the task is better, Holm-corrected."


class _Line(TypedDict):
    """A row of the table in a marker."""

    task: str
    method: str
    metric: str
    value: float | None
    heads: NotRequired[float | None]
    low: NotRequired[float | None]
    high: NotRequired[float | None]
    difference: NotRequired[float | None]
    p_holm: NotRequired[float | None]


def _read(folder: Path, marker: Marker) -> Study:
    import pandas as pd

    earlier = earlier_demo(folder)
    parts = earlier[1] if earlier else _parts(folder)
    matrices = {f"{100 * f:g}% of heads": TransferMatrix.of(parts[f]) for f in sorted(parts)}
    last = list(matrices.values())[-1]
    edits = _earlier_edits(folder) if earlier else _edits(folder, last)
    name, rows = folder.resolve().name, marker.get("table")
    typed(rows, list[_Line] | None)
    stages = {task: stage(edit.provenance) for task, edit in edits.items()}
    return Study(
        folder,
        {"transfer matrices": matrices},
        scores=scores_in(folder, last.tasks),
        chosen=own_heads(last),
        edits=edits,
        tables={name: pd.DataFrame(rows)} if rows else {},
        provenance={name: {"kind": KIND.name, "stages": stages, **settings_in(marker)}},
    )


def _parts(folder: Path) -> dict[float, list[Record]]:
    """The records of each matrix of a demo."""
    _, records = read_records(folder, KIND)
    return {f: part_of(records, f) for f in {r.cut["fraction"] for r in records if r.cut}}


def _edits(folder: Path, matrix: TransferMatrix) -> dict[str, HeadIntervention]:
    """The edit of each task on its own heads, with the first seed."""
    own = [run for run in matrix.runs if run.source == run.fold and run.seed == matrix.seeds[0]]
    places = {run.fold: folder / EDITS / run.name for run in own}
    return {task: HeadIntervention.load(path) for task, path in places.items() if path.is_dir()}


def _earlier_edits(folder: Path) -> dict[str, HeadIntervention]:
    """The same of earlier versions."""
    paths = sorted((folder / RECORDS / EDITS).iterdir())
    saved = {path: HeadIntervention.load(path) for path in paths}
    return {task_and_seed(edit.provenance, path)[0]: edit for path, edit in saved.items()}


def _sections(study: Study) -> Iterator[Section]:
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
    lines = [{"method": m, "heads": heads, **cells} for (m, heads), cells in rows.items()]
    found = pd.DataFrame(lines).fillna("")
    return found if found["heads"].any() else found.drop(columns="heads")


DEMO = Row("`demo`", _read, KIND, sections=_sections)
