"""Means over tasks that count the same, each with its own items and runs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from lofit_lens.errors import ScoringError
from lofit_lens.statistics.bootstrap import Bootstrap, resample, widened
from lofit_lens.statistics.comparisons import Difference
from lofit_lens.statistics.intervals import Estimate, mean_interval
from lofit_lens.statistics.tables import finite_table, group_sums


def average_interval(
    tables: Sequence[np.ndarray],
    *,
    groups: Sequence[Sequence[Hashable] | None],
    resamples: int = 2000,
) -> Estimate:
    """The mean over tasks with a 95% interval that holds for new runs and new items.

    Every task is resampled by itself, as `crossed_interval` does. A task of equal scores, such as
    100% right, counts with the width of its own interval: each side is the root of the sum of
    squares of those of such tasks and of the resampled mean (Zou and Donner, 2008, "Construction
    of confidence limits about effect measures").

    Args:
        tables: The scores [run, item] of each task.
        groups: The groups of the items of each task, as for `crossed_interval`.
        resamples: Resamples of the bootstrap.

    Raises:
        ScoringError: There are no tasks, a table is empty, not [run, item] or not finite, or there
            is not one group for each item.
    """
    checked, sums = _checked(tables, groups)
    value = float(np.mean([table.mean() for table in checked]))
    low, high = _drawn(sums, resamples, widen=False).interval()
    alike = [table[0].tolist() for table in checked if (table == table[0, 0]).all()]
    sure = [mean_interval(scores) for scores in alike]
    below = [value - low, *((e.value - e.low) / len(checked) for e in sure)]
    above = [high - value, *((e.high - e.value) / len(checked) for e in sure)]
    low, high = value - float(np.linalg.norm(below)), value + float(np.linalg.norm(above))
    return Estimate(value, low, high, *_counts(checked))


def average_difference(
    tables: Sequence[np.ndarray],
    *,
    groups: Sequence[Sequence[Hashable] | None],
    resamples: int = 2000,
) -> Difference:
    """The mean over tasks of paired differences, with a 95% interval and a two-sided p-value.

    Every task is resampled by itself as `paired_difference` does, by percentiles. A task with a
    single group in a single run shows no spread: it adds nothing to the interval, which is then
    too narrow, and p is 1.

    Args:
        tables: The paired differences [run, item] of each task.
        groups: The groups of the items of each task, as for `paired_difference`.
        resamples: Resamples of the bootstrap.

    Raises:
        ScoringError: There are no tasks, a table is empty, not [run, item] or not finite, or there
            is not one group for each item.
    """
    checked, sums = _checked(tables, groups)
    drawn = _drawn(sums, resamples, widen=True)
    low, high = drawn.interval()
    tested = all(of_task.size > 1 for of_task, _ in sums)
    p = drawn.p(rounding=1e-12 * max(np.abs(table).max() for table in checked)) if tested else 1.0
    value = float(np.mean([table.mean() for table in checked]))
    return Difference(value, low, high, p, *_counts(checked))


def _checked(
    tables: Sequence[np.ndarray], groups: Sequence[Sequence[Hashable] | None]
) -> tuple[list[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]:
    """The tables of all tasks, and the sums of each over its groups."""
    if not tables:
        raise ScoringError("There are no tasks to take a mean of.")
    checked = [finite_table(table) for table in tables]
    return checked, [group_sums(*one) for one in zip(checked, groups, strict=True)]


def _drawn(
    tasks: Sequence[tuple[np.ndarray, np.ndarray]], resamples: int, *, widen: bool
) -> Bootstrap:
    """Resampled means of all tasks, in orders that have nothing to do with one another."""
    drawn = []
    for seed, (sums, sizes) in enumerate(tasks):
        means = resample(sums, sizes, method="percentile", resamples=resamples, seed=seed).means
        means = widened(means, sums, sizes) if widen else means
        drawn.append(np.random.default_rng(seed).permutation(means))
    return Bootstrap(np.mean(drawn, axis=0))


def _counts(tables: Sequence[np.ndarray]) -> tuple[int, int]:
    """The items of all tasks, and the fewest runs."""
    return sum(table.shape[1] for table in tables), min(len(table) for table in tables)
