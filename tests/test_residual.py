from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.edits.on_residual import ResidualIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.identity import fingerprint
from lofit_lens.provenance import Provenance
from lofit_lens.training.history import History
from tests.helpers import (
    BIT_EQUAL,
    D_MODEL,
    FAMILIES,
    N_LAYERS,
    assert_same_logits,
    count_hooks,
    draw_edit,
    draw_tokens,
    load_plain,
)
from tests.plain_blocks import hooked_blocks

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]
SCOPES: dict[str, list[set[int]]] = {
    "all": [set(range(10))] * 2,
    "after_prompt": [set(range(5, 10)), set(range(2, 10))],
    "iti_compat": [set(range(7, 10)), set(range(4, 10))],
    "last": [{5}, {2}],
}
"""Positions edited of two rows of 10 tokens, whose prompts have 6 and 3."""


def draw_vectors(*layers: int, scope: Any = "all", seed: int = 0) -> ResidualIntervention:
    generator = torch.Generator().manual_seed(seed)
    vectors = 3.0 * torch.randn(len(layers), D_MODEL, generator=generator)
    return ResidualIntervention(vectors, layers, n_layers=N_LAYERS, scope=scope)


def provenance(model: TransformerBridge) -> Provenance:
    return Provenance(fingerprint(model), "toy", "0" * 64, {}, History(), metrics={"MC1": 1.0})


def add(h: Tensor, vector: Tensor, where: Tensor | None = None) -> Tensor:
    return h + vector if where is None else torch.where(where[..., None], h + vector, h)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", SCOPES)
