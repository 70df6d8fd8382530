"""Results of a comparison: every method on every task with every seed, paired by item."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lofit_lens.analysis.study.earlier import earlier_comparison
from lofit_lens.analysis.study.experiment_folder import Kind, read_records, save_records
from lofit_lens.analysis.study.paired import check_paired, item_groups
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.errors import LofitLensError
from lofit_lens.scoring.evaluation import Evaluation

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


KIND = Kind(
    "comparison",
    "comparison.json",
    ("table.*", "choices.csv", "forest.html", "plotly.min.js", "judged.*", "agreement.csv"),
)

_SAME = ("model", "data_hash", "templates", "texts")
"""What the protocols of all methods must agree on, for one fold and seed."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores and costs of methods on tasks.

    Attributes:
        runs: The runs. A method has every task with every seed, or leaves a task out. Several runs
            of a method on one fold with one seed, such as draws of random heads, are averaged.
        base: The method that the others are compared with, and the one whose items count.

    Raises:
        LofitLensError: There are no runs, or none of the base.
    """

    runs: tuple[Record, ...]
    base: str = ZERO_SHOT

    def __post_init__(self) -> None:
        if not self.runs:
            raise LofitLensError("A comparison needs at least one run, got none.")
        self.check_method(self.base)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in order of appearance."""
        return tuple(dict.fromkeys(run.method for run in self.runs))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in order of appearance; the folds of a task are one."""
        return tuple(dict.fromkeys(run.task for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds something was fitted with, lowest first."""
        fitted = {run.seed for run in self.runs if run.fitted}
        return tuple(sorted(fitted or {run.seed for run in self.runs}))

    def check_method(self, method: str) -> None:
        """Refuse a method that is not among the runs.

        Raises:
            LofitLensError: There is no run of it.
        """
        if method not in self.methods:
            raise LofitLensError(
                f"There is no run of {method!r}, only of {', '.join(self.methods)}."
            )

    def table(self, method: str, task: str, metric: str | None = None) -> np.ndarray:
        """A metric of a method by [seed, item], the folds of a task one behind the other.

        A method that fits nothing, such as zero-shot, may have a single run of each fold; it then
        stands for every seed.

        Args:
            method: Name of the method.
            task: Name of the task.
            metric: Name of the metric; default the main one.

        Raises:
            LofitLensError: A seed or a fold is missing, an item is in two folds, there is no such
                metric, or items, split, main metric, compat rule or protocol are not those of
                the base.
        """
        metric = metric or self._reference(task).metric_names[0]
        folds = [fold for fold, run in self._references.items() if run.task == task]
        seeds = self.seeds_of(method, task)
        odd = {run.fold for run in self._runs(method, task)} - set(folds)
        if odd:
            raise LofitLensError(
                f"{method!r} was run on {min(odd)!r}, {self.base!r} only on {', '.join(folds)}."
            )
        rows = [
            np.concatenate([self._scores(method, task, fold, seed, metric) for fold in folds])
            for seed in seeds
        ]
        return np.stack(rows * (len(self.seeds) // len(seeds)))

    def seeds_of(self, method: str, task: str) -> tuple[int, ...]:
        """The seeds a method needs on a task: all of them, or its one seed if it fits nothing.

        Raises:
            LofitLensError: There is no run of the method on the task.
        """
        runs = self._runs(method, task)
        if not runs:
            raise LofitLensError(f"There is no run of {method!r} on {task!r}.")
        own = {run.seed for run in runs}
        return tuple(own) if len(own) == 1 and not any(r.fitted for r in runs) else self.seeds

    def groups(self, task: str) -> list[str]:
        """The group of each item of `table`; an item without one is its own."""
        return item_groups(self._reference(task))

    def floors(self, task: str) -> dict[str, float]:
        """Scores in the main metric that need no ability, by name; of several folds their mean."""
        return dict(self._reference(task).floors)

    def metrics(self, task: str) -> tuple[str, ...]:
        """The metrics of a task, the main one first."""
        return self._reference(task).metric_names

    def frame(self, base: str | None = None) -> pd.DataFrame:
        """One row per task, method and metric.

        * `value`, `low`, `high`: mean and 95% interval over seeds and items; items of one group
          are drawn together. `n` items, `seeds` of the method itself (1 if it fits nothing).
        * For the main metric, with NaN for the base itself: `difference` (method minus base,
          paired by seed and item), `difference_low`, `difference_high`, `p`; `mcnemar`, the exact
          test's p-value, uncorrected, where it applies: items that are right or wrong, without
          groups, of one seed; `p_holm`, p corrected over all methods and tasks; `mark`, "*" for
          p_holm < 0.05 and "+" for p_holm < 0.1, in either direction; and `direction`, "better" or
          "worse" where there is a mark.
        * `floor`: the highest score in the main metric that needs no ability.
        * Costs: `parameters`, the mean over runs; `fit_seconds`, `score_seconds`, `fit_tokens`,
          `score_tokens`, the mean over the runs of a fold, summed over the folds: what one seed
          costs.
        * Side effects, means over runs: `cross_entropy`, `kl`, `refusals`, and any other in the
          records by its name; NaN where they were not measured.

        Args:
            base: The method to compare with; default that of the comparison.

        Raises:
            LofitLensError: There is no such method, it lacks a task, or `table` refuses a method.
        """
        from lofit_lens.analysis.tables.frame import comparison_frame

        base = base or self.base
        if base not in self._frames:
            self._frames[base] = comparison_frame(self, base)
        return self._frames[base].copy()

    def choices(self) -> pd.DataFrame:
        """What each run chose on validation data, one row per run.

        Columns `method`, `task`, `fold`, `seed`, `n_heads` (NaN without heads), then a column for
        everything any method chose.
        """
        from lofit_lens.analysis.tables.frame import choices_frame

        return choices_frame(self.runs)

    def plot(self, base: str | None = None) -> go.Figure:
        """Forest plot: each method's paired difference to a base, one panel per task.

        Args:
            base: The method to compare with; default that of the comparison.

        Raises:
            LofitLensError: As `frame`, or there is nothing but the base.
        """
        from lofit_lens.analysis.figures.forest import forest

        return forest(self, base=base)

    def save(self, folder: str | Path) -> Path:
        """Write every run as one gzipped JSON file, as `lofit-lens compare --out` has them.

        `lofit-lens report` and `figures` read the folder, and `compare --resume` goes on with it.

        Raises:
            LofitLensError: The folder holds something else, or other runs.
        """
        told = {"methods": self.methods, "tasks": self.tasks, "seeds": self.seeds}
        return save_records(folder, KIND, self.runs, **told, base=self.base)

    @classmethod
    def load(cls, folder: str | Path, *, base: str | None = None) -> Comparison:
        """Read a finished comparison, without the model.

        Its folder is the `--out` of `lofit-lens compare`, the `out` of `compare`, or what `save`
        wrote, also with earlier versions. Records that are not part of its last table, as of
        methods left out since, are not read.

        Args:
            folder: The folder.
            base: The method that the others are compared with; default that of the saved comparison.

        Raises:
            LofitLensError: The folder holds no finished comparison, a damaged one, or no run of the
                base.
        """
        content, records = earlier_comparison(folder) or read_records(folder, KIND)
        return cls(tuple(records), base or content.get("base", cls.base))

    def __repr__(self) -> str:
        seeds = ", ".join(map(str, self.seeds))
        methods, tasks = ", ".join(self.methods), ", ".join(self.tasks)
        return f"Comparison({methods}; on {tasks}; seeds {seeds})"

    def _repr_html_(self) -> str:
        from lofit_lens.analysis.tables.cells import Tables
        from lofit_lens.analysis.tables.tables import as_html

        return as_html(Tables.of(self))

    def _reference(self, task: str) -> Evaluation:
        """What pairing takes as given for a task: the base's first run of each fold, pooled."""
        if task not in self._pooled:
            raise LofitLensError(
                f"There is no run of {self.base!r} on {task!r}, only on {', '.join(self._pooled)}. "
                "Every task needs the base."
            )
        return self._pooled[task]

    @cached_property
    def _frames(self) -> dict[str, pd.DataFrame]:
        return {}

    @cached_property
    def _references(self) -> dict[str, Record]:
        """The base's first run of each fold."""
        found: dict[str, Record] = {}
        for run in self.runs:
            if run.method == self.base:
                found.setdefault(run.fold, run)
        return found

    @cached_property
    def _pooled(self) -> dict[str, Evaluation]:
        folds: dict[str, list[Evaluation]] = {}
        for run in self._references.values():
            folds.setdefault(run.task, []).append(run.evaluation)
        pooled = {task: Evaluation.pooled(task, found) for task, found in folds.items()}
        for task, evaluation in pooled.items():
            ids = [record["id"] for record in evaluation.records]
            if len(set(ids)) < len(ids):
                twice = next(i for i in ids if ids.count(i) > 1)
                raise LofitLensError(
                    f"Item {twice!r} of {task!r} is in the test split of two folds, so it would count "
                    "twice. Give these folds different task names."
                )
        return pooled

    def _runs(self, method: str, task: str) -> list[Record]:
        return [run for run in self.runs if (run.method, run.task) == (method, task)]

    def _scores(self, method: str, task: str, fold: str, seed: int, metric: str) -> np.ndarray:
        draws = [r for r in self._runs(method, task) if (r.fold, r.seed) == (fold, seed)]
        if not draws:
            raise LofitLensError(
                f"There is no run of {method!r} on {fold!r} with seed {seed}. A method that is "
                f"fitted needs the seeds {', '.join(map(str, self.seeds))} on every fold."
            )
        for run in draws:
            self._check_run(run, metric)
        records = [run.evaluation.records for run in draws]
        return np.mean([[float(item[metric]) for item in items] for items in records], axis=0)

    def _check_run(self, run: Record, metric: str) -> None:
        reference = self._references[run.fold]
        what = f"{run.method!r} on {run.fold!r}, seed {run.seed}"
        check_paired(run.evaluation, reference.evaluation, what=what, base=self.base)
        if metric not in run.evaluation.metric_names:
            known = ", ".join(run.evaluation.metric_names)
            raise LofitLensError(f"{what}, has no metric {metric!r}. It has: {known}.")
        first = next(r for r in self.runs if (r.fold, r.seed) == (run.fold, run.seed))
        for name in _SAME:
            told = [one.protocol[name] for one in (run, first) if name in one.protocol]
            if len(told) == 2 and told[0] != told[1]:
                raise LofitLensError(
                    f"{what}, was run with other {name} than {first.method!r}. Fit and score both on "
                    "the same model, data, templates and plain text."
                )


load_comparison = Comparison.load
"""The same as `Comparison.load`."""
