"""What each method wrote, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.kinds.comparison import Comparison

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
    columns = {method: run.written for method, run in first.items()}
    asked = list(next(iter(columns.values())))[:SHOWN]
    if not asked:
        return None
    texts = {m: [answers.get(one, "") for one in asked] for m, answers in columns.items()}
    return pd.DataFrame({"item": asked, **texts})
