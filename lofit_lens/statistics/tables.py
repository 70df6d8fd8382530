"""Checked scores, and their sums over groups of items."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from lofit_lens.errors import ScoringError


def finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The scores as float64.

    Raises:
        ScoringError: There are no scores, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ScoringError("There are no items to take a mean of.")
    if not np.isfinite(array).all():
        raise ScoringError(
            f"{int((~np.isfinite(array)).sum())} of {array.size} item scores are not finite."
        )
    return array


def finite_table(values: np.ndarray) -> np.ndarray:
    """The scores [run, item] as float64.

    Raises:
        ScoringError: The table is empty, not [run, item], or a score is not finite.
    """
    table = finite(values)
    if table.ndim != 2:
        raise ScoringError(
            f"Scores form a table [run, item], got an array of shape {table.shape}. Give a single "
            "run as a table of one row."
        )
    return table


def group_sums(
    table: np.ndarray, groups: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the scores in every group, [run, group], and the number of its items, [group].

    Args:
        table: Scores [run, item].
        groups: The group of each item; None: each item is its own.

    Raises:
        ScoringError: There is not one group for each item.
    """
    items = table.shape[1]
    if groups is None:
        return table, np.ones(items)
    if len(groups) != items:
        raise ScoringError(f"There are {items} items, but groups for {len(groups)}.")
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    membership = np.zeros((items, len(places)))
    membership[np.arange(items), [places[group] for group in groups]] = 1.0
    return table @ membership, membership.sum(axis=0)
