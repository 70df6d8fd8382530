"""The cells of a transfer heat map: checked, completed, each with its hover text."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lofit_lens.analysis.figures.layouts import measured
from lofit_lens.analysis.kinds.matrix import ZERO_SHOT
from lofit_lens.analysis.study.paired import TESTED
from lofit_lens.errors import LofitLensError

NEEDED = ("source", "task", "value")
TEXTS = {"model": "", "mark": "", "metric": "accuracy"}
"""Further columns with text, and what stands for them where they are left out."""
NUMBERS = ("relative", "low", "high", "n", "seeds", *TESTED, "p_holm")


def completed(cells: pd.DataFrame) -> pd.DataFrame:
    """Every cell of every model, NaN where there is none, with every column and `hover`.

    Raises:
        LofitLensError: As `transfer_heatmap`.
    """
    missing = [name for name in NEEDED if name not in cells]
    if missing or cells.empty:
        found = f"lacks {', '.join(missing)}" if missing else "is empty"
        raise LofitLensError(
            f"A transfer heat map needs cells with {', '.join(NEEDED)}; the frame {found}."
        )
    for value in cells["value"]:
        if value < 0 or value > 1:
            raise LofitLensError(
                f"Values are scores between 0 and 1, got {value:g}. Divide percent by 100."
            )
    cells = cells.reindex(columns=[*NEEDED, *TEXTS, *NUMBERS])
    cells["model"] = _filled(cells, "model")
    key = ["model", "source", "task"]
    for _, source, task in cells.loc[cells.duplicated(key), key].to_numpy():
        raise LofitLensError(
            f"The cell of {source!r} on {task!r} comes twice. Give one row per cell, and a column "
            "`model` where there are several."
        )
    keys = [
        (model, *place)
        for model, facet in cells.groupby("model", sort=False)
        for place in product(facet["source"].unique(), facet["task"].unique())
    ]
    cells = cells.set_index(key).reindex(pd.MultiIndex.from_tuples(keys, names=key)).reset_index()
    for name in ("mark", "metric"):
        cells[name] = _filled(cells, name)
    values = dict(zip(keys, cells["value"], strict=True))
    own = [values.get((model, task, task)) or np.nan for model, _, task in keys]  # not of 0
    cells["relative"] = cells["relative"].fillna(cells["value"] / np.array(own))
    zero_shot = [values.get((model, ZERO_SHOT, task), np.nan) for model, _, task in keys]
    hover = [_hover(*both) for both in zip(cells.to_dict("records"), zero_shot, strict=True)]
    return cells.assign(hover=hover)


def _filled(cells: pd.DataFrame, name: str) -> list[str]:
    return [TEXTS[name] if pd.isna(text) else str(text) for text in cells[name]]


def cell_text(percent: float, mark: str) -> str:
    """A cell of a table: one decimal, and its mark of significance."""
    return "n/a" if np.isnan(percent) else f"{percent:.1f}{mark}"


def _hover(cell: Mapping[Hashable, Any], zero_shot: float) -> str:
    """What is known of a cell, line by line; `zero_shot` is the zero-shot score of its task."""
    source, task = cell["source"], cell["task"]
    there = {name for name in NUMBERS if not pd.isna(cell[name])}
    lines = [f"heads from {source}, tuned on {task}"]
    if source == ZERO_SHOT:
        lines = [f"zero-shot on {task}"]
    if pd.isna(cell["value"]):
        return "<br>".join([*lines, "no run"])
    if "relative" in there:
        lines.append(f"{100 * cell['relative']:.1f}% of own heads")
    lines.append(f"{cell['metric']} {measured(cell)}")
    counts = [f"{name} = {cell[name]:.0f}" for name in ("n", "seeds") if name in there]
    lines.append(", ".join(counts))
    if "difference" in there:
        lines.append(f"own heads {measured(cell, 'difference', ' points')}")
    tests = {"p = ": "p", "Holm ": "p_holm"}.items()
    lines.append(", ".join(f"{name}{cell[p]:.2g}" for name, p in tests if p in there))
    if source != ZERO_SHOT and not np.isnan(zero_shot):
        lines.append(f"zero-shot {100 * zero_shot:.1f}")
    return "<br>".join(filter(None, lines))
