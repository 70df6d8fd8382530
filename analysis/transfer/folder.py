"""The folder of `lofit-lens transfer`: scores, records, table, figure; it can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lofit_lens.analysis.folders import (
    Kind,
    check_folder,
    check_saved,
    command_line,
    open_folder,
    records,
    write_json,
)
from lofit_lens.analysis.study.paired import plain
from lofit_lens.analysis.transfer.earlier import AllScores
from lofit_lens.analysis.transfer.results import TransferMatrix
from lofit_lens.analysis.transfer.run import TransferRun, is_untuned, untuned_file
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json
from lofit_lens.head_scores import HeadScores
from lofit_lens.scoring.evaluation import Evaluation

KIND = Kind(
    "transfer of heads",
    marker="transfer.json",
    records="records",
    products=("scores/*.json", "table.csv", "figure2.html", "plotly.min.js"),
)


FOLDER_SCHEMA = 1
"""Of the marker."""

FINISHED = frozenset({"table", "saved"})
"""A marker with one of these entries belongs to a finished matrix: of the command, of Python."""


class TransferFolder:
    """Takes scores and runs as soon as they are there, and table and figure in the end.

    Nothing in the folder is changed before `open`.

    Args:
        path: Where.
        overwrite: Whether to remove an earlier matrix in it.
        resume: Whether to go on with an earlier matrix in it.

    Attributes:
        path: Where.
        scores: Stage 1, as far as it is there.
        zero_shot: Scores of the untuned model by task, as far as they are there.
        done: The runs to go on with.

    Raises:
        LofitLensError: The folder holds something else, or a matrix and neither is said.
    """

    def __init__(self, path: Path, *, overwrite: bool, resume: bool = False) -> None:
        self._how = {"overwrite": overwrite, "resume": resume}
        check_folder(path, KIND, **self._how)
        self.path = path
        self.scores: dict[str, dict[int, HeadScores]] = {}
        self.zero_shot: dict[str, Evaluation] = {}
        self.done: tuple[TransferRun, ...] = ()
        self._request: Mapping[str, Any] = {}
        self._records = path / KIND.records
        self._count = 0

    def open(self, request: Mapping[str, Any]) -> None:
        """Make the folder, or read what there is to go on with.

        Args:
            request: What was asked for, as plain JSON values; written to the marker now and in the
                end. To go on it needs `tasks`, `seeds` and `random_draws`, and the same of
                everything but more seeds and draws.

        Raises:
            LofitLensError: The earlier matrix was asked for otherwise, or a file is damaged.
        """
        self._request = {"schema": FOLDER_SCHEMA, **request}
        if self._how["resume"] and (self.path / KIND.marker).is_file():
            self._check_request()
            self._read()
        open_folder(self.path, KIND, self._request, **self._how)

    def add_scores(self, scores: AllScores) -> None:
        """Write what stage 1 found."""
        for task, by_seed in scores.items():
            for seed, found in by_seed.items():
                path = self._scores_file(task, seed)
                found.save(path.with_suffix(".partial")).replace(path)
                self.scores.setdefault(task, {})[seed] = found

    def add_zero_shot(self, evaluation: Evaluation) -> None:
        """Write the scores of the untuned model on a task, for each task in its order."""
        self.zero_shot[evaluation.task] = evaluation
        place = list(self.zero_shot).index(evaluation.task)
        evaluation.save(self._records / untuned_file(place, evaluation.task))

    def add(self, run: TransferRun) -> None:
        """Write a run."""
        run.save(self._records / run.file_name(self._count))
        self._count += 1

    def finish(
        self, matrix: TransferMatrix, model: str, noted: Mapping[str, Any] | None = None
    ) -> tuple[pd.DataFrame, list[Path]]:
        """Write table and figure, and what else is to be noted; the table, the files for people."""
        from lofit_lens.analysis.figures.files import write_figure
        from lofit_lens.analysis.figures.transfer import transfer_heatmap

        for evaluation in matrix.zero_shot.values():
            self.add_zero_shot(evaluation)
        table = table_of(matrix, model)
        paths = [self.path / name for name in ("table.csv", "figure2.html", KIND.marker)]
        table.to_csv(paths[0], index=False)
        write_figure(transfer_heatmap(table), paths[1])
        told = {**self._request, "command_line": command_line(), "table": records(table)}
        write_json(paths[2], {**told, **(noted or {})})
        return table, paths

    def _check_request(self) -> None:
        """Refuse to go on with a matrix that is not part of the one asked for."""
        earlier = read_json(self.path / KIND.marker, schema=FOLDER_SCHEMA, what=KIND.name)
        now = json.loads(json.dumps(self._request))
        same = {name: earlier.get(name) == value for name, value in now.items()}
        same["seeds"] = set(earlier["seeds"]) <= set(now["seeds"])
        # a matrix saved from Python says nothing of its draws, nor of the model
        same["random_draws"] = earlier.get("random_draws", 0) <= now["random_draws"]
        odd = [name for name, agrees in same.items() if not agrees]
        if odd:
            raise LofitLensError(
                f"The transfer of heads in {self.path} cannot be gone on with, because it was made "
                f"with other {', '.join(odd)} (see {KIND.marker}); only seeds and random draws may "
                "be added. Give what it had, or name another folder with --out."
            )

    def _read(self) -> None:
        """Scores, zero-shot scores and runs of the earlier matrix."""
        for task in self._request["tasks"]:
            for seed in self._request["seeds"]:
                path = self._scores_file(task, seed)
                if path.is_file():
                    self.scores.setdefault(task, {})[seed] = HeadScores.load(path)
        files = sorted(self._records.glob("*.json.gz"))
        untuned = [Evaluation.load(file) for file in files if is_untuned(file)]
        self.zero_shot = {evaluation.task: evaluation for evaluation in untuned}
        self.done = tuple(TransferRun.load(file) for file in files if not is_untuned(file))
        self._count = len(self.done)

    def _scores_file(self, task: str, seed: int) -> Path:
        return self.path / "scores" / f"{plain(task)}-{seed}.json"


def table_of(matrix: TransferMatrix, model: str) -> pd.DataFrame:
    """The cells and zero-shot scores with the column `model`, as `transfer_heatmap` draws them."""
    table = matrix.frame(zero_shot=True)
    table.insert(0, "model", model)
    return table


def save_transfer(matrix: TransferMatrix, folder: Path) -> Path:
    """Write a matrix that was made in Python as the command would, without table and figure.

    Raises:
        LofitLensError: The folder holds something else, or other runs.
    """
    check_saved(folder, KIND, list(_named(matrix)))
    write_records(matrix, folder / KIND.records)
    told = {"tasks": matrix.tasks, "seeds": matrix.seeds}
    tuning = {run.task: dict(run.config) for run in matrix.runs if run.config is not None}
    content = {"schema": FOLDER_SCHEMA, **told, "tuning": tuning, "saved": True}
    write_json(folder / KIND.marker, content)
    return folder


def write_records(matrix: TransferMatrix, folder: Path) -> None:
    """Write every run and the zero-shot scores, one gzipped JSON file each, into a folder."""
    for name, result in _named(matrix).items():
        result.save(folder / name)


def _named(matrix: TransferMatrix) -> dict[str, TransferRun | Evaluation]:
    """The runs and the zero-shot scores by the names of their files."""
    runs = {run.file_name(place): run for place, run in enumerate(matrix.runs)}
    untuned = {
        untuned_file(place, task): evaluation
        for place, (task, evaluation) in enumerate(matrix.zero_shot.items())
    }
    return {**runs, **untuned}


def load_transfer(folder: str | Path) -> TransferMatrix:
    """The transfer matrix in a folder, made again from its records without the model.

    Args:
        folder: The `--out` of `lofit-lens transfer`, what `TransferMatrix.save` wrote, or a folder
            of records alone.

    Raises:
        LofitLensError: The folder holds no finished matrix, or a damaged one.
    """
    place = Path(folder)
    if (place / KIND.marker).is_file() or not any(place.glob("*.json.gz")):
        content = read_json(place / KIND.marker, schema=FOLDER_SCHEMA, what=KIND.name)
        if not FINISHED & content.keys():
            raise LofitLensError(
                f"The transfer of heads in {folder} was not finished, so cells are missing. Run it "
                "again with --resume."
            )
        place = place / KIND.records
    paths = sorted(place.glob("*.json.gz"))
    runs = [TransferRun.load(path) for path in paths if not is_untuned(path)]
    untuned = [Evaluation.load(path) for path in paths if is_untuned(path)]
    if not runs:
        raise LofitLensError(f"There are no transfer runs in {folder}.")
    return TransferMatrix(tuple(runs), {evaluation.task: evaluation for evaluation in untuned})
