"""A bar over long work whose parts take unequally long, and lines that do not break a bar."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")

ESTIMATED_FROM = 0.1
"""Share of the work that is done before an estimate of the rest is shown."""

_WITHOUT_ESTIMATE = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}]"


def long_bar(parts: Collection[T], what: str, *, progress: bool) -> tqdm[T]:
    """A bar that estimates the time left by the mean of all parts, once a tenth of them is done.

    Where several parts end at once, as runs trained together do, the first of them says nothing of
    the rest.

    Args:
        parts: What is done; iterate over the bar, or call its `update` for each.
        what: What stands beside the bar.
        progress: Whether to show it.
    """
    return _LongBar(parts, desc=what, disable=not progress, smoothing=0)


def say(line: str) -> None:
    """Write a line on standard error, above the bars there."""
    tqdm.write(line, file=sys.stderr)


class _LongBar(tqdm):
    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar shows."""
        shown = dict(super().format_dict)
        if self.total and self.n < ESTIMATED_FROM * self.total:
            shown["bar_format"] = _WITHOUT_ESTIMATE
        return shown
