"""Every kind of experiment gives on the embedded model what it gave when its golden was written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from math import isclose, isnan, nan
from typing import Any

import pytest

from tests.make_goldens import KINDS, Golden, made, stored

NOT_COMPARED = ("fit_tokens", "score_tokens")
"""What a step shared by several runs costs may be counted once instead of in every run."""

LOOSE = ("cross_entropy", "kl", "score")
"""Columns of sums over many tokens, and what training left behind: sums reorder when runs are trained
or scored together, and Adam carries the rounding on."""


def differences(then: Golden, now: Golden) -> list[str]:
    """Where two goldens differ, in words."""
    found = [f"frames {list(then)} -> {list(now)}"] if list(then) != list(now) else []
    for name in then.keys() & now.keys():
        before, after = then[name], now[name]
        if before["columns"] != after["columns"]:
            found.append(f"{name}: columns {before['columns']} -> {after['columns']}")
            continue
        if len(before["rows"]) != len(after["rows"]):
            found.append(f"{name}: {len(before['rows'])} -> {len(after['rows'])} rows")
            continue
        for place, rows in enumerate(zip(before["rows"], after["rows"], strict=True)):
            for column, old, new in zip(before["columns"], *rows, strict=True):
                if column not in NOT_COMPARED and not same(old, new, column):
                    found.append(f"{name}, row {place}, {column}: {old!r} -> {new!r}")
    return found


def same(then: Any, now: Any, column: str) -> bool:
    """Whether two values are the same, floating-point numbers up to rounding."""
    if isinstance(then, str) and isinstance(now, str):
        return without_losses(then) == without_losses(now)
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return list(then) == list(now) and all(same(then[key], now[key], key) for key in then)
    if isinstance(then, Sequence) and isinstance(now, Sequence) and not isinstance(then, str):
        pairs = zip(then, now, strict=False)
        return len(then) == len(now) and all(same(old, new, column) for old, new in pairs)
    if not isinstance(then, float) or not isinstance(now, float):
        return bool(then == now)
    if isnan(then) or isnan(now):
        return isnan(then) and isnan(now)
    return isclose(then, now, rel_tol=1e-4 if column in LOOSE else 0, abs_tol=1e-6)


def without_losses(text: str) -> str:
    """A text without the losses in it, which are rounded and so may differ in the last digit."""
    return re.sub(r"\d+\.\d{4}\b", "LOSS", text)


@pytest.mark.parametrize("kind", KINDS)
def test_an_experiment_gives_the_tidy_frames_it_gave_before(kind: str) -> None:
    assert differences(stored(kind), made(kind)) == []


def changes(golden: Golden) -> Iterator[Golden]:
    """The golden with one thing changed."""
    name, frame = next(iter(golden.items()))
    for place, value in enumerate(frame["rows"][0]):
        if frame["columns"][place] in NOT_COMPARED or isinstance(value, list):
            continue
        changed = deepcopy(golden)
        other = f"{value}x" if isinstance(value, str) else nan if value == value else 0.0
        changed[name]["rows"][0][place] = other
        yield changed
    yield {name: {**frame, "rows": frame["rows"][:-1]}}
    yield {name: {**frame, "columns": frame["columns"][::-1]}}
    yield {}


def test_a_golden_that_differs_in_one_value_row_or_column_is_noticed() -> None:
    whole = {"table": stored("comparison")["frame"]}
    assert all(differences(whole, changed) for changed in changes(whole))
    assert differences(whole, deepcopy(whole)) == []


def test_only_rounding_is_forgiven() -> None:
    assert same(0.5, 0.5 + 5e-7, "value") and not same(0.5, 0.5 + 2e-6, "value")
    assert same(20.0, 20.001, "kl") and not same(20.0, 20.01, "kl")
    assert same([{"kl": None}], [{"kl": None}], "trials") and not same([1], [1, 2], "trials")
    assert not same("*", "+", "mark") and not same(3, 4, "n")
