"""Figures of what an offset does: tokens, directions, contributions, attention."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lofit_lens.analysis.figures.layouts import (
    ABREAST,
    LEGEND_BELOW,
    NARROW,
    finished,
    outline,
    signed_axis,
    token_ticks,
)
from lofit_lens.plotting import COLOURS, NEUTRAL, elided, error_bars, grid_axis

BESIDE = 5
"""Tokens at each end up to which both ends stand beside each other."""


def lens_table(frame: pd.DataFrame, *, places: int) -> go.Figure:
    """Heads x tokens of `LogitLens.frame()`, so many places at each end; see `LogitLens.plot`."""
    shown = frame[frame["place"] <= places].sort_values(["layer", "head", "place"])
    names, largest = list(shown["name"].unique()), float(shown["from_mean"].abs().max())
    below = places > BESIDE
    short = elided(shown["token"].tolist(), max(4, NARROW // (places if below else 2 * places)))
    row_height, between = 30 * len(names), 64
    figure = make_subplots(
        rows=2 if below else 1,
        cols=1 if below else 2,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=between / (2 * row_height + between),
        subplot_titles=["suppressed, the lowest first", "promoted, the highest first"],
    )
    shape = len(names), places
    for place, direction in enumerate(("suppressed", "promoted"), start=1):
        part = shown[shown["direction"] == direction]
        tokens, whole = part["token"].map(short).map(html.escape), part["token"].map(html.escape)
        figure.add_heatmap(
            row=place if below else 1,
            col=1 if below else place,
            z=part["from_mean"].to_numpy().reshape(shape),
            x=list(range(1, places + 1)),
            y=names,
            text=np.reshape(tokens.tolist(), shape),
            texttemplate="%{text}",
            textfont={"size": 11},
            hovertext=np.reshape(whole.tolist(), shape),
            customdata=part[["logit", "from_mean", "token_id"]].to_numpy().reshape(*shape, 3),
            hovertemplate=f"%{{y}} {direction} %{{x}}: %{{hovertext}}<br>logit %{{customdata[0]:.3f}}, "
            "%{customdata[1]:+.3f} from the mean<br>token %{customdata[2]:.0f}<extra></extra>",
            coloraxis="coloraxis",
            xgap=2,
            ygap=2,
        )
    figure.update_xaxes(dtick=1, showgrid=False)
    figure.update_xaxes(title="place", row=2 if below else 1)
    figure.update_yaxes(type="category", showgrid=False)
    bar = {"title": {"text": "logit"}, "nticks": 5}
    bar |= {"lenmode": "pixels", "len": max(110, row_height)}
    return finished(
        figure,
        "What each offset writes, in tokens",
        "colour: logit minus the head's mean",
        coloraxis={**signed_axis(largest), "colorbar": bar},
        width=170 + (80 if below else 160) * places,
        height=190 + (2 * row_height + between if below else row_height),
        margin={"t": 110, "b": 56},
    )


def direction_points(frame: pd.DataFrame, *, chance: float, n: int) -> go.Figure:
    """Cosines of offsets, and their size, of `OffsetDirections.frame()`; see `OffsetDirections.plot`.

    Random directions stay within the cosine `chance`; `n` statements were read.
    """
    frame = frame.sort_values(["layer", "head"])
    names = list(frame["name"])
    figure = make_subplots(
        cols=2, shared_yaxes=True, horizontal_spacing=0.05, column_widths=[0.65, 0.35],
        subplot_titles=["cosine of the offset", "size of the offset"],
    )  # fmt: skip
    figure.add_shape(
        type="rect", x0=-chance, x1=chance, y0=0, y1=1, xref="x", yref="y domain", layer="below",
        fillcolor=NEUTRAL, opacity=0.2, line={"width": 0},
    )  # fmt: skip
    series = (
        ("cosine_mass_mean", "with ITI's mass-mean direction", "circle"),
        ("cosine_mean_z", "with the mean of z", "diamond-open"),
    )
    for (column, label, symbol), colour in zip(series, COLOURS, strict=False):
        figure.add_scatter(
            row=1,
            col=1,
            x=frame[column].to_numpy(),
            y=names,
            name=label,
            mode="markers",
            marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2}},
            hovertemplate=f"%{{y}}: %{{x:+.3f}} {label}<extra></extra>",
        )
    figure.add_bar(
        row=1,
        col=2,
        x=frame["in_sigmas"].to_numpy(),
        y=names,
        orientation="h",
        showlegend=False,
        marker={"color": COLOURS[2]},
        customdata=frame[["offset_norm", "to_z_norm"]].to_numpy(),
        hovertemplate="%{y}: %{x:.2f} standard deviations of z along the offset<br>norm "
        "%{customdata[0]:.3f}, %{customdata[1]:.2f} of that of z<extra></extra>",
    )
    figure.update_xaxes(range=[-1.05, 1.05], title="cosine", row=1, col=1)
    figure.update_xaxes(title="standard deviations of z along it", row=1, col=2)
    figure.update_yaxes(type="category")
    return finished(
        figure,
        "Learned offsets and the activations of their heads",
        f"{n} statements; grey: 95% of random directions (within {chance:.2f})",
        legend=LEGEND_BELOW,
        width=860,
        height=220 + 30 * len(names),
        margin={"t": 110, "b": 96},
    )


def attribution_map(
    frame: pd.DataFrame, *, values: str, totals: Mapping[str, float], n: int
) -> go.Figure:
    """Contributions by head and by layer in a column of `Attribution.frame()`; see `Attribution.plot`.

    `totals` are the mean logit differences by column, over `n` examples.
    """
    parts = frame.dropna(subset="head").pivot_table(values, ["layer", "head"], "component")
    parts = parts.reindex(columns=["head", "scale", "offset"])
    n_layers, n_heads = (int(parts.index.get_level_values(i).max()) + 1 for i in (0, 1))
    sums = parts.sum(axis=1).to_numpy().reshape(n_layers, n_heads)
    figure = make_subplots(
        cols=2, shared_yaxes=True, horizontal_spacing=0.03, column_widths=[0.7, 0.3],
        subplot_titles=["heads", "rest of the layer"],
    )  # fmt: skip
    figure.add_heatmap(
        row=1,
        col=1,
        z=sums,
        text=np.reshape(_hovers(parts), (n_layers, n_heads)),
        hovertemplate="%{text}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )
    edited = parts.index[parts["offset"].notna()]
    for layer, head in edited:
        figure.add_shape(outline(head, layer, COLOURS[2], 2), row=1, col=1)
    for kind, colour, shape in (("mlp", COLOURS[0], ""), ("attention bias", COLOURS[1], "/")):
        rest = frame[frame["component"] == kind]
        if not rest[values].any():
            continue
        mean, low, high = (rest[f"{values}{end}"].to_numpy() for end in ("", "_low", "_high"))
        figure.add_bar(
            row=1,
            col=2,
            x=mean,
            y=rest["layer"].astype(int).to_numpy(),
            error_x=error_bars(mean, low, high) | {"thickness": 1},
            orientation="h",
            name=kind.replace("mlp", "MLP"),
            showlegend=True,
            marker={"color": colour, "pattern": {"shape": shape}},
            hovertemplate=f"L%{{y}} {kind}: %{{x:+.3f}}<extra></extra>",
        )
    bare = {"showgrid": False, "zeroline": False}
    figure.update_xaxes(**grid_axis("head", n_heads), **bare, row=1, col=1)
    figure.update_xaxes(title="logit", zerolinecolor=NEUTRAL, row=1, col=2)
    figure.update_yaxes(**grid_axis("layer", n_layers), **bare, row=1, col=1)
    figure.update_yaxes(**bare, row=1, col=2)
    difference = ", ".join(f"{name} {_signed(value)}" for name, value in totals.items())
    outside = ", ".join(
        f"{row['name']} {_signed(row[values])}"
        for row in frame[frame["layer"].isna()].to_dict("records")
    )
    outlined = "; outlined: edited heads, scale and offset included" if len(edited) else ""
    titles = {
        "change": "Change of direct contributions",
        "after": "Direct contributions after the edit",
    }
    bar = {"colorbar": {"title": {"text": "logit"}}}
    return finished(
        figure,
        titles.get(values, "Direct contributions"),
        f"right minus wrong logit, n = {n}: {difference};<br>{outside}{outlined}",
        coloraxis={**signed_axis(float(np.abs(sums).max())), **bar},
        legend=LEGEND_BELOW,
        width=900,
        height=250 + max(200, 22 * n_layers),
        margin={"t": 130, "b": 96},
    )


def attention_map(frame: pd.DataFrame, *, tokens: Sequence[str]) -> go.Figure:
    """Attention of one head on one text, by its rows of `AttentionPatterns.frame()`."""
    columns = [name for name in ("before", "after", "change") if name in frame]
    titles = columns if len(columns) > 1 else ["attention"]
    figure = make_subplots(
        cols=len(columns), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=titles
    )
    place = frame["query"].to_numpy(), frame["key"].to_numpy()
    whole = [html.escape(token) for token in tokens]
    pairs = np.array([[f"{query} ← {key}" for key in whole] for query in whole])
    for column, name in enumerate(columns, start=1):
        grid = np.full((len(tokens), len(tokens)), np.nan)
        grid[place] = frame[name].to_numpy()
        figure.add_heatmap(
            row=1,
            col=column,
            z=grid,
            text=pairs,
            hovertemplate=f"%{{text}}<br>{name} %{{z:.3f}}<extra></extra>",
            hoverongaps=False,
            coloraxis="coloraxis2" if name == "change" else "coloraxis",
        )
    side = min(520, max(220, 14 * len(tokens)))
    bare = {"tickfont": {"size": 11}, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**token_ticks(tokens, ABREAST // len(columns)), **bare, tickangle=-90)
    figure.update_yaxes(**token_ticks(tokens, side // 13), **bare, range=[len(tokens) - 0.5, -0.5])
    figure.update_xaxes(title="key")
    figure.update_yaxes(title="query", row=1, col=1)
    change = float(frame["change"].abs().max()) if "change" in frame else 0.0
    bar = {"thickness": 12, "len": 0.48 if len(columns) > 1 else 1, "nticks": 5}
    share = {**bar, "y": 1, "yanchor": "top", "title": {"text": "share"}}
    changed = {**bar, "y": 0, "yanchor": "bottom", "title": {"text": "change"}}
    return finished(
        figure,
        f"Attention of {frame['name'].iloc[0]}",
        "each row: where a token looks",
        coloraxis={"colorscale": "Blues", "cmin": 0, "cmax": 1, "colorbar": share},
        coloraxis2={**signed_axis(change), "colorbar": changed},
        width=side * len(columns) + 280,
        height=side + 220,
        margin={"t": 110, "b": 100},
    )


def _hovers(parts: pd.DataFrame) -> list[str]:
    """One text per head: its contribution, and the shares of head, scale and offset if edited."""
    texts = []
    for (layer, head), row in zip(parts.index.tolist(), parts.to_dict("records"), strict=True):
        shares = {kind: value for kind, value in row.items() if not np.isnan(value)}
        text = f"L{layer}H{head}: {sum(shares.values()):+.3f}"
        if len(shares) > 1:
            text += "".join(f"<br>{kind} {value:+.3f}" for kind, value in shares.items())
        texts.append(text)
    return texts


def _signed(value: float) -> str:
    """Two decimals with their sign; no minus before zero."""
    return f"{round(value, 2) + 0.0:+.2f}"
