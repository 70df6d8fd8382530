"""Multiple-choice metrics of one item, from the summed log-probabilities of its candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import logsumexp

Metric = Callable[[Sequence[float], Sequence[float]], float]


def mc1(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """1 if the best correct answer (the first) scores above every incorrect one; ties lose."""
    return float(correct[0] > max(incorrect))


def mc2(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """Share of the probability mass of all candidates that falls on correct ones."""
    return float(np.exp(logsumexp(correct) - logsumexp([*correct, *incorrect])))


def mc3(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """Share of the correct answers that score above every incorrect one."""
    return float(np.mean(np.asarray(correct) > max(incorrect)))


METRICS: Mapping[str, Metric] = {"accuracy": mc1, "MC1": mc1, "MC2": mc2, "MC3": mc3}
