"""Dots of bias tuning on heads chosen in several ways (Table 2)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from lofit_lens.plotting import COLOURS, NEUTRAL, TEMPLATE, whiskers

if TYPE_CHECKING:
    import pandas as pd

_NAMES, _PANEL, _GAP, _ROW, _TOP, _BOTTOM = 140, 170, 62, 34, 118, 62


def selector_dots(frame: pd.DataFrame, *, title: str) -> go.Figure:
    """Scores with their intervals: a row per way to choose heads, a panel per task.

    Filled dots differ from LoFiT, whose score is the dashed line.

    Args:
        frame: As of `SelectorTable.frame`, LoFiT's rows last.
        title: The title.
    """
    from plotly.subplots import make_subplots

    panels = list(frame.groupby("task", sort=False))
    methods = frame["method"].unique().tolist()
    height = _ROW * len(methods) + _TOP + _BOTTOM
    width = (_PANEL + _GAP) * len(panels)
    figure = make_subplots(
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=_GAP / (width - _GAP),
        subplot_titles=[_panel_title(str(task), panel) for task, panel in panels],
    )
    figure.update_annotations(font={"size": 13})
    for col, (_, panel) in enumerate(panels, start=1):
        figure.add_traces([_reference(panel), _dots(panel, methods[-1])], rows=1, cols=col)
        axis = "" if col == 1 else col
        for row in panel.to_dict("records"):
            figure.add_annotation(
                text=f"{100 * row['value']:.1f}{row['mark']}",
                x=1.03,
                xref=f"x{axis} domain",
                xanchor="left",
                y=row["method"],
                yref=f"y{axis}",
                showarrow=False,
            )
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
    return figure.update_layout(
        title={
            "text": title,
            "subtitle": {"text": subtitle},
            "x": 0.02,
            "yref": "container",
            "y": 1 - 24 / height,
        },
        template=TEMPLATE,
        width=_NAMES + width,
        height=height,
        margin={"t": _TOP, "b": _BOTTOM, "l": _NAMES, "r": _GAP},
        showlegend=False,
    )


def _panel_title(task: str, panel: pd.DataFrame) -> str:
    metric = panel["metric"].iloc[0]
    return f"<b>{task}</b>" + ("" if metric == task else f", {metric}")


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
    value, low, high = (100 * panel[name].to_numpy() for name in ("value", "low", "high"))
    rows = panel.to_dict("records")
    colours = [COLOURS[2] if row["method"] == base else COLOURS[0] for row in rows]
    return go.Scatter(
        x=value,
        y=panel["method"].tolist(),
        mode="markers",
        error_x=whiskers(value, low, high) | {"visible": not np.isnan(low).all()},
        marker={
            "size": 9,
            "symbol": [_symbol(row, base) for row in rows],
            "color": colours,
            "line": {"color": colours, "width": 2},
        },
        hovertext=[_hover(row, base) for row in rows],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _symbol(row: dict[Hashable, Any], base: str) -> str:
    if row["method"] == base:
        return "diamond"
    return "circle" if row["mark"] else "circle-open"


def _hover(row: dict[Hashable, Any], base: str) -> str:
    lines = [f"{row['method']} on {row['task']}", f"{row['metric']} {100 * row['value']:.1f}"]
    if not np.isnan(row["low"]):
        lines[1] += f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        lines.append(f"n = {row['n']}, seeds = {row['seeds']}")
    if not np.isnan(row["p"]):
        lines.append(
            f"{100 * row['difference']:+.1f} points to {base} "
            f"[{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]"
        )
        lines.append(f"p = {row['p']:.2g}, Holm {row['p_holm']:.2g}")
    return "<br>".join(lines)
