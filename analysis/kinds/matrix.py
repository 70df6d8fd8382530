"""Results of cross-task head transfer: runs, and the matrix they make (Figure 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lofit_lens.analysis.study import paired
from lofit_lens.analysis.study.earlier import earlier_transfer
from lofit_lens.analysis.study.experiment_folder import Kind, read_records, save_records
from lofit_lens.analysis.study.paired import check_paired, item_groups, main_scores
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.errors import LofitLensError
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.statistics import crossed_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

RANDOM = "random"
"""The source of heads that were drawn and not chosen on a task."""

KIND = Kind("transfer of heads", "transfer.json", ("table.csv", "figure2.html", "plotly.min.js"))

MARKS = (
    "* p < 0.05, + p < 0.1: own heads are better; paired bootstrap, Holm-corrected over all cells "
    "off the diagonal"
)
"""What the marks in figures and tables mean."""


def in_order(sources: Iterable[str], tasks: Iterable[str]) -> tuple[str, ...]:
    """Sources as the rows of a matrix: in the order of the tasks, others, random, zero-shot."""
    last = {RANDOM: 1, ZERO_SHOT: 2}
    places = {task: place for place, task in enumerate(tasks)}
    found = dict.fromkeys(sources)
    return tuple(sorted(found, key=lambda s: (last.get(s, 0), places.get(s, len(places)))))


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """Accuracy on each task with the heads of each task, paired by seed and item.

    Attributes:
        runs: The runs. A source may be left out on a task, but has every seed where it is tuned.
        zero_shot: Scores of the model as it is, by task.

    Raises:
        LofitLensError: There are no runs.
    """

    runs: tuple[Record, ...]
    zero_shot: Mapping[str, Evaluation]

    def __post_init__(self) -> None:
        if not self.runs:
            raise LofitLensError("A transfer matrix needs at least one run, got none.")

    @classmethod
    def of(cls, records: Sequence[Record]) -> TransferMatrix:
        """The matrix that records make, those of the model as it is among them."""
        zero_shot = {r.fold: r.evaluation for r in records if r.method == ZERO_SHOT}
        return cls(tuple(r for r in records if r.method != ZERO_SHOT), zero_shot)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks tuned and tested on, in order of appearance."""
        return tuple(dict.fromkeys(run.fold for run in self.runs))

    @property
    def sources(self) -> tuple[str, ...]:
        """Where heads come from: in the order of the tasks, "random" last."""
        return in_order((str(run.source) for run in self.runs), self.tasks)

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
        return np.stack([draws.mean(axis=0) for draws in self._by_seed(source, task)])

    def draws(self, source: str, task: str) -> np.ndarray:
        """As `table`, by [run, item]: several draws of a seed are runs of their own."""
        return np.concatenate(self._by_seed(source, task))

    def has(self, source: str, task: str) -> bool:
        """Whether heads of a source were tuned on a task."""
        return any((run.source, run.fold) == (source, task) for run in self.runs)

    def groups(self, task: str) -> list[str]:
        """The group of each test item of a task; an item without one is its own."""
        return item_groups(self._zero_shot(task))

    def frame(self, *, zero_shot: bool = False) -> pd.DataFrame:
        """One row per source of heads and task.

        Columns `source`, `task`, `metric`, `value`, `low`, `high` (95%, new seeds, draws and items),
        `n` (items), `seeds`, `relative` (to the task's own heads; NaN if those score 0 or were not
        tuned), `difference`, `difference_low`, `difference_high` (own heads minus these), `p`,
        `p_holm` (corrected over all cells off the diagonal) and `mark` where own heads are better:
        "*" for p_holm < 0.05, "+" for p_holm < 0.1. Items of one group are resampled together. Every
        draw of random heads is a run of the interval; differences are paired by seed, draws of one
        averaged, but with a single seed every draw is paired with the own heads. On
        the diagonal the difference and its p are NaN. Where a source was not tuned on a task, `n`
        and `seeds` are 0 and the numbers NaN.

        Args:
            zero_shot: Add the model as it is: `source` "zero-shot", one row per task, `seeds` 0,
                no difference and no p.

        Raises:
            LofitLensError: A cell has some seeds of the matrix and lacks others (see `table`).
        """
        import pandas as pd

        if not zero_shot:
            return self._cells.copy()
        rows = []
        for task in self.tasks:
            table = main_scores(self._zero_shot(task))[None]
            rows.append(self._row(ZERO_SHOT, task, table) | {"seeds": 0})
        return pd.concat([self._cells, paired.with_marks(pd.DataFrame(rows))], ignore_index=True)

    def plot(self, *, relative: bool = True) -> go.Figure:
        """Heat map: rows are the source of the heads, columns the task tuned and tested on.

        Two buttons switch between scores in percent of those with the task's own heads, and scores
        with the zero-shot ones as the bottom row. For several models beside each other see
        `transfer_heatmap`.

        Args:
            relative: Which of the two is shown first.

        Raises:
            LofitLensError: A cell has some seeds of the matrix and lacks others (see `table`).
        """
        from lofit_lens.analysis.figures.transfer import transfer_heatmap

        return transfer_heatmap(self.frame(zero_shot=True), relative=relative)

    @cached_property
    def _cells(self) -> pd.DataFrame:
        import pandas as pd

        frame = pd.DataFrame(
            self._row(source, task, self._found(source, task))
            for source in self.sources
            for task in self.tasks
        )
        return paired.with_marks(frame, above_only=True)

    def _by_seed(self, source: str, task: str) -> list[np.ndarray]:
        """The main metric of a cell by [draw, item], for each seed."""
        found = []
        for seed in self.seeds:
            draws = [
                self._scores(run)
                for run in self.runs
                if (run.source, run.fold, run.seed) == (source, task, seed)
            ]
            if not draws:
                raise LofitLensError(
                    f"No run with heads from {source!r} tuned on {task!r} with seed {seed}. Every "
                    f"cell needs the seeds {', '.join(map(str, self.seeds))}."
                )
            found.append(np.stack(draws))
        return found

    def _found(self, source: str, task: str) -> np.ndarray | None:
        """The draws of a cell; None if no run was made for it."""
        return self.draws(source, task) if self.has(source, task) else None

    def _paired(self, source: str, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores with own heads and with those of a source, paired by run and item.

        Several seeds are the runs: each has draws of its own, so what seeds differ by holds what
        draws differ by, and own heads count once a seed. Of a single seed the draws are the runs.
        """
        own, these = self.table(task, task), self.table(source, task)
        if len(self.seeds) == 1:
            these = self.draws(source, task)
            own = np.repeat(own, len(these), axis=0)
        return own, these

    def _row(self, source: str, task: str, runs: np.ndarray | None) -> dict[str, Any]:
        row: dict[str, Any] = {"source": source, "task": task}
        row["metric"] = self._zero_shot(task).metric_names[0]
        row |= paired.score_columns() | {"relative": np.nan} | paired.difference_columns()
        if runs is None:
            return row
        groups = self.groups(task)
        estimate = crossed_interval(runs, groups=groups)
        row |= paired.score_columns(estimate) | {"seeds": len(self.seeds)}
        own = self._found(task, task)
        if own is not None and own.any():
            row["relative"] = estimate.value / own.mean()
        if own is not None and source not in (task, ZERO_SHOT):
            row |= paired.compared(*self._paired(source, task), groups)
        return row

    def _zero_shot(self, task: str) -> Evaluation:
        if task not in self.zero_shot:
            raise LofitLensError(
                f"There are no zero-shot scores for {task!r}, only for "
                f"{', '.join(self.zero_shot) or 'no task'}. Evaluate the model without an edit."
            )
        return self.zero_shot[task]

    def _scores(self, run: Record) -> np.ndarray:
        what = f"{run.fold!r} with heads from {run.source!r}, seed {run.seed}"
        check_paired(run.evaluation, self._zero_shot(run.fold), what=what, base="zero-shot")
        return main_scores(run.evaluation)

    def save(self, folder: str | Path) -> Path:
        """Write every run and the zero-shot scores, as `lofit-lens transfer --out` has them.

        `lofit-lens report` and `figures` read the folder.

        Raises:
            LofitLensError: The folder holds something else, or other runs.
        """
        zero_shot = [Record(ZERO_SHOT, t, t, self.seeds[0], e) for t, e in self.zero_shot.items()]
        told = {"tasks": self.tasks, "seeds": self.seeds}
        return save_records(folder, KIND, [*zero_shot, *self.runs], **told)

    @classmethod
    def load(cls, folder: str | Path) -> TransferMatrix:
        """Read a finished matrix, without the model.

        Its folder is the `--out` of `lofit-lens transfer`, the `out` of `transfer_matrix`, or what
        `save` wrote, also with earlier versions.

        Raises:
            LofitLensError: The folder holds no finished matrix, or a damaged one.
        """
        return cls.of((earlier_transfer(folder) or read_records(folder, KIND))[1])

    def __repr__(self) -> str:
        seeds = ", ".join(map(str, self.seeds))
        sources, tasks = ", ".join(self.sources), ", ".join(self.tasks)
        return f"TransferMatrix(heads from {sources}; tuned and tested on {tasks}; seeds {seeds})"

    def _repr_html_(self) -> str:
        import pandas as pd

        from lofit_lens.analysis.figures.transfer import cell_text

        texts = map(cell_text, 100 * self._cells["value"].to_numpy(), self._cells["mark"])
        table = pd.DataFrame(
            np.reshape(list(texts), (len(self.sources), -1)),
            index=list(self.sources),
            columns=list(self.tasks),
        )
        seeds = ", ".join(map(str, self.seeds))
        metrics = " / ".join(dict.fromkeys(self._cells["metric"]))
        caption = f"Heads from (rows), tuned and tested on (columns): {metrics}, %; seeds {seeds}."
        return f"<p>{escape(caption)}</p>{table.to_html()}<p>{MARKS}</p>"


load_transfer = TransferMatrix.load
"""The same as `TransferMatrix.load`."""
