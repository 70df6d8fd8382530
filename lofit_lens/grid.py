"""The heads a model has: its layers, those of them without attention, and heads by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Any, NamedTuple, SupportsIndex

from lofit_lens.errors import LofitLensError, check_whole

MOST = 1024
"""Layers, and heads of a layer: many times those of the largest models, but grids of them fit into memory."""


class Head(NamedTuple):
    """One attention head: `layer` and query `head`, both counted from 0."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"


@dataclass(frozen=True)
class HeadGrid:
    """Layers x heads of a model.

    Attributes:
        n_layers: Layers, those without heads among them.
        n_heads: Query heads of every layer that has some.
        without: Layers without attention heads, lowest first; hybrid models have them.

    Raises:
        LofitLensError: A number is not a whole one from 1 to 1,024, a layer of `without` is not in
            the model, or it names all of them.

    Examples:
        >>> grid = HeadGrid(4, 8, without=(0, 2))
        >>> grid.total, grid.layers, str(grid[9])
        (16, (1, 3), 'L3H1')
    """

    n_layers: int
    n_heads: int
    without: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads"):
            check_whole(name, getattr(self, name), 1, MOST)
        without = tuple(sorted(set(self.without)))
        object.__setattr__(self, "without", without)
        if without and not set(without) < set(range(self.n_layers)):
            raise LofitLensError(
                "Layers without heads must be some, but not all, of 0 to "
                f"{self.n_layers - 1}, got {without}."
            )

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers that have heads, lowest first."""
        return tuple(layer for layer in range(self.n_layers) if layer not in self.without)

    @property
    def total(self) -> int:
        """How many heads there are."""
        return self.n_heads * (self.n_layers - len(self.without))

    @property
    def shape(self) -> dict[str, Any]:
        """The fields by name, for `HeadSet(heads, **grid.shape)`."""
        return {"n_layers": self.n_layers, "n_heads": self.n_heads, "without": self.without}

    @property
    def short(self) -> str:
        """As "4x8", or "4x8, no heads in layers 0, 2"."""
        shape = f"{self.n_layers}x{self.n_heads}"
        return f"{shape}, {headless(self.without)}" if self.without else shape

    def __getitem__(self, number: SupportsIndex) -> Head:
        """A head by its number, counted by layer and head over the heads that exist."""
        place, head = divmod(index(number), self.n_heads)
        return Head(self.layers[place], head)

    def __contains__(self, head: Sequence[int]) -> bool:
        layer, number = head
        inside = 0 <= layer < self.n_layers and 0 <= number < self.n_heads
        return inside and layer not in self.without

    def __str__(self) -> str:
        """As "4 layers x 8 heads (no heads in layers 0, 2)"."""
        shape = f"{self.n_layers} layers x {self.n_heads} heads"
        return f"{shape} ({headless(self.without)})" if self.without else shape


def headless(layers: Sequence[int]) -> str:
    """A note on layers without heads, as "no heads in layers 0-2, 4-6"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    names = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"no heads in layer{'s' if len(layers) > 1 else ''} {', '.join(names)}"
