from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from lofit_lens.errors import ScoringError
from lofit_lens.statistics import crossed_interval, mean_interval, paired_difference
from tests.helpers import type_checks_off

NUMBERS = st.sampled_from([0.0, 0.1, 0.3, 1 / 3, 1.0])


@pytest.mark.parametrize(("right", "n"), [(0, 20), (1, 20), (7, 20), (20, 20), (300, 409), (1, 1)])
def test_right_and_wrong_items_get_wilsons_interval(right: int, n: int) -> None:
    estimate = mean_interval([1.0] * right + [0.0] * (n - right))
    z = stats.norm.ppf(0.975)
    share = right / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert estimate.value == share
    assert estimate.low == pytest.approx(max(0.0, centre - half), abs=1e-12)
    assert estimate.high == pytest.approx(min(1.0, centre + half), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
def test_the_interval_contains_the_mean(values: list[float]) -> None:
    estimate = mean_interval(values, resamples=1000)
    assert estimate.value == pytest.approx(sum(values) / len(values))
    assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9


def test_the_bootstrap_agrees_with_the_normal_interval_on_many_items() -> None:
    values = np.random.default_rng(1).uniform(0.0, 1.0, 2000)
    estimate = mean_interval(values.tolist(), resamples=5000)
    spread = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.low == pytest.approx(values.mean() - spread, abs=0.1 * spread)
    assert estimate.high == pytest.approx(values.mean() + spread, abs=0.1 * spread)


def test_about_95_percent_of_bootstrap_intervals_cover_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    estimates = [
        mean_interval(rng.beta(2.0, 3.0, 60).tolist(), resamples=300, seed=seed)
        for seed in range(200)
    ]
    covered = sum(estimate.low <= 0.4 <= estimate.high for estimate in estimates)
    assert 0.89 <= covered / len(estimates) <= 0.99


def test_the_interval_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(2).uniform(size=50).tolist()
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


def generator_states() -> list[object]:
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return [state["key"].tolist(), state["pos"], torch.get_rng_state().tolist()]


def test_the_global_generators_are_left_alone() -> None:
    before = generator_states()
    mean_interval([0.1, 0.5, 0.9])
    assert generator_states() == before


def test_equal_items_have_an_interval_without_width() -> None:
    estimate = mean_interval([0.25] * 8)
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (0.25, 0.25, 0.25, 8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ScoringError, match="1 of 3"):
        mean_interval([0.5, bad, 1.0])


def test_no_items_are_refused() -> None:
    with pytest.raises(ScoringError, match="no items"):
        mean_interval([])


def test_an_estimate_is_shown_in_percent() -> None:
    assert str(mean_interval([0.25] * 8)) == "25.0 [25.0, 25.0] n=8"


def scores(runs: int, items: int, *, seed: int = 0) -> np.ndarray:
    """Scores with effects of the run and of the item, and noise."""
    rng = np.random.default_rng(seed)
    effects = 0.1 * rng.normal(size=(runs, 1)) + 0.2 * rng.normal(size=items)
    return 0.5 + effects + 0.1 * rng.normal(size=(runs, items))


def slow_crossed_means(table: np.ndarray, resamples: int) -> np.ndarray:
    rng = np.random.default_rng(99)
    runs, items = table.shape
    return np.array(
        [
            table[np.ix_(rng.integers(runs, size=runs), rng.integers(items, size=items))].mean()
            for _ in range(resamples)
        ]
    )


@pytest.mark.parametrize("shape", [(1, 30), (2, 40), (5, 12), (8, 1)])
def test_the_crossed_interval_is_that_of_a_loop_over_sub_tables(shape: tuple[int, int]) -> None:
    table = scores(*shape)
    means = slow_crossed_means(table, 8000)
    estimate = crossed_interval(table, resamples=8000)
    assert estimate.value == pytest.approx(table.mean())
    assert (estimate.runs, estimate.n) == shape
    slack = 0.15 * means.std()
    assert estimate.low == pytest.approx(np.quantile(means, 0.025), abs=slack)
    assert estimate.high == pytest.approx(np.quantile(means, 0.975), abs=slack)


def skewed(runs: int, items: int) -> np.ndarray:
    """Scores with a long tail, in which BCa differs from the percentiles."""
    rng = np.random.default_rng(5)
    effects = 0.3 * rng.exponential(size=(runs, 1)) + rng.exponential(size=items) ** 2
    return effects + 0.1 * rng.normal(size=(runs, items))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_crossed_interval_of_one_run_is_scipys_bootstrap_over_items(
    method: Literal["percentile", "bca"],
) -> None:
    table = skewed(1, 40)
    expected = stats.bootstrap(
        (table[0],), np.mean, n_resamples=20000, method=method, rng=1
    ).confidence_interval
    for groups in (None, range(40)):  # by way of mean_interval, and by our own resampling
        estimate = crossed_interval(table, groups=groups, method=method, resamples=20000)
        slack = 0.02 * (expected.high - expected.low)
        assert estimate.low == pytest.approx(expected.low, abs=slack)
        assert estimate.high == pytest.approx(expected.high, abs=slack)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_runs_and_groups_are_the_two_samples_of_scipys_bootstrap(
    method: Literal["percentile", "bca"],
) -> None:
    table = skewed(4, 30)
    groups = [item // 2 if item < 20 else 100 + item // 5 for item in range(30)]
    members = [np.flatnonzero(np.array(groups) == group) for group in dict.fromkeys(groups)]

    def mean(runs: np.ndarray, drawn: np.ndarray) -> float:
        items = np.concatenate([members[group] for group in drawn])
        return table[np.ix_(runs, items)].mean()

    expected = stats.bootstrap(
        (np.arange(4), np.arange(len(members))),
        mean,
        n_resamples=8000,
        method=method,
        vectorized=False,
        rng=1,
    ).confidence_interval
    estimate = crossed_interval(table, groups=groups, method=method, resamples=8000)
    slack = 0.03 * (expected.high - expected.low)
    assert estimate.low == pytest.approx(expected.low, abs=slack)
    assert estimate.high == pytest.approx(expected.high, abs=slack)


def test_bca_reaches_further_into_a_long_tail_than_the_percentiles() -> None:
    plain, bca = (crossed_interval(skewed(4, 30), method=m) for m in ("percentile", "bca"))
    width = plain.high - plain.low
    assert bca.low > plain.low + 0.02 * width
    assert bca.high > plain.high + 0.02 * width


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 5)), elements=NUMBERS),
    st.booleans(),
)
def test_bca_is_finite_on_the_smallest_tables(table: np.ndarray, one: bool) -> None:
    groups = [0] * table.shape[1] if one else None
    estimate = crossed_interval(table, groups=groups, method="bca", resamples=200)
    assert np.isfinite([estimate.low, estimate.high]).all()
    assert estimate.low <= estimate.high


