"""The paper's settings of the tuned rivals for its models and tasks."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from lofit_lens.analysis.published import tables_7_and_8
from lofit_lens.errors import LofitLensError


def paper_rates(model: str, task: str) -> dict[str, float]:
    """The learning rates of "lora", "red" and "loreft" (paper, Tables 7 and 8).

    Args:
        model: gemma-7b, llama2-7b or llama2-13b.
        task: truthfulqa, mquake, clutrr, siqa, arc-challenge, boolq or svamp.

    Raises:
        LofitLensError: The tables have no such row.
    """
    row = _row(model, task)
    return {name: row[name] for name in ("lora", "red", "loreft")}


def paper_loreft(model: str, task: str) -> tuple[int, int]:
    """LoReFT's rank, and how many tokens at either end of the prompt it edits (paper, Table 8).

    Arguments and errors are those of `paper_rates`.
    """
    row = _row(model, task)
    return row["rank"], row["positions"]


def _row(model: str, task: str) -> dict[Hashable, Any]:
    rows = {(row["model"], row["task"]): row for row in tables_7_and_8().to_dict("records")}
    if (model, task) not in rows:
        models, tasks = (sorted(set(names)) for names in zip(*rows, strict=True))
        raise LofitLensError(
            f"Tables 7 and 8 of the paper have no row {model!r}, {task!r}. Models: "
            f"{', '.join(models)}; tasks: {', '.join(tasks)}. For others, set the rates yourself."
        )
    return rows[model, task]
