"""Layer x head grids of chosen heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from lofit_lens.grid import HeadGrid
from lofit_lens.plotting import (
    COLOURS,
    NEUTRAL,
    TEMPLATE,
    elided,
    grid_axis,
    hatch_layers,
    head_grid,
)

SCALE = ((0.0, "#c3def3"), (0.5, "#83bce6"), (1.0, COLOURS[0]))
"""Told from a light and from a dark ground at both ends; text is legible on all of it."""

IN_LINE = 3
"""Tasks in a line of the key."""


def head_grid_with_margins(
    values: Float[np.ndarray, "layer head"], *, label: str, title: str, without: Sequence[int] = ()
) -> go.Figure:
    """Layer x head heat map with its sums by layer and by head; layer 0 at the bottom.

    NaN cells stay empty; whole numbers, such as counts, are also written into the cells. `label` says
    what they are; the layers `without` heads are hatched.
    """
    n_layers, n_heads = values.shape
    found = values[~np.isnan(values)]
    whole = bool((found == found.round()).all())
    figure = make_subplots(
        rows=2,
        cols=2,
        shared_xaxes=True,
        shared_yaxes=True,
        row_heights=[0.18, 0.82],
        column_widths=[0.82, 0.18],
        horizontal_spacing=0.02,
        vertical_spacing=0.03,
    )
    bar = {"color": NEUTRAL, "line": {"width": 0}}
    figure.add_bar(
        row=1,
        col=1,
        x=np.arange(n_heads),
        y=np.nansum(values, axis=0),
        marker=bar,
        hovertemplate=f"head %{{x}}<br>{label}, sum %{{y:.4g}}<extra></extra>",
    )
    figure.add_bar(
        row=2,
        col=2,
        x=np.nansum(values, axis=1),
        y=np.arange(n_layers),
        orientation="h",
        marker=bar,
        hovertemplate=f"layer %{{y}}<br>{label}, sum %{{x:.4g}}<extra></extra>",
    )
    text = "%{z:.0f}" if whole else None
    grid = head_grid(values, label=label, title=title, without=without)
    grid.data[0].update(colorscale=SCALE, showscale=not whole, texttemplate=text)
    for trace in grid.data:
        figure.add_trace(trace, row=2, col=1)
    _frame_grid(figure, n_layers, n_heads, row=2, col=1)
    figure.update_xaxes(rangemode="tozero", nticks=4, row=2, col=2)
    figure.update_yaxes(rangemode="tozero", nticks=4, row=1, col=1)
    subtitle = f"bars: {label}, sum by head and by layer"
    subtitle += "; hatched: layers without heads" if without else ""
    return figure.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}},
        template=TEMPLATE,
        height=_grid_height(n_layers) + 60,
        margin={"t": 95},
        bargap=0.15,
        showlegend=False,
    )


def task_grid(chosen: pd.DataFrame, grid: HeadGrid) -> go.Figure:
    """Layer x head grid of which tasks chose a head: colour for how many, letters for which.

    `chosen` is what `LayerDistribution.chosen` gives; layers without heads are hatched.
    """
    n_layers, n_heads = grid.n_layers, grid.n_heads
    tasks = list(dict.fromkeys(chosen["task"]))
    letters = _letters(tasks)
    number = np.zeros((n_layers, n_heads))
    text, hover = np.full((2, n_layers, n_heads), "", dtype=object)
    for row in chosen.to_dict("records"):
        cell, task = (row["layer"], row["head"]), row["task"]
        seeds = f": {row['times']} of {row['seeds']} seeds" if row["seeds"] > 1 else ""
        number[cell] += 1
        text[cell] += letters[task]
        hover[cell] = f"{hover[cell] or row['name']}<br>{task}{seeds}"
    figure = go.Figure()
    for n in sorted({int(found) for found in number[number > 0]}):
        colour = COLOURS[(n - 1) % len(COLOURS)]
        figure.add_heatmap(
            z=np.where(number == n, n, np.nan),
            text=np.where(number == n, text, ""),
            texttemplate="%{text}",
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
            hoverongaps=False,
            colorscale=[(0.0, colour), (1.0, colour)],
            showscale=False,
            showlegend=True,
            name=f"{n} {'task' if n == 1 else 'tasks'}: {(number == n).sum()}",
            xgap=1,
            ygap=1,
        )
    hatch_layers(figure, grid.without, n_heads=n_heads)
    _frame_grid(figure, n_layers, n_heads)
    key = [f"<b>{letters[task]}</b> {name}" for task, name in elided(tasks).items()]
    lines = [", ".join(key[place : place + IN_LINE]) for place in range(0, len(key), IN_LINE)]
    lines += ["hatched: layers without heads"] if grid.without else []
    more = 17 * (len(lines) - 1)
    return figure.update_layout(
        title={"text": "Which tasks chose a head", "subtitle": {"text": ",<br>".join(lines)}},
        template=TEMPLATE,
        height=_grid_height(n_layers) + more,
        margin={"t": 95 + more},
        legend={"title": {"text": "heads chosen by"}},
    )


def _letters(tasks: Sequence[str]) -> dict[str, str]:
    """A letter for each task: its initial (after "embedded:") where all differ, else A, B, C."""
    initials = [task.rsplit(":", 1)[-1][:1].upper() for task in tasks]
    if len(set(initials)) < len(tasks) or "" in initials:
        initials = [chr(ord("A") + place) for place in range(len(tasks))]
    return dict(zip(tasks, initials, strict=True))


def _grid_height(n_layers: int) -> int:
    return 190 + max(240, 15 * n_layers)


def _frame_grid(figure: go.Figure, n_layers: int, n_heads: int, **panel: Any) -> None:
    """The axes of a grid: all of it in view and outlined, without lines between the cells."""
    outline = {"showgrid": False, "zeroline": False, "showline": True, "mirror": True, **panel}
    for update, title, size in (
        (figure.update_xaxes, "head", n_heads),
        (figure.update_yaxes, "layer", n_layers),
    ):
        update(range=[-0.5, size - 0.5], **grid_axis(title, size), **outline)
