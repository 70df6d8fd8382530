"""Where in the network the chosen heads lie, and how alike the sets are (Figures 3 and 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import hypergeom

from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json
from lofit_lens.heads import HeadSet

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


LAYERS_SCHEMA = 1


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
        the layer, mean over seeds), `low`, `high` (least and most of any seed) and `uniform` (the
        count expected of heads drawn at random).
        """
        import pandas as pd

        parts = []
        for task, sets in self.heads.items():
            n_layers = sets[0].n_layers
            counts = np.stack([heads.layer_counts() for heads in sets])
            columns = {
                "task": task,
                "layer": np.arange(n_layers),
                "depth": np.arange(n_layers) / max(1, n_layers - 1),
                "count": counts.mean(axis=0),
                "low": counts.min(axis=0),
                "high": counts.max(axis=0),
                "uniform": len(sets[0]) / n_layers,
            }
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def stability(self) -> pd.DataFrame:
        """How alike the sets of different seeds are, one row per task.

        Columns `task`, `k` (heads in a set), `seeds`, `jaccard` (mean over pairs of seeds),
        `jaccard_low`, `jaccard_high` (least and most of any pair; NaN with one seed) and `chance`
        (expected Jaccard index of two random sets of k heads, exact).
        """
        import pandas as pd

        rows = []
        for task, sets in self.heads.items():
            pairs = [a.jaccard(b) for a, b in combinations(sets, 2)] or [np.nan]
            k, total = len(sets[0]), sets[0].n_layers * sets[0].n_heads
            numbers = np.mean(pairs), min(pairs), max(pairs), _chance_jaccard(k, total)
            rows.append((task, k, len(sets), *map(float, numbers)))
        names = ["task", "k", "seeds", "jaccard", "jaccard_low", "jaccard_high", "chance"]
        return pd.DataFrame(rows, columns=names)

    def overlap(self) -> pd.DataFrame:
        """How alike the sets of different tasks are, one row per pair of tasks.

        Columns `task_a`, `task_b` and `jaccard` (mean over every pair of their seeds).

        Raises:
            ModelMismatchError: Two tasks have heads of different model shapes.
        """
        import pandas as pd

        rows = [
            (task_a, task_b, float(np.mean([a.jaccard(b) for a, b in product(sets_a, sets_b)])))
            for (task_a, sets_a), (task_b, sets_b) in combinations(self.heads.items(), 2)
        ]
        return pd.DataFrame(rows, columns=["task_a", "task_b", "jaccard"])

    def plot(self) -> go.Figure:
        """Heads per layer, one panel per task.

        Bars are the mean over seeds, whiskers the least and most of any seed, the dashed line the
        count expected of heads drawn at random.
        """
        from plotly.subplots import make_subplots

        from lofit_lens.plotting import NEUTRAL, TEMPLATE

        frame = self.frame()
        figure = make_subplots(
            rows=len(self.heads),
            shared_xaxes=True,
            subplot_titles=list(self.heads),
            vertical_spacing=0.3 / (len(self.heads) + 1),
            x_title="layer",
            y_title="heads",
        )
        for row, (task, panel) in enumerate(frame.groupby("task", sort=False), start=1):
            mean, low, high = (panel[name].to_numpy() for name in ("count", "low", "high"))
            layers, uniform = panel["layer"].to_numpy(), panel["uniform"].to_numpy()[0]
            seeds = len(self.heads[str(task)])
            figure.add_bar(
                row=row,
                col=1,
                x=layers,
                y=mean,
                error_y={
                    "array": high - mean,
                    "arrayminus": mean - low,
                    "color": NEUTRAL,
                    "thickness": 1,
                    "visible": seeds > 1,
                },
                customdata=np.column_stack([panel["depth"].to_numpy(), low, high]),
                hovertemplate="layer %{x}, depth %{customdata[0]:.2f}<br>%{y:.3g} heads; seeds: "
                f"{seeds}, from %{{customdata[1]}} to %{{customdata[2]}}<extra>{task}</extra>",
                marker={"color": "#7aa6d6"},
            )
            figure.add_scatter(
                row=row,
                col=1,
                x=[-0.5, len(layers) - 0.5],
                y=[uniform, uniform],
                mode="lines",
                line={"dash": "dash", "color": "#a0522d"},
                hovertemplate=f"drawn at random: {uniform:.3g} heads<extra>{task}</extra>",
            )
        figure.update_xaxes(dtick=max(1, len(frame["layer"].unique()) // 16))
        figure.update_yaxes(matches="y", dtick=max(1, int(frame["high"].max()) // 4))
        subtitle = "bars: mean over seeds; whiskers: least and most; dashed: heads drawn at random"
        return figure.update_layout(
            title={"text": "Chosen heads by layer", "subtitle": {"text": subtitle}},
            template=TEMPLATE,
            height=190 + 170 * len(self.heads),
            margin={"t": 110},
            showlegend=False,
        )

    def save(self, path: str | Path) -> Path:
        """Write the head sets as one JSON file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        heads = {task: [found.to_json() for found in sets] for task, sets in self.heads.items()}
        path.write_text(
            json.dumps({"schema": LAYERS_SCHEMA, "heads": heads}) + "\n", encoding="utf-8"
        )
        return path

    @classmethod
    def load(cls, path: str | Path) -> LayerDistribution:
        """Read what `save` wrote.

        Raises:
            LofitLensError: The file is missing or of another format.
        """
        content = read_json(path, schema=LAYERS_SCHEMA, what="layer distribution")
        try:
            heads = {
                task: [HeadSet.from_json(found) for found in sets]
                for task, sets in content["heads"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LofitLensError(f"The head sets in {path} are damaged: {error}.") from error
        return layer_distribution(heads)

    def __repr__(self) -> str:
        tasks = (
            f"{task} {len(sets[0])} of {sets[0].n_layers}x{sets[0].n_heads}, seeds: {len(sets)}"
            for task, sets in self.heads.items()
        )
        return f"LayerDistribution({'; '.join(tasks)})"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.stability().round(2).to_html(index=False)}"


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
        kinds = sorted({(len(heads), heads.n_layers, heads.n_heads) for heads in sets})
        if len(kinds) > 1:
            found = ", ".join(f"{k} of {layers}x{heads}" for k, layers, heads in kinds)
            raise LofitLensError(
                f"The head sets of {task!r} differ: {found} (layers x heads). Give sets of one size "
                "from one model, one per seed."
            )
        if not kinds or kinds[0][0] == 0:
            raise LofitLensError(f"There are no heads for {task!r}. Give one HeadSet per seed.")
    return LayerDistribution(by_task)


def _chance_jaccard(k: int, total: int) -> float:
    """Expected Jaccard index of two sets of `k` drawn from `total` without replacement."""
    shared = np.arange(k + 1)
    return float(hypergeom(total, k, k).pmf(shared) @ (shared / (2 * k - shared)))
