from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from lofit_lens.errors import ScoringError
from lofit_lens.statistics import crossed_interval, holm, mcnemar, paired_difference
from tests.test_statistics import NUMBERS, scores, skewed, slow_crossed_means


@pytest.mark.parametrize("gap", [0.0, 0.03, 0.06, -0.06])
def test_with_many_runs_the_paired_difference_is_that_of_a_loop_over_sub_tables(
    gap: float,
) -> None:
    a, b = scores(30, 100, seed=1), scores(30, 100, seed=2)
    a += gap - a.mean() + b.mean()
    means = slow_crossed_means(a - b, 8000)
    difference = paired_difference(a, b, resamples=8000)
    assert difference.value == pytest.approx(gap, abs=1e-12)
    assert (difference.runs, difference.n) == (30, 100)
    slack = 0.15 * means.std()
    assert difference.low == pytest.approx(np.quantile(means, 0.025), abs=slack)
    assert difference.high == pytest.approx(np.quantile(means, 0.975), abs=slack)
    expected = min(1.0, 2 * min((means <= 0).mean(), (means >= 0).mean()))
    assert difference.p == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("count", [6, 8, 20])
@pytest.mark.parametrize("gap", [0.0, 0.1, 0.2])
def test_one_run_of_groups_has_the_paired_t_test_of_their_means(count: int, gap: float) -> None:
    spread = 0.2 * stats.norm.ppf((np.arange(count) + 0.5) / count)
    a = np.repeat(spread + gap, 5) + np.tile([-0.1, 0.0, 0.1, 0.05, -0.05], count)
    a, b = a[None], np.zeros((1, 5 * count))
    expected = stats.ttest_rel(a.reshape(count, 5).mean(axis=1), np.zeros(count))
    low, high = expected.confidence_interval()
    groups = np.repeat(np.arange(count), 5).tolist()
    difference = paired_difference(a, b, groups=groups, resamples=10000)
    slack = float(0.05 * (high - low))
    assert difference.low == pytest.approx(low, abs=slack)
    assert difference.high == pytest.approx(high, abs=slack)
    assert difference.p == pytest.approx(expected.pvalue, abs=0.02)


def test_a_few_runs_of_few_groups_have_clarks_min_f() -> None:
    a = np.array([[0.0, 0.25, 0.75]]).T + scores(1, 12, seed=5) - 0.4
    runs, items = a.shape
    by_item, by_run = a.mean(axis=0), a.mean(axis=1)
    f_items = items * a.mean() ** 2 / by_item.var(ddof=1)
    f_runs = runs * a.mean() ** 2 / by_run.var(ddof=1)
    min_f = f_items * f_runs / (f_items + f_runs)
    freedom = (f_items + f_runs) ** 2 / (f_items**2 / (runs - 1) + f_runs**2 / (items - 1))
    half = stats.t.ppf(0.975, freedom) * abs(a.mean()) / np.sqrt(min_f)
    difference = paired_difference(a, np.zeros_like(a), resamples=10000)
    # three runs have ten means, so the resamples are only roughly normal
    assert difference.low == pytest.approx(a.mean() - half, abs=0.1 * half)
    assert difference.high == pytest.approx(a.mean() + half, abs=0.1 * half)
    assert difference.p == pytest.approx(stats.f.sf(min_f, 1, freedom), abs=0.03)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=NUMBERS),
    st.booleans(),
    st.sampled_from(["percentile", "bca"]),
)
def test_the_interval_of_a_difference_is_finite_and_at_least_that_of_the_bootstrap(
    a: np.ndarray, one: bool, method: Literal["percentile", "bca"]
) -> None:
    groups = [0] * a.shape[1] if one else list(range(a.shape[1]))
    b = np.full_like(a, 0.2)
    difference = paired_difference(a, b, groups=groups, method=method, resamples=400)
    bare = crossed_interval(a - b, groups=groups, method=method, resamples=400)
    # where it ends on the far side of the mean, as BCa can on the smallest tables, it moves there
    assert min(difference.low, difference.value) <= min(bare.low, bare.value) + 1e-9
    assert max(difference.high, difference.value) >= max(bare.high, bare.value) - 1e-9
    assert np.isfinite([difference.low, difference.high]).all()
    assert 0.0 < difference.p <= 1.0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(-2.0, 2.0),
    st.sampled_from([(1, 8), (1, 40), (3, 8), (3, 40), (8, 12)]),
    st.sampled_from(["percentile", "bca"]),
)
def test_the_interval_excludes_zero_where_p_is_below_five_percent(
    seed: int, gap: float, shape: tuple[int, int], method: Literal["percentile", "bca"]
) -> None:
    a = skewed(*shape) + scores(*shape, seed=seed)
    a += gap - a.mean()
    difference = paired_difference(a, np.zeros_like(a), method=method, resamples=4999)
    if abs(difference.p - 0.05) > 0.01:  # a share of whole resamples
        excluded = difference.low > 0 or difference.high < 0
        assert excluded == (difference.p < 0.05)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_swapping_the_two_sides_of_a_difference_mirrors_it(
    method: Literal["percentile", "bca"],
) -> None:
    a, b = skewed(3, 25), scores(3, 25, seed=2)
    forth, back = (paired_difference(*pair, method=method) for pair in ((a, b), (b, a)))
    assert (back.value, back.low, back.high, back.p) == pytest.approx(
        (-forth.value, -forth.high, -forth.low, forth.p)
    )


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_no_difference_at_all_has_p_one_and_an_interval_of_zero(
    method: Literal["percentile", "bca"],
) -> None:
    a = scores(2, 9)
    difference = paired_difference(a, a.copy(), method=method)
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert difference.p == 1.0


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_a_difference_in_every_item_has_the_smallest_p_the_resamples_allow(
    method: Literal["percentile", "bca"],
) -> None:
    a = scores(2, 9)
    difference = paired_difference(a + 0.1, a, method=method, resamples=999)
    assert difference.p == pytest.approx(2 / 1000)
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))


