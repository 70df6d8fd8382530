"""Dealing examples into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lofit_lens.errors import DataError, LofitLensError, check_seed
from lofit_lens.tasks.task import Example, Split

Shares = tuple[float, float, float]

_VAL_SHARE = 0.2
"""Share of the training rows that validates where ready splits have no validation."""

Dealt = list[tuple[Example, ...]]


def into_splits(
    examples: Sequence[tuple[Split | None, Example]], shares: Shares | str, seed: int, name: str
) -> tuple[Dealt, list[str]]:
    """Training, validation and test, and what there is to tell about them.

    Args:
        examples: The examples, those of ready splits with their split.
        shares: Shares of the three; or the column that named the splits.
        seed: Seed of the order in which examples are dealt.
        name: What messages call the data.

    Raises:
        DataError: A split would be empty.
        LofitLensError: The shares are not three positive numbers up to 1, or the seed is negative.
    """
    ready: dict[Split | None, list[Example]] = {}
    for split, example in examples:
        ready.setdefault(split, []).append(example)
    if not isinstance(shares, str) and (
        len(shares) != 3 or min(shares) <= 0 or sum(shares) > 1 + 1e-9
    ):
        raise LofitLensError(
            f"split must be three positive shares that sum to at most 1, got {tuple(shares)} for {name}."
        )
    check_seed(seed, "split_seed")
    if None in ready and not isinstance(shares, str):
        return deal(ready[None], shares, seed, name), []
    missing = [split for split in ("train", "test") if split not in ready]
    if missing:
        counts = ", ".join(f"{len(part)} {split}" for split, part in ready.items())
        raise DataError(f"{name} has no {' and no '.join(missing)} rows; it has {counts}.")
    if "val" in ready:
        return [tuple(ready[split]) for split in ("train", "val", "test")], []
    cut = (1 - _VAL_SHARE, _VAL_SHARE)
    train, val = deal(ready["train"], cut, seed, f"The training part of {name}")
    told = f"{len(val)} of {len(ready['train'])} training rows validate (seed {seed})"
    return [train, val, tuple(ready["test"])], [told]


def deal(examples: Sequence[Example], shares: Sequence[float], seed: int, name: str) -> Dealt:
    """Deal whole groups into parts, in an order drawn by `seed`.

    Raises:
        DataError: A part would be empty.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    order = np.random.default_rng(seed).permutation(len(groups))
    members = list(groups.values())
    ends = np.cumsum(shares) * len(examples)
    parts: list[list[Example]] = [[] for _ in shares]
    dealt = 0
    for i in order:
        place = int(np.searchsorted(ends, dealt + 1e-9, side="right"))
        if place < len(parts):
            parts[place].extend(members[i])
        dealt += len(members[i])
    if not all(parts):
        largest = max(map(len, members))
        raise DataError(
            f"{name} has {len(examples)} rows in {len(groups)} groups, the largest of {largest} rows: "
            f"that cannot be dealt into shares of {tuple(shares)}."
        )
    return [tuple(part) for part in parts]
