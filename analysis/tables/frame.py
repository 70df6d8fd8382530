"""The table of a comparison as data frames: scores, tests, costs, and what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lofit_lens.analysis.study import paired
from lofit_lens.analysis.study.record import Record
from lofit_lens.statistics import crossed_interval, mcnemar

if TYPE_CHECKING:
    from lofit_lens.analysis.kinds.comparison import Comparison

_SUMMED = ("fit_seconds", "score_seconds", "fit_tokens", "score_tokens")
_SIDE_EFFECTS = ("cross_entropy", "kl", "refusals")


def comparison_frame(comparison: Comparison, base: str) -> pd.DataFrame:
    """One row per task, method and metric, as `Comparison.frame` describes it."""
    comparison.check_method(base)
    effects = dict.fromkeys(_SIDE_EFFECTS)
    effects |= dict.fromkeys(name for run in comparison.runs for name in run.side_effects)
    rows = []
    for task in comparison.tasks:
        for method in comparison.methods:
            runs = [r for r in comparison.runs if (r.method, r.task) == (method, task)]
            if not runs:
                continue
            shared = _costs(runs) | _side_effects(runs, tuple(effects))
            for metric in comparison.metrics(task):
                rows.append(_row(comparison, method, task, metric, base) | shared)
    return paired.with_directions(paired.with_marks(pd.DataFrame(rows)))


def choices_frame(runs: Sequence[Record]) -> pd.DataFrame:
    """One row per run, as `Comparison.choices` describes it."""
    rows = []
    for run in runs:
        row: dict[str, Any] = {"method": run.method, "task": run.task, "fold": run.fold}
        row |= {"seed": run.seed, "n_heads": np.nan if run.heads is None else len(run.heads)}
        rows.append(row | {name: v for name, v in run.choices.items() if name not in row})
    return pd.DataFrame(rows)


def _row(comparison: Comparison, method: str, task: str, metric: str, base: str) -> dict[str, Any]:
    """Score of a cell, and for the main metric its test against the base."""
    groups = comparison.groups(task)
    clusters = groups if len(set(groups)) < len(groups) else None
    table = comparison.table(method, task, metric)
    own = table[: len(comparison.seeds_of(method, task))]
    estimate = crossed_interval(own, groups=clusters)
    row = {"method": method, "task": task, "metric": metric}
    row |= paired.score_columns(estimate) | paired.difference_columns()
    row |= dict.fromkeys(("mcnemar", "p_holm", "mark", "direction", "floor"), np.nan)
    if metric != comparison.metrics(task)[0]:
        return row
    row["floor"] = max(comparison.floors(task).values(), default=np.nan)
    if method != base:
        other = comparison.table(base, task, metric)
        row |= paired.compared(table, other, clusters)
        row["mcnemar"] = _mcnemar(table, other, clusters)
    return row


def _mcnemar(a: np.ndarray, b: np.ndarray, clusters: Sequence[str] | None) -> float:
    """The exact test, or NaN where items are not single, independent, and right or wrong."""
    one_run = (a == a[0]).all() and (b == b[0]).all()
    if clusters is None and one_run and np.isin([a[0], b[0]], (0.0, 1.0)).all():
        return mcnemar(a[0], b[0])
    return np.nan


def _costs(runs: Sequence[Record]) -> dict[str, float]:
    """Parameters as the mean over runs; the rest summed over folds, each its mean over runs."""
    folds: dict[str, list[Record]] = {}
    for run in runs:
        folds.setdefault(run.fold, []).append(run)
    costs = {"parameters": float(np.mean([run.cost.parameters for run in runs]))}
    for name in _SUMMED:
        means = [np.mean([getattr(run.cost, name) for run in found]) for found in folds.values()]
        costs[name] = float(np.sum(means))
    return costs


def _side_effects(runs: Sequence[Record], names: Sequence[str]) -> dict[str, float]:
    """Mean over the runs in which each was measured."""
    measured = {
        name: [run.side_effects[name] for run in runs if name in run.side_effects] for name in names
    }
    return {name: float(np.mean(found)) if found else np.nan for name, found in measured.items()}
