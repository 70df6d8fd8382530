"""Means over tasks against formulas for independent means, and against the statistics of one task."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lofit_lens.errors import ScoringError
from lofit_lens.statistics import (
    average_difference,
    average_interval,
    crossed_interval,
    mean_interval,
    paired_difference,
)
from tests.test_statistics import scores


def test_tasks_count_the_same_and_their_errors_add_up_in_squares() -> None:
    tables = [scores(1, n, seed=n) for n in (400, 150, 90)]
    value = np.mean([table.mean() for table in tables])
    error = np.sqrt(sum(table.var(ddof=1) / table.size for table in tables)) / 3
    mean = average_interval(tables, groups=[None] * 3)
    difference = average_difference(tables, groups=[None] * 3, resamples=8000)
    for found in (mean, difference):
        assert found.value == pytest.approx(value)
        ends = [value - 1.96 * error, value + 1.96 * error]
        assert [found.low, found.high] == pytest.approx(ends, abs=0.2 * error)
        assert (found.n, found.runs) == (640, 1)
    shifted = [table - table.mean() + 2.2 * error for table in tables]
    p = average_difference(shifted, groups=[None] * 3, resamples=8000).p
    assert p == pytest.approx(2 * stats.norm.sf(2.2), abs=0.01)


def test_one_task_is_what_it_is_alone() -> None:
    table, groups = scores(3, 40, seed=1), [str(i // 4) for i in range(40)]
    mean, alone = average_interval([table], groups=[groups]), crossed_interval(table, groups=groups)
    found = (mean.value, mean.low, mean.high, mean.n, mean.runs)
    assert found == pytest.approx((alone.value, alone.low, alone.high, 40, 3))
    ours = average_difference([table - 0.5], groups=[groups])
    theirs = paired_difference(table, np.full_like(table, 0.5), groups=groups)
    assert (ours.value, ours.low, ours.high, ours.p) == pytest.approx(
        (theirs.value, theirs.low, theirs.high, theirs.p)
    )


def test_tasks_that_are_all_right_keep_the_width_of_their_intervals() -> None:
    sure = [np.ones((2, n)) for n in (20, 50)]
    widths = [1 - mean_interval([1.0] * n).low for n in (20, 50)]
    mean = average_interval(sure, groups=[None, None])
    assert (mean.value, mean.high) == (1, 1)
    assert mean.low == pytest.approx(1 - np.linalg.norm(widths) / 2)
    other = scores(2, 60, seed=3)
    alone = crossed_interval(other)
    mixed = average_interval([*sure, other], groups=[None] * 3)
    expected = np.linalg.norm([*widths, alone.value - alone.low]) / 3
    assert mixed.value - mixed.low == pytest.approx(expected, rel=0.05)
    assert mixed.high - mixed.value == pytest.approx((alone.high - alone.value) / 3, rel=0.05)


def test_a_task_that_shows_no_spread_leaves_nothing_to_be_tested() -> None:
    lone, other = np.ones((1, 5)), 0.5 + scores(1, 40, seed=2)
    groups = ["one"] * 5
    assert paired_difference(lone, 0 * lone, groups=groups).p == 1
    assert average_difference([lone, lone], groups=[groups, groups]).p == 1
    assert average_difference([lone, other], groups=[groups, None]).p == 1
    assert average_difference([other, other], groups=[None, None]).p < 0.01


def test_no_tasks_are_refused() -> None:
    for average in (average_interval, average_difference):
        with pytest.raises(ScoringError, match="no tasks"):
            average([], groups=[])
