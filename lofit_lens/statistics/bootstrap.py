"""The bootstrap over runs and groups of items, its percentiles, and its corrections for few of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import special

from lofit_lens.errors import ScoringError

Method = Literal["percentile", "bca"]

_BLOCK = 256
"""Resamples computed at once, which bounds the memory."""


@dataclass(frozen=True)
class Bootstrap:
    """Resampled means of a table, read by percentile or by BCa.

    BCa (Efron, 1987, "Better bootstrap confidence intervals") takes other percentiles where the
    resamples lean to one side of the mean or where their spread depends on it. The percentile
    interval is the case with neither.

    Attributes:
        means: Means of the resampled sub-tables.
        bias: Normal quantile of the share of resamples below the mean of the table.
        acceleration: A sixth of the skewness of the mean, from the jackknife.
    """

    means: np.ndarray
    bias: float = 0.0
    acceleration: float = 0.0

    def interval(self) -> tuple[float, float]:
        """The 95% interval."""
        z = self.bias + special.ndtri((0.025, 0.975))
        levels = special.ndtr(self.bias + z / (1 - self.acceleration * z))
        low, high = np.quantile(self.means, levels)
        return float(low), float(high)

    def p(self, rounding: float) -> float:
        """Two-sided p-value of a mean of 0: 1 minus the level of the interval that ends at 0.

        Args:
            rounding: Means no further from 0 than this lie on both sides.
        """
        sides = []
        for sign in (1, -1):
            beyond = min(1 + np.sum(sign * self.means <= rounding), len(self.means))
            z = special.ndtri(beyond / (len(self.means) + 1)) - sign * self.bias
            z = z / (1 + sign * self.acceleration * z) - sign * self.bias
            sides.append(special.ndtr(z))
        return float(min(1.0, 2 * min(sides)))


def check_method(method: str) -> None:
    """Refuse a way of reading the resamples that is not one of `Method`.

    Raises:
        ScoringError: It is another.
    """
    if method not in get_args(Method):
        raise ScoringError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}.")


def resample(
    sums: np.ndarray, sizes: np.ndarray, *, method: Method, resamples: int, seed: int
) -> Bootstrap:
    """Draw runs and groups of items independently, with replacement.

    The acceleration has one jackknife over groups and one over runs, put together as
    `scipy.stats.bootstrap` does for several samples.

    Args:
        sums: Sums of scores [run, group].
        sizes: Items in each group.
        method: How the resamples are read.
        resamples: Number of resamples.
        seed: Seed of the local generator.

    Raises:
        ScoringError: The method is not one of `Method`.
    """
    check_method(method)
    means = _crossed_means(sums, sizes, resamples, seed)
    if method == "percentile":
        return Bootstrap(means)
    value = sums.sum() / (len(sums) * sizes.sum())
    rounding = 1e-12 * np.abs(sums).max()
    below = np.sum(means < value - rounding) + np.sum(means <= value + rounding)
    bias = special.ndtri((1 + below) / (2 + 2 * resamples))
    influences = [(left.mean() - left) * (1 - 1 / left.size) for left in left_out(sums, sizes)]
    square = sum(np.sum(influence**2) for influence in influences)
    cube = sum(np.sum(influence**3) for influence in influences)
    steady = square <= rounding**2
    return Bootstrap(means, float(bias), 0.0 if steady else float(cube / square**1.5 / 6))


def left_out(sums: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Means without one group, and without one run, for each of the two with several to choose.

    Args:
        sums: Sums of scores [run, group].
        sizes: Items in each group.
    """
    runs, groups = sums.shape
    total, items = sums.sum(), sizes.sum()
    means = []
    if groups > 1:
        means.append((total - sums.sum(axis=0)) / (runs * (items - sizes)))
    if runs > 1:
        means.append((total - sums.sum(axis=1)) / ((runs - 1) * items))
    return means


def widened(means: np.ndarray, sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Resampled means, moved away from the mean of the table as far as Student's t asks for.

    A percentile interval over n things is too narrow by sqrt((n-1)/n), and by the normal
    quantile that stands where Student's t should (Hesterberg, 2015, "What teachers should know
    about the bootstrap"). Here every resample's distance from the mean is multiplied by the ratio
    of the two quantiles at its rank, and by the ratio of the standard error to the spread of the
    resamples where that is above 1. With many runs and groups nothing is left of either.

    The variance of the mean is the sum of two jackknives, over groups (MacKinnon, Nielsen and
    Webb, 2023, "Cluster-robust inference") and over runs, with Satterthwaite's degrees of freedom:
    for groups of one size the min F' of Clark (1973, "The language-as-fixed-effect fallacy").

    Args:
        means: Means of resampled sub-tables.
        sums: Sums of scores [run, group].
        sizes: Items in each group.
    """
    rounding = 1e-12 * np.abs(sums).max()
    if means.std() <= rounding:
        return means
    jackknives = left_out(sums, sizes)
    freedom = [left.size - 1 for left in jackknives]
    variances = np.array([left.var() * (left.size - 1) + rounding**2 for left in jackknives])
    degrees = variances.sum() ** 2 / np.sum(variances**2 / freedom)
    value = sums.sum() / (len(sums) * sizes.sum())
    ranks = np.arange(1, len(means) + 1) / (len(means) + 1)
    tails = np.minimum(np.minimum(ranks, 1 - ranks), 0.49)  # at 0.5 both quantiles are 0
    ratios = special.stdtrit(degrees, tails) / special.ndtri(tails)
    spread = max(1.0, np.sqrt(variances.sum()) / means.std())
    return value + (np.sort(means) - value) * spread * ratios


def _crossed_means(sums: np.ndarray, sizes: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of sub-tables with resampled runs and groups of items, [resample]."""
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        run_counts, group_counts = (_counts(rng, size, length) for length in sums.shape)
        drawn = run_counts.sum(axis=1) * (group_counts @ sizes)
        means.append(((run_counts @ sums) * group_counts).sum(axis=1) / drawn)
    return np.concatenate(means)


def _counts(rng: np.random.Generator, size: int, length: int) -> np.ndarray:
    """How often each of `length` things is drawn in `length` draws, [resample, thing]."""
    drawn = rng.integers(length, size=(size, length)) + length * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * length).reshape(size, length)
