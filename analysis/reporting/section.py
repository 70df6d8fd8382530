"""A section of the page."""

from __future__ import annotations

from dataclasses import dataclass

from lofit_lens.analysis.reporting.plots import Plot


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page under a heading of its own.

    Attributes:
        name: Its id.
        title: Its heading.
        body: HTML, with a place for each plot.
        plots: What the page's script draws in those places.
    """

    name: str
    title: str
    body: str
    plots: tuple[Plot, ...] = ()
