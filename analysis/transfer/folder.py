"""The folder of `lofit-lens transfer`: scores of stage 1, records of every run, table, figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lofit_lens.analysis.folders import Kind, check_folder, open_folder, records, write_json
from lofit_lens.analysis.pairing import plain
from lofit_lens.analysis.transfer.matrix import AllScores
from lofit_lens.analysis.transfer.results import TransferMatrix
from lofit_lens.analysis.transfer.run import TransferRun
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json

KIND = Kind(
    "transfer of heads",
    marker="transfer.json",
    records="records",
    products=("scores/*.json", "table.csv", "figure2.html", "plotly.min.js"),
)


FOLDER_SCHEMA = 1
"""Of the marker."""


class TransferFolder:
    """Takes scores and runs as soon as they are there, and table and figure in the end.

    Nothing in the folder is changed before `open`.

    Args:
        path: Where.
        overwrite: Whether to remove an earlier matrix in it.

    Raises:
        LofitLensError: The folder holds something else, or a matrix and `overwrite` is off.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        check_folder(path, KIND, overwrite=overwrite)
        self.path = path
        self._overwrite = overwrite
        self._settings: Mapping[str, Any] = {}
        self._runs = 0

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the folder; `settings` are written to its marker now and in the end."""
        self._settings = {"schema": FOLDER_SCHEMA, **settings}
        open_folder(self.path, KIND, self._settings, overwrite=self._overwrite)

    def add_scores(self, scores: AllScores) -> None:
        """Write what stage 1 found."""
        for task, by_seed in scores.items():
            for seed, found in by_seed.items():
                found.save(self.path / "scores" / f"{plain(task)}-{seed}.json")

    def add(self, run: TransferRun) -> None:
        """Write a run."""
        run.save(self.path / KIND.records / run.file_name(self._runs))
        self._runs += 1

    def finish(self, matrix: TransferMatrix, model: str) -> list[Path]:
        """Write the zero-shot scores, table and figure; returns the files for people."""
        from lofit_lens.analysis.figures.transfer import transfer_heatmap

        matrix.save(self.path / KIND.records)
        table = table_of(matrix, model)
        paths = [self.path / name for name in ("table.csv", "figure2.html", KIND.marker)]
        table.to_csv(paths[0], index=False)
        transfer_heatmap(table).write_html(paths[1], include_plotlyjs="directory")
        write_json(paths[2], {**self._settings, "table": records(table)})
        return paths


def table_of(matrix: TransferMatrix, model: str) -> pd.DataFrame:
    """The cells and zero-shot scores with the column `model`, as `transfer_heatmap` draws them."""
    table = matrix.frame(zero_shot=True)
    table.insert(0, "model", model)
    return table


def load_transfer(folder: str | Path) -> TransferMatrix:
    """The transfer matrix in a folder, made again from its records without the model.

    Args:
        folder: The `--out` of `lofit-lens transfer`.

    Raises:
        LofitLensError: The folder holds no finished matrix, or a damaged one.
    """
    marker = Path(folder) / KIND.marker
    if "table" not in read_json(marker, schema=FOLDER_SCHEMA, what=KIND.name):
        raise LofitLensError(
            f"The transfer of heads in {folder} was not finished, so cells are missing. Run it again with "
            "--overwrite."
        )
    return TransferMatrix.load(Path(folder) / KIND.records)
