"""Heat maps of cross-task head transfer (Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lofit_lens.analysis.figures.layouts import outline
from lofit_lens.analysis.figures.transfer_cells import cell_text, completed
from lofit_lens.analysis.kinds.matrix import MARKS, ZERO_SHOT, in_order
from lofit_lens.plotting import NEUTRAL, TEMPLATE, elided, name_ticks

UNCORRECTED = "* p < 0.05, + p < 0.1: own heads are better; paired bootstrap, not corrected"
"""What the marks mean where there is no corrected p, as in the paper."""

DIVERGING = ((0.0, "#f4a582"), (0.5, "#f7f7f7"), (1.0, "#92c5de"))
SEQUENTIAL = ((0.0, "#f7fbff"), (0.5, "#c6dbef"), (1.0, "#7fb8da"))
"""The pale parts of RdBu and Blues: the number is legible on every cell, in both themes."""

LETTER, LINE, ROW, BETWEEN, TOP = 8, 17, 46, 84, 99
"""In pixels: a letter, a line of the caption, a row of cells, between rows of facets, and the room
for title and buttons."""

PAGE = 690
"""Width of a column of text on a screen, which cells and caption keep to if they can."""


@dataclass(frozen=True)
class _View:
    """One of the two faces of the figure: the column it shows, and how it is told of a metric."""

    column: str
    button: str
    title: str
    unit: str
    bar: str
    axis: str


RELATIVE = _View(
    "relative",
    "relative",
    "Cross-task head transfer, relative to own heads",
    "{} in % of that with the task's own heads (outlined).",
    "% of own heads",
    "coloraxis",
)
ABSOLUTE = _View(
    "value",
    "score",
    "Cross-task head transfer, {}",
    "{} in %; outlined: the task's own heads.",
    "{}, %",
    "coloraxis2",
)
VIEWS = (RELATIVE, ABSOLUTE)


def transfer_heatmap(cells: pd.DataFrame, *, relative: bool = True) -> go.Figure:
    """Heat map of scores by source of the heads (rows) and task tuned and tested on (columns).

    Two buttons switch between scores relative to the task's own heads, and the scores. Several
    models are drawn as facets, so that own results and the paper's can stand side by side:
    concatenate their frames, each with a column `model`.

    Args:
        cells: One row per cell, as from `TransferMatrix.frame(zero_shot=True)`, or from
            `published.figure_2()` with values divided by 100. Columns `source` (a task, "random",
            or "zero-shot", which only the scores show), `task` and `value` (0 to 1; NaN and
            missing cells are shown as n/a). May be left out: `model`, `mark` (behind the number),
            `relative` (otherwise from the task's own heads), and for the hover texts `metric`,
            `low`, `high`, `n`, `seeds`, `difference`, `difference_low`, `difference_high`, `p` and
            `p_holm`.
        relative: Which of the two is shown first.

    Raises:
        LofitLensError: There are no cells, a needed column is missing, a cell comes twice, or a
            value is not between 0 and 1.
    """
    cells = completed(cells)
    facets = [facet for _, facet in cells.groupby("model", sort=False)]
    figure, places = _panels(facets)
    for facet, (row, col) in zip(facets, places, strict=True):
        for view in VIEWS:
            figure.add_trace(_heat(facet, view), row=row, col=col)
        for place, source in enumerate(_rows(facet, RELATIVE)):
            if source in _tasks(facet):
                own = outline(_tasks(facet).index(source), place, NEUTRAL, 3)
                figure.add_shape(own, row=row, col=col)
    figure.update_layout(_colours(cells))
    return _switched(figure, cells, RELATIVE if relative else ABSOLUTE)


def _tasks(facet: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(facet["task"]))


def _rows(facet: pd.DataFrame, view: _View) -> list[str]:
    rows = in_order(facet["source"], _tasks(facet))
    return [row for row in rows if view is ABSOLUTE or row != ZERO_SHOT]


def _panels(facets: Sequence[pd.DataFrame]) -> tuple[go.Figure, list[tuple[int, int]]]:
    """Empty panels at their size, and the row and column of each; at most three a row."""
    n_cols = 2 if len(facets) == 4 else min(3, len(facets))
    n_rows = -(-len(facets) // n_cols)
    places = [(place // n_cols + 1, place % n_cols + 1) for place in range(len(facets))]
    sources = [_rows(facet, ABSOLUTE) for facet in facets]
    same = all(rows == sources[0] for rows in sources)
    across = [name_ticks(_tasks(facet)) for facet in facets]
    down = list(map(name_ticks, sources))
    label, beside = (
        max(len(text) for axis in axes for text in axis["ticktext"]) for axes in (across, down)
    )
    names = 20 + LETTER * beside
    gap = 24 if same else 24 + names
    n_cells = n_cols * max(len(_tasks(facet)) for facet in facets)
    left, right = 40 + names, 110
    room = (PAGE - left - right - (n_cols - 1) * gap) // n_cells
    cell = max(76, min(150, 12 + LETTER * label, room))
    slanted = LETTER * label // 2 if LETTER * label > cell else 0
    below, between = 80 + slanted, BETWEEN + slanted
    width = n_cells * cell + (n_cols - 1) * gap
    height = n_rows * ROW * max(map(len, sources)) + (n_rows - 1) * between
    titles = list(elided([facet["model"].iloc[0] for facet in facets]).values())
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        specs=[
            [{} if (row, col) in places else None for col in range(1, n_cols + 1)]
            for row in range(1, n_rows + 1)
        ],
        subplot_titles=[f"<b>{title}</b>" for title in titles] if any(titles) else None,
        horizontal_spacing=gap / width if n_cols > 1 else 0.0,
        vertical_spacing=between / height if n_rows > 1 else 0.0,
    )
    for (row, col), below_it, beside_it in zip(places, across, down, strict=True):
        tuned_on = "" if (row + 1, col) in places else "tuned and tested on"
        heads_from = "heads from" if col == 1 else ""
        figure.update_xaxes(title=tuned_on, **below_it, row=row, col=col)
        figure.update_yaxes(title=heads_from, **beside_it, row=row, col=col)
        figure.update_yaxes(showticklabels=col == 1 or not same, row=row, col=col)
    figure.update_annotations(font={"size": 14})
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed", ticklabelstandoff=6)
    top = TOP + (24 if any(titles) else 0)
    figure.update_layout(
        template=TEMPLATE,
        margin={"l": left, "r": right, "t": top, "b": below},
        width=max(520, left + width + right),
        height=top + height + below,
    )
    return figure, places


def _heat(facet: pd.DataFrame, view: _View) -> go.Heatmap:
    rows, columns = _rows(facet, view), _tasks(facet)
    grid = facet.set_index(["source", "task"]).loc[list(product(rows, columns))]
    percent = 100 * grid[view.column].to_numpy(dtype=float)
    shape = len(rows), len(columns)
    return go.Heatmap(
        name=view.button,
        x=columns,
        y=rows,
        z=percent.reshape(shape),
        text=np.reshape(list(map(cell_text, percent, grid["mark"])), shape),
        texttemplate="%{text}",
        textfont={"size": 14},
        hovertext=np.reshape(grid["hover"].tolist(), shape),
        hovertemplate="%{hovertext}<extra></extra>",
        coloraxis=view.axis,
        xgap=2,
        ygap=2,
    )


def _colours(cells: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The colour axes of both views, shared by all facets."""
    chosen = cells[cells["source"] != ZERO_SHOT]
    reach = np.nanmax(abs(100 * chosen["relative"].to_numpy(dtype=float) - 100), initial=10.0)
    scales = {
        RELATIVE: {"colorscale": DIVERGING, "cmid": 100, "cmin": 100 - reach, "cmax": 100 + reach},
        ABSOLUTE: {"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 100},
    }
    for view, scale in scales.items():
        title = {"text": view.bar.format(_metrics(cells)), "side": "right"}
        scale["colorbar"] = {"thickness": 16, "title": title}
    return {view.axis: scale for view, scale in scales.items()}


def _switched(figure: go.Figure, cells: pd.DataFrame, shown: _View) -> go.Figure:
    """The figure with titles and buttons, one view on."""
    layout: Any = figure.layout
    traces: Any = figure.data
    captions = {view: _caption(cells, view, layout.width) for view in VIEWS}
    room = LINE * max(map(len, captions.values()))
    plot, above = layout.height - layout.margin.t - layout.margin.b, layout.margin.t - TOP + 8
    height = layout.height + room
    faces, buttons = {}, []
    for view, lines in captions.items():
        faces[view] = {
            "title.text": view.title.format(_metrics(cells)),
            "title.subtitle.text": "<br>".join(lines),
            **{f"{other.axis}.showscale": other is view for other in VIEWS},
        }
        seen = {"visible": [trace.name == view.button for trace in traces]}
        buttons.append({"label": view.button, "method": "update", "args": [seen, faces[view]]})
    menu = {
        "type": "buttons",
        "direction": "right",
        "buttons": buttons,
        "active": VIEWS.index(shown),
        "font": {"color": NEUTRAL},  # the active button is light on a dark ground as well
        "x": 0,
        "xanchor": "left",
        "y": 1 + above / plot,
        "yanchor": "bottom",
    }
    for trace in traces:
        trace.visible = trace.name == shown.button
    figure.update_layout(
        title={"x": 0.02, "yref": "container", "y": 1 - 24 / height},
        margin={"t": layout.margin.t + room},
        height=height,
        updatemenus=[menu],
    )
    return figure.update_layout(faces[shown])


def _metrics(cells: pd.DataFrame) -> str:
    """The metric of the values, or all of them."""
    return " / ".join(dict.fromkeys(cells["metric"][cells["value"].notna()]))


def _caption(cells: pd.DataFrame, view: _View, width: int) -> list[str]:
    """The unit and what the marks mean, in lines that fit the width."""
    corrected = cells["model"][cells["p_holm"].notna()].unique()
    marked = cells["model"][cells["mark"] != ""].unique()
    uncorrected = [model for model in marked if model not in corrected]
    unit = view.unit.format(_metrics(cells)[:1].upper() + _metrics(cells)[1:])
    tests = ""
    if len(corrected):
        tests = f"{MARKS}; not corrected: {', '.join(uncorrected)}" if uncorrected else MARKS
    elif uncorrected:
        tests = UNCORRECTED
    return [
        line
        for text in (unit, tests)
        for line in wrap(text, int(min(width, PAGE) / 6.6), break_on_hyphens=False)
    ]
