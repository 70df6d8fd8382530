"""Intervals of means over items, and over runs and items."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from lofit_lens.statistics.bootstrap import Method, check_method, resample
from lofit_lens.statistics.tables import finite, finite_table, group_sums


@dataclass(frozen=True)
class Estimate:
    """A mean over items, and over runs if there are several, with its 95% interval.

    Attributes:
        value: The mean.
        low: Lower end of the interval.
        high: Upper end.
        n: Number of items.
        runs: Number of runs (training seeds or draws) that scored these items.
    """

    value: float
    low: float
    high: float
    n: int
    runs: int = 1

    def __str__(self) -> str:
        runs = f" runs={self.runs}" if self.runs > 1 else ""
        interval = f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{100 * self.value:.1f} {interval} n={self.n}{runs}"


def mean_interval(
    values: Sequence[float],
    *,
    method: Method = "percentile",
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of independent items with a 95% interval.

    Right/wrong items (all 0 or 1) get Wilson's interval, which stays honest near 0 and 1;
    other values a bootstrap over items.

    Args:
        values: One number per item.
        method: How the bootstrap is read: its percentiles, or BCa.
        resamples: Resamples of the bootstrap.
        seed: Seed of its local generator.

    Raises:
        ScoringError: There are no items, one is not finite, or the method is unknown.
    """
    check_method(method)
    array = finite(values)
    value = float(array.mean())
    if np.isin(array, (0.0, 1.0)).all():
        interval = stats.binomtest(int(array.sum()), array.size).proportion_ci(method="wilson")
        low, high = interval.low, interval.high
    elif np.ptp(array) == 0:
        low = high = value
    else:
        interval = stats.bootstrap(
            (array,), np.mean, n_resamples=resamples, method=method, rng=seed, batch=100
        ).confidence_interval
        low, high = interval.low, interval.high
    return Estimate(value, float(low), float(high), int(array.size))


def crossed_interval(
    values: np.ndarray,
    *,
    groups: Sequence[Hashable] | None = None,
    method: Method = "percentile",
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean over runs and items with a 95% interval that holds for new runs and new items.

    A bootstrap that resamples runs and items independently and takes the mean of the sub-table
    each time (Owen, 2007, "The pigeonhole bootstrap"). One run resamples items alone. Items that
    share a group, such as a template or a fact, are drawn together.

    With few runs the interval is a rough guide: resampling R runs shows only (R-1)/R of the
    variance between them, so half of it with two seeds and none with one. Against that, noise
    that belongs to neither a run nor an item is counted up to three times. With few groups it is
    too narrow as well; a single group in a single run shows no spread at all. A table of equal
    values, and without groups runs that agree on every item, get the interval of one run
    (`mean_interval`), so that 100% right keeps a width.

    Args:
        values: Scores [run, item]: the same items in the same order in every run.
        groups: The group of each item; None: every item is independent of the others.
        method: How the bootstrap is read: its percentiles, or BCa (Efron, 1987).
        resamples: Resamples of the bootstrap.
        seed: Seed of its local generator.

    Raises:
        ScoringError: The table is empty, not [run, item], a score is not finite, there is not
            one group for each item, or the method is unknown.
    """
    table = finite_table(values)
    runs, items = table.shape
    alike = table[0] if groups is None else table[0, 0]
    if (table == alike).all():
        one = mean_interval(table[0].tolist(), method=method, resamples=resamples, seed=seed)
        return replace(one, runs=runs)
    sums, sizes = group_sums(table, groups)
    low, high = resample(sums, sizes, method=method, resamples=resamples, seed=seed).interval()
    return Estimate(float(table.mean()), low, high, items, runs)
