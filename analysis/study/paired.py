"""What makes scores of different edits comparable item by item."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lofit_lens.errors import LofitLensError
from lofit_lens.scoring.evaluation import Evaluation

RESAMPLES = 10_000
"""Of each test: its smallest p-value, 0.0002, outlives the correction over a hundred cells."""


def check_paired(found: Evaluation, expected: Evaluation, *, what: str, base: str) -> None:
    """Refuse to pair scores by item that were not made in the same way.

    Args:
        found: Scores of an edit.
        expected: Scores that they are compared with.
        what: Name of the run with the edit, for the message.
        base: Name of what it is compared with.

    Raises:
        LofitLensError: Items or their order, split, main metric or compat rule differ.
    """
    there = _protocol(found)
    for name, value in _protocol(expected).items():
        if there[name] != value:
            raise LofitLensError(
                f"{what}, was scored with other {name} than {base}. Evaluate both in the same way on "
                "the same items."
            )


def item_groups(evaluation: Evaluation) -> list[str]:
    """The group of each item; an item without one is its own."""
    return [record["group"] or record["id"] for record in evaluation.records]


def main_scores(evaluation: Evaluation) -> Float[np.ndarray, " item"]:
    """The main metric of each item."""
    metric = evaluation.metric_names[0]
    return np.array([record[metric] for record in evaluation.records], dtype=np.float64)


def _protocol(evaluation: Evaluation) -> dict[str, object]:
    return {
        "items": [record["id"] for record in evaluation.records],
        "split": evaluation.split,
        "main metric": evaluation.metric_names[0],
        "compat rule": evaluation.compat,
    }
