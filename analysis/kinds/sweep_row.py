"""Sweeps in the table of kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lofit_lens.analysis.figures.drawing import Drawings, named
from lofit_lens.analysis.kinds.sweep import KIND, Sweep
from lofit_lens.analysis.reading.folders import told_of
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.section import Section, percent, plotted

_FIGURES = {"figure4": "examples", "figure5": "heads"}


def _read(folder: Path, marker: Marker) -> Study:
    found, name = Sweep.load(folder), folder.resolve().name
    records = [run for comparison in found.comparisons.values() for run in comparison.runs]
    told = {"kind": f"sweep over {found.swept}", "command_line": marker.get("command_line")}
    return Study(folder, {"sweeps": {name: found}}, provenance={name: told | told_of(records)})


def _drawings(study: Study) -> Drawings:
    """Figures 4 and 5."""
    return {
        name: draw
        for figure, swept in _FIGURES.items()
        for name, draw in named(
            figure, {run: s.plot for run, s in study.sweeps.items() if s.swept == swept}
        ).items()
    }


def _sections(study: Study) -> Iterator[Section]:
    return plotted(
        "sweeps",
        "Figures 4 and 5: how many examples, how many heads",
        {name: (s.plot(), percent(s.frame())) for name, s in study.sweeps.items()},
        plot="sweep",
        shows=tuple(_FIGURES),
    )


SWEEP = Row("a sweep", _read, KIND, drawings=_drawings, sections=_sections)
