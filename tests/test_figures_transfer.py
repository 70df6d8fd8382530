"""Figure 2 as data: what `transfer_heatmap` shows of a frame of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from lofit_lens.analysis import published
from lofit_lens.analysis.figures.transfer import UNCORRECTED, transfer_heatmap
from lofit_lens.analysis.kinds.matrix import MARKS
from lofit_lens.errors import LofitLensError
from lofit_lens.plotting import DARK
from tests.test_transfer import matrix


def paper() -> pd.DataFrame:
    frame = published.figure_2()
    return frame.assign(value=frame["value"] / 100)


def views(figure: Any) -> dict[str, list[Any]]:
    """The traces by view, one per facet."""
    found: dict[str, list[Any]] = {}
    for trace in figure.data:
        found.setdefault(trace.name, []).append(trace)
    return found


def texts(heat: Any) -> dict[tuple[str, str], str]:
    """The text of a heat map by row and column."""
    return {
        (row, column): heat.text[y][x]
        for y, row in enumerate(heat.y)
        for x, column in enumerate(heat.x)
    }


def captions(figure: Any) -> str:
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def test_every_published_cell_and_mark_is_shown_in_both_views() -> None:
    facets = views(transfer_heatmap(paper()))
    printed = published.figure_2()
    assert len(printed) == 36
    values = printed.set_index(["model", "source", "task"])["value"]
    for model, relative, absolute in zip(
        published.MODELS, facets["relative"], facets["score"], strict=True
    ):
        for row in printed[printed["model"] == model].to_dict("records"):
            source, task = str(row["source"]), str(row["task"])
            assert texts(absolute)[source, task] == f"{row['value']}{row['mark']}"
            share = 100 * row["value"] / values.loc[model, task, task]
            assert texts(relative)[source, task] == f"{share:.1f}{row['mark']}"
    assert sum(text.endswith(("*", "+")) for f in facets["score"] for text in texts(f).values())


def test_models_are_facets_beside_each_other_with_one_colour_axis_a_view() -> None:
    figure: Any = transfer_heatmap(paper())
    titles = [note.text for note in figure.layout.annotations]
    assert titles == [f"<b>{model}</b>" for model in published.MODELS]
    for view, axis in (("relative", "coloraxis"), ("score", "coloraxis2")):
        assert [trace.coloraxis for trace in views(figure)[view]] == [axis] * 3
        assert [trace.xaxis for trace in views(figure)[view]] == ["x", "x2", "x3"]
    assert len({figure.layout[f"yaxis{place}"].domain for place in ("", 2, 3)}) == 1
    assert [figure.layout[f"yaxis{place}"].showticklabels for place in ("", 2, 3)] == [
        True, False, False
    ]  # fmt: skip


@pytest.mark.parametrize(("models", "rows", "columns"), [(1, 1, 1), (4, 2, 2), (5, 2, 3)])
def test_many_models_are_wrapped(models: int, rows: int, columns: int) -> None:
    one = paper().query("model == 'gemma-7b'")
    figure: Any = transfer_heatmap(pd.concat(one.assign(model=f"m{i}") for i in range(models)))
    axes = [trace.xaxis.replace("x", "xaxis") for trace in views(figure)["relative"]]
    assert len({figure.layout[axis].domain for axis in axes}) == columns
    assert len({figure.layout[axis.replace("x", "y", 1)].domain for axis in axes}) == rows
    labelled = [figure.layout[axis].title.text for axis in axes]
    assert sum(title == "tuned and tested on" for title in labelled) == columns


def test_colours_diverge_around_own_heads_and_rise_with_accuracy() -> None:
    layout: Any = transfer_heatmap(paper()).layout
    relative, absolute = layout.coloraxis, layout.coloraxis2
    assert relative.cmid == 100
    assert relative.cmax - 100 == pytest.approx(100 - relative.cmin)
    assert relative.cmin == pytest.approx(100 * 45.8 / 58.1)
    assert (absolute.cmin, absolute.cmax) == (0, 100)
    assert relative.colorbar.title.text == "% of own heads"
    assert absolute.colorbar.title.text == "accuracy, %"


def test_the_figure_names_the_metric_that_its_values_are_of() -> None:
    one = paper().query("model == 'gemma-7b'")
    metrics = {"truthfulqa": "MC1", "mquake": "EM", "clutrr": "EM"}
    figure: Any = transfer_heatmap(one.assign(metric=one["task"].map(metrics)), relative=False)
    title = figure.layout.title
    assert title.text == "Cross-task head transfer, MC1 / EM"
    assert title.subtitle.text.startswith("MC1 / EM in %; outlined")
    assert figure.layout.coloraxis2.colorbar.title.text == "MC1 / EM, %"


def test_numbers_are_legible_on_the_strongest_colours() -> None:
    layout: Any = transfer_heatmap(paper()).layout
    scales = [*layout.coloraxis.colorscale, *layout.coloraxis2.colorscale]
    for _, colour in scales:  # plotly writes #444 on bright cells; 4.5 is WCAG's AA
        assert (luminance(colour) + 0.05) / (luminance("#444444") + 0.05) >= 4.5


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("relative", [True, False])
def test_the_buttons_switch_traces_titles_and_colour_bars(relative: bool) -> None:
    figure: Any = transfer_heatmap(matrix().frame(zero_shot=True), relative=relative)
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["relative", "score"]
    assert menu.active == (0 if relative else 1)
    shown = menu.buttons[menu.active]
    visible, layout = shown.args
    assert [trace.visible for trace in figure.data] == visible["visible"]
    assert figure.layout.title.text == layout["title.text"]
    assert figure.layout.title.subtitle.text == layout["title.subtitle.text"]
    assert figure.layout.coloraxis.showscale == relative
    assert figure.layout.coloraxis2.showscale == (not relative)
    other = menu.buttons[1 - menu.active].args
    assert other[0]["visible"] == [not trace.visible for trace in figure.data]
    assert other[1]["title.text"] != layout["title.text"]
    assert other[1]["coloraxis.showscale"] != layout["coloraxis.showscale"]
    for name in ("title.text", "title.subtitle.text", "coloraxis.showscale"):
        assert figure.layout.update({name: other[1][name]})  # a path that plotly knows


def test_titles_buttons_and_facet_titles_have_room_of_their_own() -> None:
    for cells in (paper(), matrix().frame(zero_shot=True)):
        layout: Any = transfer_heatmap(cells).layout
        plot = layout.height - layout.margin.t - layout.margin.b
        top = layout.margin.t - (layout.updatemenus[0].y - 1) * plot - 34  # of the buttons
        lines = layout.title.subtitle.text.count("<br>") + 1
        assert top >= 50 + 17 * lines  # a title of 17 px from 24 px on, then the caption
        assert (layout.updatemenus[0].y - 1) * plot >= (32 if layout.annotations else 8) - 1e-6


def test_zero_shot_is_the_bottom_row_of_the_absolute_view_only() -> None:
    (relative,), (absolute,) = views(matrix().plot()).values()
    assert list(relative.y) == ["truth", "kin", "random"]
    assert list(absolute.y) == ["truth", "kin", "random", "zero-shot"]
    assert texts(absolute)["zero-shot", "kin"] == "25.0"
    assert "zero-shot on kin<br>" in absolute.hovertext[3][1]
    assert "zero-shot 25.0" in relative.hovertext[0][0]


def test_cells_that_are_missing_or_nan_are_not_available() -> None:
    cells = paper().query("model == 'gemma-7b'").reset_index(drop=True)
    gone = (cells["source"] == "clutrr") & (cells["task"] == "mquake")
    for some in (cells[~gone], cells.assign(value=cells["value"].mask(gone))):
        for heat in transfer_heatmap(some).data:
            found: Any = heat
            assert texts(found)["clutrr", "mquake"] == "n/a"
            assert np.isnan(found.z[2][1])
            assert found.hovertext[2][1].endswith("no run")
            assert list(texts(found).values()).count("n/a") == 1


def test_without_own_heads_nothing_is_relative() -> None:
    cells = pd.DataFrame({"source": ["random"], "task": ["a"], "value": [0.5]})
    (relative,), (absolute,) = views(transfer_heatmap(cells)).values()
    assert (texts(relative), texts(absolute)) == (
        {("random", "a"): "n/a"},
        {("random", "a"): "50.0"},
    )
    assert transfer_heatmap(cells).layout["shapes"] == ()


def test_the_caption_tells_which_test_the_marks_come_from() -> None:
    own, theirs = matrix().frame(zero_shot=True), paper()
    assert MARKS in captions(transfer_heatmap(own))
    assert "Holm-corrected" in MARKS and "paired bootstrap" in MARKS
    assert UNCORRECTED in captions(transfer_heatmap(theirs))
    both = pd.concat([own.assign(model="mine"), theirs])
    text = captions(transfer_heatmap(both))
    assert text.endswith("off the diagonal; not corrected: gemma-7b, llama2-7b, llama2-13b")
    assert "p <" not in captions(transfer_heatmap(theirs.drop(columns="mark")))


def test_own_results_and_the_papers_stand_side_by_side_each_with_its_tasks() -> None:
    own = matrix().frame(zero_shot=True).assign(model="mine")
    figure = transfer_heatmap(pd.concat([own, paper()]))
    first, second, *_ = views(figure)["relative"]
    assert (list(first.x), list(second.x)) == (["truth", "kin"], list(published.TASKS))
    layout: Any = figure.layout
    assert layout.yaxis2.showticklabels
    own_alone = views(transfer_heatmap(own))["relative"][0]
    assert texts(first) == texts(own_alone)


def test_a_table_read_from_a_file_is_drawn_the_same(tmp_path: Any) -> None:
    cells = matrix().frame(zero_shot=True)
    cells.to_csv(tmp_path / "table.csv", index=False)
    again = transfer_heatmap(pd.read_csv(tmp_path / "table.csv"))
    for found, expected in zip(again.data, transfer_heatmap(cells).data, strict=True):
        one: Any = found
        other: Any = expected
        assert np.ravel(one.text).tolist() == np.ravel(other.text).tolist()
        assert np.ravel(one.hovertext).tolist() == np.ravel(other.hovertext).tolist()


def test_hover_texts_of_a_bare_frame_say_what_is_known() -> None:
    heat = views(transfer_heatmap(paper()))["relative"][1]
    assert heat.hovertext[1][0] == (
        "heads from mquake, tuned on truthfulqa<br>78.8% of own heads<br>accuracy 45.8"
    )
    one = paper().query("model == 'gemma-7b'").assign(p=0.03, n=408, metric="EM")
    hover = views(transfer_heatmap(one))["score"][0].hovertext[1][0]
    assert hover.endswith("<br>EM 54.7<br>n = 408<br>p = 0.03")


def test_the_figure_names_no_colour_that_only_one_ground_bears() -> None:
    figure: Any = transfer_heatmap(paper())
    assert figure.layout.template.layout.paper_bgcolor == "white"
    figure.update_layout(template=DARK)
    assert figure.layout.paper_bgcolor is None
    assert figure.layout.font.color is None
    assert all(trace.textfont.color is None for trace in figure.data)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (paper().assign(value=published.figure_2()["value"]), "got 60.5. Divide percent by 100"),
        (paper().drop(columns=["task", "value"]), "the frame lacks task, value"),
        (paper().iloc[:0], "the frame is empty"),
        (paper().drop(columns="model"), "'truthfulqa' on 'truthfulqa' comes twice.*`model`"),
    ],
)
def test_frames_that_cannot_be_drawn_are_refused(cells: pd.DataFrame, message: str) -> None:
    with pytest.raises(LofitLensError, match=message):
        transfer_heatmap(cells)
