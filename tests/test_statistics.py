from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lofit_lens.errors import ScoringError
from lofit_lens.statistics import mean_interval


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
