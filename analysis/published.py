"""The numbers the paper published, as data: Yin, Ye and Durrett (2024), arXiv 2406.01563, version 2.

Percent, means of two seeds; the paper reports no spread. Models are "gemma-7b", "llama2-7b" and
"llama2-13b". TruthfulQA is the mean of its two folds. Each table has a function that gives it as a
long frame; averages are rows of the task "average".

What is odd in the paper is kept as printed:

* Table 1, RepE on Llama 2-13B: the average is printed as 55.1; its four columns give 53.7.
* Figure 2 has 89.6 on CLUTRR's own heads for Llama 2-7B, Tables 1 and 2 have 89.7.
* Figures 4 and 5 are read off the plots, within 0.2 points; the head counts of Figure 3 are
  exact, since every panel sums to the number of heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lofit_lens.errors import LofitLensError
from lofit_lens.training.config import PAPER_HEADS

if TYPE_CHECKING:
    import pandas as pd

MODELS = tuple(PAPER_HEADS)
TASKS = ("truthfulqa", "mquake", "clutrr")
Row = tuple[float, ...]

_MAIN = (
    ("truthfulqa", "MC1"),
    ("truthfulqa", "MC2"),
    ("mquake", "EM"),
    ("clutrr", "EM"),
    ("average", "average"),
)
_SELECTORS = (("truthfulqa", "MC1"), ("mquake", "EM"), ("clutrr", "EM"), ("average", "average"))
_OTHER = (
    *((task, "EM") for task in ("siqa", "arc-challenge", "boolq", "svamp")),
    ("average", "average"),
)

TABLE_1: Mapping[str, Mapping[str, Row]] = {
    "gemma-7b": {
        "0-shot": (31.5, 48.1, 23.3, 60.2, 40.8),
        "ITI": (29.7, 50.0, 49.5, 67.3, 49.1),
        "RepE": (38.5, 53.7, 54.2, 66.9, 53.3),
        "LoFiT": (60.5, 79.4, 69.4, 86.7, 74.0),
    },
    "llama2-7b": {
        "0-shot": (28.4, 43.4, 18.9, 64.7, 38.8),
        "ITI": (33.4, 49.5, 34.5, 68.2, 46.4),
        "RepE": (46.8, 64.4, 37.9, 66.2, 53.8),
        "LoFiT": (58.1, 75.8, 73.4, 89.7, 74.3),
    },
    "llama2-13b": {
        "0-shot": (29.1, 44.3, 25.4, 64.7, 40.9),
        "ITI": (32.7, 47.7, 40.3, 72.7, 48.3),
        "RepE": (43.7, 66.4, 40.6, 64.1, 55.1),
        "LoFiT": (56.7, 76.0, 76.2, 89.7, 74.6),
    },
}
"""MC1, MC2, MQuAKE, CLUTRR, average; 3% of the heads."""

TABLE_2: Mapping[str, Mapping[str, Row]] = {
    "gemma-7b": {
        "probe-layers": (46.7, 71.2, 83.3, 67.1),
        "random": (55.2, 65.2, 86.0, 68.8),
        "bias-based": (56.7, 71.0, 86.7, 71.5),
        "ITI-heads": (56.7, 69.2, 84.8, 70.2),
        "LoFiT": (60.5, 69.4, 86.7, 72.2),
    },
    "llama2-7b": {
        "probe-layers": (52.6, 72.8, 86.7, 70.7),
        "random": (46.6, 71.9, 88.0, 68.8),
        "bias-based": (52.3, 72.2, 88.2, 70.9),
        "ITI-heads": (57.1, 73.8, 86.7, 72.5),
        "LoFiT": (58.1, 73.4, 89.7, 73.7),
    },
    "llama2-13b": {
        "probe-layers": (31.5, 74.1, 85.6, 63.7),
        "random": (54.3, 67.1, 90.7, 70.7),
        "bias-based": (40.1, 71.1, 90.9, 67.4),
        "ITI-heads": (56.5, 74.6, 87.6, 72.9),
        "LoFiT": (56.7, 76.2, 89.7, 74.2),
    },
}
"""Bias tuning on heads chosen in five ways: MC1, MQuAKE, CLUTRR, average; 3% of the heads."""

TABLE_2_AVERAGE = {
    "probe-layers": 67.2,
    "random": 69.4,
    "bias-based": 69.9,
    "ITI-heads": 71.9,
    "LoFiT": 73.4,
}
"""Over all models and tasks."""

TABLE_3: Mapping[str, Mapping[str, Row]] = {
    "gemma-7b": {
        "RED": (60.5, 78.2, 71.9, 90.2, 75.2),
        "LoRA": (60.8, 78.9, 75.7, 92.9, 77.1),
        "ReFT": (46.8, 69.5, 75.4, 90.2, 70.5),
        "LoFiT": (60.2, 78.3, 73.7, 91.2, 75.9),
    },
    "llama2-7b": {
        "RED": (56.3, 76.8, 75.9, 89.1, 74.5),
        "LoRA": (52.6, 71.5, 75.0, 91.1, 72.6),
        "ReFT": (48.6, 68.8, 77.2, 87.6, 70.5),
        "LoFiT": (56.3, 74.5, 73.7, 92.0, 74.1),
    },
    "llama2-13b": {
        "RED": (53.7, 74.1, 76.4, 93.8, 74.5),
        "LoRA": (56.3, 75.4, 76.4, 92.2, 75.1),
        "ReFT": (53.2, 72.9, 75.4, 93.6, 73.8),
        "LoFiT": (57.0, 76.8, 76.3, 92.2, 75.6),
    },
}
"""MC1, MC2, MQuAKE, CLUTRR, average; 10% of the heads."""

TABLE_3_OTHER: Mapping[str, Mapping[str, Row]] = {
    "llama2-7b": {
        "0-shot": (48.3, 45.9, 77.4, 36.7, 52.1),
        "RED": (60.4, 51.5, 82.2, 55.3, 62.4),
        "RED (half)": (55.5, 49.7, 77.6, 52.7, 58.9),
        "LoRA": (59.8, 50.6, 80.8, 56.7, 62.0),
        "ReFT": (58.1, 51.0, 80.1, 52.7, 60.5),
        "LoFiT": (59.3, 50.3, 80.9, 52.3, 60.7),
    },
    "llama2-13b": {
        "0-shot": (50.3, 49.4, 81.7, 46.7, 57.0),
        "RED": (65.3, 64.2, 82.5, 63.0, 68.7),
        "RED (half)": (59.1, 65.5, 82.3, 60.7, 66.9),
        "LoRA": (66.4, 67.6, 84.1, 63.7, 70.4),
        "ReFT": (62.5, 64.1, 84.3, 60.7, 67.9),
        "LoFiT": (63.4, 65.4, 85.4, 62.3, 69.1),
    },
}
"""SIQA, ARC-c, BoolQ, SVAMP, average; 10% of the heads."""

PARAMETERS: Mapping[str, Mapping[str, float]] = {
    "gemma-7b": {"RED": 229e3, "LoRA": 3.21e6, "ReFT": 2.10e6, "LoFiT": 12e3},
    "llama2-7b": {
        "RED": 262e3,
        "RED (half)": 131e3,
        "LoRA": 4.19e6,
        "ReFT": 2.10e6,
        "LoFiT": 12e3,
    },
    "llama2-13b": {
        "RED": 409e3,
        "RED (half)": 204e3,
        "LoRA": 6.55e6,
        "ReFT": 3.28e6,
        "LoFiT": 20e3,
    },
}
"""Numbers trained in Table 3, as it rounds them."""

TABLE_4: Mapping[str, Mapping[str, Row]] = {
    "llama2-7b": {
        "0-shot": (35.7, 92.7, 33.1),
        "ITI": (52.3, 81.4, 42.6),
        "LoRA": (64.3, 88.0, 56.6),
        "RED": (66.5, 91.4, 60.8),
        "LoFiT": (67.2, 87.5, 58.9),
    },
    "llama2-13b": {
        "0-shot": (38.6, 93.9, 36.3),
        "ITI": (46.9, 78.5, 36.8),
        "LoRA": (67.2, 90.5, 60.8),
        "RED": (67.0, 94.6, 63.4),
        "LoFiT": (67.5, 90.7, 61.2),
    },
}
"""Open-ended TruthfulQA judged by GPT-4: true, informative, and their product."""

TABLE_5: Mapping[str, Row] = {
    "No-FT": (33.7, 51.3, 76.5, 62.9, 40.3, 60.0),
    "ITI": (40.0, 59.1, 72.7, 60.6, 37.3, 56.9),
    "RED": (54.0, 73.1, 74.9, 63.3, 35.4, 57.9),
    "LoRA": (51.3, 73.3, 73.5, 62.0, 41.0, 58.8),
    "LoFiT": (54.5, 74.9, 76.7, 64.4, 40.5, 60.5),
}
"""Llama 2-7B-chat tuned on TruthfulQA: MC1, MC2; TriviaQA, NQ, MMLU and the average of these three."""

FIGURE_2: Mapping[str, Mapping[str, tuple[str, str, str]]] = {
    "gemma-7b": {
        "truthfulqa": ("60.5", "67.3*", "84.9"),
        "mquake": ("54.7*", "69.4", "86.9"),
        "clutrr": ("55.2*", "68.9+", "86.7"),
        "random": ("55.2*", "65.2*", "86.0"),
    },
    "llama2-7b": {
        "truthfulqa": ("58.1", "72.7", "85.1*"),
        "mquake": ("45.8*", "73.4", "89.6"),
        "clutrr": ("47.1*", "71.3+", "89.6"),
        "random": ("46.6*", "71.9*", "88.0+"),
    },
    "llama2-13b": {
        "truthfulqa": ("56.7", "73.4*", "90.4"),
        "mquake": ("49.0*", "76.2", "89.6"),
        "clutrr": ("51.2*", "71.4*", "89.7"),
        "random": ("54.3*", "67.1*", "90.7"),
    },
}
"""Source of the heads by row, tuned task by column (MC1 for TruthfulQA). Against the task's own heads,
by a paired bootstrap: "*" p < .05, "+" p < .1."""

FIGURE_3: Mapping[str, Mapping[str, Mapping[int, int]]] = {
    "gemma-7b": {
        "truthfulqa": {0: 1, 2: 3, 13: 2, 15: 1, 16: 1, 17: 3, 18: 2, 19: 1, 25: 1, 26: 1},
        "mquake": {0: 1, 3: 1, 5: 1, 6: 1, 9: 6, 10: 1, 13: 1, 16: 1, 17: 1, 19: 1, 25: 1},
        "clutrr": {
            0: 1, 2: 2, 3: 1, 5: 1, 7: 1, 9: 1, 10: 1, 13: 1, 16: 1, 17: 3, 18: 2, 19: 1,
        },
    },
    "llama2-7b": {
        "truthfulqa": {
            2: 1, 3: 1, 4: 1, 8: 1, 9: 1, 10: 1, 11: 5, 12: 3, 13: 6, 14: 3, 15: 2, 16: 5, 18: 1,
            27: 1,
        },
        "mquake": {
            0: 1, 1: 1, 2: 4, 3: 2, 4: 1, 5: 2, 6: 2, 7: 3, 8: 1, 9: 2, 10: 2, 11: 4, 14: 1, 17: 2,
            18: 1, 21: 2, 27: 1,
        },
        "clutrr": {
            0: 1, 1: 2, 2: 2, 3: 1, 4: 5, 5: 4, 6: 1, 7: 1, 8: 1, 9: 1, 11: 1, 13: 1, 14: 1, 15: 1,
            18: 2, 20: 2, 22: 1, 23: 1, 24: 1, 25: 1, 27: 1,
        },
    },
    "llama2-13b": {
        "truthfulqa": {
            0: 6, 1: 1, 2: 1, 4: 1, 5: 1, 6: 1, 8: 1, 9: 1, 10: 2, 11: 5, 12: 2, 13: 3, 14: 4,
            15: 5, 16: 3, 17: 3, 18: 1, 21: 1, 25: 1, 26: 1, 27: 1, 39: 3,
        },
        "mquake": {
            2: 3, 4: 3, 5: 1, 6: 2, 7: 1, 8: 3, 9: 1, 10: 2, 11: 3, 12: 4, 14: 3, 16: 4, 17: 2,
            18: 1, 19: 1, 22: 1, 25: 1, 26: 1, 27: 1, 29: 1, 30: 1, 31: 1, 34: 1, 36: 4, 39: 2,
        },
        "clutrr": {
            4: 1, 5: 1, 6: 2, 7: 2, 8: 1, 10: 4, 11: 6, 12: 2, 13: 3, 14: 4, 15: 3, 16: 3, 17: 1,
            18: 1, 22: 1, 24: 2, 26: 1, 27: 1, 28: 1, 31: 1, 34: 1, 36: 3, 37: 1, 38: 1, 39: 1,
        },
    },
}  # fmt: skip
"""Chosen heads by layer, counted from 0; 3% of the heads, one seed."""

FIGURE_4: Mapping[str, Mapping[int, Row]] = {
    "clutrr": {
        20: (68.4, 69.0, 70.7),
        50: (82.7, 81.7, 83.0),
        100: (87.6, 85.2, 87.6),
        300: (91.1, 89.1, 92.1),
        500: (95.8, 95.0, 95.7),
        1000: (97.7, 97.7, 97.6),
    },
    "mquake": {
        20: (64.0, 62.3, 64.8),
        50: (66.4, 67.8, 68.8),
        134: (75.0, 75.9, 73.7),
        300: (75.3, 76.2, 75.0),
        500: (76.5, 78.1, 76.6),
        1000: (80.4, 77.9, 78.5),
    },
}
"""EM by number of training examples, Llama 2-7B, 10% of the heads: LoRA, RED, LoFiT."""

FIGURE_5_SHARES = (1, 3, 10, 20, 50)
FIGURE_5: Mapping[str, Mapping[str, Row]] = {
    "llama2-7b": {
        "mquake": (67.2, 73.4, 73.7, 75.3, 75.2),
        "clutrr": (88.6, 89.7, 92.1, 94.5, 95.0),
    },
    "llama2-13b": {
        "mquake": (69.2, 76.2, 76.3, 75.0, 74.7),
        "clutrr": (85.9, 89.7, 92.2, 94.9, 95.1),
    },
}
"""EM by percent of heads tuned."""

FIGURE_6_PAIRS = (
    *((task, task) for task in TASKS),
    ("truthfulqa", "mquake"),
    ("truthfulqa", "clutrr"),
    ("mquake", "clutrr"),
    *((task, "random") for task in TASKS),
)
FIGURE_6: Mapping[str, Mapping[str, Row]] = {
    "gemma-7b": {
        "overlap": (0.94, 0.88, 0.94, 0.31, 0.62, 0.50, 0.00, 0.00, 0.06),
        "layer distance": (0.75, 2.19, 0.31, 4.25, 3.06, 2.81, 3.00, 4.50, 4.19),
    },
    "llama2-7b": {
        "overlap": (0.94, 0.91, 0.97, 0.19, 0.12, 0.16, 0.03, 0.00, 0.00),
        "layer distance": (0.03, 0.12, 0.03, 4.34, 4.97, 2.06, 5.16, 4.75, 3.38),
    },
    "llama2-13b": {
        "overlap": (0.96, 0.96, 0.90, 0.25, 0.27, 0.35, 0.04, 0.02, 0.06),
        "layer distance": (0.46, 0.60, 1.38, 3.67, 4.23, 1.40, 6.50, 3.21, 3.90),
    },
}
"""Two sets of K heads: the share in common (which the paper calls Jaccard; 3% of the heads) and the
earth mover's distance of their layers. A task with itself: two seeds."""

