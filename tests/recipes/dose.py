"""A kind of experiment, dose-response: an edit scored at several strengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from lofit_lens.analysis.figures.drawing import Drawings
from lofit_lens.analysis.methods.steps import Fit
from lofit_lens.analysis.reading.folders import told_of
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.section import Section, percent, plotted
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.experiment_folder import Kind, read_records
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.run import run_cells
from lofit_lens.analysis.study.step import Step
from lofit_lens.analysis.study.store import Store
from lofit_lens.edits.files import hash_of
from lofit_lens.edits.hooked import LinearEdit
from lofit_lens.grid import HeadGrid
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

KIND = Kind("dose-response", "dose.json")


@dataclass(frozen=True)
class Dose:
    """An edit at a strength.

    Attributes:
        edit: The edit.
        strength: What it is multiplied by.
    """

    edit: LinearEdit
    strength: float
    leaky = False

    def told(self) -> Mapping[str, Any]:
        """Which edit, and the strength."""
        return {"edit": hash_of(self.edit), "strength": self.strength}

    def depends(self) -> Any:
        """The same."""
        return self.told()

    def step(self, heads: HeadGrid, task: Task, seed: int, draw: int) -> Step[Fitted]:  # noqa: ARG002
        """Multiplying it."""
        return Fit(task, self, seed)

    def fit(self, bench: Bench, task: Task, seed: int, *given: Any) -> Fitted:  # noqa: ARG002
        """Multiply it."""
        return Fitted(self.strength * self.edit)


def dose_response(
    model: TransformerBridge,
    task: Task,
    edit: LinearEdit,
    strengths: Sequence[float] = (0.5, 1.0, 2.0),
    *,
    out: str | Path | Store | None = None,
    **how: Any,
) -> DoseResponse:
    """Score an edit at several strengths, and the model as it is, which is strength 0."""
    store = Store.at(out, KIND)
    cells = [Cell.zero_shot(task, 0)]
    for s in strengths:
        cells.append(Cell("edit", task, Dose(edit, s), 0, cut={"strength": s}, must_act=False))
    records = run_cells(Bench.of(model, ()), cells, store, what="dose-response", **how)
    store.finish(records)
    return DoseResponse(records)


@dataclass(frozen=True)
class DoseResponse:
    """The score at each strength.

    Attributes:
        records: What each strength gave.
    """

    records: Sequence[Record]

    def frame(self) -> pd.DataFrame:
        """Columns `strength` and `value`."""
        return pd.DataFrame(
            {"strength": r.cut.get("strength", 0.0), "value": r.evaluation.main.value}
            for r in self.records
        )

    def plot(self) -> go.Figure:
        """The score over the strength."""
        frame = self.frame()
        return go.Figure(
            go.Scatter(x=frame["strength"], y=frame["value"]), {"title": {"text": "Dose"}}
        )


def _read(folder: Path, marker: Marker) -> Study:
    _, records = read_records(folder, KIND)
    results = {"dose responses": {folder.name: DoseResponse(records)}}
    return Study(folder, results, provenance={folder.name: {"kind": KIND.name, **told_of(records)}})


def _drawings(study: Study) -> Drawings:
    return {f"dose-{name}": dose.plot for name, dose in study.of("dose responses").items()}


def _sections(study: Study) -> Iterator[Section]:
    found = study.of("dose responses").items()
    figures = {name: (dose.plot(), percent(dose.frame())) for name, dose in found}
    return plotted("dose", "Dose and response", figures, shows=("dose",))


def _sentences(study: Study) -> Iterator[str]:
    for dose in study.of("dose responses").values():
        best = dose.frame().sort_values("value").iloc[-1]
        yield f"The best strength is {best['strength']:g}."


def _items(study: Study) -> dict[str, int]:
    found = [dose.records[0] for dose in study.of("dose responses").values()]
    return {record.task: len(record.evaluation.records) for record in found}


DOSE = Row(
    "`dose_response`", _read, KIND,
    drawings=_drawings, sections=_sections, sentences=_sentences, items=_items,
)  # fmt: skip
