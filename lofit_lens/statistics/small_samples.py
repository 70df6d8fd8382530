"""What a bootstrap over few runs or few groups of items leaves out."""

from __future__ import annotations

import numpy as np
from scipy import special

from lofit_lens.statistics.bootstrap import left_out


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
