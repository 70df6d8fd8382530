from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.study.paired import RESAMPLES
from lofit_lens.analysis.study.record import Cost, Record
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json_gz, write_json_gz
from lofit_lens.heads import HeadSet
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.statistics import crossed_interval, holm, mcnemar, paired_difference

FOLDS = {"truthfulqa": ("truthfulqa:0", "truthfulqa:1"), "mquake": ("mquake",)}
ITEMS = {"truthfulqa:0": 40, "truthfulqa:1": 25, "mquake": 60}
METRICS = {"truthfulqa": ("MC1", "MC2"), "mquake": ("EM",)}
METHODS, SEEDS = ("zero-shot", "iti", "lofit", "random-heads"), (7, 42)
RATES = {"zero-shot": 0.3, "iti": 0.33, "lofit": 0.85, "random-heads": 0.05}
NO_COST = Cost()
HEADS = HeadSet([(0, 1)], n_layers=3, n_heads=4)


def evaluation(
    fold: str, values: Sequence[float] | np.ndarray, metrics: Sequence[str] = ("MC1",)
) -> Evaluation:
    """Each further metric is a tenth of the one before."""
    records = tuple(
        {"id": f"{fold} {i}", "group": ""}
        | {name: float(value) * 0.1**place for place, name in enumerate(metrics)}
        for i, value in enumerate(values)
    )
    return Evaluation(fold, "test", tuple(metrics), records, {"chance": 0.2, "copying": 0.1})


def run(
    method: str,
    values: Sequence[float] | np.ndarray,
    *,
    task: str = "a",
    fold: str | None = None,
    seed: int = 7,
    cost: Cost | None = None,
    metrics: Sequence[str] = ("MC1",),
) -> Record:
    default = NO_COST if method == "zero-shot" else Cost(parameters=64, fit_tokens=1000)
    scored = evaluation(fold or task, values, metrics)
    return Record(method, task, fold or task, seed, scored, cost or default)


@cache
def whole() -> Comparison:
    """Two tasks, one of two folds; zero-shot scored once, two draws of random heads per seed."""
    rng = np.random.default_rng(0)
    runs = []
    for task, folds in FOLDS.items():
        for method in METHODS:
            for fold in folds:
                for seed in SEEDS[:1] if method == "zero-shot" else reversed(SEEDS):
                    for draw in range(2 if method == "random-heads" else 1):
                        values = rng.uniform(size=ITEMS[fold]) < RATES[method]
                        made = run(
                            method, values, task=task, fold=fold, seed=seed, metrics=METRICS[task]
                        )
                        runs.append(replace(made, choices={"draw": draw, "alpha": 0.1 * seed}))
    return Comparison(tuple(runs))


def single(values: dict[str, Sequence[float]]) -> Comparison:
    """One run of each method on one task."""
    return Comparison(tuple(run(method, found) for method, found in values.items()))


def grouped(comparison: Comparison, size: int) -> Comparison:
    """The same with each `size` neighbours in one group."""
    runs = []
    for old in comparison.runs:
        records = tuple(
            {**record, "group": f"{old.fold} group {i // size}"}
            for i, record in enumerate(old.evaluation.records)
        )
        runs.append(replace(old, evaluation=replace(old.evaluation, records=records)))
    return replace(comparison, runs=tuple(runs))


def changed(comparison: Comparison, method: str, seed: int, **changes: Any) -> Comparison:
    """With another evaluation in the first run of a method with a seed."""
    odd = next(r for r in comparison.runs if (r.method, r.seed) == (method, seed))
    new = replace(odd, evaluation=replace(odd.evaluation, **changes))
    return replace(comparison, runs=tuple(new if r is odd else r for r in comparison.runs))


def cell(frame: pd.DataFrame, method: str, task: str, metric: str) -> dict[str, Any]:
    found = frame[
        (frame["method"] == method) & (frame["task"] == task) & (frame["metric"] == metric)
    ]
    (row,) = found.to_dict("records")
    return {str(name): value for name, value in row.items()}


def test_methods_and_tasks_keep_their_order_and_folds_are_one_task() -> None:
    result = whole()
    assert result.methods == METHODS
    assert result.tasks == ("truthfulqa", "mquake")
    assert result.seeds == SEEDS
    assert repr(result) == (
        "Comparison(zero-shot, iti, lofit, random-heads; on truthfulqa, mquake; seeds 7, 42)"
    )


