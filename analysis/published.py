"""The numbers the paper published: Yin, Ye and Durrett (2024), arXiv 2406.01563, version 2.

Percent, means of two seeds; the paper reports no spread. Models are "gemma-7b", "llama2-7b" and
"llama2-13b". TruthfulQA is the mean of its two folds. The folder `published_tables` has each table as
it is printed, and a function here gives it as a long frame; averages are rows of the task "average".

What is odd in the paper is kept as printed:

* Table 1, RepE on Llama 2-13B: the average is printed as 55.1; its four columns give 53.7.
* Figure 2 has 89.6 on CLUTRR's own heads for Llama 2-7B, Tables 1 and 2 have 89.7.
* Figures 4 and 5 are read off the plots, within 0.2 points; the head counts of Figure 3 are
  exact, since every panel sums to the number of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lofit_lens.errors import LofitLensError
from lofit_lens.training.config import PAPER_HEADS

if TYPE_CHECKING:
    import pandas as pd

MODELS = tuple(PAPER_HEADS)
TASKS = ("truthfulqa", "mquake", "clutrr")

_REPE = {"truthfulqa": "repe-reading", "mquake": "repe-contrast", "clutrr": "repe-contrast"}
_ONLY_IN_TABLE_3 = ("siqa", "arc-challenge", "boolq", "svamp")


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
    table, name = _CELLS[method]
    cells = _cells(table_3 if task in _ONLY_IN_TABLE_3 else table)
    return None if task == "average" else cells.get((model, name, task, metric))


def table_1() -> pd.DataFrame:
    """Columns `model`, `method`, `task`, `metric`, `value`; 3% of the heads."""
    return _long("table_1", ["model", "method"], "task", "metric")


def table_2() -> pd.DataFrame:
    """Columns `model`, `heads` (how they were chosen), `task`, `metric`, `value`.

    A bias tuned on 3% of the heads. The rows of the model "average" are over all models and tasks.
    """
    return _long("table_2", ["model", "heads"], "task", "metric")


def table_3() -> pd.DataFrame:
    """Columns `model`, `method`, `task`, `metric`, `value`, `parameters`; 10% of the heads.

    `parameters` are the numbers trained, as the paper rounds them.
    """
    import pandas as pd

    names = ("table_3", "table_3_others")
    parts = [_long(name, ["model", "method", "parameters"], "task", "metric") for name in names]
    found = pd.concat(parts, ignore_index=True)
    return found.assign(parameters=found.pop("parameters").astype(float))


def table_4() -> pd.DataFrame:
    """Columns `model`, `method`, `task`, `metric`, `value`.

    Open-ended TruthfulQA judged by GPT-4: true, informative, and their product.
    """
    return _long("table_4", ["model", "method"], "task", "metric")


def table_5() -> pd.DataFrame:
    """Columns `model`, `method`, `task`, `metric`, `value`.

    Llama 2-7B-chat tuned on TruthfulQA; the average is that of the other three tasks.
    """
    return _long("table_5", ["model", "method"], "task", "metric")


def tables_7_and_8() -> pd.DataFrame:
    """Settings of the rivals by `model` and `task`, as they are printed.

    Columns `lora`, `red` and `loreft` are learning rates, `rank` and `positions` are LoReFT's.
    """
    return _printed("tables_7_and_8")


def figure_2() -> pd.DataFrame:
    """Columns `model`, `source` (of the heads), `task`, `value`, `mark`; MC1 for TruthfulQA.

    The mark is against the task's own heads, by a paired bootstrap: "*" p < .05, "+" p < .1.
    """
    found = _long("figure_2", ["model", "source"], "task")
    cells = found["value"].astype(str)
    return found.assign(
        value=cells.str.rstrip("*+").astype(float), mark=cells.str.lstrip("0123456789.")
    )


def figure_3() -> pd.DataFrame:
    """Columns `model`, `task`, `layer` (from 0), `heads` (how many); 3% of the heads, one seed."""
    found = _long("figure_3", ["model", "task"], "layer", value="heads")
    return found.astype({"layer": int, "heads": int})


def figure_4() -> pd.DataFrame:
    """Columns `task`, `examples` (for training), `method`, `value`.

    EM of Llama 2-7B, with 10% of the heads.
    """
    return _long("figure_4", ["task", "examples"], "method")


def figure_5() -> pd.DataFrame:
    """Columns `model`, `task`, `percent` (of the heads tuned), `value` (EM)."""
    return _long("figure_5", ["model", "task"], "percent").astype({"percent": int})


def figure_6() -> pd.DataFrame:
    """Columns `model`, `measure`, `first`, `second`, `value`, of two sets of K heads.

    Measures are the share in common (which the paper calls Jaccard; 3% of the heads) and the earth
    mover's distance of their layers. A task with itself: two seeds.
    """
    return _long("figure_6", ["model", "measure"], "first", "second")


_CELLS: Mapping[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "zero-shot": (table_1, "0-shot"),
    "iti": (table_1, "ITI"),
    "repe-reading": (table_1, "RepE"),
    "repe-contrast": (table_1, "RepE"),
    "lofit": (table_1, "LoFiT"),
    "random-heads": (table_2, "random"),
    "probes/bias": (table_2, "ITI-heads"),
    "probe-layers/bias": (table_2, "probe-layers"),
    "bias-norm/bias": (table_2, "bias-based"),
    "lora": (table_3, "LoRA"),
    "red": (table_3, "RED"),
    "loreft": (table_3, "ReFT"),
}
"""Where the number of a method is: the table, and the paper's name for it."""


@cache
def _cells(table: Callable[[], pd.DataFrame]) -> dict[tuple[str, ...], float]:
    """The values of a table by model, method, task and metric."""
    return {row[:4]: row[4] for row in table().itertuples(index=False, name=None)}


def _printed(name: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(Path(__file__).parent / "published_tables" / f"{name}.csv")


def _long(name: str, of: Sequence[str], *by: str, value: str = "value") -> pd.DataFrame:
    """A table with a row for each number: what its row is `of`, and the words its column is named `by`."""
    long = _printed(name).melt(of, var_name="column", value_name=value, ignore_index=False)
    long = long.sort_index(kind="stable").dropna().reset_index(drop=True)
    long[[*by]] = long.pop("column").str.split(" ", n=len(by) - 1, expand=True)
    return long[[*of, *by, value]]
