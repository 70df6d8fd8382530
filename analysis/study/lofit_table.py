"""The scores of a `lofit` run under the names that tables and figures of a study give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit_lens.analysis.kinds.demo import FLOOR

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lofit_lens.analysis.kinds.lofit import LofitRun


def lofit_table(run: LofitRun) -> pd.DataFrame:
    """The scores of a run in the columns of `LofitRun.frame`, the floors first."""
    import pandas as pd

    scored = run.frame()
    scored["method"] = scored["method"].map(_method)
    start = {"task": run.tuned.task, "metric": run.tuned.metric_names[0]}
    floors = [
        start | {"method": f"{FLOOR}{name}", "value": value}
        for name, value in run.tuned.floors.items()
    ]
    return pd.DataFrame([*floors, *scored.to_dict("records")])


def lofit_bars(run: LofitRun) -> go.Figure:
    """`LofitRun.plot` with the same names."""
    figure = run.plot()
    figure.for_each_trace(lambda trace: trace.update(name=_method(trace.name)))
    return figure


def _method(name: str) -> str:
    """zero_shot as zero-shot, random_42 as random heads, seed 42."""
    known = {"zero_shot": "zero-shot", "tuned": "LoFiT"}
    return known.get(name) or name.replace("random_", "random heads, seed ")
