"""The probes of `benchmarks/probes.py` as a part of the suite."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.measuring import Check, Claim, Result, Row, Spread, Verdict
from benchmarks.probes import probe_rows

FASTER, POINTS, GIGABYTES = 3, 0.5, 2.0
WHITE = "white"
"""Uncorrelated features, as no head of a model has them; shown, and nothing claimed."""


def probes(heads: int) -> Result:
    """Logistic probes of many heads, ours and scikit-learn's."""
    start = time.perf_counter()
    found = probe_rows(heads=heads)
    return Result(
        f"Probes of {heads:,} heads of 128 dimensions",
        1,
        [row for each in found for row in _rows(each)],
        [_verdict(each) for each in found if each["data"] != WHITE],
        [check for each in found for check in _checks(each)],
        ["One processor thread, on the CPU also where there is a GPU; a step is one head."],
        time.perf_counter() - start,
    )


def _names(found: dict[str, Any]) -> tuple[str, str]:
    return f"ours, {found['data']}", f"scikit-learn, {found['data']}"


def _rows(found: dict[str, Any]) -> list[Row]:
    ours, theirs = _names(found)
    seconds, slower = found["fit_probes, s"], found["times faster"]
    spread = Spread(slower, found["of layers, lowest"], found["of layers, highest"])
    peak = round(1e9 * found["peak memory, GB"])
    return [
        Row(ours, seconds / found["heads"], Spread(1, 1, 1), seconds, None, peak, None, None),
        Row(theirs, slower * seconds / found["heads"], spread, slower * seconds, None, None, None, None),
    ]  # fmt: skip


def _verdict(found: dict[str, Any]) -> Verdict:
    ratio = Spread(
        1 / found["times faster"], 1 / found["of layers, highest"], 1 / found["of layers, lowest"]
    )
    return Verdict(Claim(*_names(found), 1 / FASTER), ratio)


def _checks(found: dict[str, Any]) -> list[Check]:
    data = found["data"]
    gap, worst = found["accuracy gap, mean points"], found["accuracy gap, largest points"]
    return [
        Check(f"mean accuracy apart, points, {data}", abs(gap), POINTS),
        Check(f"accuracy of a head apart at most, points, {data}", worst, None),
        Check(f"memory of a process with the activations, GB, {data}", found["peak memory, GB"], GIGABYTES),
    ]  # fmt: skip
