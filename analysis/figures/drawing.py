"""Figures by name, drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import plotly.graph_objects as go

from lofit_lens.analysis.study.keys import plain
from lofit_lens.errors import LofitLensError

T = TypeVar("T")

Drawings = Mapping[str, Callable[[], go.Figure]]
"""What draws each figure, by its name."""


def draw(drawings: Drawings, only: Sequence[str] = (), *, what: str) -> dict[str, go.Figure]:
    """Draw figures.

    Args:
        drawings: All there are.
        only: Names of those wanted; without any, all.
        what: What they are of, for the message.

    Raises:
        LofitLensError: There is no figure of a name; nothing is drawn then.
    """
    check_names(drawings, only, what=what)
    return {name: drawings[name]() for name in only or drawings}


def check_names(drawings: Drawings, only: Sequence[str], *, what: str) -> None:
    """Refuse names of figures that are not there.

    Raises:
        LofitLensError: There is no figure of a name.
    """
    unknown = [name for name in only if name not in drawings]
    if unknown:
        raise LofitLensError(
            f"There is no figure {', '.join(unknown)} of {what}. There are: {', '.join(drawings)}."
        )


def named(start: str, things: Mapping[str, T]) -> dict[str, T]:
    """A name for each, with what tells it from the others only where there are others."""
    several = len(things) > 1
    return {f"{start}-{plain(name)}" if several else start: thing for name, thing in things.items()}


def short(label: str) -> str:
    """10% of heads as 10percent."""
    return label.replace(" of heads", "").replace("%", "percent").replace(" heads", "")