_CELLS = {
    "zero-shot": (TABLE_1, _MAIN, "0-shot"),
    "iti": (TABLE_1, _MAIN, "ITI"),
    "repe-reading": (TABLE_1, _MAIN, "RepE"),
    "repe-contrast": (TABLE_1, _MAIN, "RepE"),
    "lofit": (TABLE_1, _MAIN, "LoFiT"),
    "random-heads": (TABLE_2, _SELECTORS, "random"),
    "probes/bias": (TABLE_2, _SELECTORS, "ITI-heads"),
    "probe-layers/bias": (TABLE_2, _SELECTORS, "probe-layers"),
    "bias-norm/bias": (TABLE_2, _SELECTORS, "bias-based"),
    "lora": (TABLE_3, _MAIN, "LoRA"),
    "red": (TABLE_3, _MAIN, "RED"),
    "loreft": (TABLE_3, _MAIN, "ReFT"),
}
"""Where the number of a method is: table, its columns, and the paper's name."""

_REPE = {"truthfulqa": "repe-reading", "mquake": "repe-contrast", "clutrr": "repe-contrast"}


def check_model(model: str) -> None:
    """Refuse a model that the paper does not have.

    Raises:
        LofitLensError: It has none of that name.
    """
    if model not in MODELS:
        raise LofitLensError(f"The paper's models are {', '.join(MODELS)}, got {model!r}.")


