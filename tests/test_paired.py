"""The columns and marks of paired tests, which every table of results shares."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lofit_lens.analysis.study import paired
from lofit_lens.statistics import Estimate, crossed_interval, paired_difference


def rows() -> pd.DataFrame:
    """Two tests that hold, one that nearly does, one that does not, and a row without a test."""
    differences = [0.2, -0.1, 0.0, 0.3, np.nan]
    return pd.DataFrame({"difference": differences, "p": [0.001, 0.03, 0.9, 0.01, np.nan]})


def test_p_is_corrected_over_the_rows_with_a_test_alone() -> None:
    found = paired.with_marks(rows())
    assert found["p_holm"][:4].tolist() == pytest.approx([4 * 0.001, 2 * 0.03, 0.9, 3 * 0.01])
    assert np.isnan(found["p_holm"][4])
    assert found["mark"].tolist() == ["*", "+", "", "*", ""]


def test_marks_can_be_kept_to_what_is_better() -> None:
    found = paired.with_marks(rows(), above_only=True)
    assert found["mark"].tolist() == ["*", "", "", "*", ""]
    assert found["p_holm"].equals(paired.with_marks(rows())["p_holm"])


def test_only_what_has_a_mark_has_a_direction() -> None:
    found = paired.with_directions(paired.with_marks(rows()))
    assert found["direction"].tolist() == ["better", "worse", "", "better", ""]


def test_the_tested_frame_is_left_as_it_was() -> None:
    given = rows()
    paired.with_directions(paired.with_marks(given))
    assert given.equals(rows())


def test_columns_hold_the_numbers_of_the_estimate_and_of_the_test() -> None:
    a, b = np.random.default_rng(0).uniform(size=(2, 3, 20))
    groups = [f"g{i // 2}" for i in range(20)]
    d = paired_difference(a, b, groups=groups, resamples=10_000)
    assert list(paired.compared(a, b, groups).items()) == [
        ("difference", d.value), ("difference_low", d.low), ("difference_high", d.high), ("p", d.p)
    ]  # fmt: skip
    e = crossed_interval(a, groups=groups)
    assert list(paired.score_columns(e, runs="draws").items()) == [
        ("value", e.value), ("low", e.low), ("high", e.high), ("n", 20), ("draws", 3)
    ]  # fmt: skip


def test_what_was_not_scored_or_compared_is_nan_in_the_same_columns() -> None:
    nothing, something = paired.score_columns(), paired.score_columns(Estimate(0.5, 0.4, 0.6, 9, 2))
    assert list(nothing) == list(something) and (nothing["n"], nothing["seeds"]) == (0, 0)
    assert np.isnan([nothing["value"], *paired.difference_columns().values()]).all()
