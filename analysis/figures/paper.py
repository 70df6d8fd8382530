"""The paper's own figures, drawn from the numbers it published by what draws a user's."""

from __future__ import annotations

from collections.abc import Sequence

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


DRAWINGS: Drawings = {
    "paper-figure2": lambda: transfer_heatmap(
        published.figure_2().assign(value=lambda cells: cells["value"] / 100), relative=False
    ),
    "paper-figure3": lambda: layer_bars(published_layers()),
    "paper-figure4": lambda: sweep_lines(published.figure_4(), x="examples"),
    "paper-figure5": lambda: sweep_lines(published.figure_5(), x="percent", series="model"),
    "paper-figure6": lambda: pair_maps(
        published.figure_6(), title="How alike the heads of two tasks are"
    ),
    **{
        f"paper-table2-{model}": lambda model=model: SelectorTable.published(model).plot()
        for model in published.MODELS
    },
}
"""What draws each figure of the paper, by its name."""
