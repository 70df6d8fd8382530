from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lofit_lens.tasks.multiple_choice import METRICS, mc1, mc2, mc3

LOGPROBS = st.lists(st.floats(-30.0, 0.0), min_size=1, max_size=6)


def slow_mc1(correct: list[float], incorrect: list[float]) -> float:
    for other in incorrect:
        if not correct[0] > other:
            return 0.0
    return 1.0


def slow_mc2(correct: list[float], incorrect: list[float]) -> float:
    right = sum(math.exp(value) for value in correct)
    wrong = sum(math.exp(value) for value in incorrect)
    return right / (right + wrong)


def slow_mc3(correct: list[float], incorrect: list[float]) -> float:
    above = 0
    for value in correct:
        above += all(value > other for other in incorrect)
    return above / len(correct)


@settings(deadline=None)
@given(LOGPROBS, LOGPROBS)
def test_metrics_equal_a_slow_reading_of_their_definition(
    correct: list[float], incorrect: list[float]
) -> None:
    assert mc1(correct, incorrect) == slow_mc1(correct, incorrect)
    assert mc2(correct, incorrect) == pytest.approx(slow_mc2(correct, incorrect), rel=1e-9)
    assert mc3(correct, incorrect) == pytest.approx(slow_mc3(correct, incorrect))


@pytest.mark.parametrize(
    ("metric", "expected"), [("accuracy", 0.0), ("MC1", 0.0), ("MC2", 0.5), ("MC3", 0.5)]
)
def test_metrics_of_a_hand_computed_item(metric: str, expected: float) -> None:
    correct = [math.log(0.2), math.log(0.3)]  # the best answer is the first, not the likeliest
    incorrect = [math.log(0.25), math.log(0.25)]
    assert METRICS[metric](correct, incorrect) == pytest.approx(expected)


def test_mc1_ignores_the_other_correct_answers() -> None:
    assert mc1([-2.0, -1.0], [-1.5]) == 0.0
    assert mc1([-1.0, -9.0], [-1.5]) == 1.0


@pytest.mark.parametrize("metric", ["accuracy", "MC1", "MC3"])
def test_a_tie_does_not_count_as_correct(metric: str) -> None:
    assert METRICS[metric]([-3.0], [-3.0, -4.0]) == 0.0


def test_mc2_is_exact_where_the_probabilities_underflow() -> None:
    assert math.exp(-2000.0) == 0.0
    assert mc2([-2000.0, -2000.0], [-2000.0 + math.log(2)]) == pytest.approx(0.5)
    assert mc2([-2000.0], [-1000.0]) == 0.0
    assert mc2([-1000.0], [-2000.0]) == 1.0


@settings(deadline=None)
@given(LOGPROBS, LOGPROBS, st.floats(-2000.0, 0.0))
def test_metrics_do_not_change_when_every_score_shifts(
    correct: list[float], incorrect: list[float], shift: float
) -> None:
    moved = ([value + shift for value in correct], [value + shift for value in incorrect])
    assert mc2(*moved) == pytest.approx(mc2(correct, incorrect), abs=1e-9)


@settings(deadline=None)
@given(LOGPROBS, LOGPROBS)
def test_mc2_of_correct_and_incorrect_exchanged_sum_to_one(
    correct: list[float], incorrect: list[float]
) -> None:
    assert mc2(correct, incorrect) + mc2(incorrect, correct) == pytest.approx(1.0)
