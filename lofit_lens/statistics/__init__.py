"""Intervals and tests for means over items, and over items and training runs."""

from lofit_lens.statistics.averages import average_difference, average_interval
from lofit_lens.statistics.comparisons import Difference, holm, mcnemar, paired_difference
from lofit_lens.statistics.intervals import Estimate, crossed_interval, mean_interval

__all__ = [
    "Difference",
    "Estimate",
    "average_difference",
    "average_interval",
    "crossed_interval",
    "holm",
    "mcnemar",
    "mean_interval",
    "paired_difference",
]
