"""Bias tuning on heads chosen in several ways, set beside LoFiT's (Table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.methods.names import ALIASES
from lofit_lens.analysis.published import check_model, table_2
from lofit_lens.analysis.study import paired
from lofit_lens.analysis.tables.cells import WORSE, Row, interval, score
from lofit_lens.errors import LofitLensError
from lofit_lens.statistics import average_difference, average_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TABLE_2_NAMES: Mapping[str, str] = {
    "probe-layers/bias": "probe-layers",
    "random-heads": "random",
    "bias-norm/bias": "bias-based",
    "probes/bias": "ITI-heads",
    "lofit": "LoFiT",
}
"""The paper's names of the methods of Table 2, in its order."""

SELECTOR_METHODS = tuple(TABLE_2_NAMES)
"""Table 2's methods, for `compare`: one bias tuning, on heads chosen in five ways."""

AVERAGE = "average"


@dataclass(frozen=True)
class SelectorCell:
    """One way to choose heads on one task.

    Attributes:
        method: The method, such as "probes/bias".
        task: The task, or "average".
        metric: Its main metric.
        value: The score, from 0 to 1; the mean over seeds and items, and over tasks in the average.
        low: Lower end of its 95% interval.
        high: Upper end.
        n: Number of items.
        seeds: Number of seeds.
        difference: Minus LoFiT's, paired by seed and item; NaN for LoFiT itself.
        difference_low: Lower end of its 95% interval.
        difference_high: Upper end.
        p: Two-sided p-value of the difference.
        p_holm: p corrected over all cells of the table.
        mark: "*" for p_holm < 0.05, "+" for p_holm < 0.1.
        direction: "better" or "worse" than LoFiT where there is a mark.
    """

    method: str
    task: str
    metric: str
    value: float
    low: float = nan
    high: float = nan
    n: int = 0
    seeds: int = 0
    difference: float = nan
    difference_low: float = nan
    difference_high: float = nan
    p: float = nan
    p_holm: float = nan
    mark: str = ""
    direction: str = ""


@dataclass(frozen=True)
class SelectorTable:
    """Ways to choose heads x tasks.

    Attributes:
        cells: The cells, by method and then task, LoFiT's last.
        source: Where the numbers come from.
    """

    cells: tuple[SelectorCell, ...]
    source: str

    @classmethod
    def published(cls, model: str) -> SelectorTable:
        """The paper's Table 2 for a model. It reports neither intervals nor tests.

        Args:
            model: "gemma-7b", "llama2-7b" or "llama2-13b".

        Raises:
            LofitLensError: The paper has no such model.
        """
        check_model(model)
        names = {paper: method for method, paper in TABLE_2_NAMES.items()}
        cells = (
            SelectorCell(names[row["heads"]], row["task"], row["metric"], row["value"] / 100)
            for row in table_2().to_dict("records")
            if row["model"] == model
        )
        return cls(tuple(cells), f"{model}, as printed by Yin, Ye and Durrett (2024)")

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, LoFiT last."""
        return tuple(dict.fromkeys(cell.method for cell in self.cells))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, their average last if there are several."""
        return tuple(dict.fromkeys(cell.task for cell in self.cells))

    def frame(self) -> pd.DataFrame:
        """One row per cell, with the attributes of `SelectorCell` as columns."""
        import pandas as pd

        return pd.DataFrame([asdict(cell) for cell in self.cells])

    def table(self) -> pd.DataFrame:
        """The table as text: methods x tasks, scores in percent with marks and intervals."""
        import pandas as pd

        columns: dict[str, dict[str, str]] = {}
        for cell in self.cells:
            title = cell.task if cell.task == AVERAGE else f"{cell.task} {cell.metric}"
            row: Row = {**asdict(cell)}
            text = score(row) + ("" if isnan(cell.low) else interval(row))
            columns.setdefault(title, {})[cell.method] = text
        return pd.DataFrame(columns, index=list(self.methods))

    def plot(self) -> go.Figure:
        """Scores with their intervals: rows are ways to choose heads, panels are tasks."""
        from lofit_lens.analysis.figures.selectors import selector_dots

        return selector_dots(self.frame(), title=f"Bias tuning on chosen heads: {self.source}")

    def __repr__(self) -> str:
        methods, tasks = ", ".join(self.methods), ", ".join(self.tasks)
        return f"SelectorTable({methods}; on {tasks}; {self.source})"

    def _repr_html_(self) -> str:
        from html import escape

        told = f"Bias tuning on heads chosen in several ways, %; {self.source}."
        return f"<p>{escape(told)}</p>{self.table().to_html()}<p>{escape(self.legend)}</p>"

    @property
    def legend(self) -> str:
        """What the marks mean; empty if nothing was tested."""
        tests = sum(not isnan(cell.p) for cell in self.cells)
        if not tests:
            return ""
        return (
            "95% intervals for new seeds and new items. Against LoFiT, paired by seed and item: * p < 0.05, "
            f"+ p < 0.1, Holm-corrected over {tests} cells; {WORSE} worse than LoFiT. In the average every "
            "task counts the same."
        )


