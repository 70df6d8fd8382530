"""Where in the network the chosen heads lie (Figure 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Real

from lofit_lens.documents import typed
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.files import read_as, write_json
from lofit_lens.grid import HeadGrid
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet

if TYPE_CHECKING:
    import plotly.graph_objects as go

LAYERS_SCHEMA = 1

PUBLISHED_LAYERS = {"gemma-7b": 28, "llama2-7b": 32, "llama2-13b": 40}
"""Layers of the paper's models."""


@dataclass(frozen=True)
class LayerDistribution:
    """Heads chosen on several tasks, with one or more seeds each.

    Attributes:
        heads: One set per seed, by task; the sets of a task have one size and one model shape.
    """

    heads: Mapping[str, tuple[HeadSet, ...]]

    def frame(self) -> pd.DataFrame:
        """One row per task and layer.

        Columns `task`, `layer`, `depth` (0 in the first layer, 1 in the last), `count` (heads in
        the layer, mean over seeds; missing where the model has no heads), `low`, `high` (least and
        most of any seed), `uniform` (the count expected of heads drawn at random, in a layer that
        has heads) and `seeds`.
        """
        parts = [
            _by_layer(task, np.stack([heads.layer_counts() for heads in sets]), sets[0].without)
            for task, sets in self.heads.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def chosen(self) -> pd.DataFrame:
        """One row per task and head that any seed chose, lowest layer first.

        Columns `task`, `layer`, `head`, `name`, `times` (seeds that chose it) and `seeds`.
        """
        rows = [
            (task, *head, str(head), times, len(sets))
            for task, sets in self.heads.items()
            for head, times in sorted(Counter(head for heads in sets for head in heads).items())
        ]
        return pd.DataFrame(rows, columns=["task", "layer", "head", "name", "times", "seeds"])

    def plot(self, *, relative_depth: bool = False) -> go.Figure:
        """Heads per layer, one panel per task.

        Bars are the mean over seeds, whiskers the least and most of any seed, the dashed line the
        count expected of heads drawn at random. To set models side by side, give
        `figures.layers.layer_bars` their frames with a column `model`.

        Args:
            relative_depth: Draw the layers from 0 (the first) to 1 (the last).
        """
        from lofit_lens.analysis.figures.layers import layer_bars

        return layer_bars(self.frame(), relative_depth=relative_depth)

    def plot_grid(self, task: str) -> go.Figure:
        """Layer x head grid of how many seeds chose a head, with sums by layer and by head.

        Raises:
            LofitLensError: There is no such task.
        """
        from lofit_lens.analysis.figures.grids import head_grid_with_margins

        if task not in self.heads:
            raise LofitLensError(
                f"There are no heads for {task!r}; the tasks are {', '.join(self.heads)}."
            )
        sets = self.heads[task]
        times = np.stack([heads.mask().numpy() for heads in sets]).sum(axis=0)
        return head_grid_with_margins(
            np.where(times > 0, times, np.nan),
            label="times chosen",
            title=f"{len(sets[0])} heads for {task}; seeds: {len(sets)}",
            without=sets[0].without,
        )

    def plot_overlap(self) -> go.Figure:
        """Layer x head grid of which tasks chose a head: colour for how many, letters for which.

        Raises:
            ModelMismatchError: Two tasks have heads of different model shapes.
        """
        from lofit_lens.analysis.figures.grids import task_grid

        return task_grid(self.chosen(), one_shape(self.heads))

    def save(self, path: str | Path) -> Path:
        """Write the head sets as one JSON file."""
        heads = {task: [found.to_json() for found in sets] for task, sets in self.heads.items()}
        return write_json(path, {"schema": LAYERS_SCHEMA, "heads": heads}, indent=None)

    @classmethod
    def load(cls, path: str | Path) -> LayerDistribution:
        """Read what `save` wrote.

        Raises:
            LofitLensError: The file is missing or of another format.
        """
        return read_as(
            path,
            lambda told: layer_distribution(typed(told, cls).heads),
            schema=LAYERS_SCHEMA,
            what="layer distribution",
        )

    def __repr__(self) -> str:
        tasks = (
            f"{task} {len(sets[0])} of {sets[0].grid.short}, seeds: {len(sets)}"
            for task, sets in self.heads.items()
        )
        return f"LayerDistribution({'; '.join(tasks)})"

    def _repr_html_(self) -> str:
        counts = self.frame().pivot_table("count", "task", "layer", sort=False)
        table = counts.to_html(float_format="{:.3g}".format, na_rep="")
        return f"<p>{escape(repr(self))}; heads by layer, mean over seeds:</p>{table}"


def layer_distribution(
    heads_by_task: Mapping[str, HeadSet | Sequence[HeadSet]],
) -> LayerDistribution:
    """Where the heads of each task lie, layer by layer (Figure 3 of the paper).

    Args:
        heads_by_task: The heads of each task: one set, or one set per seed.

    Raises:
        LofitLensError: There are no heads for some task or no tasks, or the sets of one task
            differ in size or in the shape of their model.
    """
    if not heads_by_task:
        raise LofitLensError("Give the heads of at least one task, as {task: heads}; got none.")
    by_task = {
        task: (given,) if isinstance(given, HeadSet) else tuple(given)
        for task, given in heads_by_task.items()
    }
    for task, sets in by_task.items():
        kinds = list(dict.fromkeys((len(heads), heads.grid) for heads in sets))
        if len(kinds) > 1:
            found = ", ".join(f"{k} of {grid.short}" for k, grid in kinds)
            raise LofitLensError(
                f"The head sets of {task!r} differ: {found} (layers x heads). Give sets of one size "
                "from one model, one per seed."
            )
        if not kinds or kinds[0][0] == 0:
            raise LofitLensError(f"There are no heads for {task!r}. Give one HeadSet per seed.")
    return LayerDistribution(by_task)


def published_layers() -> pd.DataFrame:
    """Figure 3 of the paper, in the columns of `LayerDistribution.frame` and `model`.

    Layers without heads are rows with a `count` of 0; `low` and `high` are `count`, of one seed.
    """
    from lofit_lens.analysis import published

    parts = []
    printed = published.figure_3()
    for model, task in product(published.MODELS, published.TASKS):
        panel = printed[(printed["model"] == model) & (printed["task"] == task)]
        counts = np.zeros((1, PUBLISHED_LAYERS[model]), dtype=int)
        counts[0, panel["layer"]] = panel["heads"]
        parts.append(_by_layer(task, counts).assign(model=model))
    return pd.concat(parts, ignore_index=True)


def one_shape(by_task: Mapping[str, Sequence[HeadSet | HeadScores]]) -> HeadGrid:
    """The heads of the one model that all sets or scores belong to.

    Raises:
        ModelMismatchError: There are several.
    """
    shapes = {found.grid: task for task, sets in by_task.items() for found in sets}
    if len(shapes) > 1:
        found = ", ".join(f"{task} {g.short}" for g, task in shapes.items())
        raise ModelMismatchError(
            f"The heads belong to models of different shapes: {found} (layers x heads). Heads "
            "compare one by one within a model; across models, compare layers by relative depth."
        )
    return next(iter(shapes))


def _by_layer(
    task: str, counts: Real[np.ndarray, "seed layer"], without: Sequence[int] = ()
) -> pd.DataFrame:
    n_layers = counts.shape[1]
    uniform = counts.sum() / (len(counts) * (n_layers - len(without)))
    counts = counts.astype(float)
    counts[:, list(without)] = np.nan
    frame = pd.DataFrame({"task": task, "layer": np.arange(n_layers)})
    frame["depth"] = frame["layer"] / max(1, n_layers - 1)
    frame["count"], frame["low"], frame["high"] = counts.mean(0), counts.min(0), counts.max(0)
    return frame.assign(uniform=uniform, seeds=len(counts))
