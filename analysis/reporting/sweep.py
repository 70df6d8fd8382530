"""What a sweep writes for people: its table and its figure."""

from __future__ import annotations

from pathlib import Path

from lofit_lens.analysis.kinds.sweep import Sweep
from lofit_lens.analysis.study.store import Store, rows_of


def write_sweep(store: Store, sweep: Sweep) -> list[Path]:
    """Write table and figure beside the records; returns the files."""
    from lofit_lens.analysis.figures.files import write_figure

    frame = sweep.frame()
    paths = store.write({"table.csv": frame.to_csv(index=False)})
    figure = store.marker.with_name("sweep.html")
    write_figure(sweep.plot(), figure)
    store.tell(table=rows_of(frame))
    return [*paths, figure, store.marker]
