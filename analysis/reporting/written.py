"""What experiments write for people, beside their records: tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.study.experiment_folder import rows_of
from lofit_lens.analysis.study.store import Store
from lofit_lens.analysis.tables.cells import Tables
from lofit_lens.analysis.tables.latex import as_latex
from lofit_lens.analysis.tables.tables import as_html, as_markdown

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def write_results(
    store: Store,
    frame: pd.DataFrame,
    figures: Mapping[str, go.Figure],
    texts: Mapping[str, str] | None = None,
    **told: Any,
) -> list[Path]:
    """Write a table as table.csv and into the marker, and what goes with it; returns the files.

    Args:
        store: Where, a folder.
        frame: The table.
        figures: Figures by name of the file; plotly's script lies once beside them.
        texts: Other files by name.
        told: What else the marker tells.
    """
    from lofit_lens.analysis.figures.files import write_figures

    paths = store.write({"table.csv": frame.to_csv(index=False), **(texts or {})})
    if figures:
        paths += write_figures({store.marker.with_name(n): drawn for n, drawn in figures.items()})
    store.tell(**told | {"table": rows_of(frame)})
    return [*paths, store.marker]


def write_tables(
    store: Store, comparison: Comparison, *, base: str, published: str | None = None
) -> list[Path]:
    """Write the table of a comparison in four formats, and the forest plot; returns the files."""
    tables = Tables.of(comparison, base=base, published=published)
    texts = {
        "table.md": as_markdown(tables),
        "table.html": as_html(tables),
        "table.tex": as_latex(tables),
        "choices.csv": comparison.choices().to_csv(index=False),
    }
    figures = {"forest.html": comparison.plot(base)} if len(comparison.methods) > 1 else {}
    return write_results(store, comparison.frame(base), figures, texts, base=base)