def test_a_table_has_the_folds_one_behind_the_other_and_seeds_in_order() -> None:
    result = whole()
    for metric in METRICS["truthfulqa"]:
        table = result.table("lofit", "truthfulqa", metric)
        assert table.shape == (2, 65)
        for row, seed in zip(table, SEEDS, strict=True):
            expected = [
                record[metric]
                for fold in FOLDS["truthfulqa"]
                for r in result.runs
                if (r.method, r.fold, r.seed) == ("lofit", fold, seed)
                for record in r.evaluation.records
            ]
            assert row.tolist() == expected
    assert (result.table("lofit", "mquake") == result.table("lofit", "mquake", "EM")).all()


def test_the_order_of_the_folds_is_that_of_the_base() -> None:
    first, second = [1.0, 0.0], [0.0, 0.0, 1.0]
    runs = (
        run("zero-shot", first, fold="a:0"),
        run("zero-shot", second, fold="a:1"),
        run("iti", second, fold="a:1"),
        run("iti", first, fold="a:0"),
    )
    result = Comparison(runs)
    assert result.table("iti", "a").tolist() == result.table("zero-shot", "a").tolist()
    assert result.groups("a") == ["a:0 0", "a:0 1", "a:1 0", "a:1 1", "a:1 2"]


def test_a_method_that_fits_nothing_stands_for_every_seed() -> None:
    result = whole()
    table = result.table("zero-shot", "mquake")
    assert table.shape == (2, 60)
    assert (table[0] == table[1]).all()
    assert result.seeds_of("zero-shot", "mquake") == (7,)
    assert result.frame()["seeds"].tolist() == [1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2]


def test_the_seed_of_zero_shot_need_not_be_one_of_the_others() -> None:
    zero_shot = replace(run("zero-shot", [0.0, 1.0]), seed=0)
    result = Comparison((zero_shot, run("iti", [1.0, 1.0], seed=3), run("iti", [0.0, 1.0], seed=4)))
    assert result.seeds == (3, 4)
    assert result.table("zero-shot", "a").tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert Comparison((zero_shot,)).seeds == (0,)


def test_a_fitted_method_with_one_seed_does_not_stand_for_the_others() -> None:
    result = Comparison(
        (
            run("zero-shot", [0.0]),
            run("iti", [1.0]),
            run("lofit", [1.0]),
            run("lofit", [1.0], seed=8),
        )
    )
    with pytest.raises(LofitLensError, match=r"'iti' on 'a' with seed 8.*7, 8"):
        result.table("iti", "a")


def test_draws_of_one_seed_are_averaged() -> None:
    draws = [run("random-heads", v) for v in ([1.0, 0.0, 1.0], [1.0, 1.0, 0.0])]
    result = Comparison((run("zero-shot", [0.0] * 3), *draws))
    assert result.table("random-heads", "a").tolist() == [[1.0, 0.5, 0.5]]


def test_the_frame_has_a_row_for_every_task_method_and_metric_with_its_interval() -> None:
    result = whole()
    frame = result.frame()
    cells = list(zip(frame["task"], frame["method"], frame["metric"], strict=True))
    assert cells == [
        (task, method, metric) for task in FOLDS for method in METHODS for metric in METRICS[task]
    ]
    for (task, method, metric), row in zip(cells, frame.to_dict("records"), strict=True):
        table = result.table(method, task, metric)
        estimate = crossed_interval(table[:1] if method == "zero-shot" else table)
        found = [row[name] for name in ("value", "low", "high", "n")]
        assert found == [estimate.value, estimate.low, estimate.high, estimate.n]
        assert row["value"] == pytest.approx(table.mean())


def test_differences_are_method_minus_base_in_the_main_metric() -> None:
    result = whole()
    for row in result.frame().to_dict("records"):
        found = [row[c] for c in ("difference", "difference_low", "difference_high", "p")]
        if row["method"] == "zero-shot" or row["metric"] == "MC2":
            assert np.isnan([*found, row["p_holm"], row["mcnemar"]]).all()
            assert (row["mark"], row["direction"]) == ("", "")
        else:
            ours, base = (result.table(m, row["task"]) for m in (row["method"], "zero-shot"))
            expected = paired_difference(ours, base, resamples=RESAMPLES)
            assert found == [expected.value, expected.low, expected.high, expected.p]
            assert row["difference"] == pytest.approx(ours.mean() - base.mean())


