"""The paper's figures drawn from its numbers, and figures at their size in print."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from lofit_lens.analysis import published as paper
from lofit_lens.analysis.figures.paper import DRAWINGS, published_figures
from lofit_lens.analysis.figures.presets import for_paper
from lofit_lens.errors import LofitLensError
from lofit_lens.plotting import DARK, TEMPLATE, head_grid

POINTS = 72 / 96
"""Of a pixel."""


def drawn(name: str) -> Any:
    return published_figures([name])[name]


def curves(
    frame: pd.DataFrame, keys: list[str], *, x: str, y: str = "value"
) -> dict[tuple[str, str], dict[int, float]]:
    """The numbers of y by x, for each curve or panel."""
    found: dict[Any, dict[int, float]] = {}
    for row in frame.to_dict("records"):
        found.setdefault(tuple(row[key] for key in keys), {})[row[x]] = row[y]
    return found


def panel_of(figure: Any, trace: Any) -> tuple[str, str]:
    """The titles that stand over, and at the right of, the panel of a trace."""
    middle = [
        np.mean(figure.layout[letter + "axis" + (trace[letter + "axis"] or letter)[1:]].domain)
        for letter in "xy"
    ]
    notes = figure.layout.annotations
    over = [n for n in notes if np.isclose(n.x, middle[0]) and n.yanchor == "bottom"]
    beside = [n for n in notes if np.isclose(n.y, middle[1]) and n.textangle == 90]
    return title_of(over), title_of(beside)


def title_of(notes: list[Any]) -> str:
    return notes[0].text.replace("<b>", "").replace("</b>", "") if notes else ""


def cells(trace: Any) -> Iterator[tuple[str, str, str, float]]:
    """Row, column, text and number of each cell."""
    for (i, row), (j, column) in product(enumerate(trace.y), enumerate(trace.x)):
        yield row, column, trace.text[i][j], float(trace.z[i][j])


def test_figure_2_shows_every_published_cell_and_mark() -> None:
    figure = drawn("paper-figure2")
    found = {}
    for trace in figure.data:
        if trace.visible is not False:
            model, _ = panel_of(figure, trace)
            found |= {(model, row, column): text for row, column, text, _ in cells(trace)}
    assert found == {
        (row.model, row.source, row.task): f"{row.value}{row.mark}"
        for row in paper.figure_2().itertuples()
    }
    assert len(found) == 3 * 4 * 3


def test_figure_2_has_the_accuracy_relative_to_own_heads_behind_its_switch() -> None:
    figure = drawn("paper-figure2")
    hidden = [trace for trace in figure.data if trace.visible is False]
    assert len(hidden) == 3
    printed = paper.figure_2().set_index(["model", "source", "task"])["value"]
    for trace in hidden:
        model = panel_of(figure, trace)[0]
        for source, task, _, number in cells(trace):
            own, value = (printed[model, s, task] for s in (task, source))
            assert number == pytest.approx(100 * value / own)


def test_the_bars_of_figure_3_sum_to_the_number_of_heads_in_all_nine_panels() -> None:
    figure = drawn("paper-figure3")
    found = {}
    for trace in figure.data:
        if trace.type == "bar":
            model, task = panel_of(figure, trace)
            counts = zip(trace.x, trace.y, strict=True)
            found[model, task] = {int(layer): int(n) for layer, n in counts if n}
    assert found == curves(paper.figure_3(), ["model", "task"], x="layer", y="heads")
    sums = {panel: sum(layers.values()) for panel, layers in found.items()}
    known = {"gemma-7b": 16, "llama2-7b": 32, "llama2-13b": 48}
    assert sums == {(model, task): known[model] for model, task in product(known, paper.TASKS)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("paper-figure4", curves(paper.figure_4(), ["task", "method"], x="examples")),
        ("paper-figure5", curves(paper.figure_5(), ["task", "model"], x="percent")),
    ],
)
def test_figures_4_and_5_have_a_line_for_every_published_curve(
    name: str, expected: dict[tuple[str, str], dict[int, float]]
) -> None:
    figure = drawn(name)
    found = {
        (panel_of(figure, trace)[0], trace.name): dict(zip(trace.x, trace.y, strict=True))
        for trace in figure.data
    }
    assert found == expected


def test_figure_6_shows_every_published_pair() -> None:
    figure = drawn("paper-figure6")
    titles = {"overlap": "share of heads in common", "layer distance": "distance in layers"}
    found = {}
    for trace in figure.data:
        column, model = panel_of(figure, trace)
        for second, first, text, number in cells(trace):
            if text:
                found[model, column, first, second] = number
                assert text == f"{number:.2f}"
    assert found == {
        (row.model, titles[str(row.measure)], row.first, row.second): row.value
        for row in paper.figure_6().itertuples()
    }


def test_table_2_has_a_dot_for_every_published_number() -> None:
    table = paper.table_2()
    for model in paper.MODELS:
        figure = drawn(f"paper-table2-{model}")
        found = sorted(round(float(x), 1) for t in figure.data if t.mode != "lines" for x in t.x)
        assert found == sorted(table.loc[table["model"] == model, "value"])


def test_a_figure_that_the_paper_does_not_have_is_told_with_those_it_has() -> None:
    with pytest.raises(LofitLensError, match=r"no figure paper-figure7 .*paper-figure2, paper-fig"):
        published_figures(["paper-figure7"])


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_type_of_every_published_figure_is_8_to_9_points_in_print(name: str) -> None:
    figure = drawn(name)
    before = figure.to_json()
    printed: Any = for_paper(figure, "wide")
    assert figure.to_json() == before
    sizes = list(font_sizes(printed.to_plotly_json()))
    assert len(sizes) > 2
    assert all(8 <= POINTS * size <= 9 for size in sizes)
    assert printed.layout.width == 6.75 * 96
    assert not printed.layout.updatemenus
    assert printed.layout.title.text is None


def font_sizes(part: Any, name: str = "") -> Iterator[float]:
    if isinstance(part, dict):
        if name.endswith("font") and "size" in part:
            yield part["size"]
        for key, value in part.items():
            if key != "template":
                yield from font_sizes(value, key)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from font_sizes(value, name)


@pytest.mark.parametrize(
    ("width", "inches"), [("column", 3.25), ("text", 5.5), ("wide", 6.75), (4.0, 4.0), ("4.5", 4.5)]
)
def test_a_width_has_a_name_or_is_in_inches(width: str | float, inches: float) -> None:
    printed: Any = for_paper(head_grid(np.eye(4), label="score", title="Scores"), width)
    assert printed.layout.width == pytest.approx(96 * inches)
    assert printed.layout.template == TEMPLATE


@pytest.mark.parametrize("width", ["broad", 0.5, -3.0, float("nan"), float("inf"), ""])
def test_another_width_is_refused(width: str | float) -> None:
    with pytest.raises(LofitLensError, match=r"column, text, wide or a number of inches"):
        for_paper(go.Figure(), width)


def test_a_title_is_kept_on_request_with_room_for_all_its_lines() -> None:
    figure = head_grid(np.eye(4), label="score", title="Scores")
    figure.update_layout(title={"subtitle": {"text": "one<br>two"}})
    bare: Any = for_paper(figure)
    kept: Any = for_paper(figure, title=True)
    assert kept.layout.title.text == "Scores"
    assert kept.layout.height - bare.layout.height >= 3 * 12
    assert kept.layout.margin.t - bare.layout.margin.t >= 3 * 12


@pytest.mark.parametrize("name", ["paper-figure2", "paper-table2-gemma-7b"])
def test_cells_and_panels_that_are_too_narrow_are_refused_with_the_width_they_need(
    name: str,
) -> None:
    figure = drawn(name)
    with pytest.raises(LofitLensError, match=r"It needs about [345]\.?\d? inches") as told:
        for_paper(figure, "column")
    needed = float(str(told.value).split()[-2])
    for_paper(figure, needed + 0.1)


def test_what_the_buttons_showed_is_what_is_printed() -> None:
    figure = drawn("paper-figure2")
    printed: Any = for_paper(figure)
    assert [t.visible for t in printed.data] == [t.visible for t in figure.data]
    assert printed.layout.coloraxis.showscale == figure.layout.coloraxis.showscale


def test_a_dark_figure_is_printed_on_white_with_thinner_lines() -> None:
    figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], line={"width": 4}, marker={"size": 10}))
    figure.update_layout(template=DARK)
    printed: Any = for_paper(figure)
    assert printed.layout.template == TEMPLATE
    assert printed.data[0].line.width < 4
    assert printed.data[0].marker.size < 10


def test_ticks_at_a_fixed_distance_are_thinned_until_their_labels_fit() -> None:
    wide: Any = head_grid(np.zeros((8, 32)), label="score", title="")
    assert wide.layout.xaxis.dtick == 2
    printed: Any = for_paper(wide, "column")
    step = printed.layout.xaxis.dtick
    assert step % 2 == 0
    labels = 31 // step + 1
    plots = 312 - 90  # less than this is left beside the colour bar and the layers
    assert 2 < labels * 2.5 * 0.5 * 11 < plots
    assert printed.layout.yaxis.dtick == 1


def test_annotations_outside_of_the_plots_get_a_margin() -> None:
    figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1]))
    figure.add_annotation(
        text="a long note", x=1, xref="paper", xanchor="left", y=0.5, yref="paper"
    )
    figure.add_annotation(
        text="two<br>lines", x=0.5, xref="paper", y=1, yref="y domain", yanchor="bottom"
    )
    figure.add_annotation(text="at data", x=0.5, y=9)
    plain: Any = for_paper(go.Figure(figure.data))
    noted: Any = for_paper(figure)
    assert noted.layout.margin.r - plain.layout.margin.r > 11 * 4
    assert noted.layout.margin.t - plain.layout.margin.t > 2 * 10
    assert noted.layout.margin.l == plain.layout.margin.l


def test_titles_wider_than_their_panel_are_broken_at_blanks() -> None:
    figure = make_subplots(cols=2, subplot_titles=["<b>all heads but the first give</b> it", "b"])
    printed: Any = for_paper(figure, 2.0)
    long, short = printed.layout.annotations
    assert long.text.count("<br>") >= 1
    assert long.text.replace("<br>", " ") == "<b>all heads but the first give</b> it"
    assert short.text == "b"
    wide: Any = for_paper(figure, 9.0)
    assert "<br>" not in wide.layout.annotations[0].text
    assert printed.layout.margin.t > wide.layout.margin.t
