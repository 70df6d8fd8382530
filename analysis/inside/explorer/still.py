"""The heat map of heads as plain SVG, for places where no script runs."""

from __future__ import annotations

from html import escape

import numpy as np

from lofit_lens.analysis.inside.explorer.cards import HeadCards
from lofit_lens.heads import Head

GAP, LEFT, BOTTOM = 1, 44, 40


def still_map(cards: HeadCards, task: str | None = None) -> str:
    """The heat map of `HeadCards.plot` as an SVG element: no script, text in the ink of the page.

    Raises:
        LofitLensError: There is no such task.
    """
    from plotly.colors import sample_colorscale

    from lofit_lens.analysis.figures.explorer import EDITED, MARK, shown

    task = cards.known_task(task)
    values, label, marked = shown(cards, task)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    depth = (values - low) / (high - low or 1.0)
    cell = min(28, max(12, 480 // max(values.shape)))
    filled = [Head(int(i), int(j)) for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True)]
    shares = [float(depth[head]) for head in filled]
    fills = sample_colorscale("Viridis", shares, colortype="rgb")
    parts = _axes(cards, cell)
    for head, share, fill in zip(filled, shares, fills, strict=True):
        x, y = LEFT + cell * head.head, cell * (cards.n_layers - 1 - head.layer)
        frame = f' stroke="{EDITED}" stroke-width="2"' if head in marked else ""
        parts.append(
            f'<rect x="{x + GAP}" y="{y + GAP}" width="{cell - 2 * GAP}" height="{cell - 2 * GAP}" '
            f'fill="{fill}"{frame}><title>{head}: {label} {values[head]:.4g}</title></rect>'
        )
        if head in marked:
            ink = "#222222" if share > 0.5 else "#f5f5f5"  # on the colour of the cell
            parts.append(_text(x + cell / 2, y + cell / 2 + 4, MARK, fill=ink))
    names = ", ".join(map(str, marked))
    title = escape(f"{label} of every head for {task}, {low:.3g} (dark) to {high:.3g} (light)")
    width, height = LEFT + cell * cards.n_heads + 4, cell * cards.n_layers + BOTTOM
    size = f'width="{width}" height="{height}"'
    return (
        f'<figure class="ll-map"><svg {size} role="img" aria-label="{title}; edited: {names}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="10">{"".join(parts)}</svg>'
        f"<figcaption>{title}; {MARK} and outline: edited heads</figcaption></figure>"
    )


def _axes(cards: HeadCards, cell: int) -> list[str]:
    """Numbers and names of heads and layers."""
    width, height = cell * cards.n_heads, cell * cards.n_layers
    heads = range(0, cards.n_heads, max(1, cards.n_heads // 16))
    layers = range(0, cards.n_layers, max(1, cards.n_layers // 16))
    turned = f' transform="rotate(-90 10 {height / 2:g})"'
    return [
        *(_text(LEFT + cell * (head + 0.5), height + 14, str(head)) for head in heads),
        *(_text(LEFT - 12, height - cell * (layer + 0.5) + 4, str(layer)) for layer in layers),
        _text(LEFT + width / 2, height + 32, "head"),
        _text(10, height / 2, "layer", extra=turned),
    ]


def _text(
    x: float | int, y: float | int, text: str, *, fill: str = "currentColor", extra: str = ""
) -> str:
    place = f'x="{x:g}" y="{y:g}" text-anchor="middle" fill="{fill}"{extra}'
    return f'<text {place} pointer-events="none">{text}</text>'
