"""What sequences of tokens, letters or words have in common."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import takewhile


def common_start(sequences: Iterable[Sequence[Hashable]]) -> int:
    """How many elements all sequences have in common at their start."""
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