def selector_table(comparison: Comparison) -> SelectorTable:
    """Set the ways to choose heads beside LoFiT's (paper, Table 2).

    Of a comparison these are the methods that learn a bias on chosen heads, at the token scope of
    the settings; its other methods are left out.

    Args:
        comparison: From `compare(model, tasks, SELECTOR_METHODS, ...)`, or with more methods.

    Raises:
        LofitLensError: LoFiT is not among the methods, or nothing else is; a method lacks a task.
    """
    import pandas as pd

    methods = _methods(comparison)
    base = methods[-1]
    kept = Comparison(tuple(run for run in comparison.runs if run.method in methods), base)
    rows = {(r["method"], r["task"], r["metric"]): r for r in kept.frame().to_dict("records")}
    cells = []
    for method in methods:
        for task in kept.tasks:
            kept.table(method, task)  # refuses a method that lacks the task
            cells.append(rows[method, task, kept.metrics(task)[0]])
        if len(kept.tasks) > 1:
            cells.append(_average(kept, method))
    seeds = ", ".join(map(str, kept.seeds))
    columns = [field.name for field in fields(SelectorCell)]
    frame = paired.with_directions(paired.with_marks(pd.DataFrame(cells)))[columns]
    marked = tuple(SelectorCell(*row) for row in frame.itertuples(index=False))
    return SelectorTable(marked, f"seeds {seeds}")


def _methods(comparison: Comparison) -> list[str]:
    """The methods of the table in the order of Table 2, others behind, LoFiT last."""
    order = [_heads(name) for name in TABLE_2_NAMES]
    found = [name for name in comparison.methods if _heads(name).endswith("/bias")]
    base = [name for name in found if _heads(name) == order[-1]]
    if len(base) != 1 or len(found) == 1:
        raise LofitLensError(
            "The table sets other choices of heads beside LoFiT's, so the comparison needs lofit and another "
            f"method with a bias on chosen heads; it has {', '.join(comparison.methods)}. Compare "
            f"{', '.join(SELECTOR_METHODS)}."
        )
    places = {name: place for place, name in enumerate(order[:-1])}
    others = [name for name in found if name not in base]
    return [*sorted(others, key=lambda name: places.get(_heads(name), len(places))), *base]


def _heads(method: str) -> str:
    """HEADS/DIRECTION of a method."""
    return ALIASES.get(method, method)


def _average(kept: Comparison, method: str) -> dict[str, Any]:
    """The mean over tasks, each resampled by itself."""
    groups = [kept.groups(task) for task in kept.tasks]
    tables = [kept.table(method, task) for task in kept.tasks]
    mean = average_interval(tables, groups=groups)
    average = {"method": method, "task": AVERAGE, "metric": AVERAGE, **paired.score_columns(mean)}
    if method == kept.base:
        return average
    bases = [kept.table(kept.base, task) for task in kept.tasks]
    differences = [ours - theirs for ours, theirs in zip(tables, bases, strict=True)]
    d = average_difference(differences, groups=groups, resamples=paired.RESAMPLES)
    return average | paired.difference_columns(d)