def test_holm_is_over_every_method_and_task_but_the_base() -> None:
    for base in (None, "iti"):
        frame = whole().frame(base)
        tested = frame[frame["p"].notna()]
        assert len(tested) == 2 * 3
        assert (base or "zero-shot") not in set(tested["method"])
        assert tested["p_holm"].to_numpy() == pytest.approx(holm(tested["p"].to_numpy()))


def test_marks_tell_better_from_worse() -> None:
    frame = whole().frame()
    found = {name: cell(frame, name, "mquake", "EM") for name in ("lofit", "random-heads", "iti")}
    assert {name: (row["mark"], row["direction"]) for name, row in found.items()} == {
        "lofit": ("*", "better"),
        "random-heads": ("*", "worse"),
        "iti": ("", ""),
    }


def test_a_difference_that_is_significant_only_before_the_correction_gets_no_star() -> None:
    better = [1.0] * 9 + [0.0] * 2 + [0.0] * 27
    base = [0.0] * 9 + [1.0] * 2 + [0.0] * 27
    frame = single({"zero-shot": base, "a": better, "b": better}).frame()
    tested = frame[frame["method"] != "zero-shot"]
    assert tested["p"].between(0.025, 0.05).all()
    assert tested["mark"].tolist() == ["+", "+"]


def test_mcnemar_is_of_independent_right_or_wrong_items_of_one_seed() -> None:
    rng = np.random.default_rng(3)
    ours, base = rng.integers(2, size=(2, 30)).astype(float)
    one = single({"zero-shot": base.tolist(), "iti": ours.tolist()})
    assert one.frame()["mcnemar"][1] == mcnemar(ours, base)
    shares = single({"zero-shot": base.tolist(), "iti": (0.3 * ours).tolist()})
    clustered = grouped(one, 3)
    seeds = Comparison((*one.runs, run("iti", base, seed=8)))
    for result in (shares, clustered, seeds):
        assert np.isnan(result.frame()["mcnemar"][1])


def test_items_of_one_group_are_resampled_together() -> None:
    rng = np.random.default_rng(1)
    base, ours = rng.integers(2, size=(2, 12)).astype(float)
    result = grouped(single({"zero-shot": base.tolist(), "iti": ours.tolist()}), 4)
    groups = result.groups("a")
    assert groups == [f"a group {i // 4}" for i in range(12)]
    row = result.frame().iloc[1]
    estimate = crossed_interval(ours[None], groups=groups)
    assert (row["low"], row["high"]) == (estimate.low, estimate.high)
    d = paired_difference(ours[None], base[None], groups=groups, resamples=RESAMPLES)
    assert (row["difference_low"], row["p"]) == (d.low, d.p)


def test_another_base_turns_the_difference_around() -> None:
    result = whole()
    forward = cell(result.frame(), "lofit", "mquake", "EM")["difference"]
    back = cell(result.frame("lofit"), "zero-shot", "mquake", "EM")["difference"]
    assert back == pytest.approx(-forward)
    renamed = replace(result, base="lofit")
    pd.testing.assert_frame_equal(renamed.frame(), result.frame("lofit"))


def test_costs_are_means_over_seeds_and_sums_over_folds() -> None:
    costs = {
        ("a:0", 7): Cost(10, 1.0, 0.5, 100, 10),
        ("a:0", 8): Cost(10, 3.0, 0.5, 300, 30),
        ("a:1", 7): Cost(20, 5.0, 1.5, 500, 50),
        ("a:1", 8): Cost(20, 5.0, 1.5, 500, 50),
    }
    fitted = [run("iti", [1.0], fold=f, seed=s, cost=cost) for (f, s), cost in costs.items()]
    zero_shot = [run("zero-shot", [0.0], fold=f) for f in ("a:0", "a:1")]
    row = Comparison((*zero_shot, *fitted)).frame().iloc[1]
    assert row["parameters"] == 15
    assert (row["fit_seconds"], row["score_seconds"]) == (7.0, 2.0)
    assert (row["fit_tokens"], row["score_tokens"]) == (700, 70)


