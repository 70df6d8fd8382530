"""Results of cross-task head transfer: runs, and the matrix they make (Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lofit_lens.analysis.pairing import RESAMPLES, check_paired, item_groups, plain
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json_gz, write_json_gz
from lofit_lens.heads import HeadSet
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.statistics import crossed_interval, holm, paired_difference

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TRANSFER_SCHEMA = 1

RANDOM = "random"
"""The source of heads that were drawn and not chosen on a task."""

ZERO_SHOT = "zero-shot-"
"""Beginning of the names of files with zero-shot scores."""

MARKS = (
    "* p < 0.05, + p < 0.1: own heads are better; Holm-corrected over all cells off the diagonal"
)
"""What the marks in figures and tables mean."""


@dataclass(frozen=True)
class TransferRun:
    """One tuning run on heads from some source.

    Attributes:
        source: The task the heads were chosen on, or "random".
        task: The task they were tuned and tested on.
        seed: Seed of the run; random heads may be drawn several times for one seed.
        heads: The heads.
        evaluation: Scores of the tuned model on `task`.
    """

    source: str
    task: str
    seed: int
    heads: HeadSet
    evaluation: Evaluation

    def save(self, path: str | Path) -> Path:
        """Write the run with the record of every item as one gzipped JSON file."""
        content = {
            "schema": TRANSFER_SCHEMA,
            "source": self.source,
            "task": self.task,
            "seed": self.seed,
            "heads": self.heads.to_json(),
            "evaluation": self.evaluation.to_json(),
        }
        return write_json_gz(path, content)

    def file_name(self, place: int) -> str:
        """A name for the run's file; `place` is its place among the runs and keeps their order."""
        return f"{place:03}-{plain(self.source)}-on-{plain(self.task)}-{self.seed}.json.gz"

    @classmethod
    def load(cls, path: str | Path) -> TransferRun:
        """Read what `save` wrote.

        Raises:
            LofitLensError: The file is missing or of another format.
        """
        return read_json_gz(path, cls._from_json, what="a transfer run")

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> TransferRun:
        if content["schema"] != TRANSFER_SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, expected {TRANSFER_SCHEMA}")
        return cls(
            content["source"],
            content["task"],
            content["seed"],
            HeadSet.from_json(content["heads"]),
            Evaluation.from_json(content["evaluation"]),
        )


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """Accuracy on each task with the heads of each task, paired by seed and item.

    Attributes:
        runs: The runs: every source on every task with every seed.
        zero_shot: Scores of the untuned model, by task.

    Raises:
        LofitLensError: There are no runs.
    """

    runs: tuple[TransferRun, ...]
    zero_shot: Mapping[str, Evaluation]

    def __post_init__(self) -> None:
        if not self.runs:
            raise LofitLensError("A transfer matrix needs at least one run, got none.")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks tuned and tested on, in order of appearance."""
        return tuple(dict.fromkeys(run.task for run in self.runs))

    @property
    def sources(self) -> tuple[str, ...]:
        """Where heads come from: in the order of the tasks, "random" last."""
        found = dict.fromkeys(run.source for run in self.runs)
        places = {task: place for place, task in enumerate(self.tasks)}
        return tuple(sorted(found, key=lambda s: (s == RANDOM, places.get(s, len(places)))))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, lowest first."""
        return tuple(sorted({run.seed for run in self.runs}))

    def table(self, source: str, task: str) -> np.ndarray:
        """The main metric of a cell by [seed, item], draws of one seed averaged.

        Args:
            source: Where the heads come from.
            task: The task they were tuned and tested on.

        Raises:
            LofitLensError: The cell lacks a seed of the matrix, or its items, split, metric or
                compat rule are not those of the zero-shot scores.
        """
        rows = []
        for seed in self.seeds:
            draws = [
                self._scores(run)
                for run in self.runs
                if (run.source, run.task, run.seed) == (source, task, seed)
            ]
            if not draws:
                raise LofitLensError(
                    f"No run with heads from {source!r} tuned on {task!r} with seed {seed}. Every "
                    f"cell needs the seeds {', '.join(map(str, self.seeds))}."
                )
            rows.append(np.mean(draws, axis=0))
        return np.stack(rows)

    def draws(self, source: str, task: str) -> np.ndarray:
        """The main metric of a cell by [run, item]; several draws of a seed are runs of their own.

        Args:
            source: Where the heads come from.
            task: The task they were tuned and tested on.

        Raises:
            LofitLensError: The cell is empty, or its items, split, metric or compat rule are not
                those of the zero-shot scores.
        """
        found = [self._scores(run) for run in self.runs if (run.source, run.task) == (source, task)]
        if not found:
            raise LofitLensError(f"No run with heads from {source!r} tuned on {task!r}.")
        return np.stack(found)

    def groups(self, task: str) -> list[str]:
        """The group of each test item of a task; an item without one is its own."""
        return item_groups(self._untuned(task))

    def frame(self) -> pd.DataFrame:
        """One row per source of heads and task.

        Columns `source`, `task`, `metric`, `value`, `low`, `high` (95%, new seeds and new items),
        `n` (items), `seeds`, `relative` (to the task's own heads; NaN if those score 0),
        `difference`, `difference_low`, `difference_high` (own heads minus these), `p`, `p_holm`
        (corrected over all cells off the diagonal) and `mark` where own heads are better: "*" for
        p_holm < 0.05, "+" for p_holm < 0.1. Items of one group are resampled together. On the
        diagonal the difference and its p are NaN.

        Raises:
            LofitLensError: A cell is incomplete (see `table`).
        """
        return self._cells.copy()

    def plot(self, *, relative: bool = True) -> go.Figure:
        """Heat map: rows are the source of the heads, columns the task tuned and tested on.

        Args:
            relative: Show accuracy in percent of the task's own heads; otherwise accuracy in
                percent, with the zero-shot accuracy as the bottom row.

        Raises:
            LofitLensError: A cell is incomplete (see `table`).
        """
        from lofit_lens.analysis.figures.transfer import transfer_heatmap

        return transfer_heatmap(self, relative=relative)

    @cached_property
    def _cells(self) -> pd.DataFrame:
        import pandas as pd

        rows = []
        for source in self.sources:
            for task in self.tasks:
                table, own = self.table(source, task), self.table(task, task)
                groups = self.groups(task)
                estimate = crossed_interval(table, groups=groups)
                row = {
                    "source": source,
                    "task": task,
                    "metric": self._untuned(task).metric_names[0],
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "n": estimate.n,
                    "seeds": estimate.runs,
                    "relative": estimate.value / own.mean() if own.any() else np.nan,
                }
                row |= dict.fromkeys(_TESTED, np.nan)
                if source != task:
                    d = paired_difference(own, table, groups=groups, resamples=RESAMPLES)
                    row |= dict(zip(_TESTED, (d.value, d.low, d.high, d.p), strict=True))
                rows.append(row)
        frame = pd.DataFrame(rows)
        p = frame["p"].to_numpy()
        corrected = np.full(len(p), np.nan)
        corrected[~np.isnan(p)] = holm(p[~np.isnan(p)])
        worse = frame["difference"].to_numpy() > 0
        marks = np.select([worse & (corrected < 0.05), worse & (corrected < 0.1)], ["*", "+"], "")
        return frame.assign(p_holm=corrected, mark=marks)

    def _untuned(self, task: str) -> Evaluation:
        if task not in self.zero_shot:
            raise LofitLensError(
                f"There are no zero-shot scores for {task!r}, only for "
                f"{', '.join(self.zero_shot) or 'no task'}. Evaluate the model without an edit."
            )
        return self.zero_shot[task]

    def _scores(self, run: TransferRun) -> np.ndarray:
        what = f"{run.task!r} with heads from {run.source!r}, seed {run.seed}"
        check_paired(run.evaluation, self._untuned(run.task), what=what, base="zero-shot")
        metric = run.evaluation.metric_names[0]
        return np.array([record[metric] for record in run.evaluation.records], dtype=np.float64)

    def save(self, folder: str | Path) -> Path:
        """Write every run and the zero-shot scores, one gzipped JSON file each.

        Raises:
            LofitLensError: The folder holds other runs.
        """
        folder = Path(folder)
        runs = {run.file_name(place): run for place, run in enumerate(self.runs)}
        untuned = {
            f"{ZERO_SHOT}{place:03}-{plain(task)}.json.gz": evaluation
            for place, (task, evaluation) in enumerate(self.zero_shot.items())
        }
        foreign = {path.name for path in folder.glob("*.json.gz")} - runs.keys() - untuned.keys()
        if foreign:
            raise LofitLensError(
                f"{folder} holds other runs, such as {min(foreign)}, which would be read as part of this "
                "matrix. Name an empty folder."
            )
        for name, result in (runs | untuned).items():
            result.save(folder / name)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> TransferMatrix:
        """Read what `save` wrote.

        Raises:
            LofitLensError: There are no runs in the folder, or a file is of another format.
        """
        paths = sorted(Path(folder).glob("*.json.gz"))
        runs = [TransferRun.load(p) for p in paths if not p.name.startswith(ZERO_SHOT)]
        untuned = [Evaluation.load(p) for p in paths if p.name.startswith(ZERO_SHOT)]
        if not runs:
            raise LofitLensError(f"There are no transfer runs in {folder}.")
        return cls(tuple(runs), {evaluation.task: evaluation for evaluation in untuned})

    def __repr__(self) -> str:
        seeds = ", ".join(map(str, self.seeds))
        sources, tasks = ", ".join(self.sources), ", ".join(self.tasks)
        return f"TransferMatrix(heads from {sources}; tuned and tested on {tasks}; seeds {seeds})"

    def _repr_html_(self) -> str:
        import pandas as pd

        from lofit_lens.analysis.figures.transfer import marked

        values = 100 * self._cells["value"].to_numpy().reshape(len(self.sources), -1)
        marks = self._cells["mark"].to_numpy().reshape(values.shape)
        table = pd.DataFrame(
            marked(values, marks), index=list(self.sources), columns=list(self.tasks)
        )
        seeds = ", ".join(map(str, self.seeds))
        caption = f"Heads from (rows), tuned and tested on (columns): accuracy, %; seeds {seeds}."
        return f"<p>{caption}</p>{table.to_html()}<p>{MARKS}</p>"


_TESTED = ("difference", "difference_low", "difference_high", "p")