def published(model: str, method: str, task: str, metric: str) -> float | None:
    """The paper's number for a cell of a comparison, in percent; None if it has none.

    Table 1 (3% of the heads) for zero-shot, ITI, RepE and LoFiT; Table 2 for bias tuning on heads
    chosen in other ways; Table 3 for LoRA, RED and LoReFT, which have no number of heads. The
    paper's RepE is the reading vector on TruthfulQA and the contrast vector on MQuAKE and CLUTRR.
    SIQA, ARC, BoolQ and SVAMP are in Table 3 alone (10% of the heads), without Gemma.

    Args:
        model: One of `MODELS`.
        method: A name of this package, such as "repe-reading".
        task: "truthfulqa", "mquake", "clutrr", "siqa", "arc-challenge", "boolq" or "svamp".
        metric: "MC1", "MC2" or "EM".

    Raises:
        LofitLensError: The paper has no such model.
    """
    check_model(model)
    if method not in _CELLS or (method in _REPE.values() and method != _REPE.get(task)):
        return None
    table, columns, name = _CELLS[method]
    if (task, metric) in _OTHER[:-1] and name in TABLE_3_OTHER.get(model, {}):
        table, columns = TABLE_3_OTHER, _OTHER
    if (task, metric) not in columns[:-1]:
        return None
    return table[model][name][columns.index((task, metric))]


