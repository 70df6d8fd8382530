from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.attention import output_projection
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.folding import fold, fold_projection
from lofit_lens.heads import HeadSet
from lofit_lens.identity import fingerprint
from lofit_lens.model import load_model
from tests.helpers import (
    FAMILIES,
    assert_same_logits,
    draw_edit,
    draw_tokens,
    edited_plain,
    load_plain,
    plain_projections,
)

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]
FOLDED_REL = 1e-5  # folding sums v W_O apart from z W_O


@torch.no_grad()
def logits_of(model: TransformerBridge, tokens: Tensor) -> Tensor:
    return model(tokens)


def state_of(model: TransformerBridge) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("family", [*FAMILIES, "qwen2"])
@pytest.mark.parametrize(
    ("scale", "bias"), [(True, True), (True, False), (False, True)], ids=["both", "scale", "bias"]
)
def test_folded_logits_are_those_of_the_plain_model_with_the_edit(
    family: str, scale: bool, bias: bool, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain, tokens = tiny_model(family), load_plain(tiny_folder(family)), draw_tokens()
    edit = draw_edit(model, scale=scale, bias=bias)
    with torch.no_grad(), edited_plain(plain, edit):
        expected = plain(tokens).logits
    clean = logits_of(model, tokens)
    fold(model, edit)
    assert_same_logits(logits_of(model, tokens), expected, rel=FOLDED_REL)
    assert (clean - expected).abs().max() > 0.1


@pytest.mark.parametrize("family", [*FAMILIES, "qwen2"])
def test_undoing_a_fold_restores_weights_and_logits_bit_by_bit(
    family: str, tiny_model: Loader
) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    logits, state = logits_of(model, tokens), state_of(model)
    folded = fold(model, draw_edit(model))
    assert not torch.equal(logits_of(model, tokens), logits)
    folded.undo()
    assert torch.equal(logits_of(model, tokens), logits)
    assert_same_state(state_of(model), state)


def test_undoing_a_fold_of_a_bfloat16_model_is_exact_too(tiny_folder: Folder) -> None:
    model = load_model(tiny_folder("neox"), device="cpu", dtype="bfloat16")
    state = state_of(model)
    folded = fold(model, draw_edit(model))
    assert {tensor.dtype for tensor in state_of(model).values()} == {torch.bfloat16}
    folded.undo()
    assert_same_state(state_of(model), state)


def test_a_folded_bfloat16_model_is_about_as_exact_as_the_hooked_one(tiny_folder: Folder) -> None:
    plain, tokens = load_plain(tiny_folder("llama")), draw_tokens()
    model = load_model(tiny_folder("llama"), device="cpu", dtype="bfloat16")
    edit = draw_edit(model)
    with torch.no_grad(), edited_plain(plain, edit):
        expected = plain(tokens).logits
    with edit.applied(model):
        hooked = (logits_of(model, tokens).float() - expected).abs().max()
    with fold(model, edit):
        folded = (logits_of(model, tokens).float() - expected).abs().max()
    assert folded <= 2 * hooked < 0.1 * expected.abs().max()


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_an_existing_bias_is_added_to(family: str, tiny_folder: Folder, tiny_model: Loader) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    edit = draw_edit(model, scale=False, heads=[(1, 2)])
    before: Any = plain_projections(plain)[1]
    flat = torch.zeros(1, model.cfg.n_heads * model.cfg.d_head)
    flat[0, 2 * model.cfg.d_head : 3 * model.cfg.d_head] = edit.bias
    with torch.no_grad():
        expected = before(flat)[0]  # v W_O + b_O
    with fold(model, edit):
        projection: Any = output_projection(model, 1)
        assert before.bias.abs().max() > 0.05
        assert torch.allclose(projection.bias, expected, atol=1e-6)
        assert torch.equal(projection.weight, before.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_without_heads_keep_their_tensors(family: str, tiny_model: Loader) -> None:
    model = tiny_model(family)
    projection = output_projection(model, 1)
    weight, bias = projection.weight, projection.bias
    with fold(model, draw_edit(model)):
        assert projection.weight is weight
        assert projection.bias is bias


def test_a_fold_leaves_no_trainable_parameter(llama: TransformerBridge) -> None:
    folded = fold(llama, draw_edit(llama))
    assert not any(p.requires_grad for p in llama.parameters())
    folded.undo()
    assert not any(p.requires_grad for p in llama.parameters())


def test_an_edit_with_gradients_folds_without_them(llama: TransformerBridge) -> None:
    edit = draw_edit(llama)
    edit.scale.requires_grad_()
    edit.bias.requires_grad_()
    with fold(llama, edit):
        assert not llama(draw_tokens()).requires_grad


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_context_restores_after_an_exception(
    error: type[BaseException], llama: TransformerBridge
) -> None:
    state = state_of(llama)
    with pytest.raises(error), fold(llama, draw_edit(llama)):
        raise error
    assert_same_state(state_of(llama), state)


def test_a_second_undo_does_nothing(llama: TransformerBridge) -> None:
    folded = fold(llama, draw_edit(llama))
    folded.undo()
    state = state_of(llama)
    folded.undo()
    assert_same_state(state_of(llama), state)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_two_folds_undone_in_reverse_order_restore_each_stage(
    family: str, tiny_model: Loader
) -> None:
    model = tiny_model(family)
    clean = state_of(model)
    first = fold(model, draw_edit(model, seed=1))
    stage = state_of(model)
    second = fold(model, draw_edit(model, seed=2))
    second.undo()
    assert_same_state(state_of(model), stage)
    first.undo()
    assert_same_state(state_of(model), clean)


def test_two_folds_give_the_later_edit_first(tiny_folder: Folder, llama: TransformerBridge) -> None:
    first, second = draw_edit(llama, seed=1), draw_edit(llama, seed=2)
    plain, tokens = load_plain(tiny_folder("llama")), draw_tokens()
    with torch.no_grad(), edited_plain(plain, second, first):
        expected = plain(tokens).logits
    with fold(llama, first), fold(llama, second):
        assert_same_logits(logits_of(llama, tokens), expected, rel=FOLDED_REL)


def test_hooks_on_a_folded_model_act_before_the_fold(
    tiny_folder: Folder, llama: TransformerBridge
) -> None:
    inside, hooked = draw_edit(llama, seed=1), draw_edit(llama, seed=2)
    plain, tokens = load_plain(tiny_folder("llama")), draw_tokens()
    with torch.no_grad(), edited_plain(plain, hooked, inside):
        expected = plain(tokens).logits
    with fold(llama, inside), hooked.applied(llama):
        assert_same_logits(logits_of(llama, tokens), expected, rel=FOLDED_REL)


@pytest.mark.parametrize("scope", ["after_prompt", "iti_compat", "last"])
def test_an_edit_that_depends_on_the_position_is_refused(
    scope: Any, llama: TransformerBridge
) -> None:
    state = state_of(llama)
    with pytest.raises(UnsupportedError, match=scope):
        fold(llama, draw_edit(llama, scope=scope))
    assert_same_state(state_of(llama), state)


def test_heads_of_another_model_shape_are_refused(llama: TransformerBridge) -> None:
    heads = HeadSet([(3, 0)], n_layers=4, n_heads=4)
    with pytest.raises(ModelMismatchError, match="4 layers"):
        fold(llama, HeadIntervention(heads, bias=torch.zeros(1, 24)))


def test_another_head_size_is_refused(llama: TransformerBridge) -> None:
    heads = HeadSet([(0, 0)], n_layers=3, n_heads=4)
    with pytest.raises(LofitLensError, match="d_head = 16, the model 24"):
        fold(llama, HeadIntervention(heads, bias=torch.zeros(1, 16)))


@pytest.mark.filterwarnings("ignore")
def test_scale_on_processed_weights_is_refused(llama: TransformerBridge) -> None:
    llama.enable_compatibility_mode()
    with pytest.raises(UnsupportedError, match="load_model"):
        fold(llama, draw_edit(llama))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_a_bias_folds_into_processed_weights(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain, tokens = tiny_model(family), load_plain(tiny_folder(family)), draw_tokens()
    model.enable_compatibility_mode()
    edit = draw_edit(model, scale=False)
    with torch.no_grad(), edited_plain(plain, edit):
        expected = plain(tokens).logits.log_softmax(-1)
    with fold(model, edit):
        found = logits_of(model, tokens).log_softmax(-1)
    assert_same_logits(found, expected, rel=FOLDED_REL)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("scale", "bias"), [(True, False), (False, True)], ids=["scale", "bias"])
def test_the_fingerprint_of_the_weights_changes_while_folded(
    family: str, scale: bool, bias: bool, tiny_model: Loader
) -> None:
    model = tiny_model(family)
    before = fingerprint(model)
    with fold(model, draw_edit(model, scale=scale, bias=bias)):
        assert fingerprint(model).weights != before.weights
    assert fingerprint(model) == before


def test_a_folded_model_generates_what_the_hooked_one_does(llama: TransformerBridge) -> None:
    edit, tokens = 4.0 * draw_edit(llama), draw_tokens(1, 6)
    options: dict[str, Any] = {"do_sample": False, "stop_at_eos": False, "verbose": False}
    with edit.applied(llama):
        expected: Any = llama.generate(tokens, **options)
    with fold(llama, edit):
        found: Any = llama.generate(tokens, **options)
    assert torch.equal(found, expected)


def test_an_interrupted_fold_restores_every_layer(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = draw_tokens(2, 9)
    clean = llama(tokens)
    folded_layers = []

    def interrupted(*args: Any) -> None:
        if folded_layers:
            raise KeyboardInterrupt
        folded_layers.append(args)
        fold_projection(*args)

    monkeypatch.setattr("lofit_lens.folding.fold_projection", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fold(llama, draw_edit(llama))
    assert torch.equal(llama(tokens), clean)
