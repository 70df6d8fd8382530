from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.io as pio
import pytest

from lofit_lens.analysis import published
from lofit_lens.analysis.figures.grids import head_grid_with_margins
from lofit_lens.analysis.figures.layers import layer_bars
from lofit_lens.analysis.inside.layers import (
    LayerDistribution,
    layer_distribution,
    published_layers,
)
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.heads import HeadSet
from lofit_lens.plotting import TEMPLATE
from lofit_lens.training import paper_heads


def heads(*pairs: tuple[int, int], n_layers: int = 3, n_heads: int = 2) -> HeadSet:
    return HeadSet(pairs, n_layers=n_layers, n_heads=n_heads)


def two_tasks() -> LayerDistribution:
    return layer_distribution(
        {
            "truth": [heads((0, 0), (0, 1)), heads((0, 0), (2, 1)), heads((0, 0), (2, 0))],
            "kin": heads((2, 0), (2, 1)),
        }
    )


def traces(figure: Any) -> Any:
    return figure.data


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


def test_each_chosen_head_says_how_many_seeds_chose_it() -> None:
    chosen = two_tasks().chosen()
    assert chosen["name"].tolist() == ["L0H0", "L0H1", "L2H0", "L2H1", "L2H0", "L2H1"]
    assert chosen["times"].tolist() == [3, 1, 1, 1, 1, 1]
    assert chosen["seeds"].tolist() == [3, 3, 3, 3, 1, 1]


def test_tasks_of_two_models_have_layers_but_no_common_grid() -> None:
    both = layer_distribution({"a": heads((0, 0)), "b": heads((4, 0), n_layers=5)})
    assert both.frame().groupby("task")["layer"].max().to_dict() == {"a": 2, "b": 4}
    with pytest.raises(ModelMismatchError, match="a 3x2, b 5x2"):
        both.plot_overlap()


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


def test_relative_depth_puts_the_first_layer_at_0_and_the_last_at_1() -> None:
    bars = traces(two_tasks().plot(relative_depth=True))[::2]
    assert [bar.x.tolist() for bar in bars] == [[0, 0.5, 1]] * 2


def test_the_bars_of_the_papers_nine_panels_add_up_to_its_number_of_heads() -> None:
    figure: Any = layer_bars(published_layers())
    bars, lines = figure.data[::2], figure.data[1::2]
    ks = [paper_heads(model) for model in published.MODELS]
    assert [bar.y.sum() for bar in bars] == ks * 3
    assert [len(bar.x) for bar in bars] == [28, 32, 40] * 3
    assert [line.y[0] for line in lines] == pytest.approx([16 / 28, 1, 48 / 40] * 3)
    titles = {annotation.text for annotation in figure.layout.annotations}
    assert titles >= {*published.MODELS, *published.TASKS}
    gemma_mquake = bars[3]
    assert dict(zip(gemma_mquake.x.tolist(), gemma_mquake.y.tolist(), strict=True))[9] == 6


def test_published_layers_have_every_count_of_figure_3() -> None:
    keys = ["model", "task", "layer"]
    dense = published_layers().set_index(keys)["count"]
    printed = published.figure_3().set_index(keys)["heads"]
    assert (dense[printed.index] == printed).all()
    assert dense.sum() == printed.sum() == 3 * (16 + 32 + 48)


def test_models_stand_side_by_side_in_columns() -> None:
    deep = layer_distribution({"truth": heads((4, 0), n_layers=5)})
    frame = pd.concat(
        [two_tasks().frame().assign(model="small"), deep.frame().assign(model="deep")]
    )
    figure: Any = layer_bars(frame, relative_depth=True)
    assert [bar.x.tolist() for bar in figure.data[::2]] == [
        [0, 0.5, 1], [0, 0.25, 0.5, 0.75, 1], [0, 0.5, 1]
    ]  # fmt: skip
    assert [bar.xaxis for bar in figure.data[::2]] == ["x", "x2", "x3"]


def test_frames_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(LofitLensError, match=r"lacks 'count', 'uniform'; it has model, task"):
        layer_bars(published.figure_3())
    frame = two_tasks().frame()
    with pytest.raises(LofitLensError, match=r"twice for one task.*'model'"):
        layer_bars(pd.concat([frame, frame]))


def test_the_grid_of_a_task_counts_seeds_and_its_margins_are_sums() -> None:
    by_head, by_layer, grid = traces(two_tasks().plot_grid("truth"))
    assert np.nan_to_num(np.asarray(grid.z, dtype=float)).tolist() == [[3, 1], [0, 0], [1, 1]]
    assert np.isnan(grid.z[1]).all()
    assert by_head.y.tolist() == [4, 2]
    assert by_layer.x.tolist() == [4, 0, 2]
    assert grid.customdata[2][1] == "L2H1"
    with pytest.raises(LofitLensError, match="no heads for 'mine'; the tasks are truth, kin"):
        two_tasks().plot_grid("mine")


def test_a_grid_of_scores_keeps_empty_cells_and_shows_its_scale() -> None:
    values = np.array([[0.5, np.nan], [0.25, 1.0]])
    by_head, by_layer, grid = traces(head_grid_with_margins(values, label="score", title="t"))
    assert by_head.y.tolist() == [0.75, 1.0]
    assert by_layer.x.tolist() == [0.5, 1.25]
    assert grid.showscale is True and grid.texttemplate is None


def test_the_grid_of_all_tasks_tells_by_colour_and_letter_who_chose_a_head() -> None:
    figure: Any = two_tasks().plot_overlap()
    one, two = figure.data
    assert (one.name, two.name) == ("1 task: 2", "2 tasks: 2")
    assert np.asarray(one.text).tolist() == [["T", "T"], ["", ""], ["", ""]]
    assert np.asarray(two.text).tolist() == [["", ""], ["", ""], ["TK", "TK"]]
    assert (~np.isnan(two.z)).tolist() == [[False] * 2, [False] * 2, [True] * 2]
    assert two.hovertext[2][1] == "L2H1<br>truth: 1 of 3 seeds<br>kin"
    assert figure.layout.title.subtitle.text == "<b>T</b> truth, <b>K</b> kin"


def test_tasks_with_one_initial_are_lettered_in_order() -> None:
    chosen = layer_distribution({"math": heads((0, 0)), "mquake": heads((0, 0))})
    assert traces(chosen.plot_overlap())[0].text[0][0] == "AB"


def test_figures_name_no_ground_and_change_no_template_of_plotly() -> None:
    before = pio.templates.default
    found = two_tasks()
    figures: list[Any] = [found.plot(), found.plot_grid("kin"), found.plot_overlap()]
    ground = TEMPLATE.to_plotly_json()["layout"]["paper_bgcolor"]
    for figure in figures:
        assert figure.layout.template.layout.paper_bgcolor == ground
        assert figure.layout.paper_bgcolor is None and figure.layout.plot_bgcolor is None
    assert pio.templates.default == before


def test_it_is_shown_by_task_size_and_seeds() -> None:
    assert repr(two_tasks()) == (
        "LayerDistribution(truth 2 of 3x2, seeds: 3; kin 2 of 3x2, seeds: 1)"
    )
    shown = two_tasks()._repr_html_()
    assert "<th>truth</th>" in shown and "<td>0.667</td>" in shown


def test_a_layer_distribution_survives_saving(tmp_path: Path) -> None:
    heads = {"a": [HeadSet([(0, 1), (2, 3)], n_layers=3, n_heads=4)] * 2}
    found = layer_distribution(heads)
    loaded = LayerDistribution.load(found.save(tmp_path / "new" / "layers.json"))
    assert loaded == found