def test_side_effects_are_means_over_the_runs_that_have_them() -> None:
    effects: list[dict[str, float]] = [{"kl": 0.2, "repeats": 1.0}, {"kl": 0.4}]
    fitted = [
        replace(run("iti", [1.0], seed=seed), side_effects=effect)
        for seed, effect in zip(SEEDS, effects, strict=True)
    ]
    frame = Comparison((run("zero-shot", [0.0]), *fitted)).frame()
    assert frame["kl"][1] == pytest.approx(0.3)
    assert frame["repeats"][1] == 1.0
    assert frame[["cross_entropy", "refusals"]].isna().all(axis=None)
    assert np.isnan(frame["kl"][0])


def test_the_floor_is_the_highest_and_stands_by_the_main_metric() -> None:
    frame = whole().frame()
    assert (frame["floor"][frame["metric"] != "MC2"] == 0.2).all()
    assert frame["floor"][frame["metric"] == "MC2"].isna().all()
    assert whole().floors("truthfulqa") == pytest.approx({"chance": 0.2, "copying": 0.1})


def test_a_method_may_leave_a_task_out() -> None:
    result = whole()
    less = tuple(r for r in result.runs if (r.method, r.task) != ("iti", "mquake"))
    frame = replace(result, runs=less).frame()
    assert len(frame) == len(result.frame()) - 1
    assert frame["p"].notna().sum() == 5


def test_choices_have_a_row_per_run() -> None:
    result = Comparison(
        (
            run("zero-shot", [0.0]),
            replace(run("iti", [1.0]), choices={"alpha": 15, "method": "mass"}, heads=HEADS),
            replace(run("repe", [1.0]), choices={"layer": 4}),
        )
    )
    choices = result.choices()
    assert list(choices.columns) == ["method", "task", "fold", "seed", "n_heads", "alpha", "layer"]
    assert choices["method"].tolist() == ["zero-shot", "iti", "repe"]
    assert choices["n_heads"].tolist()[1] == 1 and choices["alpha"][1] == 15
    assert choices["layer"].isna().tolist() == [True, True, False]


def test_a_changed_frame_does_not_change_the_comparison() -> None:
    result = whole()
    frame = result.frame()
    frame["value"] = 0.0
    assert (result.frame()["value"] > 0).any()


_ITEMS = tuple(
    {**record, "MC2": 0.5} for record in evaluation("truthfulqa:0", np.zeros(40)).records
)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"split": "val"}, "split"),
        ({"compat": "paper-code"}, "compat rule"),
        ({"metric_names": ("MC2", "MC1")}, "main metric"),
        ({"records": _ITEMS[::-1]}, "items"),
        ({"records": _ITEMS[1:]}, "items"),
    ],
)
def test_runs_that_were_scored_differently_are_refused(
    changes: dict[str, object], what: str
) -> None:
    result = changed(whole(), "lofit", 42, **changes)
    with pytest.raises(
        LofitLensError,
        match=f"'lofit' on 'truthfulqa:0', seed 42, was scored with other {what} than",
    ):
        result.table("lofit", "truthfulqa")
    with pytest.raises(LofitLensError, match=f"other {what}"):
        result.frame()


@pytest.mark.parametrize("key", ["data_hash", "templates"])
def test_runs_of_one_fold_and_seed_on_other_data_are_refused(key: str) -> None:
    runs = [run("zero-shot", [0.0]), run("iti", [1.0]), run("lofit", [1.0])]
    told = [replace(r, protocol={key: value}) for r, value in zip(runs, "112", strict=True)]
    result = Comparison(tuple(told))
    assert result.table("iti", "a").tolist() == [[1.0]]
    with pytest.raises(LofitLensError, match=f"'lofit'.*other {key} than 'zero-shot'"):
        result.frame()


def without(keep: Callable[[Record], bool]) -> Comparison:
    return Comparison(tuple(r for r in whole().runs if keep(r)))