def test_logits_are_those_of_the_plain_model_with_the_vectors_added_behind_its_blocks(
    family: str, scope: Any, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    edit, tokens = draw_vectors(2, 0, scope=scope), draw_tokens(2, 10)
    where = torch.tensor([[i in row for i in range(10)] for row in SCOPES[scope]])
    changes = {
        layer: partial(add, vector=vector, where=where)
        for layer, vector in zip(edit.layers, edit.vectors, strict=True)
    }
    with torch.no_grad(), hooked_blocks(plain, changes):
        expected = plain(tokens).logits
    with torch.no_grad(), edit.applied(model) as positions:
        positions.set_prompt_lengths(torch.tensor([6, 3]))
        found = model(tokens)
    assert_same_logits(found, expected, exactly=family in BIT_EQUAL)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_generation_is_that_of_the_plain_model_edited_alike(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    edit, tokens = draw_vectors(1), draw_tokens(1, 6)
    expected = tokens
    with torch.no_grad(), hooked_blocks(plain, {1: partial(add, vector=edit.vectors[0])}):
        for _ in range(6):
            new = plain(expected).logits[:, -1:].argmax(-1)
            expected = torch.cat([expected, new], dim=1)
    with edit.applied(model):
        found = model.generate(
            tokens, max_new_tokens=6, do_sample=False, stop_at_eos=False,
            return_type="tokens", verbose=False,
        )  # fmt: skip
    assert torch.equal(torch.as_tensor(found), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", SCOPES)
def test_zero_vectors_are_exactly_the_identity(family: str, scope: Any, tiny_model: Loader) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    with torch.no_grad():
        expected = model(tokens)
        with (0.0 * draw_vectors(0, 1, 2, scope=scope)).applied(model):
            assert torch.equal(model(tokens), expected)


@torch.no_grad()
def test_it_is_added_where_transformer_lens_reads_the_residual_stream(
    llama: TransformerBridge,
) -> None:
    edit, tokens = draw_vectors(1), draw_tokens()
    _, clean = llama.run_with_cache(tokens)
    with edit.applied(llama):
        _, edited = llama.run_with_cache(tokens)
    assert torch.equal(edited["blocks.0.hook_out"], clean["blocks.0.hook_out"])
    torch.testing.assert_close(
        edited["blocks.2.hook_in"] - clean["blocks.2.hook_in"], edit.vectors.expand(2, 12, -1)
    )


@torch.no_grad()
def test_edits_of_heads_and_of_the_residual_stream_nest_and_leave_nothing_behind(
    llama: TransformerBridge,
) -> None:
    tokens = draw_tokens()
    clean, before = llama(tokens), count_hooks(llama)
    outer, inner = draw_edit(llama, heads=[(0, 1)]), draw_vectors(2, scope="last")
    with outer.applied(llama):
        alone = llama(tokens)
        with inner.applied(llama):
            both = llama(tokens)
            assert not torch.equal(both[:, -1], alone[:, -1])
            assert torch.equal(both[:, :-1], alone[:, :-1])
        assert torch.equal(llama(tokens), alone)
    assert torch.equal(llama(tokens), clean)
    assert count_hooks(llama) == before


def test_nothing_stays_attached_after_an_exception(llama: TransformerBridge) -> None:
    before = count_hooks(llama)
    with pytest.raises(KeyboardInterrupt), draw_vectors(1, scope="last").applied(llama):
        raise KeyboardInterrupt
    assert count_hooks(llama) == before
    assert "generate" not in llama.__dict__


def test_the_gradient_of_the_vectors_is_that_of_the_plain_model(
    tiny_folder: Folder, llama: TransformerBridge
) -> None:
    plain, tokens, drawn = load_plain(tiny_folder("llama")), draw_tokens(), draw_vectors(1).vectors
    mine, other = (drawn.clone().requires_grad_(True) for _ in range(2))
    with ResidualIntervention(mine, (1,), n_layers=N_LAYERS).applied(llama):
        llama(tokens).square().mean().backward()
    with hooked_blocks(plain, {1: partial(add, vector=other[0])}):
        plain(tokens).logits.square().mean().backward()
    assert mine.grad is not None
    assert other.grad is not None
    assert torch.equal(mine.grad, other.grad)


def test_in_half_precision_it_is_added_in_single_precision(tiny_folder: Folder) -> None:
    from lofit_lens.model import load_model

    model, tokens = load_model(tiny_folder("llama"), device="cpu", dtype="bfloat16"), draw_tokens()
    edit = draw_vectors(1)
    with torch.no_grad():
        _, clean = model.run_with_cache(tokens)
        with edit.applied(model):
            _, edited = model.run_with_cache(tokens)
    h = clean["blocks.1.hook_out"]
    assert h.dtype == torch.bfloat16
    expected = (h.float() + edit.vectors[0]).to(torch.bfloat16)
    assert torch.equal(edited["blocks.2.hook_in"], expected)


def test_saved_and_loaded_it_is_the_same(llama: TransformerBridge, tmp_path: Path) -> None:
    edit = replace(draw_vectors(2, 0, scope="after_prompt"), provenance=provenance(llama))
    loaded = ResidualIntervention.load(edit.save(tmp_path / "edit"), llama)
    assert torch.equal(loaded.vectors, edit.vectors)
    assert (loaded.layers, loaded.n_layers, loaded.scope) == ((2, 0), N_LAYERS, "after_prompt")
    assert loaded.provenance == edit.provenance


def test_each_kind_of_edit_refuses_a_folder_of_the_other(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    heads, vectors = draw_edit(llama).save(tmp_path / "h"), draw_vectors(1).save(tmp_path / "v")
    with pytest.raises(LofitLensError, match=r"HeadIntervention\.load"):
        ResidualIntervention.load(heads)
    with pytest.raises(LofitLensError, match=r"ResidualIntervention\.load"):
        HeadIntervention.load(vectors)


def test_what_is_learned_is_refused_on_other_weights(
    tiny_folder: Folder, tmp_path: Path, llama: TransformerBridge
) -> None:
    from lofit_lens.model import load_model
    from tests.helpers import save_tiny_model

    edit = replace(draw_vectors(1), provenance=provenance(llama))
    other = load_model(save_tiny_model("llama", tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(ModelMismatchError), edit.applied(other):
        pass
    with pytest.raises(ModelMismatchError):
        ResidualIntervention.load(edit.save(tmp_path / "edit"), other)


@pytest.mark.parametrize("change", [{"n_layers": 5}, {"vectors": torch.ones(1, 8)}])
def test_a_model_of_another_shape_is_refused(
    change: dict[str, Any], llama: TransformerBridge
) -> None:
    with pytest.raises(ModelMismatchError), replace(draw_vectors(1), **change).applied(llama):
        pass


@pytest.mark.parametrize("layers", [(3,), (-1,), (1, 1), ()])
def test_layers_outside_the_model_or_twice_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(LofitLensError, match="from 0 to 2"):
        ResidualIntervention(torch.ones(len(layers), D_MODEL), layers, n_layers=N_LAYERS)


def test_a_wrong_number_of_vectors_is_refused() -> None:
    with pytest.raises(LofitLensError, match="2 rows"):
        ResidualIntervention(torch.ones(2, D_MODEL), (1,), n_layers=N_LAYERS)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(LofitLensError, match="not finite"):
        ResidualIntervention(torch.full((1, D_MODEL), torch.nan), (1,), n_layers=N_LAYERS)


def test_hooks_alone_cannot_follow_a_scope(llama: TransformerBridge) -> None:
    with pytest.raises(LofitLensError, match="applied"):
        draw_vectors(1, scope="last").hooks(llama)
    assert len(draw_vectors(1, 2).hooks(llama)) == 2


def test_a_changed_edit_leaves_its_scores_behind(llama: TransformerBridge) -> None:
    edit = replace(draw_vectors(1), provenance=provenance(llama))
    for changed in (2.0 * edit, edit.with_scope("last")):
        assert changed.provenance is not None
        assert not changed.provenance.metrics
    assert torch.equal((2.0 * edit).vectors, 2 * edit.vectors)


def test_it_counts_its_numbers_and_shows_them() -> None:
    edit = draw_vectors(2, 0)
    assert edit.n_parameters == 2 * D_MODEL
    assert edit.frame()["norm"].tolist() == pytest.approx(edit.vectors.norm(dim=1).tolist())
    assert "layers 2, 0" in repr(edit)
    assert "<table" in edit._repr_html_()
    assert isinstance(edit.plot(), go.Figure)
