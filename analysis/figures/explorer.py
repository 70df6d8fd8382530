"""Heat map of the scores of all heads, the edited ones marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from lofit_lens.analysis.figures.layouts import outline
from lofit_lens.heads import Head
from lofit_lens.plotting import COLOURS, elided, head_grid

if TYPE_CHECKING:
    from lofit_lens.analysis.inside.explorer.cards import HeadCards

MARK = "◆"
CROWDED = 40
"""More layers or heads than this leave no room between cells."""
EDITED, CHOSEN = COLOURS[5], COLOURS[3]


def head_map(cards: HeadCards, task: str) -> go.Figure:
    """Heat map of a task, as `HeadCards.plot` describes it."""
    values, label, marked = shown(cards, task)
    seeds = sum(one.task == task for one in cards.scores)
    mean = f", mean over {seeds} seeds" if seeds > 1 else ""
    gap = int(max(values.shape) <= CROWDED)
    n_layers, n_heads = values.shape
    cells = [[Head(layer, head) for head in range(n_heads)] for layer in range(n_layers)]
    subtitle = f"{label}{mean}; {MARK} and outline: the {len(marked)} edited heads"
    subtitle += "; hatched: layers without heads" if cards.without else ""
    title = f"Heads for {elided([task], 60)[task]}"
    figure = head_grid(values, label=label, title=title, without=cards.without)
    figure.update_traces(
        selector={"type": "heatmap"},
        text=[[MARK if cell in marked else "" for cell in row] for row in cells],
        texttemplate="%{text}",
        textfont={"size": max(5, min(14, 300 // max(values.shape)))},
        customdata=[[_hover(cards, task, cell) for cell in row] for row in cells],
        hovertemplate="%{customdata}<extra></extra>",
        xgap=gap,
        ygap=gap,
    )
    figure.update_xaxes(range=None, showgrid=False)
    figure.update_yaxes(range=None, showgrid=False)
    return figure.update_layout(
        title={"subtitle": {"text": subtitle}}, shapes=outlines(values, marked)
    )


def shown(cards: HeadCards, task: str) -> tuple[np.ndarray, str, tuple[Head, ...]]:
    """The values of a task's map, what they are, and the heads marked on it."""
    values, label = cards.mean_scores(task), "score"
    if np.isnan(values).all():
        label = "offset norm"
        for edit in cards.edits:
            if edit.task == task:
                values[edit.head] = edit.offset_norm
    return values, label, cards.edited(task) or cards.edited()


def outlines(values: np.ndarray, marked: Sequence[Head]) -> list[dict[str, Any]]:
    """Frames around the edited heads, thin where cells are small."""
    width = 2 if max(values.shape) <= CROWDED else 1
    return [outline(head, layer, EDITED, width, 0.5) for layer, head in marked]


def _hover(cards: HeadCards, task: str, head: Head) -> str:
    if head not in cards.grid:
        return ""
    card = cards.card(head)
    lines = [f"<b>{head}</b>"]
    for score in card.scores:
        if score.task == task:
            seed = "" if score.seed is None else f", seed {score.seed}"
            lines.append(f"score {score.score:.4g}, rank {score.rank} of {score.n_ranked}{seed}")
    lines += [f"edited for {e.task}: offset norm {e.offset_norm:.3g}" for e in card.edits]
    return "<br>".join(lines)
