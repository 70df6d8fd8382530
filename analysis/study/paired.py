"""Scores of different edits paired item by item, and the columns and marks of their tests."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lofit_lens.errors import LofitLensError
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.statistics import Difference, Estimate, holm, paired_difference

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 10_000
"""Of each test: its smallest p-value, 0.0002, outlives the correction over a hundred cells."""

DIFFERENCE = ("difference", "difference_low", "difference_high")
TESTED = (*DIFFERENCE, "p")
"""Columns of a paired difference."""


def score_columns(estimate: Estimate | None = None, *, runs: str = "seeds") -> dict[str, Any]:
    """A score as the columns `value`, `low`, `high`, `n` and the number of its runs.

    Args:
        estimate: The score; None where nothing was scored.
        runs: The name of the last column.
    """
    e = estimate or Estimate(nan, nan, nan, 0, 0)
    return {"value": e.value, "low": e.low, "high": e.high, "n": e.n, runs: e.runs}


def difference_columns(difference: Difference | None = None) -> dict[str, float]:
    """A paired difference as the columns `TESTED`, NaN where nothing is compared."""
    d = difference or Difference(nan, nan, nan, nan, 0, 0)
    return dict(zip(TESTED, (d.value, d.low, d.high, d.p), strict=True))


def compared(a: np.ndarray, b: np.ndarray, groups: Sequence[str] | None) -> dict[str, float]:
    """The columns `TESTED` of `a - b`, scores [run, item] paired by both."""
    return difference_columns(paired_difference(a, b, groups=groups, resamples=RESAMPLES))


def mark(p: float) -> str:
    """The mark of a corrected p-value: "*" below 0.05, "+" below 0.1."""
    return "*" if p < 0.05 else "+" if p < 0.1 else ""


def with_marks(frame: pd.DataFrame, *, above_only: bool = False) -> pd.DataFrame:
    """Add `p_holm`, corrected over all rows with a p, and `mark`.

    Args:
        frame: The columns `difference` and `p`, NaN in rows without a test.
        above_only: Mark only differences above 0.
    """
    p = frame["p"].to_numpy(dtype=np.float64, copy=True)
    p[~np.isnan(p)] = holm(p[~np.isnan(p)])
    shown = np.where(frame["difference"] > 0, p, nan) if above_only else p
    return frame.assign(p_holm=p, mark=[mark(one) for one in shown])


def with_directions(frame: pd.DataFrame) -> pd.DataFrame:
    """Add to marks a `direction`, "better" or "worse"."""
    signs = np.where(frame["difference"].to_numpy(dtype=np.float64) > 0, "better", "worse")
    return frame.assign(direction=np.where(frame["mark"] == "", "", signs))


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
