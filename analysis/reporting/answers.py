"""What each method wrote, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.kinds.comparison import Comparison
    from lofit_lens.analysis.study.record import Record

SHOWN = 12


def written(comparison: Comparison, task: str) -> pd.DataFrame | None:
    """The answers to the first questions of a task, a column per method, of its first run each.

    None where nothing was written.
    """
    import pandas as pd

    first = {
        method: next(r for r in comparison.runs if (r.method, r.task) == (method, task))
        for method in comparison.methods
        if any((r.method, r.task) == (method, task) for r in comparison.runs)
    }
    columns = {method: _answers(run) for method, run in first.items()}
    asked = list(next(iter(columns.values())))[:SHOWN]
    if not asked:
        return None
    texts = {m: [answers.get(one, "") for one in asked] for m, answers in columns.items()}
    return pd.DataFrame({"item": asked, **texts})


def _answers(run: Record) -> dict[str, str]:
    """What was written for each item: answers for reading, or what was scored."""
    if run.answers:
        return {answer["id"]: answer["answer"] for answer in run.answers}
    items = [item for item in run.evaluation.records if "prediction" in item]
    return {item["id"]: item["prediction"] for item in items}