def test_a_single_group_in_a_single_run_can_show_nothing() -> None:
    a = scores(1, 9) + 5.0
    difference = paired_difference(a, np.zeros_like(a), groups=["one"] * 9)
    assert (difference.low, difference.high) == pytest.approx((a.mean(), a.mean()))
    assert difference.p == 1.0


def test_resamples_that_are_zero_but_for_rounding_count_on_both_sides() -> None:
    thirds = np.array([[1 / 3, 1 / 3, 1 / 3, -1 / 3, -1 / 3, -1 / 3, 0.1, -0.1]])
    whole = np.array([[10.0, 10.0, 10.0, -10.0, -10.0, -10.0, 3.0, -3.0]])
    p = [paired_difference(d, np.zeros_like(d)).p for d in (thirds, whole / 30)]
    assert p == [paired_difference(whole, np.zeros_like(whole)).p] * 2


@pytest.mark.parametrize("other", [(2, 4), (3, 5)])
def test_tables_of_other_runs_or_items_cannot_be_paired(other: tuple[int, int]) -> None:
    with pytest.raises(ScoringError, match=r"\(2, 5\)"):
        paired_difference(np.zeros((2, 5)), np.zeros(other))


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.just(2), st.integers(1, 60)), elements=st.sampled_from((0, 1)))
)
def test_mcnemar_agrees_with_statsmodels(sides: np.ndarray) -> None:
    a, b = sides
    counts = [[np.sum((a == i) & (b == j)) for j in (1, 0)] for i in (1, 0)]
    expected = vars(reference_mcnemar(np.array(counts), exact=True))["pvalue"]
    assert mcnemar(a, b) == pytest.approx(min(1.0, expected))
    assert mcnemar(b, a) == mcnemar(a, b)


def test_mcnemar_takes_booleans_and_ignores_items_both_have_right_or_wrong() -> None:
    a, b = np.array([True] * 9 + [False]), np.array([False] * 9 + [True])
    both = np.ones(50, dtype=bool)
    assert mcnemar(a, b) == pytest.approx(2 * 11 / 2**10)
    assert mcnemar(np.append(a, both), np.append(b, both)) == mcnemar(a, b)
    assert mcnemar(both, both) == 1.0


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 0.5, 0.25], [1.0, 0.0, 1.0], "2 of 3 are neither, such as 0.5"),
        ([1.0, 0.0], [1.0, 0.0, 1.0], "same items; got 2 and 3"),
        ([[1.0, 0.0]], [[1.0, 0.0]], r"\(1, 2\).*paired_difference"),
        ([], [], "no items"),
    ],
)
def test_mcnemar_refuses_what_is_not_right_or_wrong_on_the_same_items(
    a: list[float], b: list[float], message: str
) -> None:
    with pytest.raises(ScoringError, match=message):
        mcnemar(np.array(a), np.array(b))


def test_holm_agrees_with_an_example_by_hand() -> None:
    # in order .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and never falling: .04 -> .06
    corrected = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stays_at_or_below_one_and_takes_no_tests_at_all() -> None:
    assert holm(np.array([0.6, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


@pytest.mark.parametrize("size", [1, 2, 12, 100])
def test_holm_agrees_with_statsmodels(size: int) -> None:
    p = np.random.default_rng(size).choice(np.linspace(0.0, 0.2, 50), size)  # with ties
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_not_a_p_value(bad: float) -> None:
    with pytest.raises(ScoringError, match="between 0 and 1"):
        holm(np.array([0.5, bad]))
