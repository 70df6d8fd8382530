"""How many runs share a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from lofit_lens.errors import LofitLensError

T = TypeVar("T")


def grouped(runs: Sequence[T], together: int) -> list[Sequence[T]]:
    """Runs in groups of `together`, the last of which may be smaller.

    Raises:
        LofitLensError: `together` is below 1.
    """
    check_together(together)
    return [runs[start : start + together] for start in range(0, len(runs), together)]


def check_together(together: int) -> None:
    """Refuse to train fewer than one run at once.

    Raises:
        LofitLensError: `together` is below 1.
    """
    if together < 1:
        raise LofitLensError(
            f"together must be 1 or more runs, got {together}. 1 trains one after the other."
        )
