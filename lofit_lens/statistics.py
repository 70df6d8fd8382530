"""Intervals for a mean over items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lofit_lens.errors import ScoringError


@dataclass(frozen=True)
class Estimate:
    """A mean over items with its 95% interval.

    Attributes:
        value: The mean.
        low: Lower end of the interval.
        high: Upper end.
        n: Number of items.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}] n={self.n}"


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
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ScoringError("There are no items to take a mean of.")
    if not np.isfinite(array).all():
        raise ScoringError(
            f"{int((~np.isfinite(array)).sum())} of {array.size} item scores are not finite."
        )
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
