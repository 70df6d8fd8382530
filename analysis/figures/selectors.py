"""Dots of bias tuning on heads chosen in several ways (Table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lofit_lens.analysis.figures.layouts import (
    compared,
    finished,
    interval_dots,
    measured,
    numbers_beside,
    panel_title,
)
from lofit_lens.plotting import COLOURS, NEUTRAL

_NAMES, _PANEL, _GAP, _ROW, _TOP, _BOTTOM = 140, 170, 62, 34, 118, 62


def selector_dots(frame: pd.DataFrame, *, title: str) -> go.Figure:
    """Scores with their intervals: a row per way to choose heads, a panel per task.

    Filled dots differ from LoFiT, whose score is the dashed line.

    Args:
        frame: As of `SelectorTable.frame`, LoFiT's rows last.
        title: The title.
    """
    panels = list(frame.groupby("task", sort=False))
    methods = frame["method"].unique().tolist()
    height = _ROW * len(methods) + _TOP + _BOTTOM
    width = (_PANEL + _GAP) * len(panels)
    figure = make_subplots(
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=_GAP / (width - _GAP),
        subplot_titles=[panel_title(task, panel) for task, panel in panels],
    )
    figure.update_annotations(font={"size": 13})
    for col, (_, panel) in enumerate(panels, start=1):
        figure.add_traces([_reference(panel), _dots(panel, methods[-1])], rows=1, cols=col)
        axis = "" if col == 1 else col
        at = {"x": 1.03, "xref": f"x{axis} domain", "yref": f"y{axis}"}
        numbers_beside(figure, panel, "value", ".1f", **at)
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=methods,
        range=[len(methods) - 0.5, -0.5],
        ticksuffix="  ",
    )
    figure.update_xaxes(title={"text": "%", "standoff": 6}, nticks=5)
    subtitle = f"dashed: {methods[-1]}"
    if frame["low"].notna().any():
        subtitle += (
            f"; whiskers: 95% intervals; filled: differs from {methods[-1]}, * p < 0.05, + p < 0.1,"
            f"<br>Holm-corrected over {frame['p'].notna().sum()} cells"
        )
    return finished(
        figure,
        title,
        subtitle,
        width=_NAMES + width,
        height=height,
        margin={"t": _TOP, "b": _BOTTOM, "l": _NAMES, "r": _GAP},
        showlegend=False,
    )


def _reference(panel: pd.DataFrame) -> go.Scatter:
    """LoFiT's score from the first row to the last."""
    methods = panel["method"].tolist()
    return go.Scatter(
        x=[100 * panel["value"].iloc[-1]] * 2,
        y=[methods[0], methods[-1]],
        mode="lines",
        line={"dash": "dash", "color": NEUTRAL, "width": 1.5},
        hoverinfo="skip",
    )


def _dots(panel: pd.DataFrame, base: str) -> go.Scatter:
    colours, symbols = [], []
    for method, mark in zip(panel["method"], panel["mark"], strict=True):
        colours.append(COLOURS[2] if method == base else COLOURS[0])
        symbols.append("diamond" if method == base else "circle" if mark else "circle-open")
    look = {"symbol": symbols, "color": colours, "line": {"color": colours, "width": 2}}
    dots = interval_dots(panel, "value", partial(_hover, base=base), **look)
    return dots.update(error_x={"visible": bool(panel["low"].notna().any())})


def _hover(row: Mapping[Any, Any], base: str) -> str:
    lines = [f"{row['method']} on {row['task']}", f"{row['metric']} {measured(row)}"]
    if not np.isnan(row["low"]):
        lines.append(f"n = {row['n']}, seeds = {row['seeds']}")
    return "<br>".join(lines if np.isnan(row["p"]) else [*lines, *compared(row, base)])
