"""A section of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.reporting.markup import paragraph
from lofit_lens.analysis.reporting.plots import Plot
from lofit_lens.analysis.study.paired import DIFFERENCE

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_SHARES = ("value", "low", "high", "relative", *DIFFERENCE)


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page under a heading of its own.

    Attributes:
        name: Its id.
        title: Its heading.
        body: HTML, with a place for each plot.
        plots: What the page's script draws in those places.
        shows: How the names of the figures begin that it shows; others are further figures.
    """

    name: str
    title: str
    body: str
    plots: tuple[Plot, ...] = ()
    shows: tuple[str, ...] = ()


def plotted(
    name: str,
    title: str,
    figures: Mapping[str, tuple[go.Figure, pd.DataFrame]],
    *,
    note: str = "",
    shows: tuple[str, ...] = (),
) -> Iterator[Section]:
    """A section with each figure under a heading, if there are figures.

    Args:
        name: Its id, and how those of the plots begin.
        title: Its heading.
        figures: The figures and the numbers in them, by the heading of each.
        note: What stands above them.
        shows: As in `Section`.
    """
    plots = tuple(Plot(f"{name}-{n}", *pair) for n, pair in enumerate(figures.values(), start=1))
    parts = [paragraph(note)] if note else []
    for label, one in zip(figures, plots, strict=True):
        parts.append(f"<h3>{escape(label)}</h3>{one.html()}")
    if plots:
        yield Section(name, title, "\n".join(parts), plots, shows)


def in_percent(results: Mapping[str, Any]) -> dict[str, tuple[go.Figure, pd.DataFrame]]:
    """The figure of each result and its table, shares as percentages."""
    return {name: (one.plot(), percent(one.frame())) for name, one in results.items()}


def percent(frame: pd.DataFrame) -> pd.DataFrame:
    """With shares as percentages."""
    shares = [name for name in _SHARES if name in frame]
    return frame.assign(**{name: (100 * frame[name]).round(1) for name in shares})