def test_a_missing_seed_and_a_missing_fold_are_refused() -> None:
    seed = without(lambda r: (r.method, r.fold, r.seed) != ("iti", "mquake", 42))
    with pytest.raises(LofitLensError, match=r"'iti' on 'mquake' with seed 42.*7, 42"):
        seed.frame()
    fold = without(lambda r: (r.method, r.fold) != ("iti", "truthfulqa:1"))
    with pytest.raises(LofitLensError, match="'iti' on 'truthfulqa:1' with seed 7"):
        fold.frame()
    base = without(lambda r: (r.method, r.fold) != ("zero-shot", "truthfulqa:1"))
    with pytest.raises(LofitLensError, match="'truthfulqa:1', 'zero-shot' only on truthfulqa:0"):
        base.frame()


def test_a_task_without_the_base_is_refused() -> None:
    result = without(lambda r: (r.method, r.task) != ("zero-shot", "mquake"))
    with pytest.raises(LofitLensError, match="no run of 'zero-shot' on 'mquake'"):
        result.frame()


def test_an_item_in_two_folds_is_refused() -> None:
    runs = [run("zero-shot", [0.0, 1.0], fold=fold) for fold in ("a:0", "a:1")]
    twice = replace(runs[1], evaluation=runs[0].evaluation)
    with pytest.raises(LofitLensError, match=r"'a:0 0' of 'a' is in the test split of two folds"):
        Comparison((runs[0], twice)).frame()


def test_what_is_not_there_is_refused_by_name() -> None:
    result = whole()
    with pytest.raises(LofitLensError, match="at least one run"):
        Comparison(())
    with pytest.raises(LofitLensError, match="no run of 'zero-shot', only of iti"):
        Comparison((run("iti", [0.0]),))
    with pytest.raises(LofitLensError, match="no run of 'lora', only of zero-shot, iti"):
        result.frame("lora")
    with pytest.raises(LofitLensError, match=r"no metric 'MC3'\. It has: MC1, MC2"):
        result.table("iti", "truthfulqa", "MC3")
    with pytest.raises(LofitLensError, match="no run of 'lora' on 'mquake'"):
        result.table("lora", "mquake")


def full_run() -> Record:
    return replace(
        run("iti@last", [1.0, 0.0], task="truthfulqa", fold="truthfulqa:0"),
        side_effects={"kl": 0.1234567890123456, "cross_entropy": 2.5},
        choices={"alpha": 15.0, "grid": [{"k": 3, "MC1": 0.5}]},
        heads=HeadSet([(0, 1), (2, 3)], n_layers=3, n_heads=4),
        answers=[{"question": "Who?", "answer": "Nöbody"}],
        protocol={"scope": "last", "data_hash": "ab"},
        draw=1,
        cut={"heads": 2},
        config={"learning_rate": 0.5},
        steps=[{"step": "tuning", "key": "k", "seconds": 1.5, "tokens": 7}],
    )


def test_a_run_survives_saving(tmp_path: Path) -> None:
    before = full_run()
    assert re.fullmatch(r"iti-last-on-truthfulqa-0-7-1-[0-9a-f]{12}", before.name)
    after = Record.load(before.save(tmp_path / f"{before.name}.json.gz"))
    names = (
        "task",
        "fold",
        "seed",
        "draw",
        "cut",
        "source",
        "cost",
        "choices",
        "heads",
        "protocol",
    )
    for name in ("method", *names, "config", "steps", "key", "name", "place"):
        assert getattr(after, name) == getattr(before, name)
    assert (after.side_effects, after.answers) == (before.side_effects, before.answers)
    assert after.evaluation.to_json() == before.evaluation.to_json()
    assert repr(after).startswith("Record(iti@last on truthfulqa:0, seed 7: MC1 50.0 [")


def test_the_table_can_be_rebuilt_from_the_files_alone(tmp_path: Path) -> None:
    result = whole()
    loaded = Comparison.load(result.save(tmp_path / "runs"))
    assert (loaded.methods, loaded.tasks, loaded.seeds) == (
        result.methods,
        result.tasks,
        result.seeds,
    )
    pd.testing.assert_frame_equal(loaded.frame(), result.frame())
    pd.testing.assert_frame_equal(loaded.choices(), result.choices())
    again = Comparison.load(tmp_path / "runs", base="iti")
    pd.testing.assert_frame_equal(again.frame(), result.frame("iti"))
    assert result.save(tmp_path / "runs") == tmp_path / "runs"


def damage_schema(content: dict[str, Any]) -> None:
    content["schema"] = 99


