"""Necessity and sufficiency of heads over their number, against random heads."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb
from plotly.subplots import make_subplots

from lofit_lens.analysis.figures.layouts import compared, finished, measured
from lofit_lens.analysis.kinds.curves import CHOSEN, MARKS, RANDOM
from lofit_lens.plotting import COLOURS, NEUTRAL, elided

_LOOKS = {
    CHOSEN: {"colour": COLOURS[0], "dash": "solid", "symbol": "circle"},
    RANDOM: {"colour": COLOURS[1], "dash": "dash", "symbol": "square-open"},
}


def causal_figure(
    frame: pd.DataFrame,
    references: Mapping[str, float],
    meanings: Mapping[str, str],
    *,
    task: str,
) -> go.Figure:
    """A panel for each curve of `CausalCurves.frame`: chosen and random heads with their 95% bands.

    Args:
        frame: As `CausalCurves.frame` gives it.
        references: Scores of the whole model, by name; drawn as horizontal lines.
        meanings: What each curve does to the heads, by its name.
        task: Name of the task, for the title.
    """
    told = {curve: wrap(what, 34) for curve, what in meanings.items()}
    above = 105 + 16 * max(map(len, told.values()))
    figure = make_subplots(
        cols=len(meanings),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[
            "<br>".join([f"<b>{curve.capitalize()}</b>", *lines]) for curve, lines in told.items()
        ],
    )
    figure.update_annotations(font={"size": 12})
    for col, curve in enumerate(meanings, start=1):
        for heads in _LOOKS:
            line = frame[(frame["curve"] == curve) & (frame["heads"] == heads)]
            for trace in _line(line, heads, legend=col == 1):
                figure.add_trace(trace, row=1, col=col)
    _draw_references(figure, references)
    ks = frame["k"].drop_duplicates().astype(str).tolist()
    figure.update_xaxes(type="category", categoryarray=ks, title="K heads")
    figure.update_yaxes(title=f"{frame['metric'].iloc[0]}, %", col=1)
    return finished(
        figure,
        f"Heads and their effect on {elided([task], 48)[task]}",
        f"lines: mean; bands: 95%; {MARKS}",
        width=900,
        height=318 + above,
        margin={"t": above, "r": 96, "b": 84, "l": 70},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.19, "yanchor": "top"},
    )


def _line(points: pd.DataFrame, heads: str, *, legend: bool) -> list[go.Scatter]:
    """The band of one kind of heads, and its line with marks."""
    look, ks = _LOOKS[heads], points["k"].astype(str).tolist()
    low, high = (100 * points[name].to_numpy() for name in ("low", "high"))
    rgb = ", ".join(map(str, hex_to_rgb(look["colour"])))
    band = {"mode": "lines", "line": {"width": 0}, "legendgroup": heads}
    band |= {"showlegend": False, "hoverinfo": "skip"}
    return [
        go.Scatter(x=ks, y=low, **band),
        go.Scatter(x=ks, y=high, fill="tonexty", fillcolor=f"rgba({rgb}, 0.18)", **band),
        go.Scatter(
            x=ks,
            y=100 * points["value"].to_numpy(),
            name=heads,
            legendgroup=heads,
            showlegend=legend,
            mode="lines+markers+text",
            text=points["mark"].tolist(),
            textposition="top center",
            textfont={"size": 22, "color": look["colour"]},
            line={"color": look["colour"], "dash": look["dash"], "width": 2},
            marker={"symbol": look["symbol"], "size": 8},
            hovertext=[_hover(row) for row in points.to_dict("records")],
            hovertemplate="%{hovertext}<extra></extra>",
        ),
    ]


def _draw_references(figure: go.Figure, references: Mapping[str, float]) -> None:
    """Horizontal lines through both panels, named at the right; the lower one from below."""
    for name, value in references.items():
        figure.add_hline(y=100 * value, line={"color": NEUTRAL, "dash": "dot", "width": 1.5})
        lowest = len(references) > 1 and value == min(references.values())
        at = {"x": 1.01, "xref": "paper", "xanchor": "left", "y": 100 * value, "yref": "y"}
        at["yanchor"] = "top" if lowest else "bottom"
        text = f"{name} {100 * value:.1f}"
        figure.add_annotation(text=text, **at, showarrow=False, font={"size": 12})


def _hover(row: Mapping[Hashable, Any]) -> str:
    lines = [f"{row['heads']} heads, K = {row['k']}", f"{row['metric']} {measured(row)}"]
    lines.append(f"n = {row['n']}, draws = {row['draws']}")
    tested = [] if np.isnan(row["p"]) else compared(row, "random heads")
    return "<br>".join([*lines, *tested])
