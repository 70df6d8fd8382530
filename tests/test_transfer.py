from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from lofit_lens.analysis.kinds.matrix import RANDOM, TransferMatrix
from lofit_lens.analysis.kinds.transfer import score_heads, transfer_matrix
from lofit_lens.analysis.study.paired import RESAMPLES
from lofit_lens.analysis.study.record import Record
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.plotting import NEUTRAL
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.statistics import crossed_interval, holm, paired_difference
from lofit_lens.tasks import Task
from lofit_lens.training import SelectionConfig, TuningConfig
from tests.test_selection import colours_of_things

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

HEADS = HeadSet([(0, 1), (2, 0)], n_layers=3, n_heads=2)
TASKS, SOURCES, SEEDS, ITEMS = ("truth", "kin"), ("truth", "kin", "random"), (7, 42), 60
RATES = {
    ("truth", "truth"): 0.9,
    ("kin", "truth"): 0.85,
    ("random", "truth"): 0.3,
    ("truth", "kin"): 0.7,
    ("kin", "kin"): 0.7,
    ("random", "kin"): 0.4,
}


def evaluation(task: str, values: Sequence[float] | np.ndarray) -> Evaluation:
    records = tuple(
        {"id": f"{task} {i}", "group": "", "MC1": float(v), "MC2": 0.5}
        for i, v in enumerate(values)
    )
    return Evaluation(task, "test", ("MC1", "MC2"), records, {})


def run(source: str, task: str, seed: int, values: Sequence[float] | np.ndarray) -> Record:
    method = "random-heads" if source == RANDOM else f"heads of {source}"
    scored = evaluation(task, values)
    return Record(method, task, task, seed, scored, heads=HEADS, source=source)


@cache
def matrix() -> TransferMatrix:
    """Seeds out of order, and two draws of random heads for each seed."""
    rng = np.random.default_rng(0)
    runs = []
    for task in TASKS:
        for source in ("random", "kin", "truth"):
            for seed in reversed(SEEDS):
                for _ in range(2 if source == "random" else 1):
                    right = rng.uniform(size=ITEMS) < RATES[source, task]
                    runs.append(run(source, task, seed, right))
    zero_shot = {task: evaluation(task, np.arange(ITEMS) % 4 == 0) for task in TASKS}
    return TransferMatrix(tuple(runs), zero_shot)


def single(values: dict[tuple[str, str], list[float]]) -> TransferMatrix:
    """One run a cell."""
    runs = tuple(run(source, task, 0, v) for (source, task), v in values.items())
    zero_shot = {r.fold: evaluation(r.fold, [0.0] * len(r.evaluation.records)) for r in runs}
    return TransferMatrix(runs, zero_shot)


def heat_map(result: TransferMatrix, *, relative: bool = True) -> Any:
    figure: Any = result.plot(relative=relative)
    (shown,) = [trace for trace in figure.data if trace.visible]
    return shown


def test_sources_follow_the_tasks_with_random_last() -> None:
    assert matrix().tasks == TASKS
    assert matrix().sources == SOURCES
    assert matrix().seeds == SEEDS
    extra = single({("other", "b"): [1.0], ("random", "a"): [1.0], ("b", "a"): [1.0]})
    assert extra.tasks == ("b", "a")
    assert extra.sources == ("b", "other", "random")


def test_a_table_has_seeds_in_order_and_the_main_metric_by_item() -> None:
    result = matrix()
    table = result.table("kin", "truth")
    assert table.shape == (len(SEEDS), ITEMS)
    for row, seed in zip(table, SEEDS, strict=True):
        (found,) = [r for r in result.runs if (r.source, r.fold, r.seed) == ("kin", "truth", seed)]
        assert row.tolist() == [record["MC1"] for record in found.evaluation.records]


def test_draws_of_one_seed_are_averaged() -> None:
    first, second = [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]
    own = single({("a", "a"): [1.0] * 3})
    both = replace(
        own, runs=(*own.runs, run("random", "a", 0, first), run("random", "a", 0, second))
    )
    assert both.table("random", "a").tolist() == [[1.0, 0.5, 0.5]]


