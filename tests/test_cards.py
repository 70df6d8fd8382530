from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.analysis.inside.decode.directions import compare_directions
from lofit_lens.analysis.inside.explorer.card import (
    Cosines,
    HeadAttention,
    HeadCard,
    HeadEdit,
    HeadScore,
    TaskScores,
)
from lofit_lens.analysis.inside.explorer.card_html import CARD_CSS, card_html
from lofit_lens.analysis.inside.explorer.cards import HeadCards, head_cards
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import Head
from lofit_lens.provenance import learned_on
from lofit_lens.tasks import Example, MultipleChoice, Task
from tests.helpers import (
    N_HEADS,
    N_LAYERS,
    SOME_HEADS,
    TEXT,
    draw_edit,
    edited_plain,
    load_plain,
    plain_projections,
    type_checks_off,
)

SENTENCE = "Q: Who lives in the old house?\nA:"


def draw_scores(seed: int = 0, layers: int = N_LAYERS) -> HeadScores:
    generator = torch.Generator().manual_seed(seed)
    return HeadScores(torch.rand(layers, N_HEADS, generator=generator))


def a_task(name: str = "colours") -> Task:
    examples = tuple(
        Example(str(i), f"{text} Is it", (" grey",), (" red", " blue"))
        for i, text in enumerate(TEXT)
    )
    return Task(name, examples, examples, examples, examples, "choice", MultipleChoice())


def some_cards(**changes: Any) -> HeadCards:
    """Cards of two layers of two heads, made by hand."""
    rows = ((1.0,), (0.25, 0.75))
    fields: dict[str, Any] = {
        "model": "tiny",
        "n_layers": 2,
        "n_heads": 2,
        "scores": (
            TaskScores("truth", 1, ((0.5, 2.0), (1.0, 0.0))),
            TaskScores("truth", 2, ((1.5, 4.0), (0.0, 1.0))),
            TaskScores("kin", None, ((0.0, 0.0), (3.0, 0.0))),
        ),
        "edits": (
            HeadEdit(Head(0, 1), "truth", 2.0, 0.5, (("·a", 1.5),), (("b", -2.0),)),
            HeadEdit(Head(1, 0), "truth", 1.0, 0.0, cosines=Cosines(0.5, -0.25, 0.6)),
            HeadEdit(Head(1, 0), "other", 3.0, 0.0),
        ),
        "attention": (HeadAttention(Head(0, 1), "truth", ("<s>", "x"), rows, rows),),
        "text": "x",
    }
    return HeadCards(**fields | changes)


