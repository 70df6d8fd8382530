"""Multiple-choice metrics of one item, from the summed log-probabilities of its candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lofit_lens.errors import ScoringError

Metric = Callable[[Sequence[float], Sequence[float]], float]


def check_scores(correct: Sequence[float], incorrect: Sequence[float]) -> None:
    """Refuse candidates that cannot be compared.

    Raises:
        ScoringError: There is no correct or no incorrect one, or a score is not finite.
    """
    if not correct or not incorrect:
        raise ScoringError("Multiple choice needs a correct and an incorrect candidate.")
    if not np.isfinite([*correct, *incorrect]).all():
        raise ScoringError(f"Candidates have scores that are not finite: {correct}, {incorrect}.")


def mc1(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """1 if the best correct answer (the first) scores above every incorrect one; ties lose."""
    check_scores(correct, incorrect)
    return float(correct[0] > max(incorrect))


def mc2(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """Share of the probability mass of all candidates that falls on correct ones."""
    check_scores(correct, incorrect)
    mass = np.logaddexp.reduce
    return float(np.exp(mass(correct) - mass([*correct, *incorrect])))


def mc3(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """Share of the correct answers that score above every incorrect one."""
    check_scores(correct, incorrect)
    return float(np.mean(np.asarray(correct) > max(incorrect)))


METRICS: Mapping[str, Metric] = {"accuracy": mc1, "MC1": mc1, "MC2": mc2, "MC3": mc3}
