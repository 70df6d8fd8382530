"""The few figures that results draw of themselves; none changes a global setting of plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

if TYPE_CHECKING:
    from lofit_lens.statistics import Estimate


def head_grid(values: np.ndarray, *, label: str, title: str) -> go.Figure:
    """Layer x head heat map, layer 0 at the bottom; NaN cells stay empty."""
    n_layers, n_heads = values.shape
    names = [[f"L{layer}H{head}" for head in range(n_heads)] for layer in range(n_layers)]
    heat = go.Heatmap(
        z=values,
        customdata=names,
        hovertemplate=f"%{{customdata}}<br>{label} %{{z:.4g}}<extra></extra>",
        hoverongaps=False,
        colorscale="Viridis",
        colorbar={"title": {"text": label}},
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    return figure.update_layout(
        title=title,
        template="plotly_white",
        xaxis={"title": "head", "dtick": max(1, n_heads // 16)},
        yaxis={"title": "layer", "dtick": max(1, n_layers // 16)},
    )


def metric_bars(groups: Mapping[str, Mapping[str, Estimate]], *, title: str) -> go.Figure:
    """One bar per metric and group, with the 95% interval."""
    figure = go.Figure()
    for group, metrics in groups.items():
        values = list(metrics.values())
        figure.add_bar(
            name=group,
            x=list(metrics),
            y=[100 * e.value for e in values],
            error_y={
                "array": [100 * (e.high - e.value) for e in values],
                "arrayminus": [100 * (e.value - e.low) for e in values],
            },
            customdata=[[100 * e.low, 100 * e.high, e.n] for e in values],
            hovertemplate="%{x}: %{y:.1f}<br>95%: %{customdata[0]:.1f} to %{customdata[1]:.1f}"
            "<br>n = %{customdata[2]}<extra>%{fullData.name}</extra>",
        )
    return figure.update_layout(
        title=title, template="plotly_white", yaxis={"title": "%", "range": [0, 105]}
    )


def loss_curve(
    steps: Sequence[float],
    losses: Sequence[float],
    val_steps: Sequence[float],
    val_losses: Sequence[float],
) -> go.Figure:
    """Training loss by step, validation loss at the end of each epoch."""
    figure = go.Figure()
    figure.add_scatter(x=list(steps), y=list(losses), mode="lines", name="training")
    figure.add_scatter(
        x=list(val_steps), y=list(val_losses), mode="lines+markers", name="validation"
    )
    return figure.update_layout(
        template="plotly_white", xaxis={"title": "step"}, yaxis={"title": "loss"}
    )
