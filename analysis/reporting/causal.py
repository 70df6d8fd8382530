"""What causal curves write for people: their table and their figure."""

from __future__ import annotations

from pathlib import Path

from lofit_lens.analysis.kinds.curves import CausalCurves
from lofit_lens.analysis.study.store import Store, rows_of


def write_curves(store: Store, curves: CausalCurves) -> list[Path]:
    """Write table and figure beside the records; returns the files."""
    from lofit_lens.analysis.figures.files import write_figure

    frame = curves.frame()
    paths = store.write({"table.csv": frame.to_csv(index=False)})
    figure = store.marker.with_name("causal.html")
    write_figure(curves.plot(), figure)
    store.tell(table=rows_of(frame))
    return [*paths, figure, store.marker]
