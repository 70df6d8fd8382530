"""The sections of the page in their order, each made from a study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from lofit_lens.analysis.kinds.table import KINDS
from lofit_lens.analysis.reporting.markup import definitions
from lofit_lens.analysis.reporting.origins import (
    provenance_section,
    reproduce_section,
    summary_section,
)
from lofit_lens.analysis.reporting.plots import traces_frame
from lofit_lens.analysis.reporting.section import Section, plotted

if TYPE_CHECKING:
    from lofit_lens.analysis.reading.study import Study

LAST = ("further", "costs", "provenance", "reproduce")


def sections(study: Study) -> list[Section]:
    """The sections that a study has something for: the summary, those of each kind, the origins."""
    made = [summary_section(study)]
    made += [section for row in KINDS for section in row.sections(study)]
    shown = tuple(start for section in made for start in section.shows)
    made += [*_further(study, shown), *_seconds(study)]
    made += [provenance_section(study), reproduce_section(study)]
    found: dict[str, Section] = {}
    for part in made:
        there = found.setdefault(part.name, part)
        if there is not part:
            body, plots = f"{there.body}\n{part.body}", there.plots + part.plots
            found[part.name] = replace(there, body=body, plots=plots)
    return sorted(found.values(), key=lambda one: one.name in LAST and 1 + LAST.index(one.name))


def _further(study: Study, shown: tuple[str, ...]) -> Iterator[Section]:
    """The figures of a study that no other section shows."""
    names = [name for name in study.figure_names if not name.startswith(shown)]
    drawn = study.figures(names) if names else {}
    pairs = {name: (figure, traces_frame(figure)) for name, figure in drawn.items()}
    return plotted("further", "Further figures", pairs, plot="further")


def _seconds(study: Study) -> Iterator[Section]:
    """How long each run took."""
    seconds = {
        name: f"{told['seconds']:,.0f} seconds"
        for name, told in study.provenance.items()
        if told.get("seconds")
    }
    if seconds:
        yield Section("costs", "Costs", definitions(seconds))
