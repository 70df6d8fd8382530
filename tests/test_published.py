"""The published numbers against each other: averages, sums, and cells printed twice."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from lofit_lens.analysis import published as paper
from lofit_lens.analysis.published import published
from lofit_lens.errors import LofitLensError
from lofit_lens.training import paper_heads

ROUNDING = 0.1001  # of the cells and of their average
OFF_THE_PLOT = 0.2001
SHAPES = {"gemma-7b": (28, 16, 3072, 256), "llama2-7b": (32, 32, 4096, 128)} | {
    "llama2-13b": (40, 40, 5120, 128)
}
"""Layers, heads, d_model, d_head."""


def value(frame: pd.DataFrame, **cell: Any) -> float:
    for column, wanted in cell.items():
        frame = frame[frame[column] == wanted]
    assert len(frame) == 1, cell
    return float(frame["value"].iloc[0])


def off_average(frame: pd.DataFrame, keys: list[str]) -> set[tuple[str, ...]]:
    """Rows whose printed average is not that of their cells."""
    cells = frame[frame["task"] != "average"].groupby(keys)["value"].mean()
    printed = frame[frame["task"] == "average"].set_index(keys)["value"]
    return {row for row in cells.index if abs(cells[row] - printed[row]) > ROUNDING}


def test_the_averages_of_table_1_are_those_of_its_columns_but_for_one_misprint() -> None:
    assert off_average(paper.table_1(), ["model", "method"]) == {("llama2-13b", "RepE")}


def test_the_averages_of_table_2_are_those_of_its_columns() -> None:
    table = paper.table_2()
    assert not off_average(table[table["model"] != "average"], ["model", "heads"])
    cells = table[table["task"] != "average"].groupby("heads")["value"].mean()
    for heads, mean in cells.items():
        assert abs(mean - value(table, heads=heads, model="average")) <= ROUNDING


def test_the_averages_of_tables_3_and_5_are_those_of_their_columns() -> None:
    table = paper.table_3()
    assert len(table) == 5 * (12 + 12)
    main = table["task"].isin(paper.TASKS) | (table["metric"] == "average")
    for part in (table[main & (table.index < 60)], table[table.index >= 60]):
        assert not off_average(part, ["model", "method"])
    chat = paper.table_5()
    assert not off_average(chat[chat["task"] != "truthfulqa"], ["model", "method"])


def test_table_4s_last_column_is_the_product_of_the_others() -> None:
    wide = paper.table_4().pivot(index=["model", "method"], columns="metric", values="value")
    product = wide["true"] * wide["informative"] / 100
    assert (product - wide["true x informative"]).abs().max() < 0.11


def test_the_number_of_parameters_follows_from_the_shapes_of_the_models() -> None:
    table = paper.table_3().drop_duplicates(["model", "method"]).set_index(["model", "method"])
    for model, (layers, heads, d_model, d_head) in SHAPES.items():
        size, k = heads * d_head, paper_heads(model, fraction=0.1)
        expected = {
            "LoFiT": k * d_head, "RED": 2 * layers * size, "LoRA": layers * 2 * 8 * (d_model + size),
        }  # fmt: skip
        for method, number in expected.items():
            printed = table.loc[(model, method), "parameters"]
            assert printed == pytest.approx(number, rel=0.03)


def test_lofit_on_its_own_heads_is_the_same_in_tables_1_and_2() -> None:
    one, two = paper.table_1(), paper.table_2()
    for model in paper.MODELS:
        for task, metric in (("truthfulqa", "MC1"), ("mquake", "EM"), ("clutrr", "EM")):
            cell = {"model": model, "task": task, "metric": metric}
            assert value(one, method="LoFiT", **cell) == value(two, heads="LoFiT", **cell)


def test_figure_2s_diagonal_is_table_1_and_its_last_row_table_2_but_for_one_cell() -> None:
    figure, table = paper.figure_2(), paper.table_2()
    odd = []
    for model in paper.MODELS:
        for task in paper.TASKS:
            for source, heads in ((task, "LoFiT"), ("random", "random")):
                drawn = value(figure, model=model, source=source, task=task)
                printed = value(table, model=model, heads=heads, task=task)
                odd += [(model, source, drawn, printed)] if drawn != printed else []
    assert odd == [("llama2-7b", "clutrr", 89.6, 89.7)]
    assert set(figure["mark"]) == {"", "*", "+"}
    assert not figure.loc[figure["source"] == figure["task"], "mark"].any()


def test_every_panel_of_figure_3_has_k_heads_in_the_layers_of_the_model() -> None:
    figure = paper.figure_3()
    sums = figure.groupby(["model", "task"])["heads"].sum()
    assert len(sums) == 9
    for (model, _), total in sums.items():  # pyright: ignore[reportGeneralTypeIssues]
        assert total == paper_heads(model)
    for model, (layers, heads, *_) in SHAPES.items():
        panel = figure[figure["model"] == model]
        assert panel["layer"].between(0, layers - 1).all()
        assert panel["heads"].between(1, heads).all()
        assert not panel.duplicated(["task", "layer"]).any()


def test_figure_4_meets_table_3_where_all_training_items_are_used() -> None:
    figure, table = paper.figure_4(), paper.table_3()
    for task, examples in (("clutrr", 300), ("mquake", 134)):
        for method in ("LoRA", "RED", "LoFiT"):
            drawn = value(figure, task=task, examples=examples, method=method)
            printed = value(table, model="llama2-7b", method=method, task=task, metric="EM")
            assert abs(drawn - printed) <= OFF_THE_PLOT


def test_figure_5_meets_tables_1_and_3_at_3_and_10_percent() -> None:
    figure = paper.figure_5()
    for percent, table in ((3, paper.table_1()), (10, paper.table_3())):
        for model in ("llama2-7b", "llama2-13b"):
            for task in ("mquake", "clutrr"):
                drawn = value(figure, model=model, task=task, percent=percent)
                printed = value(table, model=model, method="LoFiT", task=task)
                assert abs(drawn - printed) <= OFF_THE_PLOT


def test_the_overlaps_of_figure_6_are_whole_numbers_of_heads() -> None:
    figure = paper.figure_6()
    assert len(figure) == 3 * 2 * 9
    for row in figure[figure["measure"] == "overlap"].itertuples():
        k = paper_heads(str(row.model))
        heads = float(row.value) * k  # pyright: ignore[reportArgumentType]
        assert abs(heads - round(heads)) <= 0.00501 * k


@pytest.mark.parametrize(
    ("method", "task", "metric", "expected"),
    [
        ("zero-shot", "mquake", "EM", 18.9),
        ("iti", "truthfulqa", "MC2", 49.5),
        ("lofit", "clutrr", "EM", 89.7),
        ("repe-reading", "truthfulqa", "MC1", 46.8),
        ("repe-contrast", "truthfulqa", "MC1", None),
        ("repe-contrast", "mquake", "EM", 37.9),
        ("repe-reading", "mquake", "EM", None),
        ("repe-contrast", "embedded:truth", "MC1", None),
        ("random-heads", "truthfulqa", "MC1", 46.6),
        ("random-heads", "truthfulqa", "MC2", None),
        ("probes/bias", "mquake", "EM", 73.8),
        ("lora", "clutrr", "EM", 91.1),
        ("red", "truthfulqa", "MC1", 56.3),
        ("loreft", "mquake", "EM", 77.2),
        ("ia3", "mquake", "EM", None),
        ("lofit", "average", "average", None),
        ("zero-shot", "boolq", "EM", 77.4),
        ("lofit", "arc-challenge", "EM", 50.3),
        ("loreft", "svamp", "EM", 52.7),
        ("iti", "siqa", "EM", None),
        ("lofit", "truthfulqa", "MC3", None),
    ],
)
def test_a_cell_of_a_comparison_finds_its_published_number(
    method: str, task: str, metric: str, expected: float | None
) -> None:
    assert published("llama2-7b", method, task, metric) == expected


def test_a_model_the_paper_does_not_have_is_refused() -> None:
    with pytest.raises(LofitLensError, match="gemma-7b, llama2-7b, llama2-13b, got 'gpt2'"):
        published("gpt2", "lofit", "clutrr", "EM")
