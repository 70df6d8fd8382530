from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.analysis.inside import explorer as package
from lofit_lens.analysis.inside.explorer import widget
from lofit_lens.analysis.inside.explorer.cards import HeadCards
from lofit_lens.analysis.inside.explorer.still import still_map
from lofit_lens.analysis.inside.explorer.widget import HeadExplorer, explore
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import Head
from tests.helpers import N_HEADS, N_LAYERS, draw_edit
from tests.test_cards import SENTENCE, Page, draw_scores

pytest.importorskip("anywidget", reason="the explorer's widgets need the extra `notebooks`")
pytest.importorskip("ipywidgets", reason="the explorer's widgets need the extra `notebooks`")

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def explorer(llama: TransformerBridge) -> HeadExplorer:
    edits = {"a": draw_edit(llama), "b": draw_edit(llama, heads=((1, 2),), seed=1)}
    scores = {name: {s: draw_scores(seed + s) for s in (1, 2)} for seed, name in enumerate("ab")}
    return explore(llama, edits, scores, text=SENTENCE, k=2)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The heads, tasks and texts whose attention is computed."""
    found: list[tuple[Any, ...]] = []
    plain: Callable[..., Any] = widget.measure_attention

    def record(model: Any, edit: Any, heads: Any, *, name: str, text: str) -> Any:
        found.append((*heads, name, text))
        return plain(model, edit, heads, name=name, text=text)

    monkeypatch.setattr(widget, "measure_attention", record)
    return found


@pytest.fixture(params=["anywidget", "ipywidgets"])
def without_widgets(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package of the extra were not installed."""
    monkeypatch.setitem(sys.modules, request.param, None)
    for name in ("plotly.basewidget", "plotly.graph_objs._figurewidget"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delitem(sys.modules, "lofit_lens.analysis.inside.explorer.panel", raising=False)


def click(figure: Any, head: Head) -> None:
    """The message that the browser sends for a click on a cell."""
    figure._js2py_pointsCallback = {
        "event_type": "plotly_click",
        "points": {
            "trace_indexes": [0],
            "point_indexes": [list(head)],
            "xs": [head.head],
            "ys": [head.layer],
        },
        "device_state": {
            "alt": False, "ctrl": False, "meta": False, "shift": False, "button": 0, "buttons": 1,
        },
        "selector": None,
    }  # fmt: skip


def title(panel: Any) -> str:
    """The heading of the card that is shown."""
    words = Page(panel.card.value).words
    return next(word for word in words if word.startswith("L") and "H" in word)


def test_the_best_edited_head_of_the_first_task_is_shown_first(explorer: HeadExplorer) -> None:
    assert title(explorer.panel) == "L0H3"
    assert explorer.panel.task.options == ("a", "b")
    assert Page(explorer.panel.card.value).tags.count("section") == 1


def test_a_click_shows_the_card_of_any_head(
    explorer: HeadExplorer, measured: list[tuple[Any, ...]]
) -> None:
    panel = explorer.panel
    click(panel.figure, Head(1, 1))
    assert title(panel) == "L1H1" and panel.head.value == Head(1, 1)
    assert "No saved edit changes this head." in panel.card.value
    assert "for a, percent" in panel.card.value
    assert measured == [(Head(1, 1), "a", SENTENCE)]
    chosen = panel.figure.layout.shapes[-1]
    assert (chosen.x0, chosen.x1, chosen.y0, chosen.y1) == (0.5, 1.5, 0.5, 1.5)
    click(panel.figure, Head(2, 2))
    click(panel.figure, Head(1, 1))
    assert len(measured) == 1, "edited heads come with the cards, others are computed once"


def test_every_head_can_be_chosen_from_the_list(explorer: HeadExplorer) -> None:
    names, heads = zip(*explorer.panel.head.options, strict=True)
    assert len(set(heads)) == N_LAYERS * N_HEADS
    assert names[:5] == tuple(
        f"L{x}H{y} (edited)" for x, y in ((0, 3), (2, 1), (0, 0), (2, 2), (1, 2))
    )
    explorer.panel.head.value = Head(2, 3)
    assert title(explorer.panel) == "L2H3"


def test_another_task_changes_the_map_and_the_attention(explorer: HeadExplorer) -> None:
    panel = explorer.panel
    click(panel.figure, Head(2, 1))
    before = panel.card.value
    panel.task.value = "b"
    expected: Any = explorer.cards.plot("b")
    for name in ("z", "text", "customdata"):
        shown, wanted = (np.array(f.data[0][name]).tolist() for f in (panel.figure, expected))
        assert shown == wanted
    assert panel.figure.layout.title.text == "Heads for b"
    assert len(panel.figure.layout.shapes) == 2
    assert title(panel) == "L2H1" and panel.card.value != before
    assert "for b, percent" in panel.card.value


def test_another_text_is_computed_for_the_chosen_head_only(
    explorer: HeadExplorer, measured: list[tuple[Any, ...]]
) -> None:
    panel = explorer.panel
    panel.text.value = "A grey cat."
    assert measured == [(Head(0, 3), "a", "A grey cat.")]
    assert "·grey" in panel.card.value
    panel.text.value = ""
    assert "Attention" not in panel.card.value and len(measured) == 1


def test_what_is_wrong_with_a_text_is_said_above_the_card(explorer: HeadExplorer) -> None:
    panel = explorer.panel
    panel.text.value = " <b>" * 60
    assert 'role="alert"' in panel.card.value and "exceeds the model" in panel.card.value
    assert title(panel) == "L0H3" and "<b>" not in panel.card.value
    panel.text.value = " cat" * 70
    assert "at most 64 tokens" in panel.card.value and "Attention" not in panel.card.value
    panel.text.value = "A cat."
    assert 'role="alert"' not in panel.card.value and "for a, percent" in panel.card.value


def test_the_attention_of_an_unedited_head_is_that_with_the_edit_of_the_task(
    explorer: HeadExplorer,
) -> None:
    (low,) = explorer.card((1, 0), task="b").attention
    (high,) = explorer.card((2, 0), task="b").attention
    assert low.before == low.after and high.before != high.after
    assert explorer.card((2, 0), text="").attention == ()
    assert explorer.card((2, 1)) == explorer.cards.card((2, 1))
    with pytest.raises(LofitLensError, match="no task 'c'"):
        explorer.card((2, 0), task="c")


def test_a_task_without_an_edit_borrows_the_first(llama: TransformerBridge) -> None:
    scores = {"a": draw_scores(), "z": draw_scores(1)}
    found = explore(llama, {"a": draw_edit(llama)}, scores, text=SENTENCE)
    (attention,) = found.card((2, 0), task="z").attention
    assert attention.task == "a"


def test_jupyter_gets_the_widgets_and_what_to_show_without_a_kernel(
    explorer: HeadExplorer,
) -> None:
    bundle = explorer._repr_mimebundle_()
    assert bundle[VIEW]["model_id"] == explorer.panel.root.model_id
    assert bundle["text/html"] == explorer._repr_html_()
    assert bundle["text/plain"] == repr(explorer)
    assert repr(explorer).startswith("HeadExplorer(HeadCards(llama, 3x4; a, b; edited: L0H3")


@pytest.mark.usefixtures("without_widgets")
def test_without_the_widgets_there_are_figure_and_cards(explorer: HeadExplorer) -> None:
    with pytest.raises(LofitLensError, match=r"pip install 'lofit-lens\[notebooks\]'"):
        _ = explorer.panel
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    page = Page(bundle["text/html"])
    assert page.tags.count("svg") == 1 and page.tags.count("section") == 5
    assert page.tags.count("rect") == N_LAYERS * N_HEADS
    assert "script" not in page.tags
    assert type(explorer.figure) is go.Figure
    assert explorer.card((2, 0)).attention


def test_the_still_map_says_what_it_shows_and_marks_the_edited_heads(
    explorer: HeadExplorer,
) -> None:
    still = still_map(explorer.cards, "b")
    page = Page(still)
    assert page.words.count("◆") == 1
    assert 'role="img" aria-label="score of every head for b' in still and "edited: L1H2" in still
    score = float(explorer.cards.mean_scores("b")[2, 3])
    assert f"L2H3: score {score:.4g}" in page.words


def test_equal_scores_have_a_map(llama: TransformerBridge) -> None:
    flat = HeadScores(torch.ones(N_LAYERS, N_HEADS))
    found = explore(llama, draw_edit(llama), flat)
    assert Page(still_map(found.cards)).tags.count("rect") == N_LAYERS * N_HEADS
    assert found.panel.text.value == "" and "Attention" not in found.panel.card.value


def test_cards_of_an_explorer_can_be_saved(explorer: HeadExplorer, tmp_path: Path) -> None:
    assert HeadCards.load(explorer.cards.save(tmp_path / "cards.json")) == explorer.cards


def test_only_the_panel_imports_anything_of_the_extra() -> None:
    heavy = {"plotly", "pandas", "ipywidgets", "anywidget", "IPython", "matplotlib"}
    for path in Path(package.__path__[0]).glob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        names = {node.module for node in body if isinstance(node, ast.ImportFrom) and node.module}
        names |= {a.name for node in body if isinstance(node, ast.Import) for a in node.names}
        found = heavy & {name.split(".")[0] for name in names}
        assert found == ({"plotly", "ipywidgets"} if path.name == "panel.py" else set())
