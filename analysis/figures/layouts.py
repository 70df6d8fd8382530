"""Parts of layouts and of hover texts that several figures have in common."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lofit_lens.plotting import TEMPLATE, elided, whiskers

NARROW, ABREAST = 75, 40
"""Letters in cells, and upright labels, that stand side by side in 690 pixels, the narrowest page."""

BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
TAG = re.compile(r"</?(?:br|b|i|em|sup|sub|span|a)\b[^>]*>", re.IGNORECASE)
"""In the texts of plotly; a "<" that is no tag, as of p < 0.05, is neither."""

LEGEND_BELOW = {"orientation": "h", "x": 0, "yref": "container", "y": 0.01, "yanchor": "bottom"}
"""A row of entries at the lower edge, whatever the height of the figure."""


def outline(x: int, y: int, colour: str, width: int, half: float = 0.48) -> dict[str, Any]:
    """A frame around a cell of a heat map, as far from its middle as `half`."""
    box = {"x0": x - half, "x1": x + half, "y0": y - half, "y1": y + half}
    return {"type": "rect", "line": {"color": colour, "width": width}, **box}


def signed_axis(largest: float) -> dict[str, Any]:
    """A colour axis around zero: red below, blue above."""
    return {"colorscale": "RdBu", "cmid": 0, "cmin": -largest or -1, "cmax": largest or 1}


def finished(
    figure: go.Figure, title: str, subtitle: str, *, height: int, **layout: Any
) -> go.Figure:
    """The figure in our look, its title at a fixed distance from the top whatever its height."""
    at = {"x": 0.02, "yref": "container", "y": 1 - 24 / height}
    return figure.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}, **at},
        template=TEMPLATE,
        height=height,
        **layout,
    )


def plain_text(text: str | None) -> str:
    """A text of plotly without its marks."""
    return " ".join(html.unescape(TAG.sub(" ", text or "")).split())


def token_ticks(tokens: Sequence[str], room: int) -> dict[str, Any]:
    """Every token, or as many of them at equal distances as there is room for."""
    every = -(-len(tokens) // room)
    short = elided(tokens, 12)
    return {
        "tickvals": list(range(0, len(tokens), every)),
        "ticktext": [html.escape(short[token]) for token in tokens[::every]],
    }


def panel_title(task: object, panel: pd.DataFrame) -> str:
    """The task, and the metric where the frame tells one of another name."""
    metric = panel["metric"].iloc[0] if "metric" in panel else task
    return f"<b>{task}</b>" + ("" if metric == task else f", {metric}")


def interval_dots(
    panel: pd.DataFrame, name: str, hover: Callable[[Mapping[Any, Any]], str], **marker: Any
) -> go.Scatter:
    """A dot in percent with its interval for each method of a panel, and what is told of it."""
    value, low, high = (100 * panel[column].to_numpy() for column in (name, *_ends(name)))
    return go.Scatter(
        x=value,
        y=panel["method"].tolist(),
        mode="markers",
        error_x=whiskers(value, low, high),
        marker={"size": 9, **marker},
        hovertext=[hover(row) for row in panel.to_dict("records")],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def numbers_beside(
    figure: go.Figure, panel: pd.DataFrame, column: str, form: str, **place: Any
) -> None:
    """Write the percentages of a panel, with their marks, at the right of its rows of methods."""
    for row in panel.to_dict("records"):
        text = f"{100 * row[column]:{form}}{row['mark']}"
        figure.add_annotation(text=text, y=row["method"], xanchor="left", showarrow=False, **place)


def measured(row: Mapping[Any, Any], name: str = "value", words: str = "") -> str:
    """A score, or with its sign a difference, in percent with its interval where there is one."""
    form = ".1f" if name == "value" else "+.1f"
    text, (low, high) = f"{100 * row[name]:{form}}{words}", (row[end] for end in _ends(name))
    return text if pd.isna(low) else f"{text} [{100 * low:{form}}, {100 * high:{form}}]"


def compared(row: Mapping[Any, Any], base: str) -> list[str]:
    """Two lines: the difference to a base in points with its interval, and its p-values."""
    difference = measured(row, "difference", f" points to {base}")
    return [difference, f"p = {row['p']:.2g}, Holm {row['p_holm']:.2g}"]


def _ends(name: str) -> tuple[str, str]:
    """The columns with the interval of a number."""
    start = "" if name == "value" else f"{name}_"
    return f"{start}low", f"{start}high"
