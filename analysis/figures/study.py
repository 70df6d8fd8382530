"""The figures of a study, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import plotly.graph_objects as go

from lofit_lens.analysis.figures.drawing import Drawings
from lofit_lens.analysis.inside.overlap import head_overlap
from lofit_lens.analysis.kinds.selectors import SELECTOR_METHODS, selector_table
from lofit_lens.analysis.study.lofit_table import lofit_bars
from lofit_lens.analysis.study.paired import plain

if TYPE_CHECKING:
    from lofit_lens.analysis.kinds.comparison import Comparison
    from lofit_lens.analysis.study.results import Study

T = TypeVar("T")


def drawings(study: Study) -> Drawings:
    """What draws each figure of a study: Figures 2 and 3 first, the head scores last."""
    found: dict[str, Callable[[], go.Figure]] = {}
    for label, matrix in study.matrices.items():
        found[f"figure2-{plain(_short(label))}"] = matrix.plot
    for label, layers in study.layers.items():
        name = "figure3" if len(study.layers) == 1 else f"figure3-{plain(_short(label))}"
        found[name] = layers.plot
    for label, layers in study.layers.items():
        if sum(map(len, layers.heads.values())) > 1:
            end = "" if len(study.layers) == 1 else f"-{plain(_short(label))}"
            found[f"figure6{end}"] = head_overlap(layers.heads).plot
            found[f"chosen{end}"] = layers.plot_overlap
    for name, swept in (("figure4", "examples"), ("figure5", "heads")):
        sweeps = {run: sweep for run, sweep in study.sweeps.items() if sweep.swept == swept}
        found |= {name: sweep.plot for name, sweep in _named(name, sweeps).items()}
    compared = {run: c for run, c in study.comparisons.items() if len(c.methods) > 1}
    found |= {name: one.plot for name, one in _named("forest", compared).items()}
    chosen_in_ways = {run: c for run, c in compared.items() if len(_selectors(c)) > 2}
    for name, comparison in _named("table2", chosen_in_ways).items():
        found[name] = partial(_table_2, comparison)
    found |= {f"causal-{plain(task)}": curves.plot for task, curves in study.curves.items()}
    found |= {
        f"accuracy-{plain(task)}": partial(lofit_bars, run) for task, run in study.runs.items()
    }
    found |= {f"edit-{plain(task)}": edit.plot for task, edit in study.edits.items()}
    for task, seeds in study.scores.items():
        by_seed = {str(seed): scores for seed, scores in seeds.items()}
        found |= {name: s.plot for name, s in _named(f"scores-{plain(task)}", by_seed).items()}
    return found


def _selectors(comparison: Comparison) -> set[str]:
    """The methods of Table 2 in a comparison; none without LoFiT, which they are set beside."""
    found = set(comparison.methods) & set(SELECTOR_METHODS)
    return found if "lofit" in found else set()


def _table_2(comparison: Comparison) -> go.Figure:
    return selector_table(comparison).plot()


def _named(start: str, things: Mapping[str, T]) -> dict[str, T]:
    """A name for each, with what tells it from the others only where there are others."""
    several = len(things) > 1
    return {f"{start}-{plain(name)}" if several else start: thing for name, thing in things.items()}


def _short(label: str) -> str:
    """10% of heads as 10percent."""
    return label.replace(" of heads", "").replace("%", "percent").replace(" heads", "")
