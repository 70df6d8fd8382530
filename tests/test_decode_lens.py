"""The logit lens of offsets against products written by hand on the Hugging Face modules."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from lofit_lens.analysis.inside.decode import lens
from lofit_lens.analysis.inside.decode.lens import logit_lens, written
from lofit_lens.analysis.inside.decode.token_text import token_texts
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from tests.helpers import FAMILIES, SOME_HEADS, VOCAB, draw_edit, load_plain, plain_projections

Folder = Callable[[str], Path]


def plain_written(plain: Any, edit: HeadIntervention) -> torch.Tensor:
    """`v_h W_O[h]` in float64, row by row of the weights."""
    rows = []
    assert edit.bias is not None
    for (layer, head), offset in zip(edit.heads, edit.bias, strict=True):
        projection = plain_projections(plain)[layer]
        weight: Any = projection.weight
        weight = weight if isinstance(projection, Conv1D) else weight.T
        d_head = len(offset)
        rows.append(offset.double() @ weight[head * d_head : (head + 1) * d_head].double())
    return torch.stack(rows).detach()


def plain_readout(plain: Any, vectors: torch.Tensor, family: str) -> torch.Tensor:
    """Final norm, unembedding and soft cap in float64, from the formulas."""
    norm = {"gpt2": lambda: plain.transformer.ln_f, "neox": lambda: plain.gpt_neox.final_layer_norm}
    norm = norm.get(family, lambda: plain.model.norm)()
    weight = norm.weight.double()
    if family in ("gpt2", "neox"):
        centred = vectors - vectors.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
        vectors = centred / scale * weight + norm.bias.double()
    else:
        eps = norm.eps if family == "gemma2" else norm.variance_epsilon
        scale = (vectors.square().mean(-1, keepdim=True) + eps).sqrt()
        vectors = vectors / scale * (1 + weight if family == "gemma2" else weight)
    logits = vectors @ plain.get_output_embeddings().weight.double().T
    cap = getattr(plain.config, "final_logit_softcapping", None)
    return (logits if cap is None else cap * torch.tanh(logits / cap)).detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_is_the_product_of_the_hugging_face_weights(
    tiny_folder: Folder, tiny_model: Callable[[str], Any], family: str
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    edit = draw_edit(model)
    vectors = plain_written(plain, edit)
    torch.testing.assert_close(written(model, edit).double(), vectors, rtol=0, atol=1e-6)
    expected = plain_readout(plain, vectors, family)
    assert float(expected.abs().max()) > 0.5
    found = logit_lens(model, edit)
    assert found.logits.dtype == torch.float32
    torch.testing.assert_close(found.logits.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_lens_of_a_model_in_half_precision_is_not_rounded(
    tiny_folder: Folder, family: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lens, "_BLOCK", 100)
    model = load_model(tiny_folder(family), device="cpu", dtype=dtype)
    plain = load_plain(tiny_folder(family)).to(getattr(torch, dtype)).float()
    edit = draw_edit(model)
    expected = plain_readout(plain, plain_written(plain, edit), family)
    found = logit_lens(model, edit, k=20)
    torch.testing.assert_close(found.logits.double(), expected, rtol=0, atol=1e-4)
    assert {p.dtype for p in model.original_model.parameters()} == {getattr(torch, dtype)}
    order = expected.argsort(dim=-1, descending=True)[:, :20]
    assert found.logits.topk(20).indices.tolist() == order.tolist()


def test_the_soft_cap_of_gemma_is_felt(tiny_folder: Folder, tiny_model: Any) -> None:
    model = tiny_model("gemma2")
    weight = model.unembed.original_component.weight
    weight.data = 5 * weight  # so that logits come near the cap
    plain = load_plain(tiny_folder("gemma2"))
    plain.lm_head.weight = torch.nn.Parameter(5 * plain.lm_head.weight)
    edit = draw_edit(model)
    expected = plain_readout(plain, plain_written(plain, edit), "gemma2")
    assert 15 < float(expected.abs().max()) < 29
    torch.testing.assert_close(logit_lens(model, edit).logits.double(), expected, rtol=0, atol=1e-5)


def test_a_bias_of_the_unembedding_is_added(llama: Any) -> None:
    edit = draw_edit(llama)
    before = logit_lens(llama, edit).logits
    bias = torch.linspace(-1, 1, VOCAB)
    llama.unembed.original_component.bias.data = bias
    torch.testing.assert_close(logit_lens(llama, edit).logits, before + bias)


def test_scale_and_scope_of_the_edit_play_no_part(llama: Any) -> None:
    whole, biased = draw_edit(llama, scope="last"), draw_edit(llama, scale=False)
    biased = HeadIntervention(biased.heads, bias=whole.bias)
    assert torch.equal(logit_lens(llama, whole).logits, logit_lens(llama, biased).logits)


def test_the_frame_lists_the_highest_and_the_lowest_logits(llama: Any) -> None:
    lens = logit_lens(llama, draw_edit(llama), k=4)
    frame = lens.frame()
    assert len(frame) == len(SOME_HEADS) * 2 * 4
    assert list(frame["place"][:8]) == [1, 2, 3, 4, 1, 2, 3, 4]
    for head, logits in zip(SOME_HEADS, lens.logits.numpy(), strict=True):
        rows = frame[(frame["layer"] == head[0]) & (frame["head"] == head[1])]
        order = np.argsort(logits)
        promoted, suppressed = (rows[rows["direction"] == d] for d in ("promoted", "suppressed"))
        assert promoted["token_id"].tolist() == order[::-1][:4].tolist()
        assert suppressed["token_id"].tolist() == order[:4].tolist()
        np.testing.assert_allclose(promoted["logit"], np.sort(logits)[::-1][:4], rtol=1e-6)
        np.testing.assert_allclose(
            suppressed["from_mean"], np.sort(logits)[:4] - logits.mean(), atol=1e-5
        )
        assert lens.promoted(head) == tuple(token_texts(llama, order[::-1][:4].tolist()))
        assert lens.suppressed(head) == tuple(suppressed["token"])


def test_the_figure_shows_the_frame_with_layer_0_at_the_bottom(llama: Any) -> None:
    lens = logit_lens(llama, draw_edit(llama))
    traces: Any = lens.plot(places=3).data
    suppressed, promoted = traces
    assert list(promoted.y) == ["L0H0", "L0H3", "L2H1", "L2H2"]
    assert list(promoted.text[2]) == [html.escape(token) for token in lens.promoted((2, 1))[:3]]
    row = lens.logits[lens.heads.heads.index((2, 1))]
    lowest = row.sort().values[:3] - row.mean()
    np.testing.assert_allclose(suppressed.z[2], lowest.numpy(), atol=1e-5)


def test_an_edit_without_a_bias_is_refused(llama: Any) -> None:
    with pytest.raises(LofitLensError, match="has no bias"):
        logit_lens(llama, draw_edit(llama, bias=False))


def test_a_zero_offset_is_refused_by_name(llama: Any) -> None:
    edit = draw_edit(llama)
    bias = edit.bias.clone()
    bias[1] = 0
    with pytest.raises(LofitLensError, match=r"offsets of L2H1 are zero.*norm of a zero vector"):
        logit_lens(llama, HeadIntervention(edit.heads, bias=bias))


@pytest.mark.parametrize("k", [0, VOCAB + 1])
def test_k_beyond_the_vocabulary_is_refused(llama: Any, k: int) -> None:
    with pytest.raises(LofitLensError, match=f"got {k}"):
        logit_lens(llama, draw_edit(llama), k=k)


def test_quantised_weights_are_refused(llama: Any) -> None:
    edit = draw_edit(llama)
    projection = llama.blocks[0].attn.o.original_component
    projection.weight = torch.nn.Parameter(projection.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedError, match="quantised"):
        logit_lens(llama, edit)


def test_a_quantised_unembedding_is_refused(llama: Any) -> None:
    unembedding = llama.unembed.original_component
    unembedding.weight = torch.nn.Parameter(unembedding.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedError, match="cannot read this model"):
        logit_lens(llama, draw_edit(llama))


def test_heads_of_another_model_are_refused(llama: Any) -> None:
    heads = HeadSet([(0, 0)], n_layers=9, n_heads=9)
    with pytest.raises(ModelMismatchError):
        logit_lens(llama, HeadIntervention(heads, bias=torch.ones(1, 24)))


def test_a_head_without_an_offset_is_refused_by_name(llama: Any) -> None:
    with pytest.raises(LofitLensError, match="L1H1 is not one of the edited heads"):
        logit_lens(llama, draw_edit(llama)).promoted((1, 1))


def test_tokens_show_blanks_breaks_special_tokens_and_ids_beyond_the_tokenizer(llama: Any) -> None:
    tokenizer = llama.tokenizer
    blank = tokenizer(" the", add_special_tokens=False)["input_ids"]
    line_break = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert "".join(token_texts(llama, blank)) == "·the"
    assert token_texts(llama, line_break) == ["\\n"]
    assert token_texts(llama, [0, 1, 99_999]) == ["<s>", "</s>", "[99999]"]
    half = tokenizer("é", add_special_tokens=False)["input_ids"]
    assert "\ufffd" not in "".join(token_texts(llama, half))


@pytest.mark.real
def test_a_sentencepiece_token_keeps_its_blank(models_dir: Path) -> None:
    model = load_model(models_dir / "stories3M", device="cpu", dtype="float32")
    tokenizer: Any = model.tokenizer
    ids = tokenizer("once the", add_special_tokens=False)["input_ids"]
    assert token_texts(model, ids)[-1] == "·the"


def test_the_table_in_a_notebook_escapes_special_tokens(llama: Any) -> None:
    lens = logit_lens(llama, draw_edit(llama), k=VOCAB)
    table = lens._repr_html_()
    assert "&lt;s&gt;" in table
    assert "<td><s>" not in table
    assert repr(lens).startswith("LogitLens(4 heads; L0H3: ")