def table_1() -> pd.DataFrame:
    """Columns `model`, `method`, `task`, `metric`, `value`; see `TABLE_1`."""
    return _frame(_long(TABLE_1, _MAIN))


def table_2() -> pd.DataFrame:
    """Columns `model`, `heads` (how they were chosen), `task`, `metric`, `value`; see `TABLE_2`."""
    rows = list(_long(TABLE_2, _SELECTORS))
    rows += [
        {"model": "average", "method": name, "task": "average", "metric": "average", "value": value}
        for name, value in TABLE_2_AVERAGE.items()
    ]
    return _frame(rows).rename(columns={"method": "heads"})


def table_3() -> pd.DataFrame:
    """Columns `model`, `method`, `task`, `metric`, `value`, `parameters`; see `TABLE_3`."""
    rows = [*_long(TABLE_3, _MAIN), *_long(TABLE_3_OTHER, _OTHER)]
    return _frame(
        row | {"parameters": PARAMETERS[row["model"]].get(row["method"], 0)} for row in rows
    )


def table_4() -> pd.DataFrame:
    """Columns `model`, `method`, `task`, `metric`, `value`; see `TABLE_4`."""
    metrics = ("true", "informative", "true x informative")
    return _frame(_long(TABLE_4, tuple(("truthfulqa", metric) for metric in metrics)))