def damage_cost(content: dict[str, Any]) -> None:
    content["cost"] = {"parameters": 1, "money": 3}


def damage_field(content: dict[str, Any]) -> None:
    del content["seed"]


@pytest.mark.parametrize("damage", [damage_schema, damage_cost, damage_field])
def test_damaged_runs_are_refused(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    path = full_run().save(tmp_path / "run.json.gz")
    content: dict[str, Any] = read_json_gz(path, dict, what="JSON")
    damage(content)
    write_json_gz(path, content)
    with pytest.raises(LofitLensError, match="does not hold a record of a run"):
        Record.load(path)


def test_empty_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match="No comparison at"):
        Comparison.load(tmp_path)
    whole().save(tmp_path)
    with pytest.raises(LofitLensError, match="holds other runs"):
        Comparison(whole().runs[:3]).save(tmp_path)
    next((tmp_path / "records").iterdir()).write_bytes(b"nothing")
    with pytest.raises(LofitLensError, match="does not hold a record of a run"):
        Comparison.load(tmp_path)


def panels(result: Comparison, base: str | None = None) -> list[Any]:
    return list(result.plot(base).data)


def test_the_forest_plot_shows_the_differences_of_the_frame() -> None:
    result = whole()
    for base in (None, "iti"):
        frame = result.frame(base)
        frame = frame[frame["difference"].notna()]
        for panel, (_, rows) in zip(
            panels(result, base), frame.groupby("task", sort=False), strict=True
        ):
            assert list(panel.y) == rows["method"].tolist()
            value, low, high = (
                100 * rows[c].to_numpy()
                for c in ("difference", "difference_low", "difference_high")
            )
            assert panel.x == pytest.approx(value)
            assert value + panel.error_x.array == pytest.approx(high)
            assert value - panel.error_x.arrayminus == pytest.approx(low)


def test_the_differences_stand_beside_the_panels_with_their_marks() -> None:
    result = whole()
    frame = result.frame()
    frame = frame[frame["difference"].notna()]
    figure: Any = result.plot()
    values = zip(frame["method"], frame["difference"], frame["mark"], strict=True)
    found = [(a.y, a.text) for a in figure.layout.annotations if a.xref == "x domain"]
    assert found == [(method, f"{100 * v:+.1f}{mark}") for method, v, mark in values]


def test_better_worse_and_neither_differ_in_colour_and_filling() -> None:
    _, panel = panels(whole())
    assert list(panel.y) == ["iti", "lofit", "random-heads"]
    assert list(panel.marker.symbol) == ["circle-open", "circle", "circle"]
    assert len(set(panel.marker.color)) == 3


def test_hover_tells_score_difference_both_p_and_n() -> None:
    result = whole()
    row = cell(result.frame(), "lofit", "mquake", "EM")
    hover = panels(result)[1].hovertext[1]
    for part in (
        "lofit on mquake",
        f"EM {100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
        f"{100 * row['difference']:+.1f} points to zero-shot [",
        f"p = {row['p']:.2g}, Holm {row['p_holm']:.2g}",
        "n = 60, seeds = 2",
    ):
        assert part in hover
    assert "McNemar" not in hover
    one = single({"zero-shot": [0.0, 1.0, 0.0], "iti": [1.0, 1.0, 0.0]})
    assert "McNemar 1" in panels(one)[0].hovertext[0]


def test_the_panels_are_named_and_the_axis_holds_every_interval_and_zero() -> None:
    figure: Any = whole().plot()
    titles = [a.text for a in figure.layout.annotations if a.xref == "paper"]
    assert titles == ["<b>truthfulqa</b>, MC1", "<b>mquake</b>, EM"]
    low, high = figure.layout.xaxis.range
    frame = whole().frame()
    assert low < min(0, 100 * frame["difference_low"].min())
    assert high > max(0, 100 * frame["difference_high"].max())
    assert figure.layout.xaxis2.title.text == "difference to zero-shot, points"
    assert "Holm-corrected over 6 comparisons" in figure.layout.title.subtitle.text
    assert 'src="http' not in figure.to_html(include_plotlyjs=True)


def test_a_forest_plot_of_the_base_alone_is_refused() -> None:
    with pytest.raises(LofitLensError, match="no method to compare with 'zero-shot'"):
        single({"zero-shot": [0.0, 1.0]}).plot()
