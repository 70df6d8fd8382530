"""Lines of a sweep over training examples or heads (Figures 4 and 5)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lofit_lens.analysis.figures.layouts import finished, panel_title
from lofit_lens.analysis.study.record import ZERO_SHOT
from lofit_lens.errors import LofitLensError
from lofit_lens.plotting import COLOURS, NEUTRAL

Axis = Literal["examples", "percent"]

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")
_WORDS = {
    "examples": ("training examples", "Accuracy by number of training examples"),
    "percent": ("heads, % of all", "Accuracy by share of the heads"),
}
_COLUMNS = 3
_PANEL, _MARGIN, _TOP, _BOTTOM, _ENTRY = 300, 70, 100, 90, 110


def sweep_lines(
    frame: pd.DataFrame, *, x: Axis, series: str = "method", title: str | None = None
) -> go.Figure:
    """Lines of scores, one panel per task.

    Draws `Sweep.plot()`, `published.figure_4()` with x="examples", and `published.figure_5()` with
    x="percent" and series="model".

    Args:
        frame: Columns `task`, that of `x`, that of `series`, and `value` in percent; where there are
            any, `metric`, and `low`, `high` (drawn as bands) and `floor` (a dotted line) in percent.
        x: What is swept; on a logarithmic axis.
        series: The column with a line for each of its values. "zero-shot" is a dashed line.
        title: The title; default one for `x`.

    Raises:
        LofitLensError: The frame is empty.
    """
    if frame.empty:
        raise LofitLensError("There is nothing to draw: the frame of the sweep is empty.")
    panels = list(frame.groupby("task", sort=False))
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    names = [name for name in frame[series].unique() if name != ZERO_SHOT]
    width = 400 * columns + _MARGIN
    bottom = _BOTTOM + 20 * ((len(names) + 1) * _ENTRY // width)
    height = _PANEL * rows + _TOP + bottom
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[panel_title(task, panel) for task, panel in panels],
        horizontal_spacing=0.18 / columns if columns > 1 else 0.0,
        vertical_spacing=0.28 / rows if rows > 1 else 0.0,
    )
    looks = {name: (COLOURS[i % 6], SYMBOLS[i % 7]) for i, name in enumerate(names)}
    figure.update_annotations(font={"size": 13})
    named: dict[object, go.Scatter] = {}
    for place, (_, panel) in enumerate(panels):
        row, col = 1 + place // columns, 1 + place % columns
        traces = _references(panel, x, series)
        for name, (colour, symbol) in looks.items():
            traces += _line(panel[panel[series] == name], x, str(name), colour, symbol)
        for trace in traces:
            if trace.showlegend is None:
                trace.showlegend = named.setdefault(trace.name, trace) is trace
        figure.add_traces(traces, rows=row, cols=col)
        ticks = np.sort(panel[x].unique())
        texts = [f"{round(tick, 1):g}" for tick in ticks]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=texts, row=row, col=col)
    words, heading = _WORDS[x]
    figure.update_xaxes(title={"text": words, "standoff": 8}, minor={"ticks": ""})
    figure.update_yaxes(title={"text": "%", "standoff": 4}, col=1)
    banded = "low" in frame and frame["low"].notna().any()
    return finished(
        figure,
        title or heading,
        "bands: 95% intervals" if banded else "",
        width=width,
        height=height,
        margin={"t": _TOP, "b": bottom, "l": _MARGIN, "r": 24},
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )


def _line(line: pd.DataFrame, x: str, name: str, colour: str, symbol: str) -> list[go.Scatter]:
    """The band of a series, if it has intervals, and its line."""
    if line.empty:
        return []
    line = line.sort_values(x)
    places, shared = line[x].tolist(), {"legendgroup": name, "name": name}
    drawn = go.Scatter(
        x=places,
        y=line["value"].tolist(),
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"symbol": symbol, "size": 9},
        hovertext=[_hover(row, name) for row in line.to_dict("records")],
        hovertemplate="%{hovertext}<extra></extra>",
        **shared,
    )
    if "low" not in line or line["low"].isna().any():
        return [drawn]
    band = go.Scatter(
        x=[*places, *places[::-1]],
        y=[*line["high"], *line["low"][::-1]],
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        **shared,
    )
    return [band, drawn]


def _references(panel: pd.DataFrame, x: str, series: str) -> list[go.Scatter]:
    """The model as it is, and what needs no ability, from end to end."""
    levels = {}
    zero_shot = panel[panel[series] == ZERO_SHOT]
    if not zero_shot.empty:
        levels[ZERO_SHOT] = zero_shot["value"].iloc[0], "dash"
    if "floor" in panel and panel["floor"].notna().any():
        levels["floor"] = panel["floor"].max(), "dot"
    ends = [panel[x].min(), panel[x].max()]
    return [
        go.Scatter(
            x=ends,
            y=[level, level],
            mode="lines",
            line={"color": NEUTRAL, "dash": dash, "width": 1.5},
            hovertemplate=f"{name} {level:.1f}<extra></extra>",
            name=name,
            legendgroup=name,
            legendrank=1001,
        )
        for name, (level, dash) in levels.items()
    ]


def _hover(row: dict[Hashable, Any], name: str) -> str:
    lines = [f"{name} on {row['task']}", f"{row.get('metric', 'value')} {row['value']:.1f}"]
    if not np.isnan(row.get("low", np.nan)):
        lines[1] += f" [{row['low']:.1f}, {row['high']:.1f}]"
    if not np.isnan(row.get("percent", np.nan)):
        heads = f"{row['percent']:.3g}% of the heads"
        lines.append(heads + (f" ({row['heads']:g})" if "heads" in row else ""))
    if "examples" in row:
        lines.append(f"{row['examples']:g} training examples")
    if "n" in row:
        lines.append(f"n = {row['n']}, seeds = {row['seeds']}")
    return "<br>".join(lines)
