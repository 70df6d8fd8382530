"""The paper's own figures, drawn from the numbers it published by what draws a user's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import plotly.graph_objects as go

from lofit_lens.analysis import published
from lofit_lens.analysis.figures.drawing import Drawings, draw
from lofit_lens.analysis.figures.layers import layer_bars
from lofit_lens.analysis.figures.overlap import pair_maps
from lofit_lens.analysis.figures.sweeps import sweep_lines
from lofit_lens.analysis.figures.transfer import transfer_heatmap
from lofit_lens.analysis.inside.layers import published_layers
from lofit_lens.analysis.kinds.selectors import SelectorTable


def published_figures(only: Sequence[str] = ()) -> dict[str, go.Figure]:
    """Draw the figures of the paper: Yin, Ye and Durrett (2024), arXiv 2406.01563, version 2.

    Args:
        only: Names of those wanted, as "paper-figure2"; without any, all.

    Raises:
        LofitLensError: There is no figure of a name.
    """
    return draw(DRAWINGS, only, what="the paper")


def _figure_2() -> go.Figure:
    cells = published.figure_2()
    return transfer_heatmap(cells.assign(value=cells["value"] / 100), relative=False)


def _figure_3() -> go.Figure:
    return layer_bars(published_layers())


def _figure_4() -> go.Figure:
    return sweep_lines(published.figure_4(), x="examples")


def _figure_5() -> go.Figure:
    return sweep_lines(published.figure_5(), x="percent", series="model")


def _figure_6() -> go.Figure:
    return pair_maps(published.figure_6(), title="How alike the heads of two tasks are")


def _table_2(model: str) -> go.Figure:
    return SelectorTable.published(model).plot()


DRAWINGS: Drawings = {
    "paper-figure2": _figure_2,
    "paper-figure3": _figure_3,
    "paper-figure4": _figure_4,
    "paper-figure5": _figure_5,
    "paper-figure6": _figure_6,
    **{f"paper-table2-{model}": partial(_table_2, model) for model in published.MODELS},
}
"""What draws each figure of the paper, by its name."""
