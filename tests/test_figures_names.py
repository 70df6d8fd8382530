"""Long names, narrow pages, both grounds: what figures show of them, and what stays whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lofit_lens.analysis import published
from lofit_lens.analysis.figures.causal import causal_figure
from lofit_lens.analysis.figures.decode import attention_map, lens_table
from lofit_lens.analysis.figures.forest import forest
from lofit_lens.analysis.figures.layers import layer_bars
from lofit_lens.analysis.figures.overlap import pair_maps, top_k_curves
from lofit_lens.analysis.figures.paper import published_figures
from lofit_lens.analysis.figures.presets import caption_of, for_paper
from lofit_lens.analysis.figures.transfer import transfer_heatmap
from lofit_lens.identity import fingerprint
from lofit_lens.plotting import DARK, SCORES, TEMPLATE, elided, head_grid
from lofit_lens.provenance import Provenance
from lofit_lens.training.history import History
from tests.helpers import draw_edit
from tests.test_comparison import whole
from tests.test_figures_transfer import luminance

LONG = [
    "our_benchmark_of_truthfulness_version_2_english_validated",
    "our_benchmark_of_truthfulness_version_2_german_validated",
    "kinship_relations_with_in_laws_and_step_relations_and_more_generations_of_ancestors_v11",
]
NARROW = 690
"""Pixels of a column of text in the documentation."""


def test_short_names_stay_and_long_ones_keep_their_ends() -> None:
    assert elided(["truthfulqa", "mquake"]) == {"truthfulqa": "truthfulqa", "mquake": "mquake"}
    assert elided([LONG[2]], 21) == {LONG[2]: "kinship_re…estors_v11"}
    assert elided([]) == {}


@pytest.mark.parametrize("letters", [6, 16, 24])
@pytest.mark.parametrize(
    "names",
    [
        LONG,
        [f"{'a' * 60}{i}{'b' * 60}" for i in range(12)],
        [f"{'a' * i}x{'a' * (89 - i)}" for i in range(90)],
        ["x" * 30, "x" * 31, "x" * 30],
    ],
)
def test_names_that_differ_stay_different(names: list[str], letters: int) -> None:
    short = elided(names, letters)
    assert list(short) == list(dict.fromkeys(names))
    assert len(set(short.values())) == len(short)
    assert max(map(len, short.values())) <= letters + len(" (90)")


def test_the_gap_leaves_what_tells_two_names_apart() -> None:
    first, second = list(elided(LONG[:2]).values())
    assert "nglish" in first and "german" in second


def transfer(tasks: list[str]) -> Any:
    rows = product([*tasks, "random"], tasks)
    frame = pd.DataFrame([{"source": s, "task": t, "value": 0.5} for s, t in rows])
    return transfer_heatmap(frame)


def test_figure_2_has_cells_as_wide_as_ever_and_whole_names_in_hover() -> None:
    figure = transfer(LONG)
    layout = figure.layout
    cell = (layout.width - layout.margin.l - layout.margin.r) / len(LONG)
    assert cell >= 76
    assert layout.width <= NARROW
    for axis, names in ((layout.xaxis, LONG), (layout.yaxis, [*LONG, "random"])):
        assert list(axis.tickvals) == names
        assert max(map(len, axis.ticktext)) <= 24
    assert list(figure.data[0].x) == LONG
    assert LONG[2] in figure.data[0].hovertext[2][0]
    assert layout.margin.b > transfer(["a", "b"]).layout.margin.b


def test_figure_6_names_tasks_and_models_in_short_and_tells_them_whole_in_hover() -> None:
    names = dict(zip(published.TASKS, LONG, strict=True))
    frame = published.figure_6().replace(names)
    figure: Any = pair_maps(frame.assign(model=frame["model"] + "-chat" * 10), title="t")
    labels = [*figure.layout.xaxis.ticktext, *figure.layout.yaxis.ticktext]
    titles = [note.text for note in figure.layout.annotations]
    assert max(map(len, labels)) <= 24
    assert max(map(len, titles)) <= 24
    assert set(figure.data[0].x) <= set(figure.data[0].y) == {*LONG, "random"}
    assert any(LONG[1] in text for row in figure.data[0].hovertext for text in row)


def test_lines_of_the_best_heads_are_named_in_short() -> None:
    rows = [
        {"first": a, "second": b, "k": k, "value": 0.5, "low": 0.4, "high": 0.6, "pairs": 1, "chance": 0.1}
        for a, b, k in product(LONG[:1], LONG, (1, 2))
    ]  # fmt: skip
    figure: Any = top_k_curves(pd.DataFrame(rows))
    assert max(len(line.name) for line in figure.data) <= 2 * 16 + 2
    assert LONG[2] in figure.data[2].hovertemplate


def test_the_forest_names_long_tasks_and_methods_in_short() -> None:
    names = {"truthfulqa": LONG[0], "mquake": LONG[1], "iti": LONG[2], "zero-shot": "z" * 40}
    found = whole()
    runs = [
        replace(r, task=names.get(r.task, r.task), method=names.get(r.method, r.method))
        for r in found.runs
    ]
    figure: Any = forest(replace(found, runs=tuple(runs), base="z" * 40))
    titles = [note.text for note in figure.layout.annotations if note.xref == "paper"]
    assert len(set(titles)) == 2
    assert max(map(len, titles)) <= 24 + len("<b></b>, MC1")
    assert max(map(len, figure.layout.yaxis.ticktext)) <= 24
    assert LONG[2] in figure.data[0].y
    assert any(LONG[2] in text for text in figure.data[0].hovertext)
    assert len(figure.layout.title.text) <= len("Methods against ") + 24


def test_layers_name_tasks_by_the_height_of_their_panels() -> None:
    rows = [
        {"task": task, "model": model, "layer": layer, "count": 1, "uniform": 1.0}
        for task, model, layer in product(LONG, ("m" * 60, "n" * 60), range(4))
    ]
    figure: Any = layer_bars(pd.DataFrame(rows))
    titles = [note.text for note in figure.layout.annotations if note.textangle == 90]
    assert len(set(titles)) == 3
    assert max(map(len, titles)) <= 16
    assert f"{LONG[2]}, {'n' * 60}" in figure.data[-1].hovertemplate


def lens(places: int) -> pd.DataFrame:
    tokens = [f"internationalization{i}" for i in range(places)]
    return pd.DataFrame(
        {"layer": 0, "head": 1, "name": "L0H1", "direction": direction, "place": place,
         "token_id": 7, "token": token, "logit": 1.0, "from_mean": 1.0}
        for direction in ("promoted", "suppressed") for place, token in enumerate(tokens, 1)
    )  # fmt: skip


@pytest.mark.parametrize(("places", "beside"), [(3, True), (5, True), (10, False)])
def test_tokens_of_the_lens_fit_their_cells_on_a_narrow_page(places: int, beside: bool) -> None:
    figure: Any = lens_table(lens(places), places=places)
    top, bottom = figure.layout.yaxis.domain, figure.layout.yaxis2.domain
    assert (top == bottom) is beside
    letters = max(len(text) for trace in figure.data for text in np.ravel(trace.text))
    cell = (NARROW - 170) / (2 * places if beside else places)
    assert 0.52 * 11 * letters < cell
    assert figure.data[0].hovertext[0][places - 1] == f"internationalization{places - 1}"


def attention(n: int) -> Any:
    query, key = np.tril_indices(n)
    frame = pd.DataFrame({"name": "L0H1", "query": query, "key": key})
    values = np.linspace(0, 1, len(query))
    frame = frame.assign(before=values, after=values[::-1], change=values[::-1] - values)
    return attention_map(frame, tokens=["internationalization"] * n)


def test_the_bars_and_labels_of_attention_keep_apart() -> None:
    figure = attention(40)
    share, change = figure.layout.coloraxis.colorbar, figure.layout.coloraxis2.colorbar
    assert (share.yanchor, change.yanchor) == ("top", "bottom")
    assert share.y - share.len > change.y + change.len
    across = figure.layout.xaxis.ticktext
    assert len(across) * 3 * 13 <= NARROW - 150
    assert len(figure.layout.yaxis.ticktext) == 40
    assert set(across) == {"intern…ation"}
    assert figure.data[0].text[3][2] == "internationalization ← internationalization"
    assert len(attention(10).layout.xaxis.ticktext) == 10


def test_what_the_causal_panels_show_is_told_in_short_lines() -> None:
    heads = {"curve": "necessity", "heads": "chosen", "k": 1, "metric": "MC1", "value": 0.5}
    rest = {"low": 0.4, "high": 0.6, "n": 9, "draws": 1, "p": np.nan, "mark": ""}
    frame = pd.DataFrame([heads | rest, heads | rest | {"curve": "sufficiency"}])
    told = "edited model, the first K heads as in the unedited one"
    figure: Any = causal_figure(
        frame, {"edited": 0.5}, {"necessity": told, "sufficiency": told}, task=LONG[2]
    )
    lines = [
        line for note in figure.layout.annotations if "<b>" in note.text
        for line in note.text.split("<br>")
    ]  # fmt: skip
    assert max(map(len, lines)) <= 34
    assert " ".join(lines[1:3]) == told
    assert len(figure.layout.title.text) <= len("Heads and their effect on ") + 48


def test_scores_are_told_from_either_ground_at_both_ends() -> None:
    templates: list[Any] = [TEMPLATE, DARK]
    grounds = [template.layout.paper_bgcolor for template in templates]
    for ground in (luminance("#ffffff" if g == "white" else g) for g in grounds):
        for colour in (SCORES[0][1], SCORES[-1][1]):
            low, high = sorted((luminance(colour), ground))
            assert (high + 0.05) / (low + 0.05) >= 1.5
    levels = [luminance(colour) for _, colour in SCORES]
    assert levels == sorted(levels)
    trace: Any = head_grid(np.eye(2), label="score", title="t").data[0]
    assert trace.colorscale == SCORES


def test_a_grid_of_many_layers_is_higher() -> None:
    few, many = (
        head_grid(np.zeros((n, n)), label="", title="").to_dict()["layout"]["height"]
        for n in (12, 40)
    )
    assert few == 450
    assert many >= 40 * 12 + 150


def test_a_learned_edit_is_titled_with_its_task(llama: Any) -> None:
    edit = draw_edit(llama)
    assert edit.plot().layout["title"].text == "Norm of the edit of 4 heads"
    provenance = Provenance(fingerprint(llama), "kinship", "0", {}, History())
    learned = replace(edit, provenance=provenance)
    assert learned.plot().layout["title"].text == "Norm of the edit of 4 heads for kinship"


def test_a_caption_is_title_and_subtitle_as_plain_text() -> None:
    figure = published_figures(["paper-figure2"])["paper-figure2"]
    assert caption_of(figure) == (
        "Cross-task head transfer, accuracy. Accuracy in %; outlined: the task's own heads. "
        "* p < 0.05, + p < 0.1: own heads are better; paired bootstrap, not corrected."
    )
    assert caption_of(for_paper(figure, "wide")) == ""
    marked = head_grid(np.eye(2), label="", title="<b>a</b> &lt; b")
    assert caption_of(marked) == "a < b."


def test_names_below_printed_cells_are_slanted_only_where_they_must() -> None:
    figure: Any = for_paper(published_figures(["paper-figure2"])["paper-figure2"], "wide")
    assert figure.layout.xaxis.tickangle == 0
    assert figure.layout.margin.b < 45
    long: Any = for_paper(transfer(LONG), "text")
    assert long.layout.xaxis.tickangle == 30
    assert long.layout.margin.b > 90
