"""How alike the heads of tasks and seeds are (Figure 6)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import product
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lofit_lens.analysis.figures.grids import SCALE
from lofit_lens.plotting import COLOURS, NEUTRAL, TEMPLATE, elided, name_ticks

DRAWN = {"overlap": "share of heads in common", "layer distance": "distance in layers"}
"""What is drawn, and the title of its column."""

CROWDED = 4
"""Tasks from which on names and numbers are smaller."""

SLANTED = 3
"""Pixels that a letter of a slanted label is high."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def pair_maps(frame: pd.DataFrame, *, title: str) -> go.Figure:
    """Triangles of task x task: overlap and layer distance side by side, models in rows.

    Args:
        frame: One row per measure and pair of tasks, as `HeadOverlap.frame` and
            `published.figure_6` give it: columns `measure`, `first`, `second` and `value`; `model`
            where there are several, `low`, `high`, `pairs` and `chance` where they are known.
        title: Title of the figure.
    """
    defaults = {"model": "", "low": np.nan, "high": np.nan, "pairs": 1, "chance": np.nan}
    frame = frame.assign(**{k: v for k, v in defaults.items() if k not in frame})
    models, columns = (list(dict.fromkeys(frame[name])) for name in ("model", "first"))
    rows = list(dict.fromkeys([*columns, *frame["second"]]))
    letters = 24 if len(columns) < CROWDED else 16
    across = name_ticks(columns, letters)
    figure = make_subplots(
        rows=len(models),
        cols=len(DRAWN),
        shared_xaxes=True,
        shared_yaxes=True,
        column_titles=list(DRAWN.values()),
        row_titles=list(elided(models).values()) if len(models) > 1 else None,
        horizontal_spacing=0.04,
        vertical_spacing=0.12 / len(models),
    )
    for (row, model), (col, measure) in product(enumerate(models, 1), enumerate(DRAWN, 1)):
        of_measure = frame[frame["measure"] == measure]
        cells = of_measure[of_measure["model"] == model].to_dict("records")
        z = np.full((len(rows), len(columns)), np.nan)
        text, hover = np.full((2, *z.shape), "", dtype=object)
        for cell in cells:
            place = rows.index(cell["second"]), columns.index(cell["first"])
            z[place], text[place], hover[place] = cell["value"], _text(cell), _hover(cell)
        figure.add_heatmap(
            row=row,
            col=col,
            x=columns,
            y=rows,
            z=z,
            text=text,
            texttemplate="%{text}",
            textfont={"size": 13 if len(columns) < CROWDED else 11},
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
            hoverongaps=False,
            colorscale=SCALE,
            reversescale=measure == "layer distance",
            zmin=0,
            zmax=1 if measure == "overlap" else float(of_measure["value"].max()),
            showscale=False,
            xgap=2,
            ygap=2,
        )
    figure.update_xaxes(**across, showgrid=False)
    figure.update_yaxes(
        **name_ticks(rows, letters), showgrid=False, autorange="reversed", ticklabelstandoff=4
    )
    figure.update_annotations(font={"size": 14})
    below = 50 + SLANTED * max(map(len, across["ticktext"]))
    spread = "; below: least and most of any pair of seeds" if (frame["pairs"] > 1).any() else ""
    return figure.update_layout(
        title={"text": title, "subtitle": {"text": f"darker: more alike{spread}"}},
        template=TEMPLATE,
        height=115 + below + 52 * len(rows) * len(models),
        margin={"t": 110, "b": below, "r": 40},
    )


def top_k_curves(curve: pd.DataFrame) -> go.Figure:
    """Share of the best k heads in common by k, one line per pair of tasks of `RankStability.curve`."""
    figure = go.Figure()
    names = elided([*curve["first"], *curve["second"]], 16)
    for place, (_, line) in enumerate(curve.groupby(["first", "second"], sort=False)):
        first, second, pairs = (line[name].iloc[0] for name in ("first", "second", "pairs"))
        whole = f"{first}, seeds" if first == second else f"{first}, {second}"
        name = f"{names[first]}, seeds" if first == second else f"{names[first]}, {names[second]}"
        figure.add_scatter(
            x=line["k"].to_numpy(),
            y=line["value"].to_numpy(),
            customdata=line[["low", "high"]].to_numpy(),
            mode="lines",
            name=name,
            line={
                "color": COLOURS[place % len(COLOURS)],
                "dash": DASHES[place % len(DASHES)],
                "width": 2.5 if first == second else 1.5,
            },
            hovertemplate=f"{whole}<br>best %{{x}} heads: %{{y:.2f}} in common<br>pairs: {pairs}, "
            "%{customdata[0]:.2f} to %{customdata[1]:.2f}<extra></extra>",
        )
    random = curve.drop_duplicates("k").sort_values("k")
    figure.add_scatter(
        x=random["k"].to_numpy(),
        y=random["chance"].to_numpy(),
        mode="lines",
        name="random rankings",
        line={"color": NEUTRAL, "width": 1.5},
        hovertemplate="best %{x} of random rankings: %{y:.2f} in common<extra></extra>",
    )
    subtitle = "mean over pairs of seeds; at the right all heads are chosen"
    return figure.update_layout(
        title={"text": "The best heads in common", "subtitle": {"text": subtitle}},
        template=TEMPLATE,
        height=420,
        margin={"t": 95},
        xaxis={"title": "best k heads", "type": "log", "dtick": "D2"},
        yaxis={"title": "share in common", "range": [0, 1.03]},
    )


def _text(cell: Mapping[Hashable, Any]) -> str:
    if isnan(cell["value"]):
        return "one seed"
    spread = cell["pairs"] > 1 and cell["low"] < cell["high"]
    return f"{cell['value']:.2f}" + (f"<br>{cell['low']:.2f}-{cell['high']:.2f}" if spread else "")


def _hover(cell: Mapping[Hashable, Any]) -> str:
    first, second, pairs = cell["first"], cell["second"], cell["pairs"]
    what = f"{first}, pairs of seeds" if first == second else f"{first} and {second}"
    lines = [what, f"{cell['measure']} {cell['value']:.3g}"]
    if not isnan(cell["low"]):
        lines.append(f"least {cell['low']:.3g}, most {cell['high']:.3g} of {pairs}")
    if not isnan(cell["chance"]):
        lines.append(f"two random sets: {cell['chance']:.3g}")
    return "<br>".join(lines)
