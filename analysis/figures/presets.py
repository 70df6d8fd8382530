"""Figures at the size and in the type of a printed page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from lofit_lens.analysis.figures.fitting import (
    EDGE,
    FULL,
    lack_of_width,
    margins,
    plot_width,
    slant_names,
    thin_ticks,
    wrap_titles,
)
from lofit_lens.analysis.figures.layouts import plain_text
from lofit_lens.errors import LofitLensError
from lofit_lens.plotting import TEMPLATE

WIDTHS: Mapping[str, float] = {"column": 3.25, "text": 5.5, "wide": 6.75}
"""In inches: one of two columns, the text of a one-column page, and both columns."""

PER_INCH = 96
"""Pixels of plotly, which makes 72 points of them in PDF."""

POINT = PER_INCH / 72
SMALL, LARGE = 8 * POINT, 9 * POINT
"""Type of ticks, legends and cells; of axis titles and the titles of panels."""

SCREEN = 700, 450
"""Plotly's own width and height of a figure that names none."""

MARGIN = {"t": 100, "b": 80}
"""Plotly's own above and below."""

THIN, DENSE, LOW = 0.7, 0.8, 0.65
"""What is left of the width of lines, of marks and gaps, and of heights at the least."""

TITLE = 1.6
"""Height of a line of a title, in its type."""


def for_paper(figure: go.Figure, width: str | float = "text", *, title: bool = False) -> go.Figure:
    """A copy of a figure at its size in print, in type of 8 to 9 points.

    Buttons are left out: what they last showed is what stays. The height follows from the
    figure's own.

    Args:
        figure: The figure.
        width: "column" (3.25 in), "text" (5.5 in), "wide" (6.75 in), or inches. Exported as PDF
            the page has these inches.
        title: Keep title and subtitle; a paper has them in its caption, see `caption_of`.

    Raises:
        LofitLensError: There is no such width, or it is too little for the panels of the figure or
            for the texts in its cells.
    """
    pixels = PER_INCH * inches(width)
    traces: Any = figure.data
    spec = {"data": [trace.to_plotly_json() for trace in traces]}
    copy = go.Figure(_in_print({**spec, "layout": figure.layout.to_plotly_json()}))
    copy.update_layout(template=TEMPLATE, font={"size": SMALL})
    copy.layout.updatemenus = copy.layout.sliders = ()
    for update in (copy.update_xaxes, copy.update_yaxes):
        update(title={"font": {"size": LARGE}, "standoff": EDGE})
    wide, high = _plot_size(figure)
    height = high * min(1.0, max(LOW, pixels / wide))
    plots = plot_width(copy, pixels)
    wrap_titles(copy, plots)
    slant_names(copy, plots)
    room = margins(copy, plots, height)
    lack = lack_of_width(copy, plots)
    if lack > FULL:
        raise LofitLensError(
            f"At {pixels / PER_INCH:.3g} inches, the panels of this figure or the texts in its cells do not "
            f"fit. It needs about {(pixels - plots + plots * lack) / PER_INCH:.2g} inches."
        )
    thin_ticks(copy, plots, height)
    if title:
        room["t"] += _keep_title(copy)
    else:
        copy.update_layout(title=None)
    height = round(height + room["t"] + room["b"])
    return copy.update_layout(width=pixels, height=height, margin={**room, "pad": 0})


def _keep_title(figure: go.Figure) -> float:
    """Put the title at the upper left; returns the height of its lines."""
    at = {"x": 0, "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"}
    figure.update_layout(title={**at, "pad": {"t": EDGE, "l": EDGE}})
    title: Any = figure.layout["title"]
    lines = [text.count("<br>") + 1 for text in (title.text, title.subtitle.text) if text]
    return TITLE * LARGE * (sum(lines) + 0.5)


def caption_of(figure: go.Figure) -> str:
    """Title and subtitle in one paragraph, to be pasted below what `for_paper` prints without them."""
    title: Any = figure.layout["title"]
    texts = [plain_text(text) for text in (title.text, title.subtitle.text) if text]
    return " ".join(f"{text.rstrip('.')}." for text in texts if text)


def inches(width: str | float) -> float:
    """A width by its name, or a number of inches, also as text.

    Raises:
        LofitLensError: It is neither, or less than an inch.
    """
    try:
        found = float(WIDTHS.get(str(width), width))
    except ValueError:
        found = math.nan
    if not 1 <= found < math.inf:
        raise LofitLensError(
            f"A width is {', '.join(WIDTHS)} or a number of inches from 1 on; got {width!r}."
        )
    return found


def _plot_size(figure: go.Figure) -> tuple[float, float]:
    """Width of the figure, and height of it without its margins, in pixels on the screen."""
    layout: Any = figure.layout
    width, height = layout.width or SCREEN[0], layout.height or SCREEN[1]
    above, below = (
        MARGIN[side] if layout.margin[side] is None else layout.margin[side] for side in "tb"
    )
    return float(width), float(height - above - below)


def _in_print(value: Any, name: str = "", parent: str = "") -> Any:
    """A part of a figure with smaller type, thinner lines and smaller marks."""
    if isinstance(value, Mapping):
        smaller = {
            key: _in_print(part, key, name) for key, part in value.items() if key != "template"
        }
        return smaller | ({"thickness": LARGE} if name == "colorbar" else {})
    if isinstance(value, (list, tuple)) and any(isinstance(part, Mapping) for part in value):
        return [_in_print(part, name, parent) for part in value]
    if not isinstance(value, (int, float)):
        return value
    if name == "size" and parent.endswith("font"):
        return min(LARGE, max(SMALL, DENSE * value))
    if name in ("width", "thickness") and (parent == "line" or parent.startswith("error")):
        return THIN * value
    if (parent, name) == ("marker", "size") or name in ("xshift", "yshift", "xgap", "ygap"):
        return DENSE * value
    return value
