"""The demo in the table of kinds: a table, and a matrix for each share of heads."""

from __future__ import annotations

from pathlib import Path

from lofit_lens.analysis.kinds.demo import KIND, part_of
from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.analysis.kinds.transfer_row import own_heads
from lofit_lens.analysis.reading.folders import scores_in, settings_in, stage, task_and_seed
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.run_tables import tables_section
from lofit_lens.analysis.study.earlier import earlier_demo
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.store import EDITS, RECORDS, read_records
from lofit_lens.edits.on_heads import HeadIntervention


def _read(folder: Path, marker: Marker) -> Study:
    import pandas as pd

    earlier = earlier_demo(folder)
    parts = earlier[1] if earlier else _parts(folder)
    matrices = {f"{100 * f:g}% of heads": TransferMatrix.of(parts[f]) for f in sorted(parts)}
    last = list(matrices.values())[-1]
    edits = _earlier_edits(folder) if earlier else _edits(folder, last)
    name = folder.resolve().name
    stages = {task: stage(edit.provenance) for task, edit in edits.items()}
    return Study(
        folder,
        {"transfer matrices": matrices},
        scores=scores_in(folder, last.tasks),
        chosen=own_heads(last),
        edits=edits,
        tables={name: pd.DataFrame(marker["table"])} if "table" in marker else {},
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


DEMO = Row("`demo`", _read, KIND, sections=tables_section)
