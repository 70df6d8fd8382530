"""Heat maps of cross-task head transfer (Figure 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from lofit_lens.plotting import TEMPLATE

if TYPE_CHECKING:
    from lofit_lens.analysis.transfer_results import TransferMatrix


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
        template=TEMPLATE,
        shapes=[place | orange for place in own],
        xaxis={"title": "tuned and tested on", "type": "category", "showgrid": False},
        yaxis={
            "title": "heads from",
            "type": "category",
            "autorange": "reversed",
            "showgrid": False,
        },
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
