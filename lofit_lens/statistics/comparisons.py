"""Tests of one method against another, and of a family of such tests."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from lofit_lens.errors import ScoringError
from lofit_lens.statistics.bootstrap import Method, resample, widened
from lofit_lens.statistics.tables import finite, finite_table, group_sums


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its 95% interval and two-sided p-value.

    Attributes:
        value: The mean difference.
        low: Lower end of the interval.
        high: Upper end.
        p: Two-sided p-value, not corrected for other tests.
        n: Number of items.
        runs: Number of runs, paired by seed.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    runs: int

    def __str__(self) -> str:
        interval = f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return f"{100 * self.value:+.1f} {interval} p={self.p:.3g} n={self.n} runs={self.runs}"


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    *,
    groups: Sequence[Hashable] | None = None,
    method: Method = "percentile",
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """The mean of `a - b` with a 95% interval and a two-sided bootstrap p-value.

    Resamples the table of differences as `crossed_interval` does. Few groups or few runs show
    too little of the variance, so the resamples are then moved away from the mean as far as
    Student's t asks for (`lofit_lens.statistics.bootstrap.widened`). With one run the
    interval and p hold for new items and this run alone: what differs between training seeds
    cannot be seen in one of them.

    p is twice the smaller share of resamples at or beyond 0, each share as (1 + count) /
    (resamples + 1), so it is never below 2 / (resamples + 1); BCa corrects the shares as it
    corrects the percentiles. So p is below 0.05 where the interval excludes 0, but for the
    rounding of a share to whole resamples. One exception: a single group in a single run shows
    no spread, its interval is the difference alone, and p is 1.

    Args:
        a: Scores [run, item].
        b: Scores [run, item] from the same seeds on the same items, in the same order.
        groups: The group of each item, drawn together; None: every item by itself.
        method: How the bootstrap is read: its percentiles, or BCa (Efron, 1987).
        resamples: Resamples of the bootstrap.
        seed: Seed of its local generator.

    Raises:
        ScoringError: A table is empty, not [run, item] or not finite, their shapes differ, there
            is not one group for each item, or the method is unknown.
    """
    first, second = finite_table(a), finite_table(b)
    if first.shape != second.shape:
        raise ScoringError(
            f"Paired scores need the same runs and items; got tables [run, item] of {first.shape} "
            f"and {second.shape}. Score both with the same seeds on the same items."
        )
    table = first - second
    sums, sizes = group_sums(table, groups)
    drawn = resample(sums, sizes, method=method, resamples=resamples, seed=seed)
    drawn = replace(drawn, means=widened(drawn.means, sums, sizes))
    low, high = drawn.interval()
    p = drawn.p(rounding=1e-12 * np.abs(table).max()) if sums.size > 1 else 1.0
    runs, items = table.shape
    return Difference(float(table.mean()), low, high, p, items, runs)


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The exact two-sided p-value that `a` and `b` are right equally often (McNemar, 1947).

    Only items that one side has right and the other wrong count. Without a difference, each side
    wins such an item with probability 1/2: a binomial test. Items are taken as independent; for
    items in groups, or several runs, use `paired_difference`.

    Args:
        a: 1 for each item that is right, 0 for each that is wrong, [item].
        b: The same for the same items, in the same order.

    Raises:
        ScoringError: There are no items, a value is not 0 or 1, or the items differ in number.
    """
    first, second = _right_or_wrong(a), _right_or_wrong(b)
    if first.shape != second.shape:
        raise ScoringError(
            f"McNemar's test compares the same items; got {first.size} and {second.size}."
        )
    only_first, only_second = int(np.sum(first > second)), int(np.sum(first < second))
    if only_first == only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p-values, in the order given.

    Args:
        p: Raw p-values [test] of one family of tests.

    Raises:
        ScoringError: A value is not between 0 and 1.
    """
    if not ((p >= 0) & (p <= 1)).all():
        raise ScoringError(f"p-values lie between 0 and 1, got {p.tolist()}.")
    order = np.argsort(p)
    corrected = np.empty(len(p))
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected


def _right_or_wrong(values: np.ndarray) -> np.ndarray:
    array = finite(values)
    if array.ndim != 1:
        raise ScoringError(
            f"McNemar's test takes one score per item, got an array of shape {array.shape}. For "
            "several runs use paired_difference."
        )
    other = array[~np.isin(array, (0.0, 1.0))]
    if other.size:
        raise ScoringError(
            f"McNemar's test takes items that are right (1) or wrong (0); {other.size} of "
            f"{array.size} are neither, such as {other[0]:g}. For other scores use "
            "paired_difference."
        )
    return array
