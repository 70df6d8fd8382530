from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.positions import TOKEN_SCOPES
from tests.helpers import (
    BIT_EQUAL,
    FAMILIES,
    SOME_HEADS,
    assert_same_logits,
    count_hooks,
    draw_edit,
    draw_tokens,
    edited_plain,
    load_plain,
    type_checks_off,
)

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]
PARTS = {
    "scale and bias": (True, True),
    "scale only": (True, False),
    "bias only": (False, True),
}
# Rounding of GPT-2's native bridge: 4.8e-6 on logits of 4.7 with no edit at all.
GPT2_REL = 2e-6


def oracle_logits(
    folder: Path, tokens: Tensor, *edits: HeadIntervention, dtype: torch.dtype = torch.float32
) -> Tensor:
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=dtype)
    with torch.no_grad(), edited_plain(plain, *edits):
        return plain(tokens).logits


@torch.no_grad()
def edited_logits(model: TransformerBridge, tokens: Tensor, edit: HeadIntervention) -> Tensor:
    with edit.applied(model):
        return model(tokens)


@torch.no_grad()
def clean_logits(model: TransformerBridge, tokens: Tensor) -> Tensor:
    return model(tokens)


def gradients(logits: Tensor, tokens: Tensor, edit: HeadIntervention) -> tuple[Tensor, ...]:
    assert edit.scale is not None and edit.bias is not None
    targets = tokens.roll(-1, dims=1).flatten()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)
    return torch.autograd.grad(loss, (edit.scale, edit.bias))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_edited_logits_are_those_of_the_plain_model_edited_densely(
    family: str, parts: tuple[bool, bool], tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    edit = draw_edit(model, scale=parts[0], bias=parts[1])
    expected = oracle_logits(tiny_folder(family), tokens, edit)
    found = edited_logits(model, tokens, edit)
    assert_same_logits(found, expected, exactly=family in BIT_EQUAL, rel=GPT2_REL)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_of_every_head_is_exact_too(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    every = HeadSet.every(n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
    edit = draw_edit(model, heads=every)
    expected = oracle_logits(tiny_folder(family), tokens, edit)
    found = edited_logits(model, tokens, edit)
    assert_same_logits(found, expected, exactly=family in BIT_EQUAL, rel=GPT2_REL)


@pytest.mark.real
@pytest.mark.parametrize("name", ["stories260K", "stories3M"])
def test_edited_logits_of_a_real_model_are_those_of_the_plain_model(
    name: str, models_dir: Path
) -> None:
    model = load_model(models_dir / name, device="cpu")
    edit, tokens = draw_edit(model), draw_tokens(vocab=model.cfg.d_vocab)
    expected = oracle_logits(models_dir / name, tokens, edit)
    assert torch.equal(edited_logits(model, tokens, edit), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, 12])
def test_gradients_of_a_loss_are_those_of_the_plain_model(
    family: str, length: int, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    tokens = draw_tokens(rows=1 if length == 1 else 2, length=length)
    edit = draw_edit(model)
    for tensor in (edit.scale, edit.bias):
        tensor.requires_grad_()
    with edit.applied(model):
        found = gradients(model(tokens), tokens, edit)
    with edited_plain(plain, edit):
        expected = gradients(plain(tokens).logits, tokens, edit)
    # Over several positions the dense oracle sums in another order: 1e-7 apart. GPT-2's clean bridge
    # is off already, by how much depends on the processor.
    exactly = length == 1 and family in BIT_EQUAL and family != "neox"
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 1e-4
        assert_same_logits(
            one, other, exactly=exactly, rel=1e-6 if family in BIT_EQUAL else GPT2_REL
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bfloat16_model_is_edited_in_float32(family: str, tiny_folder: Folder) -> None:
    model = load_model(tiny_folder(family), device="cpu", dtype="bfloat16")
    edit, tokens = draw_edit(model), draw_tokens()
    expected = oracle_logits(tiny_folder(family), tokens, edit, dtype=torch.bfloat16)
    found = edited_logits(model, tokens, edit)
    assert found.dtype == torch.bfloat16
    assert edit.scale.dtype == edit.bias.dtype == torch.float32
    assert_same_logits(found.float(), expected.float(), exactly=True)


def test_a_scale_below_the_precision_of_bfloat16_is_not_lost(tiny_folder: Folder) -> None:
    model = load_model(tiny_folder("llama"), device="cpu", dtype="bfloat16")
    every = HeadSet.every(n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
    small = torch.full((len(every), model.cfg.d_head), 3e-3)  # 1 + 3e-3 rounds to 1 in bfloat16
    tokens = draw_tokens()
    found = edited_logits(model, tokens, HeadIntervention(every, scale=small))
    assert not torch.equal(found, clean_logits(model, tokens))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_zero_edit_is_the_identity(family: str, scope: Any, tiny_model: Loader) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    edit = 0.0 * draw_edit(model, scope=scope)
    assert torch.equal(edited_logits(model, tokens, edit), clean_logits(model, tokens))


def test_only_layers_with_heads_get_hooks(llama: TransformerBridge) -> None:
    names = [name for name, _ in draw_edit(llama).hooks(llama)]
    assert names == ["blocks.0.attn.hook_z", "blocks.2.attn.hook_z"]


def test_hooks_of_scope_all_work_with_the_hook_context_of_the_model(
    llama: TransformerBridge,
) -> None:
    edit, tokens = draw_edit(llama), draw_tokens()
    with torch.no_grad(), llama.hooks(fwd_hooks=edit.hooks(llama)):
        found = llama(tokens)
    assert torch.equal(found, edited_logits(llama, tokens, edit))


@pytest.mark.parametrize("family", FAMILIES)
def test_z_is_edited_once_per_forward_pass(family: str, tiny_model: Loader) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    ones = torch.ones(1, model.cfg.d_head)
    heads = HeadSet([(0, 2)], n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
    seen: list[Tensor] = []

    def watch(z: Tensor, hook: object) -> None:
        seen.append(z.detach().clone())

    def run() -> Tensor:
        with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", watch)]):
            model(tokens)
        return seen.pop()

    clean = run()
    with HeadIntervention(heads, bias=ones).applied(model):
        edited = run()
    assert not seen
    expected = clean.clone()
    expected[:, :, 2] += 1
    assert torch.equal(edited, expected)


def test_half_the_strength_is_the_edit_with_half_the_tensors(llama: TransformerBridge) -> None:
    edit, tokens = draw_edit(llama), draw_tokens()
    halved = replace(edit, scale=edit.scale / 2, bias=edit.bias / 2)
    expected = edited_logits(llama, tokens, halved)
    assert torch.equal(edited_logits(llama, tokens, 0.5 * edit), expected)
    assert torch.equal(edited_logits(llama, tokens, edit * 0.5), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_nested_edits_act_in_the_order_of_entering(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    first, second = draw_edit(model, seed=1), draw_edit(model, seed=2, heads=[(0, 3), (1, 0)])
    expected = oracle_logits(tiny_folder(family), tokens, first, second)
    with first.applied(model):
        found = edited_logits(model, tokens, second)
    assert_same_logits(found, expected, exactly=family in BIT_EQUAL, rel=GPT2_REL)


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_leaving_the_inner_edit_keeps_the_outer_one(scope: Any, llama: TransformerBridge) -> None:
    outer, inner = draw_edit(llama, seed=1, scope=scope), draw_edit(llama, seed=2, scope=scope)
    tokens = draw_tokens()
    alone = edited_logits(llama, tokens, outer)
    with outer.applied(llama):
        edited_logits(llama, tokens, inner)
        assert torch.equal(clean_logits(llama, tokens), alone)


def test_nested_edits_of_different_scopes_keep_their_own_positions(
    tiny_folder: Folder, llama: TransformerBridge
) -> None:
    everywhere, last = draw_edit(llama, seed=1), draw_edit(llama, seed=2, scope="last")
    plain, tokens = load_plain(tiny_folder("llama")), draw_tokens()
    final = lambda length: torch.arange(length) == length - 1  # noqa: E731
    with torch.no_grad(), edited_plain(plain, everywhere), edited_plain(plain, last, where=final):
        expected = plain(tokens).logits
    with everywhere.applied(llama):
        assert torch.equal(edited_logits(llama, tokens, last), expected)


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_the_context_leaves_the_original_model(
    error: type[BaseException], scope: Any, llama: TransformerBridge
) -> None:
    tokens = draw_tokens()
    expected, hooks = clean_logits(llama, tokens), count_hooks(llama)
    with pytest.raises(error), draw_edit(llama, scope=scope).applied(llama):
        assert count_hooks(llama) > hooks
        raise error
    assert count_hooks(llama) == hooks
    assert not llama.__dict__.keys() & {"generate", "hf_generate"}
    assert torch.equal(clean_logits(llama, tokens), expected)


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
@pytest.mark.parametrize("method", ["forward", "generate", "hf_generate"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_a_forward_pass_leaves_the_original_model(
    error: type[BaseException], method: str, scope: Any, llama: TransformerBridge
) -> None:
    tokens, passes = draw_tokens(), []
    expected, hooks = clean_logits(llama, tokens), count_hooks(llama)
    options = {} if method == "forward" else {"do_sample": False, "stop_at_eos": False}

    def interrupt(z: Tensor, hook: object) -> None:
        passes.append(len(passes))
        if len(passes) == (1 if method == "forward" else 3):
            raise error

    with (
        pytest.raises(error),
        draw_edit(llama, scope=scope).applied(llama),
        llama.hooks(fwd_hooks=[("blocks.1.attn.hook_z", interrupt)]),
    ):
        getattr(llama, method)(tokens, **options)
    assert passes
    assert count_hooks(llama) == hooks
    assert not llama.__dict__.keys() & {"generate", "hf_generate"}
    assert torch.equal(clean_logits(llama, tokens), expected)


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_an_interrupted_generation_inside_the_context_does_not_disturb_the_next_forward_pass(
    scope: Any, llama: TransformerBridge
) -> None:
    edit, tokens = draw_edit(llama, scope=scope), draw_tokens()
    expected = edited_logits(llama, tokens, edit)

    def interrupt(z: Tensor, hook: object) -> None:
        raise KeyboardInterrupt

    with edit.applied(llama):
        with (
            pytest.raises(KeyboardInterrupt),
            llama.hooks(fwd_hooks=[("blocks.1.attn.hook_z", interrupt)]),
        ):
            llama.generate(draw_tokens(length=5), verbose=False)
        assert torch.equal(clean_logits(llama, tokens), expected)


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_hooks_of_the_user_survive(scope: Any, llama: TransformerBridge) -> None:
    edit, tokens, calls = draw_edit(llama, scope=scope), draw_tokens(), []

    def note(z: Tensor, hook: object) -> None:
        calls.append(hook)

    llama.add_hook("blocks.0.attn.hook_z", note)
    llama.add_perma_hook("blocks.2.hook_out", note)
    edited_logits(llama, tokens, edit)
    assert len(calls) == 2
    clean_logits(llama, tokens)
    assert len(calls) == 4


def test_hooks_that_the_user_runs_inside_the_context_leave_the_edit_in_place(
    llama: TransformerBridge,
) -> None:
    edit, tokens = draw_edit(llama, scope="after_prompt"), draw_tokens()
    expected = edited_logits(llama, tokens, edit)

    def silence(z: Tensor, hook: object) -> Tensor:
        return 0 * z

    with torch.no_grad(), edit.applied(llama):
        cached, _ = llama.run_with_cache(tokens)
        llama.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", silence)])
        assert torch.equal(cached, expected)
        assert torch.equal(llama(tokens), expected)


HEADS = HeadSet(SOME_HEADS, n_layers=3, n_heads=4)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "scale, bias or both"),
        ({"bias": torch.zeros(3, 24)}, r"bias has shape \(3, 24\)"),
        ({"scale": torch.zeros(4, 24), "bias": torch.zeros(4, 16)}, r"bias has shape \(4, 16\)"),
        ({"scale": torch.zeros(5, 24), "bias": torch.zeros(4, 24)}, r"scale has shape \(5, 24\)"),
        ({"bias": torch.zeros(4, 24), "scope": "first"}, "'first'"),
    ],
    ids=["nothing", "too few rows", "another width", "too many rows", "unknown scope"],
)
def test_an_ill_formed_intervention_is_refused(parts: dict[str, Any], message: str) -> None:
    with type_checks_off(), pytest.raises(LofitLensError, match=message):
        HeadIntervention(HEADS, **parts)


@pytest.mark.parametrize("shape", [(4, 4), (3, 8), (2, 4)])
def test_heads_of_another_model_shape_are_refused(
    shape: tuple[int, int], llama: TransformerBridge
) -> None:
    heads = HeadSet([(0, 0)], n_layers=shape[0], n_heads=shape[1])
    edit = HeadIntervention(heads, bias=torch.zeros(1, llama.cfg.d_head))
    with pytest.raises(ModelMismatchError, match=f"{shape[0]} layers x {shape[1]} heads"):
        edit.hooks(llama)
    with pytest.raises(ModelMismatchError), edit.applied(llama):
        pass


def test_another_head_size_is_refused(llama: TransformerBridge) -> None:
    edit = HeadIntervention(HEADS, bias=torch.zeros(4, 16))
    with pytest.raises(LofitLensError, match="d_head = 16, the model 24"), edit.applied(llama):
        pass


def test_a_refused_edit_leaves_no_hook(llama: TransformerBridge) -> None:
    before = count_hooks(llama)
    edit = HeadIntervention(HEADS, bias=torch.zeros(4, 16), scope="last")
    with pytest.raises(LofitLensError), edit.applied(llama):
        pass
    assert count_hooks(llama) == before


@pytest.mark.filterwarnings("ignore")
def test_scale_on_processed_weights_is_refused(llama: TransformerBridge) -> None:
    llama.enable_compatibility_mode()
    with pytest.raises(UnsupportedError, match="load_model"), draw_edit(llama).applied(llama):
        pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["gpt2", "neox", "qwen2"])
def test_a_bias_on_processed_weights_gives_the_right_probabilities(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    model.enable_compatibility_mode()
    edit = draw_edit(model, scale=False)
    expected = oracle_logits(tiny_folder(family), tokens, edit).log_softmax(-1)
    assert_same_logits(edited_logits(model, tokens, edit).log_softmax(-1), expected)


@pytest.mark.parametrize("scope", [scope for scope in TOKEN_SCOPES if scope != "all"])
def test_bare_hooks_are_refused_where_the_scope_needs_a_tracker(
    scope: Any, llama: TransformerBridge
) -> None:
    with pytest.raises(LofitLensError, match="applied"):
        draw_edit(llama, scope=scope).hooks(llama)


def test_parameters_are_counted_per_head_and_kind(llama: TransformerBridge) -> None:
    assert draw_edit(llama).n_parameters == 2 * len(SOME_HEADS) * llama.cfg.d_head
    assert draw_edit(llama, scale=False).n_parameters == len(SOME_HEADS) * llama.cfg.d_head


def test_the_frame_holds_the_norm_of_each_head(llama: TransformerBridge) -> None:
    edit = draw_edit(llama, scale=False)
    frame = edit.frame()
    assert list(zip(frame["layer"], frame["head"], strict=True)) == list(SOME_HEADS)
    assert frame["scale_norm"].eq(0).all()
    expected = [float(torch.sqrt((row**2).sum())) for row in edit.bias]
    assert frame["bias_norm"].tolist() == pytest.approx(expected)
