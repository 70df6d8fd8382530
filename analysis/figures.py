"""Plotly figures of results; none changes a global setting of plotly."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from lofit_lens.errors import LofitLensError

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.comparison.results import Comparison
    from lofit_lens.analysis.transfer_results import TransferMatrix

BETTER, WORSE, UNMARKED = "#0072b2", "#d55e00", "#5f5f5f"
"""Blue, orange and grey, which are told apart under every colour blindness (Okabe and Ito, 2008)."""


def transfer_heatmap(matrix: TransferMatrix, *, relative: bool = True) -> go.Figure:
    """Heat map of a transfer matrix, as `TransferMatrix.plot` describes it."""
    from lofit_lens.analysis.transfer_results import MARKS

    cells, rows, columns = matrix.frame(), list(matrix.sources), list(matrix.tasks)
    shape = len(rows), len(columns)
    values = 100 * cells["relative" if relative else "value"].to_numpy().reshape(shape)
    text = marked(values, cells["mark"].to_numpy().reshape(shape))
    hover = np.reshape(_hovers(matrix), shape)
    own = [
        {"x0": x - 0.48, "x1": x + 0.48, "y0": y - 0.48, "y1": y + 0.48}
        for y, source in enumerate(rows)
        for x, task in enumerate(columns)
        if source == task
    ]
    if not relative:
        untuned = [matrix.zero_shot[task].main for task in columns]
        values = np.vstack([values, [100 * estimate.value for estimate in untuned]])
        text.append([f"{100 * estimate.value:.1f}" for estimate in untuned])
        hover = np.vstack([hover, [f"zero-shot {estimate}" for estimate in untuned]])
        rows.append("zero-shot")
    heat = go.Heatmap(
        z=values,
        x=columns,
        y=rows,
        text=text,
        texttemplate="%{text}",
        textfont={"size": 15},
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        hoverongaps=False,
        colorscale="Blues",
        zmin=np.nanmin(values, initial=50.0 if relative else 0.0),
        zmax=np.nanmax(values, initial=100.0),
        colorbar={"title": {"text": "%"}},
        xgap=2,
        ygap=2,
    )
    orange = {"type": "rect", "line": {"color": "#e08214", "width": 2}}
    unit = "% of the accuracy with the task's own heads" if relative else "accuracy, %"
    subtitle = f"{unit}; outlined: own heads<br>{MARKS}"
    return go.Figure(heat).update_layout(
        title={"text": "Cross-task head transfer", "subtitle": {"text": subtitle}},
        template="plotly_white",
        shapes=[place | orange for place in own],
        xaxis={"title": "tuned and tested on", "type": "category", "showgrid": False},
        yaxis={
            "title": "heads from",
            "type": "category",
            "autorange": "reversed",
            "showgrid": False,
        },
    )


def forest(comparison: Comparison, *, base: str | None = None) -> go.Figure:
    """Forest plot of a comparison, as `Comparison.plot` describes it."""
    from plotly.subplots import make_subplots

    base = base or comparison.base
    frame = comparison.frame(base)
    frame = frame[frame["difference"].notna()]
    if frame.empty:
        raise LofitLensError(f"There is no method to compare with {base!r} in {comparison!r}.")
    panels = list(frame.groupby("task", sort=False))
    rows = [len(panel) for _, panel in panels]
    gap, height = 48, 30 * sum(rows) + 48 * (len(rows) - 1)
    figure = make_subplots(
        rows=len(panels),
        shared_xaxes=True,
        row_heights=rows,
        vertical_spacing=gap / height if len(rows) > 1 else 0.0,
        subplot_titles=[f"<b>{task}</b>, {panel['metric'].iloc[0]}" for task, panel in panels],
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    for place, (_, panel) in enumerate(panels, start=1):
        figure.add_trace(_forest_rows(panel, base), row=place, col=1)
        figure.update_yaxes(range=[len(panel) - 0.5, -0.5], row=place, col=1)
        for row in panel.to_dict("records"):
            figure.add_annotation(
                text=f"{100 * row['difference']:+.1f}{row['mark']}",
                x=1.01,
                xref="x domain",
                xanchor="left",
                y=row["method"],
                yref=f"y{place}",
                showarrow=False,
            )
    low = min(0.0, 100 * frame["difference_low"].min())
    high = max(0.0, 100 * frame["difference_high"].max())
    room = 0.05 * (high - low) or 1.0
    figure.update_xaxes(
        range=[low - room, high + room],
        zeroline=True,
        zerolinecolor="#333333",
        zerolinewidth=1.5,
    )
    axis = {"text": f"difference to {base}, points", "standoff": 8}
    figure.update_xaxes(title=axis, row=len(panels), col=1)
    figure.update_yaxes(type="category", automargin=True, ticksuffix="  ")
    subtitle = (
        "95% intervals, paired by seed and item; filled: * p < 0.05, + p < 0.1,<br>Holm-corrected over "
        f"{len(frame)} comparisons"
    )
    top = 118
    return figure.update_layout(
        title={
            "text": f"Methods against {base}",
            "subtitle": {"text": subtitle},
            "x": 0.02,
            "yref": "container",
            "y": 1 - 24 / (height + top + 56),
        },
        template="plotly_white",
        width=520,
        height=height + top + 56,
        margin={"t": top, "r": 64, "b": 56, "l": 12},
        showlegend=False,
    )


def _forest_rows(panel: pd.DataFrame, base: str) -> go.Scatter:
    """One panel: the difference of each method with its interval."""
    value, low, high = (
        100 * panel[name].to_numpy() for name in ("difference", "difference_low", "difference_high")
    )
    colours = {"better": BETTER, "worse": WORSE, "": UNMARKED}
    directions = panel["direction"].tolist()
    rows = panel.to_dict("records")
    return go.Scatter(
        x=value,
        y=panel["method"].tolist(),
        mode="markers",
        error_x={
            "type": "data",
            "array": high - value,
            "arrayminus": value - low,
            "color": "#333333",
            "thickness": 1.5,
            "width": 4,
        },
        marker={
            "size": 9,
            "color": [colours[direction] if direction else "white" for direction in directions],
            "line": {"color": [colours[direction] for direction in directions], "width": 2},
        },
        hovertext=[_forest_hover(row, base) for row in rows],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _forest_hover(row: Mapping[Hashable, Any], base: str) -> str:
    exact = "" if np.isnan(row["mcnemar"]) else f", McNemar {row['mcnemar']:.2g}"
    return (
        f"{row['method']} on {row['task']}<br>{row['metric']} {100 * row['value']:.1f} "
        f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]<br>{100 * row['difference']:+.1f} points "
        f"to {base} [{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]"
        f"<br>p = {row['p']:.2g}, Holm {row['p_holm']:.2g}{exact}"
        f"<br>n = {row['n']}, seeds = {row['seeds']}"
    )


def marked(percents: np.ndarray, marks: np.ndarray) -> list[list[str]]:
    """The cells of a table as text, each with its mark of significance."""
    return [
        [
            "n/a" if np.isnan(value) else f"{value:.1f}{mark}"
            for value, mark in zip(*row, strict=True)
        ]
        for row in zip(percents, marks, strict=True)
    ]


def _hovers(matrix: TransferMatrix) -> list[str]:
    lines = []
    for cell in matrix.frame().to_dict("records"):
        text = (
            f"{cell['metric']} {100 * cell['value']:.1f} "
            f"[{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
            f"<br>n = {cell['n']}, seeds = {cell['seeds']}"
            f"<br>zero-shot {100 * matrix.zero_shot[cell['task']].main.value:.1f}"
        )
        if cell["source"] != cell["task"]:
            text += (
                f"<br>own heads {100 * cell['difference']:+.1f} points "
                f"[{100 * cell['difference_low']:+.1f}, {100 * cell['difference_high']:+.1f}]"
                f"<br>p = {cell['p']:.2g}, Holm {cell['p_holm']:.2g}"
            )
        lines.append(f"heads from {cell['source']}, tuned on {cell['task']}<br>{text}")
    return lines
