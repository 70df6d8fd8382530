"""Transfers of heads in the table of kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lofit_lens.analysis.figures.drawing import short
from lofit_lens.analysis.kinds.matrix import KIND, MARKS, RANDOM, TransferMatrix
from lofit_lens.analysis.reading.folders import scores_in, settings_in
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.section import in_percent, plotted
from lofit_lens.analysis.study.keys import plain
from lofit_lens.heads import HeadSet


def _read(folder: Path, marker: Marker) -> Study:
    matrix, name = TransferMatrix.load(folder), folder.resolve().name
    heads = matrix.runs[0].heads
    assert heads is not None
    return Study(
        folder,
        {"transfer matrices": {f"{len(heads)} of {heads.grid.total} heads": matrix}},
        scores=scores_in(folder, matrix.tasks),
        chosen=own_heads(matrix),
        provenance={name: {"kind": "transfer", **settings_in(marker)}},
    )


def own_heads(matrix: TransferMatrix) -> dict[str, dict[int, HeadSet]]:
    """The heads of each task by seed, from the runs that tuned them."""
    found: dict[str, dict[int, HeadSet]] = {}
    for run in matrix.runs:
        if run.source not in (None, RANDOM) and run.heads is not None:
            found.setdefault(run.source, {})[run.seed] = run.heads
    return found


def sentences(matrix: TransferMatrix) -> Iterator[str]:
    """In how many cells a task's own heads are significantly better."""
    cells = matrix.frame()
    others = cells[cells["source"] != cells["task"]]
    test = f"p < 0.05, Holm-corrected over {len(others)} cells"
    for what, part in (
        ("random heads", others[others["source"] == RANDOM]),
        ("the heads of another task", others[others["source"] != RANDOM]),
    ):
        if part.empty:
            continue
        better, n = int((part["mark"] == "*").sum()), len(part)
        start = f"a task's own heads score significantly higher than {what} in"
        if better == 0:
            yield f"{start} none of {n} cells ({test})."
        else:
            rest = "" if better == n else "; in the others no such difference was established"
            yield f"{start} {better} of {n} cells ({test}){rest}."


TRANSFER = Row(
    "`transfer`", _read, KIND,
    drawings=lambda study: {f"figure2-{plain(short(n))}": m.plot for n, m in study.matrices.items()},
    sections=lambda study: plotted(
        "transfer", "Figure 2: heads of one task on another", in_percent(study.matrices),
        note=f"Rows: where the heads come from; columns: the task tuned and tested on. {MARKS}.",
        shows=("figure2",),
    ),
    sentences=lambda study: (f"{n}: {s}" for n, m in study.matrices.items() for s in sentences(m)),
    seeds=lambda study: [matrix.seeds for matrix in study.matrices.values()],
    items=lambda study: {t: len(m.groups(t)) for m in study.matrices.values() for t in m.zero_shot},
)  # fmt: skip
