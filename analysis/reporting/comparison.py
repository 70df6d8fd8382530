"""What a comparison writes for people: its table in four formats, and the forest plot."""

from __future__ import annotations

from pathlib import Path

from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.study.store import Store, rows_of
from lofit_lens.analysis.tables.latex import as_latex
from lofit_lens.analysis.tables.tables import as_html, as_markdown


def write_tables(
    store: Store, comparison: Comparison, *, base: str, published: str | None = None
) -> list[Path]:
    """Write tables and figure beside the records; returns the files."""
    from lofit_lens.analysis.figures.files import write_figure

    frame = comparison.frame(base)
    paths = store.write(
        {
            "table.csv": frame.to_csv(index=False),
            "table.md": as_markdown(comparison, base=base, published=published),
            "table.html": as_html(comparison, base=base, published=published),
            "table.tex": as_latex(comparison, base=base, published=published),
            "choices.csv": comparison.choices().to_csv(index=False),
        }
    )
    store.tell(base=base, table=rows_of(frame))
    if len(comparison.methods) > 1:
        figure = store.marker.with_name("forest.html")
        write_figure(comparison.plot(base), figure)
        paths.append(figure)
    return [*paths, store.marker]