class Page(HTMLParser):
    """What a browser would make of a fragment: text, tags, and whether they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(data.strip())


def test_ranks_are_those_of_scipy_with_ties_to_the_lower_head() -> None:
    scores = draw_scores().scores
    scores[1] = scores[0]
    table = TaskScores("any", 0, tuple(map(tuple, scores.double().tolist())))
    assert table.ranks.ravel() == pytest.approx(rankdata(-scores.ravel(), method="ordinal"))
    frame = HeadScores(scores).frame()
    for layer, head, rank in zip(frame["layer"], frame["head"], frame["rank"], strict=True):
        assert table.ranks[layer, head] == rank


def test_a_card_has_scores_and_ranks_by_task_and_seed() -> None:
    card = some_cards().card((0, 1))
    assert card.scores == (
        HeadScore("truth", 1, 2.0, 1, 4),
        HeadScore("truth", 2, 4.0, 1, 4),
        HeadScore("kin", None, 0.0, 3, 4),
    )
    assert [edit.task for edit in card.edits] == ["truth"]
    assert [edit.task for edit in some_cards().card((1, 0)).edits] == ["truth", "other"]
    assert some_cards().card((0, 0)).edits == some_cards().card((0, 0)).attention == ()


def test_the_frame_has_every_head_by_task_and_seed_with_the_offset_norm() -> None:
    frame = some_cards().frame()
    assert len(frame) == 3 * 4 + 1
    assert " ".join(frame.columns) == "layer head name task seed score rank offset_norm"
    row = frame.query("name == 'L0H1' and task == 'truth' and seed == 2").iloc[0]
    assert (row["score"], row["rank"], row["offset_norm"]) == (4.0, 1, 2.0)
    assert frame.query("task == 'kin'")["offset_norm"].isna().all()
    assert frame.query("task == 'kin'")["seed"].isna().all()
    (unscored,) = frame.query("task == 'other'").to_dict("records")
    assert (unscored["name"], unscored["offset_norm"]) == ("L1H0", 3.0)
    assert np.isnan(unscored["score"])


def test_cards_without_any_scores_have_their_offsets() -> None:
    cards = some_cards(scores=())
    assert cards.tasks == ("truth", "other")
    assert cards.frame()["offset_norm"].tolist() == [2.0, 1.0, 3.0]
    assert cards.frame()[["seed", "score", "rank"]].isna().all(axis=None)
    heat: Any = cards.plot().data[0]
    assert np.nansum(np.array(heat.z, dtype=float)) == 3.0


def test_cards_survive_saving(tmp_path: Path) -> None:
    cards = some_cards()
    assert HeadCards.load(cards.save(tmp_path / "new" / "cards.json")) == cards


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("scores",), None),
        (("scores", 0, "scores"), [[1.0, 2.0]]),
        (("scores", 0, "scores"), [[1.0, 2.0], [3.0, float("nan")]]),
        (("scores", 0, "seed"), "one"),
        (("edits", 0, "head"), [2, 0]),
        (("edits", 0, "promoted"), [["a"]]),
        (("edits", 0, "task"), 3),
        (("edits", 1, "cosines"), {"iti": 0.1}),
        (("attention", 0, "tokens"), ["<s>"]),
        (("n_heads",), "many"),
    ],
)
def test_damaged_cards_are_refused(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    path = some_cards().save(tmp_path / "cards.json")
    content = part = json.loads(path.read_text(encoding="utf-8"))
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(LofitLensError, match=r"cards.json cannot be read"):
        HeadCards.load(path)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match="No head cards"):
        HeadCards.load(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"schema": 1, "mod', encoding="utf-8")
    with pytest.raises(LofitLensError, match="cannot be read"):
        HeadCards.load(tmp_path / "half.json")
    (tmp_path / "old.json").write_text('{"schema": 0}', encoding="utf-8")
    with pytest.raises(LofitLensError, match="schema 0, this version reads 1"):
        HeadCards.load(tmp_path / "old.json")


def test_heads_and_tasks_that_are_not_there_are_refused() -> None:
    with pytest.raises(LofitLensError, match=r"\(2, 0\) lies outside"):
        some_cards().card((2, 0))
    with pytest.raises(LofitLensError, match=r"no task 'x' .* truth, kin, other"):
        some_cards().plot("x")


def test_the_figure_shows_mean_scores_and_marks_the_edited_heads() -> None:
    figure: Any = some_cards().plot()
    heat = figure.data[0]
    assert np.array(heat.z) == pytest.approx(np.array([[1.0, 3.0], [0.5, 0.5]]))
    assert np.array(heat.text).tolist() == [["", "◆"], ["◆", ""]]
    assert [(s.x0, s.y0) for s in figure.layout.shapes] == [(0.5, -0.5), (-0.5, 0.5)]
    assert "2 seeds" in figure.layout.title.subtitle.text
    hover = heat.customdata[0][1]
    assert "L0H1" in hover and "rank 1 of 4, seed 2" in hover and "offset norm 2" in hover


def test_a_task_without_an_edit_shows_all_edits_and_one_without_scores_its_offsets() -> None:
    heats: list[Any] = [some_cards().plot(task).data[0] for task in ("kin", "other")]
    kin, other = heats
    assert np.array(kin.text).tolist() == [["", "◆"], ["◆", ""]]
    assert np.array(other.text).tolist() == [["", ""], ["◆", ""]]
    assert np.nan_to_num(np.array(other.z, dtype=float)).tolist() == [[0, 0], [3, 0]]
    assert other.colorbar.title.text == "offset norm"


def test_a_card_is_well_formed_accessible_html() -> None:
    card = some_cards().card((0, 1))
    page = Page(card_html(card))
    assert page.tags.count("h3") == 1 and page.words[0] == "L0H1"
    assert page.tags.count("ol") == 2 and page.tags.count("caption") == 3
    assert {"truth", "1 of 4", "+1.50", "-2.00", "25", "75", "100"} <= set(page.words)
    assert not {"script", "style", "link", "img"} & set(page.tags)
    assert 'scope="col"' in card_html(card) and 'tabindex="0"' in card_html(card)
    assert "http" not in card_html(card) + CARD_CSS
    classes = set(re.findall(r'class="([^"]*)"', card_html(card)))
    assert classes and all(name.startswith("ll-") for name in classes)


def test_equal_attention_of_several_tasks_is_shown_once_under_its_text() -> None:
    first, moved = ((1.0,), (0.25, 0.75)), ((1.0,), (0.5, 0.5))
    attention = tuple(
        HeadAttention(Head(0, 1), task, ("<s>", "x"), first, after)
        for task, after in (("truth", first), ("kin", moved), ("other", moved))
    )
    card = some_cards(attention=attention, text="x & y").card((0, 1))
    page = Page(card_html(card))
    captions = [word for word in page.words if word.endswith("from (row) to (column)")]
    assert [caption.split(", percent")[0] for caption in captions] == [
        "Without an edit and with that for truth",
        "With the edit for kin, other",
    ]
    assert page.words[page.words.index("Attention on") + 1] == "x & y"


def test_all_text_on_a_card_is_escaped_and_every_character_visible() -> None:
    nasty = ' <script>"&\n\u202e'
    attention = HeadAttention(Head(0, 0), nasty, (nasty,), ((1.0,),), ((0.5,),))
    edit = HeadEdit(Head(0, 0), nasty, 1.0, 0.0, ((nasty, 1.0),), ((nasty, -1.0),))
    card = HeadCard(Head(0, 0), (HeadScore(nasty, 0, 1.0, 1, 1),), (edit,), (attention,))
    page = Page(card_html(card))
    assert "script" not in page.tags
    assert '·<script>"&\\n\\u202e' in page.words
    assert any("before" in word.lower() or "without" in word.lower() for word in page.words)


def test_a_card_shows_cosines_where_they_are_known() -> None:
    page = Page(card_html(some_cards().card((1, 0))))
    assert {"+0.50", "-0.25", "±0.60", "n/a"} <= set(page.words)
    assert "cosine with ITI" not in Page(card_html(some_cards().card((0, 1)))).words


def test_a_head_without_an_edit_says_so() -> None:
    assert "No saved edit changes this head." in card_html(some_cards().card((0, 0)))


def test_numbers_on_shaded_cells_are_legible_on_both_grounds() -> None:
    from lofit_lens.analysis.inside.explorer.card_html import SHADE
    from lofit_lens.plotting import DARK, TEMPLATE

    def luminance(colour: np.ndarray) -> float:
        linear = np.where(
            colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4
        )  # WCAG 2.2, relative luminance
        return float(linear @ [0.2126, 0.7152, 0.0722])

    shade = np.array([int(part) for part in SHADE.split(",")]) / 255
    for template in (TEMPLATE, DARK):
        layout: Any = template.layout
        name, ink_name = layout.paper_bgcolor, layout.font.color
        hexes = ["ffffff" if c == "white" else c[1:] for c in (name, ink_name)]
        ground, ink = (np.array([int(h[i : i + 2], 16) / 255 for i in (0, 2, 4)]) for h in hexes)
        for weight in (0.0, 0.5, 1.0):
            cell = 0.6 * weight * shade + (1 - 0.6 * weight) * ground
            light, dark = sorted((luminance(cell), luminance(ink)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 4.5


def test_the_cards_are_shown_as_html_of_the_edited_heads() -> None:
    shown = some_cards()._repr_html_()
    assert Page(shown).tags.count("section") == 2
    assert shown.count("<style>") == 1
    assert repr(some_cards()) == "HeadCards(tiny, 2x2; truth, kin, other; edited: L0H1, L1H0)"
    assert Page(some_cards().card((0, 1))._repr_html_()).tags.count("section") == 1


def test_cards_hold_norms_tokens_and_attention_of_the_edited_heads(
    llama: TransformerBridge,
) -> None:
    edit = draw_edit(llama)
    cards = head_cards(llama, {"a": edit}, {"a": {1: draw_scores()}}, text=SENTENCE, k=3)
    assert cards.edited() == cards.edited("a") == edit.heads.heads
    for row, head in enumerate(SOME_HEADS):
        (found,) = cards.card(head).edits
        assert found.offset_norm == pytest.approx(float(edit.bias[row].norm()))
        assert found.scale_norm == pytest.approx(float(edit.scale[row].norm()))
        logits = [logit for _, logit in found.promoted + found.suppressed[::-1]]
        assert logits == sorted(logits, reverse=True) and len(logits) == 6
        assert found.cosines is None
        assert len(cards.card(head).attention) == 1
    assert cards.card((1, 0)).attention == ()


def test_promoted_tokens_are_those_of_the_plain_model(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    edit, plain = draw_edit(llama), load_plain(tiny_folder("llama"))
    cards = head_cards(llama, {"a": edit}, draw_scores(), k=4)
    for (layer, head), bias in zip(edit.heads, edit.bias, strict=True):
        z = torch.zeros(N_HEADS, edit.d_head)
        z[head] = bias
        with torch.no_grad():
            projection: Any = plain_projections(plain)[layer]
            logits = plain.lm_head(plain.model.norm(projection(z.flatten())))
        (found,) = cards.card((layer, head)).edits
        expected = logits.topk(4).values.tolist(), (-(-logits).topk(4).values).tolist()
        assert [logit for _, logit in found.promoted] == pytest.approx(expected[0], abs=1e-5)
        assert [logit for _, logit in found.suppressed] == pytest.approx(expected[1], abs=1e-5)


def test_attention_before_and_after_is_that_of_the_plain_model(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    edit, plain = draw_edit(llama), load_plain(tiny_folder("llama"))
    cards = head_cards(llama, {"a": edit}, draw_scores(), text=SENTENCE)
    tokens = llama.tokenizer(SENTENCE, return_tensors="pt").input_ids
    with torch.no_grad():
        before = plain(tokens, output_attentions=True).attentions
        with edited_plain(plain, edit):
            after = plain(tokens, output_attentions=True).attentions
    for layer, head in SOME_HEADS:
        (found,) = cards.card((layer, head)).attention
        assert len(found.tokens) == tokens.shape[1] and found.tokens[0] == "<s>"
        for rows, expected in ((found.before, before), (found.after, after)):
            for query, row in enumerate(rows):
                plain_row = expected[layer][0, head, query, : query + 1]
                assert list(row) == pytest.approx(plain_row.tolist(), abs=6e-4)
        assert (found.before == found.after) == (layer == 0)


def test_cosines_are_measured_where_the_task_is_given(llama: TransformerBridge) -> None:
    edit, task = draw_edit(llama), a_task()
    expected = compare_directions(llama, edit, task).frame().set_index("name")
    for tasks in (task, {"a": task}):
        cards = head_cards(llama, {"a": edit}, draw_scores(), tasks=tasks)
        for head in edit.heads:
            (found,) = cards.card(head).edits
            assert found.cosines is not None
            row = expected.loc[str(head)]
            assert found.cosines.iti == pytest.approx(row["cosine_mass_mean"])
            assert found.cosines.mean_z == pytest.approx(row["cosine_mean_z"])


def test_heads_without_an_offset_have_no_tokens(llama: TransformerBridge) -> None:
    edit = draw_edit(llama)
    partly = replace(edit, bias=edit.bias * torch.tensor([[1.0], [0.0], [1.0], [1.0]]))
    cards = head_cards(llama, {"a": partly}, draw_scores(), tasks=a_task())
    assert [bool(e.promoted) for e in cards.edits] == [True, False, True, True]
    assert [bool(e.cosines) for e in cards.edits] == [True, False, True, True]
    only_scale = head_cards(llama, draw_edit(llama, bias=False), draw_scores())
    assert [e.promoted for e in only_scale.edits] == [()] * 4
    assert all(e.offset_norm == 0 < e.scale_norm for e in only_scale.edits)


def test_single_edits_and_scores_are_named_by_their_provenance(llama: TransformerBridge) -> None:
    edit, scores = draw_edit(llama), draw_scores()
    origin = learned_on(llama, a_task("sky"), {"seed": 7})
    learned, scored = replace(edit, provenance=origin), replace(scores, provenance=origin)
    assert head_cards(llama, learned, scored).tasks == ("sky",)
    assert head_cards(llama, learned, scored).scores[0].seed == 7
    assert head_cards(llama, edit, scored).tasks == ("sky",)
    assert head_cards(llama, learned, scores).tasks == ("sky",)
    assert head_cards(llama, edit, {"a": scores}).tasks == ("a",)
    assert head_cards(llama, {"a": edit}, scored).tasks == ("a",)
    assert head_cards(llama, edit, scores, tasks=a_task("own")).tasks == ("own",)
    assert head_cards(llama, edit, scores).tasks == ("task",)


def test_what_does_not_fit_is_refused(llama: TransformerBridge) -> None:
    edit, scores = draw_edit(llama), draw_scores()
    with pytest.raises(LofitLensError, match="at least one edit"):
        head_cards(llama, {}, scores)
    with pytest.raises(LofitLensError, match="at least one task"):
        head_cards(llama, edit, {})
    with pytest.raises(LofitLensError, match="tasks lacks 'b'; it has 'a'"):
        head_cards(llama, {"a": edit, "b": edit}, scores, tasks={"a": a_task()})
    with pytest.raises(ModelMismatchError, match="5 layers x 4 heads, this one has 3 x 4"):
        head_cards(llama, edit, draw_scores(layers=5))
    with pytest.raises(ModelMismatchError, match="different models: 3x4 and 5x4"):
        head_cards(llama, edit, {"a": {1: scores, 2: draw_scores(layers=5)}})
    with pytest.raises(LofitLensError, match="at most 64 tokens; the text has"):
        head_cards(llama, edit, scores, text=" cat" * 70)


def test_what_is_neither_an_edit_nor_scores_is_refused(llama: TransformerBridge) -> None:
    edit, scores = draw_edit(llama), draw_scores()
    by_text: Any = {"a": {"one": scores}}
    by_seed: Any = {1: scores}
    residual: Any = {"a": scores}
    with type_checks_off():
        for wrong in (by_text, by_seed):
            with pytest.raises(LofitLensError, match="Scores are HeadScores"):
                head_cards(llama, edit, wrong)
        with pytest.raises(LofitLensError, match="made of HeadIntervention; for 'a'"):
            head_cards(llama, residual, scores)