def test_the_frame_holds_every_cell_with_its_interval() -> None:
    result = matrix()
    frame = result.frame()
    cells = list(zip(frame["source"], frame["task"], strict=True))
    assert cells == [(source, task) for source in SOURCES for task in TASKS]
    for cell, row in zip(cells, frame.to_dict("records"), strict=True):
        estimate = crossed_interval(result.draws(*cell))
        assert (row["value"], row["low"], row["high"]) == (
            estimate.value,
            estimate.low,
            estimate.high,
        )
        assert (row["metric"], row["n"], row["seeds"]) == ("MC1", ITEMS, len(SEEDS))
        own = result.table(cell[1], cell[1]).mean()
        assert row["relative"] == pytest.approx(result.table(*cell).mean() / own)


def test_the_interval_of_random_heads_counts_every_draw() -> None:
    draws = [[1.0] * 20, [0.0] * 20]
    own = single({("a", "a"): [1.0] * 20})
    result = replace(own, runs=(*own.runs, *(run("random", "a", 0, values) for values in draws)))
    cell = result.frame().iloc[1]
    assert (cell["value"], cell["low"], cell["high"], cell["seeds"]) == (0.5, 0.0, 1.0, 1)
    assert cell["p"] > 0.3  # the items alone would say 0.5 of 20 items, with certainty


def test_draws_of_a_single_seed_are_paired_with_the_own_heads_each() -> None:
    result = matrix()
    one = replace(result, runs=tuple(r for r in result.runs if r.seed == 7))
    own, random = (one.draws(source, "truth") for source in ("truth", "random"))
    assert (len(own), len(random)) == (1, 2)
    expected = paired_difference(np.repeat(own, 2, axis=0), random, resamples=RESAMPLES)
    cell = one.frame().query("source == 'random' and task == 'truth'").iloc[0]
    assert (cell["p"], cell["difference_low"]) == (expected.p, expected.low)


