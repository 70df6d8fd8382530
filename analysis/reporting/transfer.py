"""What a transfer of heads writes for people: its table and Figure 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.analysis.study.store import Store, rows_of

if TYPE_CHECKING:
    import pandas as pd


def write_figure_2(
    store: Store, matrix: TransferMatrix, model: str, noted: Mapping[str, Any]
) -> tuple[pd.DataFrame, list[Path]]:
    """Write table and figure beside the records; the table, and the files."""
    from lofit_lens.analysis.figures.files import write_figure
    from lofit_lens.analysis.figures.transfer import transfer_heatmap

    table = table_of(matrix, model)
    paths = store.write({"table.csv": table.to_csv(index=False)})
    figure = store.marker.with_name("figure2.html")
    write_figure(transfer_heatmap(table), figure)
    store.tell(table=rows_of(table), **noted)
    return table, [*paths, figure, store.marker]


def table_of(matrix: TransferMatrix, model: str) -> pd.DataFrame:
    """The cells and zero-shot scores with the column `model`, as `transfer_heatmap` draws them."""
    table = matrix.frame(zero_shot=True)
    table.insert(0, "model", model)
    return table