def table_5() -> pd.DataFrame:
    """Columns `model`, `method`, `task`, `metric`, `value`; see `TABLE_5`."""
    others = tuple((task, "accuracy") for task in ("triviaqa", "nq", "mmlu"))
    return _frame(_long({"llama2-7b-chat": TABLE_5}, (*_MAIN[:2], *others, _MAIN[-1])))


def figure_2() -> pd.DataFrame:
    """Columns `model`, `source` (of the heads), `task`, `value`, `mark`; see `FIGURE_2`."""
    return _frame(
        {
            "model": model,
            "source": source,
            "task": task,
            "value": float(cell.rstrip("*+")),
            "mark": cell.lstrip("0123456789."),
        }
        for model, sources in FIGURE_2.items()
        for source, cells in sources.items()
        for task, cell in zip(TASKS, cells, strict=True)
    )


def figure_3() -> pd.DataFrame:
    """Columns `model`, `task`, `layer`, `heads` (how many); see `FIGURE_3`."""
    return _frame(
        {"model": model, "task": task, "layer": layer, "heads": heads}
        for model, panels in FIGURE_3.items()
        for task, counts in panels.items()
        for layer, heads in counts.items()
    )


def figure_4() -> pd.DataFrame:
    """Columns `task`, `examples`, `method`, `value`; see `FIGURE_4`."""
    return _frame(
        {"task": task, "examples": examples, "method": method, "value": value}
        for task, curves in FIGURE_4.items()
        for examples, values in curves.items()
        for method, value in zip(("LoRA", "RED", "LoFiT"), values, strict=True)
    )


def figure_5() -> pd.DataFrame:
    """Columns `model`, `task`, `percent` (of the heads), `value`; see `FIGURE_5`."""
    return _frame(
        {"model": model, "task": task, "percent": percent, "value": value}
        for model, curves in FIGURE_5.items()
        for task, values in curves.items()
        for percent, value in zip(FIGURE_5_SHARES, values, strict=True)
    )


def figure_6() -> pd.DataFrame:
    """Columns `model`, `measure`, `first`, `second`, `value`; see `FIGURE_6`."""
    return _frame(
        {"model": model, "measure": measure, "first": first, "second": second, "value": value}
        for model, measures in FIGURE_6.items()
        for measure, values in measures.items()
        for (first, second), value in zip(FIGURE_6_PAIRS, values, strict=True)
    )


def _long(
    table: Mapping[str, Mapping[str, Row]], columns: Sequence[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    for model, methods in table.items():
        for method, values in methods.items():
            for (task, metric), value in zip(columns, values, strict=True):
                yield {
                    "model": model, "method": method, "task": task, "metric": metric, "value": value,
                }  # fmt: skip


def _frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))