@pytest.mark.parametrize(
    ("seeds", "draws", "own_spread"), [(1, 4, 0.0), (3, 2, 0.0), (3, 2, 1.0), (3, 4, 1.0)]
)
def test_own_heads_that_are_not_better_are_rarely_called_better(
    seeds: int, draws: int, own_spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where random heads differ from draw to draw, and own heads from seed to seed."""
    monkeypatch.setattr("lofit_lens.analysis.study.paired.RESAMPLES", 500)
    rng = np.random.default_rng(1)
    rejected = []
    for _ in range(200):
        hardness = rng.normal(size=40)

        def answers(spread: float, hardness: np.ndarray = hardness) -> np.ndarray:
            solved = 1 / (1 + np.exp(hardness + rng.normal(0, spread)))
            return (rng.uniform(size=40) < solved).astype(float)

        runs = []
        for seed in range(seeds):
            runs.append(run("a", "a", seed, answers(own_spread)))
            runs += [run("random", "a", seed, answers(1.0)) for _ in range(draws)]
        result = TransferMatrix(tuple(runs), {"a": evaluation("a", np.zeros(40))})
        rejected.append(result.frame()["p"][1] < 0.05)
    assert np.mean(rejected) < 0.09  # 0.05, and three standard errors of 200 matrices


def test_differences_are_own_heads_minus_these_paired_by_seed_and_item() -> None:
    result = matrix()
    for row in result.frame().to_dict("records"):
        found = [row[c] for c in ("difference", "difference_low", "difference_high", "p")]
        if row["source"] == row["task"]:
            assert np.isnan([*found, row["p_holm"]]).all()
            assert row["mark"] == ""
        else:
            own = result.table(row["task"], row["task"])
            these = result.table(row["source"], row["task"])
            expected = paired_difference(own, these, resamples=RESAMPLES)
            assert found == [expected.value, expected.low, expected.high, expected.p]
            assert row["difference"] == pytest.approx(own.mean() - these.mean())


def test_marks_are_of_p_corrected_over_the_cells_off_the_diagonal() -> None:
    frame = matrix().frame()
    off = frame[frame["source"] != frame["task"]]
    assert off["p_holm"].to_numpy() == pytest.approx(holm(off["p"].to_numpy()))
    assert dict(zip(off["source"] + off["task"], off["mark"], strict=True)) == {
        "truthkin": "",
        "kintruth": "",
        "randomtruth": "*",
        "randomkin": "*",
    }


def test_a_cell_that_is_significant_only_before_the_correction_gets_no_star() -> None:
    frame = weak().frame()
    off = frame[frame["source"] != frame["task"]]
    assert off["p"].between(0.025, 0.05).all()
    assert off["p_holm"].between(0.05, 0.1).all()
    assert off["mark"].tolist() == ["+", "+"]


def weak() -> TransferMatrix:
    """Own heads solve a few more items: p of about 0.03 in each of two cells."""
    worse = [0.0] * 9 + [1.0] * 2 + [0.0] * 27
    better = [1.0] * 9 + [0.0] * 2 + [0.0] * 27
    return single({("a", "a"): better, ("b", "a"): worse, ("b", "b"): better, ("a", "b"): worse})


def test_own_heads_that_score_nothing_have_no_relative_accuracy() -> None:
    result = single({("a", "a"): [0.0, 0.0], ("random", "a"): [0.0, 1.0]})
    assert result.frame()["relative"].isna().all()
    assert [list(row) for row in heat_map(result).text] == [["n/a"], ["n/a"]]


def test_a_changed_frame_does_not_change_the_matrix() -> None:
    result = matrix()
    frame = result.frame()
    frame["value"] = 0.0
    assert (result.frame()["value"] > 0).all()


def test_the_figure_shows_accuracy_relative_to_own_heads_with_marks() -> None:
    result = matrix()
    heat = heat_map(result)
    frame = result.frame()
    assert (list(heat.x), list(heat.y)) == (list(TASKS), list(SOURCES))
    assert heat.z.ravel() == pytest.approx(100 * frame["relative"].to_numpy())
    expected = [f"{100 * r:.1f}{m}" for r, m in zip(frame["relative"], frame["mark"], strict=True)]
    assert np.ravel(heat.text).tolist() == expected
    assert heat.text[0][0] == heat.text[1][1] == "100.0"
    assert heat.text[2][0].endswith("*")


def test_the_absolute_figure_ends_with_the_zero_shot_accuracy() -> None:
    result = matrix()
    heat = heat_map(result, relative=False)
    assert list(heat.y) == [*SOURCES, "zero-shot"]
    assert heat.z[:3].ravel() == pytest.approx(100 * result.frame()["value"].to_numpy())
    assert list(heat.text[3]) == ["25.0", "25.0"]
    assert "MC1 25.0 [" in heat.hovertext[3][0]
    zero_shot = crossed_interval(
        np.array([[r["MC1"] for r in result.zero_shot["truth"].records]]),
        groups=result.groups("truth"),
    )
    assert f"[{100 * zero_shot.low:.1f}, {100 * zero_shot.high:.1f}]" in heat.hovertext[3][0]


def test_the_first_task_is_on_top_and_the_caption_names_the_correction() -> None:
    layout: Any = matrix().plot().layout
    assert layout.yaxis.autorange == "reversed"
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == (
        "tuned and tested on",
        "heads from",
    )
    assert "Holm-corrected" in layout.title.subtitle.text


def test_the_tasks_own_heads_are_outlined() -> None:
    layout: Any = matrix().plot(relative=False).layout
    shapes = layout.shapes
    assert [(s.x0 + 0.48, s.y0 + 0.48) for s in shapes] == [(0, 0), (1, 1)]
    assert {s.line.color for s in shapes} == {NEUTRAL}


def test_hover_tells_accuracy_difference_and_both_p() -> None:
    result = matrix()
    hover = heat_map(result).hovertext
    cell = result.frame().iloc[4]
    assert (cell["source"], cell["task"]) == ("random", "truth")
    for part in (
        "heads from random, tuned on truth",
        f"MC1 {100 * cell['value']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]",
        f"n = {ITEMS}, seeds = 2",
        "zero-shot 25.0",
        f"own heads {100 * cell['difference']:+.1f} points",
        f"p = {cell['p']:.2g}, Holm {cell['p_holm']:.2g}",
    ):
        assert part in hover[2][0]
    assert "p =" not in hover[0][0]


def test_the_figure_needs_no_network() -> None:
    assert 'src="http' not in matrix().plot().to_html(include_plotlyjs=True)


def test_it_is_shown_as_a_table_of_accuracy() -> None:
    assert repr(matrix()) == (
        "TransferMatrix(heads from truth, kin, random; tuned and tested on truth, kin; seeds 7, 42)"
    )
    shown = matrix()._repr_html_()
    assert "<th>random</th>" in shown and "Holm-corrected" in shown
    assert f"<td>{100 * matrix().table('truth', 'truth').mean():.1f}</td>" in shown


def test_no_runs_are_refused() -> None:
    with pytest.raises(LofitLensError, match="at least one run"):
        TransferMatrix((), {})


def test_a_cell_without_one_of_the_seeds_is_refused() -> None:
    whole = matrix()
    missing = next(r for r in whole.runs if (r.source, r.fold, r.seed) == ("kin", "truth", 42))
    result = replace(whole, runs=tuple(r for r in whole.runs if r is not missing))
    with pytest.raises(LofitLensError, match=r"'kin' tuned on 'truth' with seed 42.*7, 42"):
        result.table("kin", "truth")
    with pytest.raises(LofitLensError, match="seed 42"):
        result.frame()


def test_cells_that_were_never_run_are_empty_and_the_others_are_as_before() -> None:
    whole = matrix()
    runs = tuple(r for r in whole.runs if r.source in (r.task, "random"))
    frame = replace(whole, runs=runs).frame()
    assert list(frame.columns) == list(whole.frame().columns)
    cells = list(zip(frame["source"], frame["task"], strict=True))
    assert cells == [(source, task) for source in SOURCES for task in TASKS]
    empty = frame[frame["source"].isin(TASKS) & (frame["source"] != frame["task"])]
    assert len(empty) == 2
    numbers = ["value", "low", "high", "relative", "difference", "p", "p_holm"]
    assert empty[numbers].isna().all(axis=None)
    assert (empty["n"].tolist(), empty["seeds"].tolist()) == ([0, 0], [0, 0])
    assert empty["mark"].tolist() == ["", ""]
    there = frame["value"].notna()
    same = [name for name in frame.columns if name not in ("p_holm", "mark")]
    pd.testing.assert_frame_equal(frame[there][same], whole.frame()[there][same])
    p = frame["p"].dropna().to_numpy()
    assert frame["p_holm"].dropna().to_numpy() == pytest.approx(holm(p))


def test_a_task_without_its_own_heads_has_accuracy_and_nothing_relative() -> None:
    frame = single({("random", "a"): [0.0, 1.0]}).frame()
    assert frame["value"].tolist() == [0.5]
    assert frame[["relative", "difference", "p", "p_holm"]].isna().all(axis=None)
    assert "<td>50.0</td>" in single({("random", "a"): [0.0, 1.0]})._repr_html_()


def test_the_zero_shot_rows_of_a_frame_have_an_interval_and_no_test() -> None:
    result = matrix()
    frame = result.frame(zero_shot=True)
    pd.testing.assert_frame_equal(frame[:-2], result.frame())
    rows = frame[-2:]
    assert rows["source"].tolist() == ["zero-shot"] * 2
    assert (rows["task"].tolist(), rows["value"].tolist()) == (list(TASKS), [0.25, 0.25])
    assert ((rows["low"] < 0.25) & (rows["high"] > 0.25)).all()
    assert (rows["n"].tolist(), rows["seeds"].tolist()) == ([ITEMS] * 2, [0, 0])
    assert rows[["difference", "p", "p_holm"]].isna().all(axis=None)


def test_a_task_without_zero_shot_scores_is_refused() -> None:
    with pytest.raises(LofitLensError, match="no zero-shot scores for 'kin', only for truth"):
        replace(matrix(), zero_shot={"truth": matrix().zero_shot["truth"]}).frame()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"split": "val"}, "split"),
        ({"compat": "paper-code"}, "compat rule"),
        ({"metric_names": ("MC2", "MC1")}, "main metric"),
        ({"records": evaluation("truth", np.zeros(ITEMS)).records[::-1]}, "items"),
        ({"records": evaluation("truth", np.zeros(ITEMS)).records[1:]}, "items"),
    ],
)
def test_runs_that_were_scored_differently_are_refused(
    changes: dict[str, object], what: str
) -> None:
    whole = matrix()
    odd = next(r for r in whole.runs if (r.source, r.fold, r.seed) == ("kin", "truth", 42))
    changed = replace(odd, evaluation=replace(odd.evaluation, **changes))
    result = replace(whole, runs=tuple(changed if r is odd else r for r in whole.runs))
    with pytest.raises(LofitLensError, match=f"'kin', seed 42, was scored with other {what}"):
        result.table("kin", "truth")


def test_a_matrix_survives_saving_with_the_order_of_its_tasks(tmp_path: Path) -> None:
    result = matrix()
    loaded = TransferMatrix.load(result.save(tmp_path / "runs"))
    assert (loaded.tasks, loaded.sources, loaded.seeds) == (
        result.tasks,
        result.sources,
        result.seeds,
    )
    pd.testing.assert_frame_equal(loaded.frame(), result.frame())
    assert loaded.runs[0].heads == result.runs[0].heads
    assert list(loaded.zero_shot) == list(result.zero_shot)


def test_a_run_keeps_how_it_was_tuned_and_leaves_the_edit_in_memory(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    task, other = tiny_tasks("a", "b")
    shape = (llama.cfg.n_layers, llama.cfg.n_heads)
    heads = HeadSet([(0, 1)], n_layers=shape[0], n_heads=shape[1])
    by_task = {"a": HeadScores(torch.ones(shape)), "b": HeadScores(1.0 * heads.mask())}
    tuning = TuningConfig(learning_rate=0.5, epochs=2, scope="last", validate=False)
    whole = transfer_matrix(
        llama, [task, other], seeds=(3,), k=1, random_draws=0, tuning=tuning,
        scores={name: {3: scores} for name, scores in by_task.items()}, progress=False,
    )  # fmt: skip
    (found,) = [r for r in whole.runs if (r.source, r.fold) == ("b", "a")]
    assert isinstance(found.edit, HeadIntervention)
    assert found.edit.provenance is not None
    assert found.edit.heads == found.heads == heads
    assert found.config == found.edit.provenance.config
    assert found.config is not None
    assert (found.config["learning_rate"], found.config["seed"]) == (0.5, 3)
    scored = evaluate(llama, task, found.edit, progress=False)
    assert found.evaluation.records == scored.records
    assert "edit" not in repr(found)

    loaded = Record.load(found.save(tmp_path / "run.json.gz"))
    assert loaded.config == json.loads(json.dumps(found.config))
    assert loaded.edit is None


def test_a_run_of_the_earlier_format_is_read_and_one_of_a_later_format_refused(
    tmp_path: Path,
) -> None:
    scored = evaluation("a", [1.0])
    first = {"source": "b", "task": "a", "seed": 0, "heads": HEADS.to_json()}
    first["evaluation"] = scored.to_json()
    path = tmp_path / "run.json.gz"
    for schema, content in ((1, first), (2, first | {"config": {"seed": 0}})):
        path.write_bytes(gzip.compress(json.dumps(content | {"schema": schema}).encode()))
        read = Record.load(path)
        assert (read.method, read.source, read.fold, read.task) == ("heads of b", "b", "a", "a")
        assert (read.heads, read.config, read.key) == (HEADS, content.get("config"), "")
        assert read.evaluation.to_json() == scored.to_json()
    later = run("a", "a", 0, [1.0]).to_json() | {"schema": 4}
    path.write_bytes(gzip.compress(json.dumps(later).encode()))
    with pytest.raises(LofitLensError, match="schema 4, this version reads 1 or 2 or 3"):
        Record.load(path)


def test_every_task_is_trained_with_its_own_settings(llama: TransformerBridge) -> None:
    tasks = tiny_tasks("a", "b")
    rates = {"a": 0.1, "b": 0.3}
    selection = {name: SelectionConfig(learning_rate=r, epochs=1) for name, r in rates.items()}
    tuning = {name: TuningConfig(learning_rate=r, epochs=1) for name, r in rates.items()}
    seen = []
    result = transfer_matrix(
        llama, tasks, k=1, selection=selection, tuning=tuning, on_run=seen.append, progress=False
    )
    assert tuple(seen) == result.runs
    assert [(r.fold, r.config and r.config["learning_rate"]) for r in result.runs] == [
        (task, rates[task]) for task in ("a", "a", "a", "b", "b", "b")
    ]
    scores = score_heads(llama, tasks, seeds=(42,), selection=selection, progress=False)
    for name, rate in rates.items():
        origin = scores[name][42].provenance
        assert origin is not None and origin.config["learning_rate"] == rate
        own = next(r for r in result.runs if r.source == r.fold == name)
        assert own.heads == scores[name][42].top(k=1)
    with pytest.raises(LofitLensError, match="`tuning` lacks b; it has a"):
        transfer_matrix(llama, tasks, k=1, tuning={"a": tuning["a"]}, progress=False)


@pytest.mark.parametrize("name", ["random", "zero-shot", "a"])
def test_names_that_mean_something_else_are_refused(llama: TransformerBridge, name: str) -> None:
    with pytest.raises(LofitLensError, match=r"different names|may be called"):
        transfer_matrix(llama, tiny_tasks("a", name), k=1, progress=False)


def tiny_tasks(*names: str) -> list[Task]:
    base = colours_of_things()
    examples = tuple(replace(example, incorrect=(" twelve.",)) for example in base.test[:6])
    splits = dict.fromkeys(("train", "val", "test", "val_as_test"), examples)
    return [replace(base, name=name, **splits) for name in names]


def test_an_empty_folder_and_a_damaged_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match="No transfer of heads"):
        TransferMatrix.load(tmp_path)
    (tmp_path / "000-a.json.gz").write_bytes(b"nothing")
    with pytest.raises(LofitLensError, match="does not hold a record of a run"):
        TransferMatrix.load(tmp_path)


def test_single_draws_of_a_cell_are_rows_of_their_own() -> None:
    result = matrix()
    draws = result.draws("random", result.tasks[0])
    seeds = result.table("random", result.tasks[0])
    assert draws.mean() == pytest.approx(seeds.mean())
    assert len(draws) >= len(seeds)
    with pytest.raises(LofitLensError, match="nowhere"):
        result.draws("nowhere", result.tasks[0])


def test_items_of_one_group_are_resampled_together() -> None:
    values = np.random.default_rng(1).uniform(size=(2, 12)).round()
    runs = tuple(
        run(source, "kin", 0, v) for source, v in zip(("kin", "random"), values, strict=True)
    )
    grouped = tuple(
        replace(
            r,
            evaluation=replace(
                r.evaluation,
                records=tuple(
                    {**record, "group": f"g{i // 4}"}
                    for i, record in enumerate(r.evaluation.records)
                ),
            ),
        )
        for r in runs
    )
    zero_shot = {"kin": grouped[0].evaluation}
    frame = TransferMatrix(grouped, zero_shot).frame()
    groups = [f"g{i // 4}" for i in range(12)]
    estimate = crossed_interval(values[:1], groups=groups)
    assert (frame["low"][0], frame["high"][0]) == (estimate.low, estimate.high)
    d = paired_difference(values[:1], values[1:], groups=groups, resamples=RESAMPLES)
    assert frame["p"][1] == d.p


def test_heads_that_do_better_than_the_own_ones_get_no_mark() -> None:
    result = single({("a", "a"): [0.0] * 40, ("random", "a"): [1.0] * 40})
    cell = result.frame().iloc[1]
    assert cell["p_holm"] < 0.05
    assert cell["mark"] == ""


def test_a_folder_with_other_runs_is_refused(tmp_path: Path) -> None:
    matrix().save(tmp_path)
    fewer = TransferMatrix(matrix().runs[:3], matrix().zero_shot)
    with pytest.raises(LofitLensError, match="other runs"):
        fewer.save(tmp_path)
