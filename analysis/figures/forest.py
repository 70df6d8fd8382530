"""Forest plots of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

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
from lofit_lens.errors import LofitLensError
from lofit_lens.plotting import NEUTRAL, elided, name_ticks

if TYPE_CHECKING:
    from lofit_lens.analysis.kinds.comparison import Comparison

BETTER, WORSE, UNMARKED = "#0072b2", "#d55e00", NEUTRAL
"""Blue, orange and grey, which are told apart under every colour blindness (Okabe and Ito, 2008)."""


def forest(comparison: Comparison, *, base: str | None = None) -> go.Figure:
    """Forest plot of a comparison, as `Comparison.plot` describes it."""
    base = base or comparison.base
    frame = comparison.frame(base)
    frame = frame[frame["difference"].notna()]
    if frame.empty:
        raise LofitLensError(f"There is no method to compare with {base!r} in {comparison!r}.")
    tasks, methods = (elided(frame[name].tolist()) for name in ("task", "method"))
    against = elided([base, *methods])[base]
    panels = list(frame.groupby("task", sort=False))
    rows = [len(panel) for _, panel in panels]
    gap = 48
    height = 30 * sum(rows) + gap * (len(rows) - 1)
    figure = make_subplots(
        rows=len(panels),
        shared_xaxes=True,
        row_heights=rows,
        vertical_spacing=gap / height if len(rows) > 1 else 0.0,
        subplot_titles=[panel_title(tasks[str(task)], panel) for task, panel in panels],
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    for place, (_, panel) in enumerate(panels, start=1):
        figure.add_trace(_forest_rows(panel, base), row=place, col=1)
        figure.update_yaxes(range=[len(panel) - 0.5, -0.5], row=place, col=1)
        at = {"x": 1.01, "xref": "x domain", "yref": f"y{place}"}
        numbers_beside(figure, panel, "difference", "+.1f", **at)
    low = min(0.0, 100 * frame["difference_low"].min())
    high = max(0.0, 100 * frame["difference_high"].max())
    room = 0.05 * (high - low) or 1.0
    zero = {"zeroline": True, "zerolinecolor": NEUTRAL, "zerolinewidth": 1.5}
    figure.update_xaxes(range=[low - room, high + room], **zero)
    axis = {"text": f"difference to {against}, points", "standoff": 8}
    figure.update_xaxes(title=axis, row=len(panels), col=1)
    figure.update_yaxes(**name_ticks(list(methods)), automargin=True, ticklabelstandoff=6)
    subtitle = (
        "95% intervals, paired by seed and item; filled: * p < 0.05, + p < 0.1,<br>Holm-corrected over "
        f"{len(frame)} comparisons"
    )
    top = 118
    return finished(
        figure,
        f"Methods against {against}",
        subtitle,
        width=520,
        height=height + top + 56,
        margin={"t": top, "r": 64, "b": 56, "l": 12},
        showlegend=False,
    )


def _forest_rows(panel: pd.DataFrame, base: str) -> go.Scatter:
    """One panel: the difference of each method with its interval."""
    colours = {"better": BETTER, "worse": WORSE, "": UNMARKED}
    directions = panel["direction"].tolist()
    return interval_dots(
        panel,
        "difference",
        partial(_forest_hover, base=base),
        color=[colours[direction] for direction in directions],
        symbol=["circle" if direction else "circle-open" for direction in directions],
        line={"width": 2},
    )


def _forest_hover(row: Mapping[Any, Any], base: str) -> str:
    exact = "" if np.isnan(row["mcnemar"]) else f", McNemar {row['mcnemar']:.2g}"
    difference, tests = compared(row, base)
    lines = [f"{row['method']} on {row['task']}", f"{row['metric']} {measured(row)}", difference]
    return "<br>".join([*lines, f"{tests}{exact}", f"n = {row['n']}, seeds = {row['seeds']}"])
