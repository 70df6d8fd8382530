from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lofit_lens.analysis.layers import LayerDistribution, layer_distribution
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.heads import HeadSet


def heads(*pairs: tuple[int, int], n_layers: int = 3, n_heads: int = 2) -> HeadSet:
    return HeadSet(pairs, n_layers=n_layers, n_heads=n_heads)


def two_tasks() -> LayerDistribution:
    return layer_distribution(
        {
            "truth": [heads((0, 0), (0, 1)), heads((0, 0), (2, 1)), heads((0, 0), (2, 0))],
            "kin": heads((2, 0), (2, 1)),
        }
    )


def test_the_frame_has_mean_least_and_most_heads_of_each_layer() -> None:
    frame = two_tasks().frame()
    assert frame["task"].tolist() == ["truth"] * 3 + ["kin"] * 3
    assert frame["layer"].tolist() == [0, 1, 2] * 2
    assert frame["depth"].tolist() == [0.0, 0.5, 1.0] * 2
    assert frame["count"].tolist() == pytest.approx([4 / 3, 0, 2 / 3, 0, 0, 2])
    assert frame["low"].tolist() == [1, 0, 0, 0, 0, 2]
    assert frame["high"].tolist() == [2, 0, 1, 0, 0, 2]


def test_counts_and_their_uniform_expectation_add_up_to_the_number_of_heads() -> None:
    sets = [HeadSet.random(7, n_layers=5, n_heads=4, seed=s) for s in range(6)]
    sums = layer_distribution({"any": sets}).frame()[["count", "uniform"]].sum()
    assert sums.tolist() == pytest.approx([7, 7])


def test_a_model_of_one_layer_has_depth_zero() -> None:
    frame = layer_distribution({"any": heads((0, 1), n_layers=1)}).frame()
    assert frame["depth"].tolist() == [0.0]


def test_stability_is_the_jaccard_index_over_pairs_of_seeds() -> None:
    sets = [HeadSet.random(9, n_layers=4, n_heads=4, seed=s) for s in range(4)]
    (found,) = layer_distribution({"any": sets}).stability().to_dict("records")
    masks = [np.asarray(s.mask()) for s in sets]
    expected = [(a & b).sum() / (a | b).sum() for a, b in combinations(masks, 2)]
    assert (found["task"], found["k"], found["seeds"]) == ("any", 9, 4)
    assert found["jaccard"] == pytest.approx(np.mean(expected))
    assert found["jaccard_low"] == pytest.approx(min(expected))
    assert found["jaccard_high"] == pytest.approx(max(expected))


def test_one_seed_has_no_stability() -> None:
    truth, kin = two_tasks().stability().to_dict("records")
    assert (truth["seeds"], kin["seeds"]) == (3, 1)
    for column in ("jaccard", "jaccard_low", "jaccard_high"):
        assert truth[column] == pytest.approx(1 / 3)
        assert np.isnan(kin[column])


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_chance_is_the_mean_over_every_pair_of_sets(k: int) -> None:
    everything = HeadSet.every(n_layers=3, n_heads=2).heads
    first = set(everything[:k])
    every = [len(first & set(s)) / len(first | set(s)) for s in combinations(everything, k)]
    stability = layer_distribution({"any": heads(*everything[:k])}).stability()
    assert stability["chance"].tolist() == pytest.approx([np.mean(every)])


def test_overlap_is_the_mean_over_seeds_of_both_tasks() -> None:
    overlap = two_tasks().overlap()
    assert overlap[["task_a", "task_b"]].to_numpy().tolist() == [["truth", "kin"]]
    assert overlap["jaccard"].tolist() == pytest.approx([np.mean([0, 1 / 3, 1 / 3])])


def test_one_task_overlaps_with_none() -> None:
    overlap = layer_distribution({"any": heads((0, 0))}).overlap()
    assert overlap.columns.tolist() == ["task_a", "task_b", "jaccard"]
    assert overlap.empty


def test_tasks_of_two_models_have_layers_but_no_overlap() -> None:
    both = layer_distribution({"a": heads((0, 0)), "b": heads((4, 0), n_layers=5)})
    assert both.frame().groupby("task")["layer"].max().to_dict() == {"a": 2, "b": 4}
    with pytest.raises(ModelMismatchError, match="3x2 and 5x2"):
        both.overlap()


@pytest.mark.parametrize("other", [heads((0, 1), (0, 0)), heads((0, 0), n_layers=4)])
def test_sets_of_one_task_must_be_of_one_size_and_model(other: HeadSet) -> None:
    with pytest.raises(LofitLensError, match=r"'truth' differ: 1 of 3x2, \d of \dx2"):
        layer_distribution({"truth": [heads((0, 0)), other]})


def test_no_tasks_and_no_heads_are_refused() -> None:
    with pytest.raises(LofitLensError, match="at least one task"):
        layer_distribution({})
    with pytest.raises(LofitLensError, match="no heads for 'truth'"):
        layer_distribution({"truth": []})
    with pytest.raises(LofitLensError, match="no heads for 'truth'"):
        layer_distribution({"truth": heads()})


def test_the_figure_has_a_panel_for_each_task_with_whiskers_from_least_to_most() -> None:
    result = two_tasks()
    figure: Any = result.plot()
    bars, lines = figure.data[::2], figure.data[1::2]
    assert [a.text for a in figure.layout.annotations][:2] == ["truth", "kin"]
    assert {trace.type for trace in bars} == {"bar"}
    assert [bar.yaxis for bar in bars] == ["y", "y2"]
    truth = result.frame().query("task == 'truth'")
    assert bars[0].y == pytest.approx(truth["count"].to_numpy())
    assert bars[0].y + bars[0].error_y.array == pytest.approx(truth["high"].to_numpy())
    assert bars[0].y - bars[0].error_y.arrayminus == pytest.approx(truth["low"].to_numpy())
    assert [bar.error_y.visible for bar in bars] == [True, False]
    assert [list(line.y) for line in lines] == [pytest.approx([2 / 3, 2 / 3])] * 2


def test_the_figure_needs_no_network() -> None:
    assert 'src="http' not in two_tasks().plot().to_html(include_plotlyjs=True)


def test_it_is_shown_by_task_size_and_seeds() -> None:
    assert repr(two_tasks()) == (
        "LayerDistribution(truth 2 of 3x2, seeds: 3; kin 2 of 3x2, seeds: 1)"
    )
    shown = two_tasks()._repr_html_()
    assert "<td>truth</td>" in shown and "<td>0.33</td>" in shown


def test_a_layer_distribution_survives_saving(tmp_path: Path) -> None:
    heads = {"a": [HeadSet([(0, 1), (2, 3)], n_layers=3, n_heads=4)] * 2}
    found = layer_distribution(heads)
    loaded = LayerDistribution.load(found.save(tmp_path / "new" / "layers.json"))
    assert loaded == found
