"""The paper's settings of the tuned rivals for its models and tasks."""

from __future__ import annotations

from lofit_lens.errors import LofitLensError

TABLES_7_AND_8: dict[tuple[str, str], tuple[float, float, float, int, int]] = {
    ("gemma-7b", "truthfulqa"): (1e-3, 1e-3, 1e-3, 4, 1),
    ("gemma-7b", "mquake"): (1e-3, 1e-3, 1e-3, 4, 1),
    ("gemma-7b", "clutrr"): (1e-3, 1e-4, 1e-3, 8, 3),
    ("llama2-7b", "truthfulqa"): (1e-4, 5e-4, 1e-3, 4, 1),
    ("llama2-7b", "mquake"): (1e-3, 1e-3, 9e-4, 8, 3),
    ("llama2-7b", "clutrr"): (1e-3, 5e-3, 9e-4, 8, 3),
    ("llama2-13b", "truthfulqa"): (1e-3, 1e-3, 1e-3, 4, 1),
    ("llama2-13b", "mquake"): (1e-3, 1e-3, 9e-4, 8, 3),
    ("llama2-13b", "clutrr"): (1e-3, 1e-3, 9e-4, 8, 3),
    ("llama2-7b", "siqa"): (1e-3, 1e-3, 9e-4, 8, 3),
    ("llama2-7b", "arc-challenge"): (1e-3, 8e-4, 5e-4, 8, 5),
    ("llama2-7b", "boolq"): (5e-4, 5e-4, 1e-4, 8, 3),
    ("llama2-7b", "svamp"): (1e-3, 8e-4, 9e-4, 8, 3),
    ("llama2-13b", "siqa"): (1e-3, 1e-3, 1e-4, 16, 3),
    ("llama2-13b", "arc-challenge"): (8e-4, 1e-3, 1e-4, 16, 3),
    ("llama2-13b", "boolq"): (1e-4, 1e-3, 1e-4, 8, 3),
    ("llama2-13b", "svamp"): (8e-4, 8e-4, 9e-4, 4, 3),
}
"""Paper, Tables 7 and 8: learning rate of LoRA, of RED and of LoReFT; LoReFT's rank and positions."""


def paper_rates(model: str, task: str) -> dict[str, float]:
    """The learning rates of "lora", "red" and "loreft" (paper, Tables 7 and 8).

    Args:
        model: gemma-7b, llama2-7b or llama2-13b.
        task: truthfulqa, mquake, clutrr, siqa, arc-challenge, boolq or svamp.

    Raises:
        LofitLensError: The tables have no such row.
    """
    return dict(zip(("lora", "red", "loreft"), _row(model, task)[:3], strict=True))


def paper_loreft(model: str, task: str) -> tuple[int, int]:
    """LoReFT's rank, and how many tokens at either end of the prompt it edits (paper, Table 8).

    Args:
        model: As for `paper_rates`.
        task: As for `paper_rates`.

    Raises:
        LofitLensError: The table has no such row.
    """
    return _row(model, task)[3:]


def _row(model: str, task: str) -> tuple[float, float, float, int, int]:
    if (model, task) not in TABLES_7_AND_8:
        models = sorted({m for m, _ in TABLES_7_AND_8})
        tasks = sorted({t for _, t in TABLES_7_AND_8})
        raise LofitLensError(
            f"Tables 7 and 8 of the paper have no row {model!r}, {task!r}. Models: "
            f"{', '.join(models)}; tasks: {', '.join(tasks)}. For others, set the rates yourself."
        )
    return TABLES_7_AND_8[model, task]
