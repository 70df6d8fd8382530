"""Bias tuning on heads chosen in several ways, set beside LoFiT's (Table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.methods.names import whole_name
from lofit_lens.analysis.published import check_model, table_2
from lofit_lens.analysis.study import paired
from lofit_lens.analysis.tables.cells import WORSE, interval, score
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


COLUMNS = ["method", "task", "metric", *paired.score_columns(), *paired.TESTED]
COLUMNS += ["p_holm", "mark", "direction"]
"""What is known of a way to choose heads on a task; the paper tells the first four."""


@dataclass(frozen=True, eq=False)
class SelectorTable:
    """Ways to choose heads x tasks.

    Attributes:
        rows: One row per method and task, LoFiT's last, with the columns of `frame`.
        source: Where the numbers come from.
    """

    rows: pd.DataFrame
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
        rows = table_2().query("model == @model")
        rows = rows.assign(method=rows["heads"].map(names), value=rows["value"] / 100)
        rows = rows.reindex(columns=COLUMNS).assign(mark="", direction="", n=0, seeds=0)
        return cls(rows, f"{model}, as printed by Yin, Ye and Durrett (2024)")

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, LoFiT last."""
        return tuple(dict.fromkeys(self.rows["method"]))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, their average last if there are several."""
        return tuple(dict.fromkeys(self.rows["task"]))

    def frame(self) -> pd.DataFrame:
        """One row per method and task, "average" last where there are several.

        Columns `method`, `task`, `metric` (the main one), `value` (from 0 to 1), `low`, `high` (95%), `n`
        (items), `seeds`; against LoFiT, paired by seed and item, NaN for itself: `difference`,
        `difference_low`, `difference_high`, `p`, `p_holm` (over all rows), `mark` ("*" for p_holm <
        0.05, "+" for p_holm < 0.1) and `direction` ("better" or "worse" where there is a mark).
        """
        return self.rows.reset_index(drop=True).copy()

    def table(self) -> pd.DataFrame:
        """The table as text: methods x tasks, scores in percent with marks and intervals."""
        import pandas as pd

        columns: dict[str, dict[str, str]] = {}
        for row in self.rows.to_dict("records"):
            title = row["task"] if row["task"] == AVERAGE else f"{row['task']} {row['metric']}"
            columns.setdefault(title, {})[row["method"]] = score(row) + interval(row)
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
        tests = int(self.rows["p"].notna().sum())
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
    frame = paired.with_directions(paired.with_marks(pd.DataFrame(cells)))
    return SelectorTable(frame[COLUMNS], f"seeds {seeds}")


def _methods(comparison: Comparison) -> list[str]:
    """The methods of the table in the order of Table 2, others behind, LoFiT last."""
    order = [whole_name(name) for name in TABLE_2_NAMES]
    found = [name for name in comparison.methods if whole_name(name).endswith("/bias")]
    base = [name for name in found if whole_name(name) == order[-1]]
    if len(base) != 1 or len(found) == 1:
        raise LofitLensError(
            "The table sets other choices of heads beside LoFiT's, so the comparison needs lofit and another "
            f"method with a bias on chosen heads; it has {', '.join(comparison.methods)}. Compare "
            f"{', '.join(SELECTOR_METHODS)}."
        )
    places = {name: place for place, name in enumerate(order[:-1])}
    others = [name for name in found if name not in base]
    return [*sorted(others, key=lambda name: places.get(whole_name(name), len(places))), *base]


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
