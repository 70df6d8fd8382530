"""Chosen heads by layer (Figure 3)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lofit_lens.errors import LofitLensError
from lofit_lens.plotting import COLOURS, HATCHED, TEMPLATE, elided, error_bars


def layer_bars(frame: pd.DataFrame, *, relative_depth: bool = False) -> go.Figure:
    """Heads per layer as `LayerDistribution.plot` shows them, tasks in rows and models in columns.

    Args:
        frame: One row per task and layer, also of layers without heads, as
            `LayerDistribution.frame` gives it: columns `task`, `layer`, `count` and `uniform`;
            `model` where there are several, `low`, `high` and `seeds` where there are several seeds.
        relative_depth: Draw the layers from 0 (the first) to 1 (the last), so that models of
            different depth compare.

    Raises:
        LofitLensError: A column is missing, or a layer of a task and model comes twice.
    """
    frame = _checked(frame)
    tasks, models = (list(dict.fromkeys(frame[name])) for name in ("task", "model"))
    several = len(models) > 1
    titles = list(elided(tasks, 16 if several else 60).values())
    figure = make_subplots(
        rows=len(tasks),
        cols=len(models),
        shared_xaxes=True,
        shared_yaxes=True,
        subplot_titles=None if several else titles,
        row_titles=titles if several else None,
        column_titles=list(elided(models).values()) if several else None,
        vertical_spacing=(0.12 if several else 0.3) / (len(tasks) + 1),
        horizontal_spacing=0.06 / len(models),
        x_title="relative depth" if relative_depth else "layer",
        y_title="heads",
    )
    for (row, task), (col, model) in product(enumerate(tasks, 1), enumerate(models, 1)):
        panel = frame[(frame["task"] == task) & (frame["model"] == model)]
        if not panel.empty:
            figure.add_traces(_panel(panel, relative_depth), rows=row, cols=col)
    ticks = max(1, int(frame["layer"].max() + 1) // (8 if several else 16))
    figure.update_xaxes(dtick=0.25 if relative_depth else ticks, showgrid=False)
    if relative_depth:
        figure.update_xaxes(matches="x")
    figure.update_yaxes(matches="y", dtick=max(1, int(frame["high"].max()) // 4))
    figure.update_layout(xaxis={"matches": None}, yaxis={"matches": None})  # the others match these
    figure.update_annotations(font={"size": 14})
    seeds = "bars: mean over seeds; whiskers: least and most; " if frame["seeds"].max() > 1 else ""
    hatched = "; hatched: layers without heads" if frame["count"].isna().any() else ""
    return figure.update_layout(
        title={
            "text": "Chosen heads by layer",
            "subtitle": {"text": f"{seeds}dashed: expected of heads drawn at random{hatched}"},
        },
        template=TEMPLATE,
        barmode="overlay",  # bars and hatches, each at its own layer
        height=170 + 150 * len(tasks),
        margin={"t": 105, "r": 40, "b": 65, "l": 70},
        showlegend=False,
    )


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every column that the bars need."""
    missing = [name for name in ("task", "layer", "count", "uniform") if name not in frame]
    if missing:
        raise LofitLensError(
            f"The frame lacks {', '.join(map(repr, missing))}; it has {', '.join(frame.columns)}. "
            "Take it from layer_distribution(…).frame() or published_layers()."
        )
    defaults = {"model": "", "low": frame["count"], "high": frame["count"], "seeds": 1}
    frame = frame.assign(**{k: v for k, v in defaults.items() if k not in frame})
    if frame.duplicated(["model", "task", "layer"]).any():
        raise LofitLensError(
            "Some layers come twice for one task. To draw several models, name them in a column "
            "'model', as frame.assign(model='llama2-7b')."
        )
    return frame


def _panel(panel: pd.DataFrame, relative_depth: bool) -> list[go.Bar | go.Scatter]:
    """Bars and the uniform expectation of one task and model."""
    layers, mean, low, high = (panel[name].to_numpy() for name in ("layer", "count", "low", "high"))
    last, seeds, uniform = max(1, layers.max()), int(panel["seeds"].max()), panel["uniform"].iloc[0]
    unit = 1 / last if relative_depth else 1
    hover = []
    for layer, count, least, most in zip(layers, mean, low, high, strict=True):
        spread = f"; seeds: {seeds}, {least:g} to {most:g}" if seeds > 1 else ""
        hover.append(f"layer {layer}, depth {layer / last:.2f}<br>{count:.3g} heads{spread}")
    whole = ", ".join(filter(None, panel[["task", "model"]].iloc[0]))
    bars = go.Bar(
        x=layers * unit,
        y=mean,
        width=0.85 * unit,
        error_y=error_bars(mean, low, high) | {"thickness": 1.5, "visible": seeds > 1},
        hovertext=hover,
        hovertemplate=f"%{{hovertext}}<extra>{whole}</extra>",
        marker={"color": COLOURS[4], "line": {"width": 0}},
    )
    line = go.Scatter(
        x=[-0.5 * unit, (layers.max() + 0.5) * unit],
        y=[uniform, uniform],
        mode="lines",
        line={"dash": "dash", "color": COLOURS[5], "width": 1.5},
        hovertemplate=f"drawn at random: {uniform:.3g} heads<extra>{whole}</extra>",
    )
    headless = layers[np.isnan(mean)]
    none = go.Bar(
        name="no heads",
        x=headless * unit,
        y=np.full(len(headless), max(np.nanmax(high), uniform)),
        width=0.85 * unit,
        hovertext=[f"layer {layer}: no attention heads" for layer in headless],
        hovertemplate=f"%{{hovertext}}<extra>{whole}</extra>",
        marker=HATCHED,
    )
    return [bars, line, *([none] if len(headless) else [])]
