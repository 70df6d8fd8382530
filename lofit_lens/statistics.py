"""Intervals and tests for means over items, and over items and training runs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from lofit_lens.errors import ScoringError

_BLOCK = 256
"""Resamples computed at once, which bounds the memory."""


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


def mean_interval(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """The mean of independent items with a 95% interval.

    Right/wrong items (all 0 or 1) get Wilson's interval, which stays honest near 0 and 1;
    other values a percentile bootstrap over items.

    Args:
        values: One number per item.
        resamples: Resamples of the bootstrap.
        seed: Seed of its local generator.

    Raises:
        ScoringError: There are no items, or one is not finite.
    """
    array = _finite(values)
    value = float(array.mean())
    if np.isin(array, (0.0, 1.0)).all():
        interval = stats.binomtest(int(array.sum()), array.size).proportion_ci(method="wilson")
        low, high = interval.low, interval.high
    elif np.ptp(array) == 0:
        low = high = value
    else:
        interval = stats.bootstrap(
            (array,), np.mean, n_resamples=resamples, method="percentile", rng=seed, batch=100
        ).confidence_interval
        low, high = interval.low, interval.high
    return Estimate(value, float(low), float(high), int(array.size))


def crossed_interval(
    values: np.ndarray,
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean over runs and items with a 95% interval that holds for new runs and new items.

    A percentile bootstrap that resamples runs and items independently and takes the mean of the
    sub-table each time (Owen, 2007, "The pigeonhole bootstrap"). One run resamples items alone.
    Items that share a group, such as a template or a fact, are drawn together.

    With few runs the interval is a rough guide: resampling R runs shows only (R-1)/R of the
    variance between them, so half of it with two seeds and none with one. Against that, noise
    that belongs to neither a run nor an item is counted up to three times. With few groups it is
    a rough guide as well. A table of equal values, and without groups runs that agree on every
    item, get the interval of one run (`mean_interval`), so that 100% right keeps a width.

    Args:
        values: Scores [run, item]: the same items in the same order in every run.
        groups: The group of each item; None: every item is independent of the others.
        resamples: Resamples of the bootstrap.
        seed: Seed of its local generator.

    Raises:
        ScoringError: The table is empty, not [run, item], a score is not finite, or there is not
            one group for each item.
    """
    table = _finite_table(values)
    runs, items = table.shape
    alike = table[0] if groups is None else table[0, 0]
    if (table == alike).all():
        return replace(mean_interval(table[0].tolist(), resamples=resamples, seed=seed), runs=runs)
    low, high = np.quantile(_crossed_means(table, groups, resamples, seed), (0.025, 0.975))
    return Estimate(float(table.mean()), float(low), float(high), items, runs)


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """The mean of `a - b` with a 95% interval and a two-sided bootstrap p-value.

    Resamples the table of differences as `crossed_interval` does, with the same limits when
    there are few runs: what differs between training seeds is then understated, and p with it.
    p is twice the smaller share of resamples at or beyond 0, each share as (1 + count) /
    (resamples + 1), so it is never below 2 / (resamples + 1).

    Args:
        a: Scores [run, item].
        b: Scores [run, item] from the same seeds on the same items, in the same order.
        groups: The group of each item, drawn together; None: every item by itself.
        resamples: Resamples of the bootstrap.
        seed: Seed of its local generator.

    Raises:
        ScoringError: A table is empty, not [run, item] or not finite, or their shapes differ.
    """
    first, second = _finite_table(a), _finite_table(b)
    if first.shape != second.shape:
        raise ScoringError(
            f"Paired scores need the same runs and items; got tables [run, item] of {first.shape} "
            f"and {second.shape}. Score both with the same seeds on the same items."
        )
    table = first - second
    means = _crossed_means(table, groups, resamples, seed)
    low, high = np.quantile(means, (0.025, 0.975))
    rounding = 1e-12 * np.abs(table).max()
    below, above = np.sum(means <= rounding), np.sum(means >= -rounding)
    p = min(1.0, 2 * (1 + int(min(below, above))) / (resamples + 1))
    runs, items = table.shape
    return Difference(float(table.mean()), float(low), float(high), p, items, runs)


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


def _crossed_means(
    table: np.ndarray, groups: Sequence[Hashable] | None, resamples: int, seed: int
) -> np.ndarray:
    """Means of sub-tables with resampled runs and groups of items, [resample]."""
    rng = np.random.default_rng(seed)
    membership = _membership(groups, table.shape[1])
    sums, sizes = table @ membership, membership.sum(axis=0)
    means = []
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        run_counts, group_counts = (_counts(rng, size, length) for length in sums.shape)
        drawn = run_counts.sum(axis=1) * (group_counts @ sizes)
        means.append(((run_counts @ sums) * group_counts).sum(axis=1) / drawn)
    return np.concatenate(means)


def _membership(groups: Sequence[Hashable] | None, items: int) -> np.ndarray:
    """1 where an item belongs to a group, [item, group]; without groups each item is its own."""
    if groups is None:
        return np.eye(items)
    if len(groups) != items:
        raise ScoringError(f"There are {items} items, but groups for {len(groups)}.")
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    membership = np.zeros((items, len(places)))
    membership[np.arange(items), [places[group] for group in groups]] = 1.0
    return membership


def _counts(rng: np.random.Generator, size: int, length: int) -> np.ndarray:
    """How often each of `length` things is drawn in `length` draws, [resample, thing]."""
    drawn = rng.integers(length, size=(size, length)) + length * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * length).reshape(size, length)


def _finite_table(values: np.ndarray) -> np.ndarray:
    table = _finite(values)
    if table.ndim != 2:
        raise ScoringError(
            f"Scores form a table [run, item], got an array of shape {table.shape}. Give a single "
            "run as a table of one row."
        )
    return table


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ScoringError("There are no items to take a mean of.")
    if not np.isfinite(array).all():
        raise ScoringError(
            f"{int((~np.isfinite(array)).sum())} of {array.size} item scores are not finite."
        )
    return array
