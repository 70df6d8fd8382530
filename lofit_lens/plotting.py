"""The look that all figures share, and the few that results draw of themselves.

None changes a global setting of plotly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

if TYPE_CHECKING:
    from lofit_lens.statistics import Estimate


COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f")
"""For series: told apart under every colour blindness (Okabe and Ito, 2008), legible on both grounds."""

NEUTRAL = "#7f7f7f"
"""For whiskers, reference lines and outlines: legible on a light and on a dark ground."""

SCORES = (
    (0.0, "#355f8d"),
    (0.25, "#26838e"),
    (0.5, "#22a884"),
    (0.75, "#5ec962"),
    (1.0, "#bddf26"),
)
"""Viridis without its ends, which vanish on a dark and on a light ground."""

HATCHED: dict[str, Any] = {
    "color": "rgba(0,0,0,0)",
    "line": {"width": 0},
    "pattern": {"shape": "/", "fgcolor": NEUTRAL, "size": 6, "solidity": 0.15},
}
"""The marker of bars that stand for layers without heads."""

LETTERS = 24
"""Letters that a name has in a figure; the whole of it is told in hover texts."""


def _template(*, ground: str, ink: str, grid: str) -> go.layout.Template:
    axis = {"gridcolor": grid, "linecolor": grid, "zerolinecolor": grid, "automargin": True}
    return go.layout.Template(pio.templates["plotly_white"]).update(
        layout={
            "colorway": COLOURS,
            "font": {"family": "Helvetica, Arial, sans-serif", "size": 13, "color": ink},
            "title": {"subtitle": {"font": {"color": ink}}},
            "paper_bgcolor": ground,
            "plot_bgcolor": ground,
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"align": "left"},
        }
    )


TEMPLATE = _template(ground="white", ink="#222222", grid="#e3e3e3")
"""The look of every figure; passed to each, so that no global setting of plotly is touched."""

DARK = _template(ground="#16181d", ink="#e8e8e8", grid="#3a3d44")
"""The same on a dark ground: `figure.update_layout(template=DARK)`. Figures name no black or white."""


def elided(names: Sequence[str], letters: int = LETTERS) -> dict[str, str]:
    """Names short enough for a figure, by the names: long ones lose letters, best in the middle.

    Args:
        names: Those that stand in the figure together; different ones stay different. The gap is
            where most is left of what tells them apart; if nothing is, they are numbered.
        letters: Letters that are left, before a number.
    """
    names = list(dict.fromkeys(names))
    if max(map(len, names), default=0) <= letters:
        return dict(zip(names, names, strict=True))
    heads = [round(share * (letters - 1)) for share in (0.5, 0.3, 0.7, 0.1, 0.9)]
    ways = [[_without_middle(name, head, letters) for name in names] for head in heads]
    short = max(ways, key=_apart)
    twice = Counter(short)
    return {
        name: f"{text} ({place})" if twice[text] > 1 else text
        for place, (name, text) in enumerate(zip(names, short, strict=True), start=1)
    }


def _without_middle(name: str, head: int, letters: int) -> str:
    if len(name) <= letters:
        return name
    return f"{name[:head]}…{name[len(name) - (letters - 1 - head) :]}"


def _apart(texts: Sequence[str]) -> int:
    """In how many places the two most similar texts differ; four are as good as more."""
    pairs = (zip_longest(*pair) for pair in combinations(texts, 2))
    return min(4, *(sum(a != b for a, b in pair) for pair in pairs), 4)


def name_ticks(names: Sequence[str], letters: int = LETTERS) -> dict[str, Any]:
    """What an axis of names needs to show them `elided`; its data keep the whole names."""
    short = elided(names, letters)
    return {"type": "category", "tickvals": list(short), "ticktext": list(short.values())}


def error_bars(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """The error bars of values with their intervals."""
    return {"array": high - value, "arrayminus": value - low, "color": NEUTRAL}


def whiskers(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """The same for dots: thicker, with ends."""
    return error_bars(value, low, high) | {"type": "data", "thickness": 1.5, "width": 4}


def head_grid(
    values: np.ndarray, *, label: str, title: str, without: Sequence[int] = ()
) -> go.Figure:
    """Layer x head heat map, layer 0 at the bottom; NaN cells stay empty, `without` is hatched."""
    n_layers, n_heads = values.shape
    heat = go.Heatmap(
        z=values,
        customdata=[[f"L{layer}H{head}" for head in range(n_heads)] for layer in range(n_layers)],
        hovertemplate=f"%{{customdata}}<br>{label} %{{z:.4g}}<extra></extra>",
        hoverongaps=False,
        colorscale=SCORES,
        colorbar={"title": {"text": label}},
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    hatch_layers(figure, without, n_heads=n_heads)
    note = {"text": "hatched: layers without heads"} if without else None
    return figure.update_layout(
        title={"text": title, "subtitle": note},
        template=TEMPLATE,
        height=max(450, 190 + 12 * n_layers),  # plotly's own, more where layers would become thin
        xaxis={**grid_axis("head", n_heads), "range": [-0.5, n_heads - 0.5]},
        yaxis={**grid_axis("layer", n_layers), "range": [-0.5, n_layers - 0.5]},
    )


def grid_axis(title: str, size: int) -> dict[str, Any]:
    """The axis of heads or layers: as many numbers as can be read."""
    return {"title": title, "dtick": max(1, size // 16)}


def hatch_layers(figure: go.Figure, layers: Sequence[int], *, n_heads: int, **panel: Any) -> None:
    """Hatch the rows of layers without heads in a layer x head grid, and say so on hovering.

    Its `row` and `col` are given where there are several panels.
    """
    if layers:
        figure.add_bar(
            orientation="h",
            base=-0.5,
            x=[n_heads] * len(layers),
            y=list(layers),
            width=0.9,
            name="no heads",
            showlegend=False,
            marker=HATCHED,
            hovertemplate="layer %{y}: no attention heads<extra></extra>",
            **panel,
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
                "color": NEUTRAL,
            },
            customdata=[[100 * e.low, 100 * e.high, e.n] for e in values],
            hovertemplate="%{x}: %{y:.1f}<br>95%: %{customdata[0]:.1f} to %{customdata[1]:.1f}"
            "<br>n = %{customdata[2]}<extra>%{fullData.name}</extra>",
        )
    return figure.update_layout(
        title=title, template=TEMPLATE, yaxis={"title": "%", "range": [0, 105]}
    )


def loss_curve(
    losses: Sequence[float], means: Mapping[float, float], validation: Mapping[float, float]
) -> go.Figure:
    """Training loss of each step from 1 on, its means and the validation loss, both by step."""
    figure = go.Figure()
    figure.add_scatter(
        x=list(range(1, len(losses) + 1)), y=list(losses), mode="lines", name="training, by batch",
        line={"color": COLOURS[0], "width": 1}, opacity=0.35,
    )  # fmt: skip
    by_name = {"training, by epoch": means, "validation": validation}
    for (name, values), colour in zip(by_name.items(), COLOURS, strict=False):
        line = {"mode": "lines+markers", "line": {"color": colour}}
        figure.add_scatter(x=list(values), y=list(values.values()), name=name, **line)
    return figure.update_layout(template=TEMPLATE, xaxis={"title": "step"}, yaxis={"title": "loss"})