def test_another_method_is_refused() -> None:
    with type_checks_off():
        for call in (
            lambda: mean_interval([0.2, 0.4], method="basic"),  # pyright: ignore[reportArgumentType]
            lambda: crossed_interval(skewed(2, 5), method="t"),  # pyright: ignore[reportArgumentType]
        ):
            with pytest.raises(ScoringError, match="one of percentile, bca, got"):
                call()


def test_the_crossed_interval_covers_the_true_mean_with_ten_runs() -> None:
    estimates = [crossed_interval(scores(10, 40, seed=s), resamples=300) for s in range(200)]
    covered = sum(estimate.low <= 0.5 <= estimate.high for estimate in estimates)
    assert 0.87 <= covered / len(estimates) <= 0.99


def test_the_bootstrap_over_runs_and_items_depends_on_the_seed_alone() -> None:
    a, b = scores(2, 20, seed=1), scores(2, 20, seed=2)
    before = generator_states()
    assert crossed_interval(a, seed=3) == crossed_interval(a, seed=3) != crossed_interval(a, seed=4)
    assert paired_difference(a, b, seed=3) == paired_difference(a, b, seed=3)
    assert generator_states() == before


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((2, 0)), "no items"),
        (np.zeros(4), r"\(4,\)"),
        (np.array([[0.5, np.nan, 1.0]]), "1 of 3"),
    ],
)
def test_a_table_that_is_empty_flat_or_not_finite_is_refused(
    table: np.ndarray, message: str
) -> None:
    with pytest.raises(ScoringError, match=message):
        crossed_interval(table)
    with pytest.raises(ScoringError, match=message):
        paired_difference(table, table)


def test_runs_are_shown_when_there_are_several() -> None:
    assert str(crossed_interval(np.full((3, 8), 0.25))) == "25.0 [25.0, 25.0] n=8 runs=3"
    assert str(crossed_interval(np.full((1, 8), 0.25))) == "25.0 [25.0, 25.0] n=8"
    shown = str(paired_difference(np.full((2, 8), 0.75), np.full((2, 8), 0.5), resamples=999))
    assert shown == "+25.0 [+25.0, +25.0] p=0.002 n=8 runs=2"


def slow_grouped_means(table: np.ndarray, groups: list[str], resamples: int) -> np.ndarray:
    rng = np.random.default_rng(98)
    names = sorted(set(groups))
    members = [[i for i, group in enumerate(groups) if group == name] for name in names]
    means = []
    for _ in range(resamples):
        items = [i for g in rng.integers(len(names), size=len(names)) for i in members[g]]
        runs = rng.integers(len(table), size=len(table))
        means.append(table[np.ix_(runs, items)].mean())
    return np.array(means)


def test_groups_of_items_are_drawn_together_as_in_a_loop() -> None:
    table = scores(3, 40)
    groups = [f"g{i // 4 if i < 20 else 9}" for i in range(40)]
    table += 0.3 * np.array([len(group) + int(group[1]) % 3 for group in groups])
    means = slow_grouped_means(table, groups, 8000)
    estimate = crossed_interval(table, groups=groups, resamples=8000)
    slack = 0.15 * means.std()
    assert estimate.low == pytest.approx(np.quantile(means, 0.025), abs=slack)
    assert estimate.high == pytest.approx(np.quantile(means, 0.975), abs=slack)
    wider = crossed_interval(table, resamples=8000)
    assert estimate.high - estimate.low > wider.high - wider.low


def test_a_group_for_every_item_changes_nothing_and_a_missing_one_is_refused() -> None:
    table = scores(3, 20)
    assert crossed_interval(table, groups=list(range(20))) == crossed_interval(table)
    with pytest.raises(ScoringError, match="20 items, but groups for 19"):
        crossed_interval(table, groups=list(range(19)))


def test_runs_that_agree_on_every_item_get_wilsons_interval() -> None:
    right = [1.0] * 18 + [0.0] * 2
    same = crossed_interval(np.array([right, right]))
    assert (same.low, same.high) == (mean_interval(right).low, mean_interval(right).high)
    perfect = crossed_interval(np.ones((3, 20)), groups=["a", "b"] * 10)
    assert perfect.low < 1.0 == perfect.high
    assert perfect.runs == 3
