"""Rivals in turns: times, ratios and memory.

A ratio is the median over rounds of a ratio within one round, in which the rivals run one behind the
other, so that whatever slows the machine slows them all. On the CPU time is processor time of this
process, which runs on one thread; on a GPU it is taken with CUDA events.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from benchmarks.memory import peak_memory, saved_for_backward

LEAST, ENOUGH = 3, 20.0
"""Rounds that are run in any case, and seconds after which no further one begins."""

Run = Callable[[], object]


@dataclass(frozen=True)
class Rival:
    """One way to do the work.

    Attributes:
        run: The work of a round; what it returns goes to `Part.checks`.
        step: A step with its backward pass; None where there is none.
        entry: Seconds spent once, before the first round.
        floor: Floating-point operations of the work that no way can avoid; None if not known.
        share: The part of the work that `run` does, where time grows in proportion; times are
            scaled to the whole.
    """

    run: Run
    step: Run | None = None
    entry: float = 0.0
    floor: float | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Claim:
    """That one rival needs at most `limit` times as much of something as another."""

    ours: str
    other: str
    limit: float
    of: Literal["time", "saved"] = "time"


@dataclass(frozen=True)
class Check:
    """A number that must stay small, such as how far two rivals' results are apart.

    Attributes:
        what: What it measures.
        value: The number.
        limit: The largest that is right; None where there is no such limit, as in bfloat16.
    """

    what: str
    value: float
    limit: float | None

    @property
    def holds(self) -> bool:
        """Whether it is within the limit."""
        return self.limit is None or self.value <= self.limit


@dataclass(frozen=True)
class Part:
    """What is measured together.

    Attributes:
        title: What the work of a round is.
        rivals: By name; ratios are against the first.
        claims: What is to be shown.
        checks: Compares what the rivals returned in their first run, by name.
        tokens: Tokens of the work of a round, padding left out.
        steps: Steps in the work of a round.
        notes: What else a reader must know.
    """

    title: str
    rivals: Mapping[str, Rival]
    claims: Sequence[Claim]
    checks: Callable[[Mapping[str, Any]], list[Check]]
    tokens: int
    steps: int = 1
    notes: Sequence[str] = ()


Benchmark = Callable[..., AbstractContextManager[Part]]


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """What one rival cost.

    Attributes:
        name: The rival.
        seconds: Per step.
        ratio: To the first rival.
        first: Seconds before the first round and for a first run.
        saved: Bytes kept for backward.
        peak: Bytes of memory that the first run took beyond what was in use before.
        tokens_per_second: Real tokens.
        floor_share: Time of the unavoidable arithmetic at the machine's peak, as a share.
    """

    name: str
    seconds: float
    ratio: Spread
    first: float
    saved: int | None
    peak: int | None
    tokens_per_second: float | None
    floor_share: float | None


@dataclass(frozen=True)
class Verdict:
    """A claim and what was measured."""

    claim: Claim
    ratio: Spread

    @property
    def holds(self) -> bool:
        """Whether the median is within the limit."""
        return self.ratio.median <= self.claim.limit


@dataclass(frozen=True)
class Result:
    """A part, measured."""

    title: str
    rounds: int
    rows: Sequence[Row]
    verdicts: Sequence[Verdict]
    checks: Sequence[Check]
    notes: Sequence[str]
    took: float


def measure(part: Part, rounds: int, device: torch.device, peak_flops: float) -> Result:
    """Run every rival once, then all in turns, in an order that rotates.

    Args:
        part: What to measure.
        rounds: How many rounds at most; after `LEAST` none begins when `ENOUGH` seconds are over.
        device: Where the work runs.
        peak_flops: Operations per second of the machine at its best.
    """
    started = time.perf_counter()
    first, peak, returned = {}, {}, {}
    for name, rival in part.rivals.items():
        with peak_memory(device) as used:
            took, returned[name] = seconds(rival.run, device)
        first[name], peak[name] = rival.entry + took / rival.share, used()
    times: dict[str, list[float]] = {name: [] for name in part.rivals}
    names = list(times)
    for turn in range(rounds):
        if turn >= LEAST and time.perf_counter() - started > ENOUGH:
            break
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            rival = part.rivals[name]
            times[name].append(seconds(rival.run, device)[0] / rival.share)
    saved = {
        name: None if rival.step is None else saved_for_backward(rival.step)
        for name, rival in part.rivals.items()
    }
    rows = [
        Row(
            name,
            statistics.median(times[name]) / part.steps,
            _ratio(times[name], times[names[0]]),
            first[name],
            saved[name],
            peak[name],
            part.tokens / statistics.median(times[name]),
            None if rival.floor is None else rival.floor / peak_flops / statistics.median(times[name]),
        )
        for name, rival in part.rivals.items()
    ]  # fmt: skip
    verdicts = []
    for claim in part.claims:
        if claim.of == "time":
            ratio = _ratio(times[claim.ours], times[claim.other])
        else:
            exact = (saved[claim.ours] or 0) / (saved[claim.other] or 1)
            ratio = Spread(exact, exact, exact)
        verdicts.append(Verdict(claim, ratio))
    checks = part.checks(returned)
    took = time.perf_counter() - started
    return Result(part.title, len(times[names[0]]), rows, verdicts, checks, part.notes, took)


def seconds(run: Run, device: torch.device) -> tuple[float, object]:
    """Time of one run, garbage collection left out, and what it returns."""
    gc.collect()
    gc.disable()
    try:
        return _on_gpu(run) if device.type == "cuda" else _on_cpu(run)
    finally:
        gc.enable()


def _on_cpu(run: Run) -> tuple[float, object]:
    start = time.process_time()
    returned = run()
    return time.process_time() - start, returned


def _on_gpu(run: Run) -> tuple[float, object]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    returned = run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000, returned


def _ratio(mine: Sequence[float], other: Sequence[float]) -> Spread:
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    if len(ratios) == 1:
        return Spread(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Spread(median, low, high)
