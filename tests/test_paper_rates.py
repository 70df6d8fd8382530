"""The paper's settings of LoRA, RED and LoReFT."""

from __future__ import annotations

from itertools import product

import pytest

from lofit_lens.analysis.baselines.paper_rates import paper_loreft, paper_rates
from lofit_lens.analysis.published import tables_7_and_8
from lofit_lens.errors import LofitLensError
from lofit_lens.training.config import TABLE_6


@pytest.mark.parametrize(
    ("model", "task", "rates", "loreft"),
    [
        ("gemma-7b", "truthfulqa", (0.001, 0.001, 0.001), (4, 1)),
        ("gemma-7b", "clutrr", (0.001, 0.0001, 0.001), (8, 3)),
        ("llama2-7b", "truthfulqa", (0.0001, 0.0005, 0.001), (4, 1)),
        ("llama2-7b", "mquake", (0.001, 0.001, 0.0009), (8, 3)),
        ("llama2-7b", "clutrr", (0.001, 0.005, 0.0009), (8, 3)),
        ("llama2-13b", "mquake", (0.001, 0.001, 0.0009), (8, 3)),
        ("llama2-7b", "arc-challenge", (0.001, 0.0008, 0.0005), (8, 5)),
        ("llama2-13b", "boolq", (0.0001, 0.001, 0.0001), (8, 3)),
    ],
)
def test_settings_are_those_printed_in_the_paper(
    model: str, task: str, rates: tuple[float, float, float], loreft: tuple[int, int]
) -> None:
    assert paper_rates(model, task) == dict(zip(("lora", "red", "loreft"), rates, strict=True))
    assert paper_loreft(model, task) == loreft


def test_every_model_has_every_task_just_as_lofit_has() -> None:
    models, tasks = ("gemma-7b", "llama2-7b", "llama2-13b"), ("truthfulqa", "mquake", "clutrr")
    others = product(models[1:], ("siqa", "arc-challenge", "boolq", "svamp"))
    rows = {*product(models, tasks), *others}
    printed = tables_7_and_8()
    assert set(zip(printed["model"], printed["task"], strict=True)) == set(TABLE_6) == rows
    for row in rows:
        assert list(paper_rates(*row)) == ["lora", "red", "loreft"]


@pytest.mark.parametrize("row", [("llama3-8b", "mquake"), ("gemma-7b", "boolq")])
def test_an_unknown_row_names_what_there_is(row: tuple[str, str]) -> None:
    named = (
        f"{row[0]!r}, {row[1]!r}.*gemma-7b, llama2-13b, llama2-7b; tasks: arc-challenge, boolq, cl"
    )
    for read in (paper_rates, paper_loreft):
        with pytest.raises(LofitLensError, match=named):
            read(*row)
