"""Table 2: ways to choose heads beside LoFiT's, their average, and the paper's numbers alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lofit_lens.analysis.kinds.compare import compare
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.kinds.selectors import (
    SELECTOR_METHODS,
    TABLE_2_NAMES,
    SelectorTable,
    selector_table,
)
from lofit_lens.analysis.measure.side_effects import sample_texts
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.published import MODELS, TASKS, table_2
from lofit_lens.analysis.study.paired import RESAMPLES
from lofit_lens.analysis.study.record import Cost, Record
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.errors import LofitLensError
from lofit_lens.model import load_model
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.statistics import paired_difference
from lofit_lens.tasks import ExactMatch
from lofit_lens.tasks.embedded import embedded

RATES = {
    "zero-shot": 0.1, "lora": 0.9, "attribution/bias": 0.95, "lofit": 0.8, "probes/bias": 0.78,
    "random-heads": 0.3, "lofit/scale": 0.5,
}  # fmt: skip
ITEMS = {"a": 150, "b": 60, "c": 90}


def run(method: str, task: str, seed: int, values: np.ndarray) -> Record:
    records = tuple(
        {"id": str(i), "group": "", "EM": float(value), "other": 0.0}
        for i, value in enumerate(values)
    )
    evaluation = Evaluation(task, "test", ("EM", "other"), records, {})
    cost = Cost() if method == "zero-shot" else Cost(parameters=64, fit_tokens=1000)
    return Record(method, task, task, seed, evaluation, cost)


def rows_of(table: SelectorTable) -> list[Any]:
    return list(table.frame().itertuples(index=False))


def made(
    rates: Mapping[str, float] = RATES, seeds: tuple[int, ...] = (7, 42), tasks: str = "abc"
) -> Comparison:
    rng = np.random.default_rng(5)
    return Comparison(
        tuple(
            run(method, task, seed, rng.uniform(size=ITEMS[task]) < rate)
            for task in tasks
            for method, rate in rates.items()
            for seed in (seeds[:1] if method == "zero-shot" else seeds)
        )
    )


def printed(model: str) -> dict[str, list[float]]:
    """Table 2 of the paper for a model: its rows by the heads chosen."""
    table = table_2()
    rows = table[table["model"] == model].groupby("heads", sort=False)["value"]
    return {str(heads): values.tolist() for heads, values in rows}


def test_the_methods_are_those_of_table_2_in_its_order_then_others_and_lofit_last() -> None:
    table = selector_table(made())
    assert table.methods == ("random-heads", "probes/bias", "attribution/bias", "lofit")
    assert table.tasks == ("a", "b", "c", "average")
    shuffled = made({"zero-shot": 0.1} | dict.fromkeys(sorted(SELECTOR_METHODS), 0.5))
    assert selector_table(shuffled).methods == SELECTOR_METHODS
    for model in MODELS:
        assert tuple(TABLE_2_NAMES.values()) == tuple(printed(model))


def test_a_cell_has_the_score_and_the_paired_test_against_lofit() -> None:
    comparison = made()
    for cell in rows_of(selector_table(comparison)):
        if cell.task == "average":
            continue
        table = comparison.table(cell.method, cell.task)
        assert cell.value == pytest.approx(table.mean())
        assert (cell.metric, cell.n, cell.seeds) == ("EM", ITEMS[cell.task], 2)
        if cell.method != "lofit":
            d = paired_difference(table, comparison.table("lofit", cell.task), resamples=RESAMPLES)
            found = cell.difference, cell.difference_low, cell.difference_high, cell.p
            assert found == (d.value, d.low, d.high, d.p)


def test_p_is_corrected_over_all_cells_of_the_table_and_nothing_else() -> None:
    cells = [cell for cell in rows_of(selector_table(made())) if cell.method != "lofit"]
    assert len(cells) == 3 * 4
    corrected = np.array(multipletests([cell.p for cell in cells], method="holm")[1])
    assert [cell.p_holm for cell in cells] == pytest.approx(corrected.tolist())
    for cell in cells:
        assert cell.mark == ("*" if cell.p_holm < 0.05 else "+" if cell.p_holm < 0.1 else "")
        assert cell.direction == (
            "" if not cell.mark else "better" if cell.difference > 0 else "worse"
        )
    assert {cell.direction for cell in cells} == {"better", "worse", ""}


def test_the_average_counts_every_task_the_same() -> None:
    comparison = made(seeds=(7,))
    rows = [cell for cell in rows_of(selector_table(comparison)) if cell.task == "average"]
    for cell in rows:
        tables = [comparison.table(cell.method, task)[0] for task in "abc"]
        value = np.mean([table.mean() for table in tables])
        error = np.sqrt(sum(table.var() / table.size for table in tables)) / 3
        assert cell.value == pytest.approx(value)
        assert [cell.low, cell.high] == pytest.approx(
            [value - 1.96 * error, value + 1.96 * error], abs=0.2 * error
        )
        assert cell.high - cell.low == pytest.approx(3.92 * error, rel=0.05)
        assert cell.n == 300


def test_the_test_of_the_average_agrees_with_a_normal_one() -> None:
    comparison = made({"zero-shot": 0.1, "lofit": 0.6, "probes/bias": 0.5}, seeds=(7,))
    (cell, _) = (cell for cell in rows_of(selector_table(comparison)) if cell.task == "average")
    tables = [
        comparison.table("probes/bias", task)[0] - comparison.table("lofit", task)[0]
        for task in "abc"
    ]
    difference = np.mean([table.mean() for table in tables])
    error = np.sqrt(sum(table.var(ddof=1) / table.size for table in tables)) / 3
    assert cell.difference == pytest.approx(difference)
    p = 2 * stats.norm.sf(abs(difference) / error)
    assert 0.001 < p < 0.2
    assert cell.p == pytest.approx(p, rel=0.15)
    assert cell.difference_high - cell.difference_low == pytest.approx(3.92 * error, rel=0.06)


def test_an_average_of_tasks_without_spread_is_as_wide_and_as_untested_as_they_are() -> None:
    sure = made({"zero-shot": 0.1, "lofit": 1.0, "probes/bias": 0.0}, seeds=(7,))
    grouped = tuple(
        replace(r, evaluation=replace(r.evaluation, records=tuple(
            {**record, "group": "one"} for record in r.evaluation.records
        )))
        for r in sure.runs
    )  # fmt: skip
    cells = {(c.method, c.task): c for c in rows_of(selector_table(Comparison(grouped)))}
    for task in ("a", "b", "c", "average"):
        assert (cells["probes/bias", task].p, cells["probes/bias", task].mark) == (1, "")
    ours = [cells["lofit", task] for task in "abc"]
    average = cells["lofit", "average"]
    assert min(c.low for c in ours) < average.low < 1
    assert average.low == pytest.approx(1 - np.linalg.norm([1 - c.low for c in ours]) / 3)
    assert (average.value, average.high) == (1, 1)


def test_one_task_has_no_average() -> None:
    table = selector_table(made(tasks="a"))
    assert table.tasks == ("a",)
    assert list(table.table().columns) == ["a EM"]


@pytest.mark.parametrize(
    "methods", [("zero-shot", "lora", "probes/bias"), ("zero-shot", "lofit", "lora")]
)
def test_without_lofit_or_without_another_choice_there_is_no_table(methods: Any) -> None:
    with pytest.raises(LofitLensError, match="needs lofit and another"):
        selector_table(made({method: RATES[method] for method in methods}))


def test_a_method_that_lacks_a_task_is_named() -> None:
    whole = made()
    runs = tuple(r for r in whole.runs if (r.method, r.task) != ("probes/bias", "b"))
    with pytest.raises(LofitLensError, match="no run of 'probes/bias' on 'b'"):
        selector_table(replace(whole, runs=runs))


@pytest.mark.parametrize("model", MODELS)
def test_the_published_table_is_the_papers_cell_by_cell(model: str) -> None:
    table = SelectorTable.published(model)
    text = table.table()
    assert list(text.columns) == ["truthfulqa MC1", "mquake EM", "clutrr EM", "average"]
    rows = text.to_dict("index")
    for method, name in TABLE_2_NAMES.items():
        assert [*rows[method].values()] == [f"{value:.1f}" for value in printed(model)[name]]
    assert table.legend == ""
    with pytest.raises(LofitLensError, match="gemma-7b"):
        SelectorTable.published("gpt2")


def panels(table: SelectorTable) -> list[tuple[Any, Any]]:
    """The line of LoFiT and the dots of each panel."""
    traces: Any = table.plot().data
    return list(zip(traces[::2], traces[1::2], strict=True))


def test_the_figure_has_a_panel_for_each_task_with_dots_intervals_and_marks() -> None:
    table = selector_table(made())
    frame, figure = table.frame(), table.plot()
    notes: Any = figure.layout
    texts = [note.text for note in notes.annotations]
    assert [text for text in texts if "<b>" in text] == [
        "<b>a</b>, EM", "<b>b</b>, EM", "<b>c</b>, EM", "<b>average</b>",
    ]  # fmt: skip
    for task, (line, dots) in zip(table.tasks, panels(table), strict=True):
        rows = frame[frame["task"] == task]
        assert list(dots.y) == rows["method"].tolist()
        assert list(dots.x) == pytest.approx((100 * rows["value"]).tolist())
        assert list(dots.error_x.array) == pytest.approx(
            (100 * (rows["high"] - rows["value"])).tolist()
        )
        assert list(line.x) == [dots.x[-1]] * 2
        filled = [symbol == "circle" for symbol in dots.marker.symbol[:-1]]
        assert filled == [bool(mark) for mark in rows["mark"][:-1]]
        assert dots.marker.symbol[-1] == "diamond"
        for value, mark in zip(rows["value"], rows["mark"], strict=True):
            assert f"{100 * value:.1f}{mark}" in texts


def test_the_published_figure_has_every_number_and_no_whiskers() -> None:
    for model in MODELS:
        table = SelectorTable.published(model)
        assert table.tasks == (*TASKS, "average")
        for place, (_, dots) in enumerate(panels(table)):
            values = [printed(model)[name][place] for name in TABLE_2_NAMES.values()]
            assert list(dots.x) == pytest.approx(values)
            assert not dots.error_x.visible


def test_a_table_says_what_it_is() -> None:
    table = selector_table(made())
    assert repr(table) == (
        "SelectorTable(random-heads, probes/bias, attribution/bias, lofit; on a, b, c, average; "
        "seeds 7, 42)"
    )
    page = table._repr_html_()
    for cell in table.table().to_numpy().ravel():
        assert str(cell) in page
    assert "Holm-corrected over 12 cells" in page


def test_the_methods_of_table_2_run_and_make_a_table() -> None:
    model = load_model("embedded", device="cpu", dtype="float32")
    settings = Settings(
        k=6,
        selection=replace(SELECTION, epochs=1),
        tuning=replace(TUNING, epochs=1),
        batch_size=256,
    )
    tasks = []
    for whole in (embedded("kinship"), embedded("edit")):
        val = whole.val[::10]
        cut = replace(whole, train=whole.train[::8], val=val, val_as_test=val)
        tasks.append(replace(cut, test=whole.test[::24], scoring=ExactMatch(max_new_tokens=3)))
    comparison = compare(
        model, tasks, SELECTOR_METHODS,
        settings=settings, texts=sample_texts(model, n=4, tokens=8), progress=False,
    )  # fmt: skip
    table = selector_table(comparison)
    assert table.methods == SELECTOR_METHODS
    assert table.tasks == ("embedded:kinship", "embedded:edit", "average")
    assert len(rows_of(table)) == 5 * 3
