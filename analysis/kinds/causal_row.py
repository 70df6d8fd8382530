"""Causal curves in the table of kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lofit_lens.analysis.figures.drawing import Drawings
from lofit_lens.analysis.kinds.curves import KIND, CausalCurves
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study, joined
from lofit_lens.analysis.reporting.section import Section, percent, plotted
from lofit_lens.analysis.study.keys import plain

FILES = "causal*.json.gz"


def _read(folder: Path, marker: Marker) -> Study:  # noqa: ARG001
    found = [CausalCurves.load(path) for path in sorted(folder.glob(FILES))]
    return joined(folder, [Study(folder, {"causal curves": {c.task: c}}) for c in found])


def _drawings(study: Study) -> Drawings:
    return {f"causal-{plain(task)}": curves.plot for task, curves in study.curves.items()}


def _sections(study: Study) -> Iterator[Section]:
    """What a model without the chosen heads, or with them alone, can do."""
    return plotted(
        "causal",
        "Is the head set causal?",
        {task: (curves.plot(), percent(curves.frame())) for task, curves in study.curves.items()},
        plot="causal",
        shows=("causal",),
    )


CAUSAL = Row("causal curves", _read, KIND, (FILES,), drawings=_drawings, sections=_sections)
