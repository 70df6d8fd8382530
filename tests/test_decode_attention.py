"""Attention patterns against plain Hugging Face models with eager attention."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from lofit_lens.analysis.inside.decode.attention import attention_patterns
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.heads import HeadSet
from lofit_lens.tokens import Encoder
from tests.helpers import (
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    TEXT,
    count_hooks,
    draw_edit,
    edited_plain,
    load_plain,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

HEADS = HeadSet([(2, 3), (1, 0), (2, 0)], n_layers=N_LAYERS, n_heads=N_HEADS)


def plain_patterns(plain: Any, ids: tuple[int, ...], edit: Any = None) -> torch.Tensor:
    """Attention of HEADS as `transformers` returns it."""
    with torch.no_grad(), edited_plain(plain, edit) if edit else nullcontext():
        attentions = plain(torch.tensor([ids]), output_attentions=True).attentions
    return torch.stack([attentions[layer][0, head] for layer, head in HEADS])


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_are_those_of_hugging_face_before_and_after_an_edit(
    tiny_folder: Callable[[str], Path],
    tiny_model: Callable[[str], TransformerBridge],
    family: str,
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    edit = draw_edit(model)
    found = attention_patterns(model, TEXT[1:3], HEADS, edit)
    assert found.after is not None
    for text, before, after in zip(TEXT[1:3], found.before, found.after, strict=True):
        ids = Encoder(model).prompt(text).ids
        torch.testing.assert_close(before, plain_patterns(plain, ids), rtol=0, atol=1e-6)
        torch.testing.assert_close(after, plain_patterns(plain, ids, edit), rtol=0, atol=1e-6)
        assert float((after - before).abs().max()) > 0.01


def test_an_edit_changes_only_the_layers_above_it(llama: TransformerBridge) -> None:
    every = HeadSet.every(n_layers=N_LAYERS, n_heads=N_HEADS)
    found = attention_patterns(llama, TEXT[0], every, draw_edit(llama, heads=[(1, 2)]))
    change = found.frame().groupby("layer")["change"].agg(lambda values: values.abs().max())
    assert change[0] == change[1] == 0
    assert change[2] > 0.001


def test_scope_last_changes_only_what_the_last_token_looks_at(llama: TransformerBridge) -> None:
    found = attention_patterns(llama, TEXT[0], HEADS, draw_edit(llama, scope="last"))
    frame = found.frame()
    moved = frame[frame["change"] != 0]
    assert set(moved["query"]) == {frame["query"].max()}


def test_the_frame_has_a_row_for_each_query_and_key_that_is_not_in_its_future(
    llama: TransformerBridge,
) -> None:
    found = attention_patterns(llama, TEXT[:2], HEADS)
    assert found.after is None
    frame = found.frame()
    sizes = [len(tokens) for tokens in found.tokens]
    assert len(frame) == sum(len(HEADS) * n * (n + 1) // 2 for n in sizes)
    sums = frame.groupby(["text", "name", "query"])["before"].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    row = frame[(frame["text"] == 1) & (frame["name"] == "L1H0")].to_dict("records")[-2]
    assert row["before"] == float(found.before[1][1, sizes[1] - 1, sizes[1] - 2])
    assert row["query_token"] == found.tokens[1][-1]
    assert row["key_token"] == found.tokens[1][-2]
    assert "after" not in frame
    assert found.tokens[0][:2] == ("<s>", "Q")


def test_the_figure_shows_before_after_and_the_change(llama: TransformerBridge) -> None:
    found = attention_patterns(llama, "Anna has a son, Ben.", HEADS, draw_edit(llama))
    assert found.after is not None
    figure = found.plot((2, 0))
    traces: Any = figure.data
    before, after, change = (np.array(trace.z, dtype=float) for trace in traces)
    seen = np.tril(np.ones_like(before, dtype=bool))
    np.testing.assert_array_equal(np.isnan(before), ~seen)
    np.testing.assert_array_equal(before[seen], found.before[0][2].numpy()[seen])
    np.testing.assert_array_equal(after[seen], found.after[0][2].numpy()[seen])
    np.testing.assert_allclose(change[seen], (after - before)[seen], atol=1e-7)
    layout: Any = figure.layout
    assert layout.xaxis.ticktext[0] == "&lt;s&gt;"
    assert layout.yaxis.range[0] > layout.yaxis.range[1]
    alone: Any = attention_patterns(llama, "Anna", HEADS).plot((2, 0)).data
    assert len(alone) == 1


def test_what_cannot_be_shown_is_refused(llama: TransformerBridge) -> None:
    found = attention_patterns(llama, "Anna", HEADS)
    with pytest.raises(LofitLensError, match="no attention of L0H0"):
        found.plot((0, 0))
    with pytest.raises(LofitLensError, match="text must be from 0 to 0, got 1"):
        found.plot((2, 0), text=1)
    with pytest.raises(LofitLensError, match="needs a text and a head"):
        attention_patterns(llama, [], HEADS)
    with pytest.raises(ModelMismatchError):
        attention_patterns(llama, "Anna", HeadSet([(0, 0)], n_layers=9, n_heads=9))


def test_nothing_stays_attached(llama: TransformerBridge) -> None:
    llama(torch.tensor([[3, 4]]))  # `transformers` attaches hooks of its own to the first forward
    before = count_hooks(llama)
    attention_patterns(llama, "Anna", HEADS, draw_edit(llama, scope="last"))
    assert count_hooks(llama) == before
