"""How alike the heads of tasks and seeds are: shared heads, and distance of their layers (Figure 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations, product
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import hypergeom, wasserstein_distance

from lofit_lens.analysis.inside.layers import layer_distribution, one_shape
from lofit_lens.errors import LofitLensError
from lofit_lens.grid import HeadGrid
from lofit_lens.heads import HeadSet

if TYPE_CHECKING:
    import plotly.graph_objects as go

T = TypeVar("T")

RANDOM = "random"
"""Stands for heads drawn at random."""


@dataclass(frozen=True, eq=False)
class HeadOverlap:
    """How alike head sets of one size from one model are.

    Attributes:
        heads: One set per seed, by task.
    """

    heads: Mapping[str, tuple[HeadSet, ...]]

    @property
    def k(self) -> int:
        """Heads in a set."""
        return len(next(iter(self.heads.values()))[0])

    def frame(self) -> pd.DataFrame:
        """One row per measure and pair of tasks; a task with itself is its pairs of seeds.

        The measures: `overlap`, the share of one set that is in the other (which the paper calls
        Jaccard); `jaccard`, intersection over union; `layer distance`, the earth mover's distance
        of the layers of the two sets, in layers.

        Columns `measure`, `first`, `second` (a task, or "random"), `value` (mean over pairs of
        sets), `low`, `high` (least and most of any pair), `pairs` (how many; with none, as of a
        task with one seed, the numbers are NaN) and `chance` (exact mean of two sets drawn at
        random). Beside "random", each set of the task gives its exact mean over sets drawn at
        random in place of a pair; the paper draws one.
        """
        rows = []
        chances = _chances(self.k, one_shape(self.heads))
        for measure, between in MEASURES.items():
            chance = chances[measure]
            for first, second, pairs in pairs_of_tasks(self.heads):
                numbers = mean_least_most([between(a, b) for a, b in pairs])
                rows.append((measure, first, second, *numbers, chance))
            for task, sets in self.heads.items():
                beside = [chance for _ in sets]
                if between is _layer_distance:
                    beside = list(map(_distance_from_random, sets))
                rows.append((measure, task, RANDOM, *mean_least_most(beside), chance))
        names = ["measure", "first", "second", "value", "low", "high", "pairs", "chance"]
        return pd.DataFrame(rows, columns=names)

    def plot(self) -> go.Figure:
        """Overlap and layer distance of each pair of tasks, and of each task with random heads."""
        from lofit_lens.analysis.figures.overlap import pair_maps

        return pair_maps(self.frame(), title=f"How alike sets of {self.k} heads are")

    def __repr__(self) -> str:
        tasks = ", ".join(f"{task}, seeds: {len(sets)}" for task, sets in self.heads.items())
        return f"HeadOverlap({self.k} heads each; {tasks})"

    def _repr_html_(self) -> str:
        wide = self.frame().pivot_table("value", ["first", "second"], "measure", sort=False)
        return f"<p>{escape(repr(self))}</p>{wide[list(MEASURES)].to_html(float_format='{:.2f}'.format)}"


def head_overlap(heads_by_task: Mapping[str, HeadSet | Sequence[HeadSet]]) -> HeadOverlap:
    """Compare the heads of tasks with one another and over seeds (Figure 6 of the paper).

    All sets must have one size: the share of one set that is in another, the paper's overlap, has
    no direction only then.

    Args:
        heads_by_task: The heads of each task: one set, or one set per seed.

    Raises:
        ModelMismatchError: The sets belong to models of different shapes.
        LofitLensError: There are no heads for some task or no tasks, a task is named "random", or the
            sets differ in size.
    """
    if RANDOM in heads_by_task:
        raise LofitLensError(
            f'No task may be named "{RANDOM}", which stands for heads drawn at random; got '
            f"{', '.join(heads_by_task)}."
        )
    heads = layer_distribution(heads_by_task).heads
    one_shape(heads)
    sizes = {task: len(sets[0]) for task, sets in heads.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{task} {size}" for task, size in sizes.items())
        raise LofitLensError(
            f"The head sets differ in size: {found}. The share of one set that is in another would "
            "depend on which comes first; give sets of one size, as scores.top(k=…) makes them, or "
            "compare two with HeadSet.jaccard."
        )
    return HeadOverlap(heads)


def pairs_of_tasks(
    by_task: Mapping[str, Sequence[T]],
) -> Iterator[tuple[str, str, list[tuple[T, T]]]]:
    """Each task with itself, as pairs of its seeds, then each pair of tasks over all their seeds."""
    for task, found in by_task.items():
        yield task, task, list(combinations(found, 2))
    for (first, ours), (second, theirs) in combinations(by_task.items(), 2):
        yield first, second, list(product(ours, theirs))


def mean_least_most(values: Sequence[float]) -> tuple[float, float, float, int]:
    """Mean, least and most of some values, and their number; NaN without any."""
    if not values:
        return np.nan, np.nan, np.nan, 0
    return float(np.mean(values)), float(min(values)), float(max(values)), len(values)


def _overlap(first: HeadSet, second: HeadSet) -> float:
    return len(first & second) / len(first)


def _layer_distance(first: HeadSet, second: HeadSet) -> float:
    return float(wasserstein_distance(*([head.layer for head in s] for s in (first, second))))


MEASURES = {"overlap": _overlap, "jaccard": HeadSet.jaccard, "layer distance": _layer_distance}
"""Of two sets of one size."""


def _chances(k: int, grid: HeadGrid) -> dict[str, float]:
    """What two sets of k heads drawn at random give on average; exact."""
    total, shared = grid.total, np.arange(k + 1)
    up_to = _up_to_each_layer(k, grid)
    return {
        "overlap": k / total,
        "jaccard": float(hypergeom(total, k, k).pmf(shared) @ (shared / (2 * k - shared))),
        "layer distance": _mean_distance(up_to, up_to),
    }


def _distance_from_random(heads: HeadSet) -> float:
    """The mean layer distance of a set from one of its size drawn at random; exact."""
    up_to = np.eye(len(heads) + 1)[heads.layer_counts().cumsum()[:-1]]
    return _mean_distance(up_to, _up_to_each_layer(len(heads), heads.grid))


def _up_to_each_layer(k: int, grid: HeadGrid) -> Float[np.ndarray, "layer count"]:
    """For all layers but the last, how probably so many of k drawn heads lie there or below."""
    have = np.isin(np.arange(grid.n_layers - 1), grid.layers)
    below = grid.n_heads * have.cumsum()[:, None]
    return np.asarray(hypergeom.pmf(np.arange(k + 1), grid.total, below, k))


def _mean_distance(
    first: Float[np.ndarray, "layer count"], second: Float[np.ndarray, "layer count"]
) -> float:
    """Mean earth mover's distance of two independent sets, by how many heads lie up to each layer.

    The distance is the sum over these layers of the difference in the share of heads up to there.
    """
    k = first.shape[1] - 1
    gap = np.abs(np.arange(k + 1)[:, None] - np.arange(k + 1)) / k
    return float(((first @ gap) * second).sum())
