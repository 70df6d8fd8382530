"""The strength at which an edit changes plain text as much as others: by KL divergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError, ScoringError

CLOSE = 0.02
"""How far from the divergence that is asked for the one that is found may lie, as a share of it."""

TRIES = 24
"""Strengths tried; each costs a pass over the plain text."""


@dataclass(frozen=True)
class AtKL:
    """An edit at a strength.

    Attributes:
        edit: The edit, already multiplied.
        strength: What it was multiplied by.
        kl: Its KL divergence from the unedited model, in nats per token of plain text.
    """

    edit: Edit
    strength: float
    kl: float


def at_kl(edit: Edit, target: float, kl: Callable[[Edit], float]) -> AtKL:
    """Make an edit as strong as it must be to reach a KL divergence from the unedited model.

    Divergence goes with the square of a small strength, so each step takes the root of what is missing
    as long as nothing is known on one side, and halves the logarithm of the bracket after that.

    Args:
        edit: An edit that can be multiplied: `strength * edit`.
        target: The divergence, in nats per token.
        kl: Measures the divergence of an edit.

    Returns:
        The edit within 2% of the target.

    Raises:
        LofitLensError: The target is not above 0, the edit cannot be multiplied, or no strength
            reaches the target, as where more strength changes no more.
    """
    check_target(target)
    if not hasattr(edit, "__mul__"):
        raise LofitLensError(
            f"{edit!r} has no strength that could be set, so it cannot be brought to a KL divergence of "
            f"{target:g}. Leave the method out, or take it as it is."
        )
    scalable: Any = edit
    low, high, strength = 0.0, math.inf, 1.0
    nearest: AtKL | None = None
    for _ in range(TRIES):
        found = strength * scalable
        try:
            divergence = kl(found)
        except ScoringError:  # too strong: numbers that are not finite
            divergence = math.inf
        if nearest is None or abs(divergence - target) < abs(nearest.kl - target):
            nearest = AtKL(found, strength, divergence)
        if abs(divergence - target) <= CLOSE * target:
            return AtKL(found, strength, divergence)
        low, high = (strength, high) if divergence < target else (low, strength)
        if low and math.isfinite(high):
            strength = math.sqrt(low * high)
        else:
            step = math.sqrt(target / divergence) if divergence else math.inf
            strength *= min(max(step, 0.1), 10.0)
    assert nearest is not None
    raise LofitLensError(
        f"No strength of {edit!r} gives a KL divergence of {target:g} on plain text; the nearest is "
        f"{nearest.kl:.3g} at {nearest.strength:.3g} times the edit. Ask for another divergence."
    )


def check_target(target: float) -> None:
    """Refuse a divergence that no edit can have.

    Raises:
        LofitLensError: It is not a number above 0.
    """
    if not (math.isfinite(target) and target > 0):
        raise LofitLensError(
            f"A KL divergence to be reached is in nats per token and above 0, got {target}; an edit that "
            "clearly acts has some 0.01 to 0.5."
        )
