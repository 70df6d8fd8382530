"""Parts of layouts that several figures have in common."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from lofit_lens.plotting import elided

NARROW, ABREAST = 75, 40
"""Letters in cells, and upright labels, that stand side by side in 690 pixels, the narrowest page."""


def signed_axis(largest: float) -> dict[str, Any]:
    """A colour axis around zero: red below, blue above."""
    return {"colorscale": "RdBu", "cmid": 0, "cmin": -largest or -1, "cmax": largest or 1}


def legend_below() -> dict[str, Any]:
    """A row of entries at the lower edge, whatever the height of the figure."""
    return {"orientation": "h", "x": 0, "yref": "container", "y": 0.01, "yanchor": "bottom"}


def title_at_top(text: str, subtitle: str, height: int) -> dict[str, Any]:
    """A title at a fixed distance from the top, whatever the height of the figure."""
    return {
        "text": text,
        "subtitle": {"text": subtitle},
        "x": 0.02,
        "yref": "container",
        "y": 1 - 24 / height,
    }


def token_ticks(tokens: Sequence[str], room: int) -> dict[str, Any]:
    """Every token, or as many of them at equal distances as there is room for."""
    every = -(-len(tokens) // room)
    short = elided(tokens, 12)
    return {
        "tickvals": list(range(0, len(tokens), every)),
        "ticktext": [html.escape(short[token]) for token in tokens[::every]],
    }
