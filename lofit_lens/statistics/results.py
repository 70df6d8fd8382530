"""What intervals and tests return."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean over items, and over runs if there are several, with its 95% interval.

    Attributes:
        value: The mean.
        low: Lower end of the interval.
        high: Upper end.
        n: Number of items.
        runs: Number of runs (training seeds or draws) that scored these items.
    """

    value: float
    low: float
    high: float
    n: int
    runs: int = 1

    def __str__(self) -> str:
        runs = f" runs={self.runs}" if self.runs > 1 else ""
        interval = f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{100 * self.value:.1f} {interval} n={self.n}{runs}"


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its 95% interval and two-sided p-value.

    Attributes:
        value: The mean difference.
        low: Lower end of the interval.
        high: Upper end.
        p: Two-sided p-value, not corrected for other tests.
        n: Number of items.
        runs: Number of runs, paired by seed.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    runs: int

    def __str__(self) -> str:
        interval = f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return f"{100 * self.value:+.1f} {interval} p={self.p:.3g} n={self.n} runs={self.runs}"
