from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, UnsupportedError
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from tests.helpers import (
    BIT_EQUAL,
    FAMILIES,
    assert_same_logits,
    draw_edit,
    draw_tokens,
    edited_plain,
    load_plain,
)

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]
RESTRICTED = ("after_prompt", "iti_compat", "last")
SCOPES = ("all", *RESTRICTED)
PAD = 1
BATCH_REL = 4e-6  # a batch is summed in another order; logits reach 10 in the random Gemma 2


def edited_positions(scope: str, n_prompt: int, n_tokens: int) -> set[int]:
    """By the definition of the scopes, for a prompt and its answer in one forward pass."""
    everything: dict[str, Iterable[int]] = {
        "all": range(n_tokens),
        "after_prompt": range(n_prompt - 1, n_tokens),
        "iti_compat": range(n_prompt + 1, n_tokens),
        "last": [n_prompt - 1],
    }
    return set(everything[scope])


def grid(rows: Iterable[set[int]], n_tokens: int) -> Tensor:
    return torch.tensor([[i in row for i in range(n_tokens)] for row in rows])


def changed_positions(
    model: TransformerBridge,
    scope: Any,
    tokens: Tensor,
    *,
    prompt_lengths: list[int] | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Where z of a head differs from the model without the edit."""
    heads = HeadSet([(0, 2)], n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
    edit = HeadIntervention(heads, bias=torch.ones(1, model.cfg.d_head), scope=scope)
    seen: list[Tensor] = []

    def watch(z: Tensor, hook: object) -> None:
        seen.append(z[:, :, 2].clone())

    def run() -> Tensor:
        with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", watch)]):
            model(tokens, attention_mask=attention_mask)
        return seen.pop()

    clean = run()
    with edit.applied(model) as positions:
        if prompt_lengths is not None:
            positions.set_prompt_lengths(torch.tensor(prompt_lengths))
        return (run() != clean).any(-1)


@torch.no_grad()
def edited_logits(
    model: TransformerBridge,
    edit: HeadIntervention,
    tokens: Tensor,
    *,
    prompt_lengths: list[int] | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    with edit.applied(model) as positions:
        if prompt_lengths is not None:
            positions.set_prompt_lengths(torch.tensor(prompt_lengths))
        return model(tokens, attention_mask=attention_mask)


def pad(rows: list[Tensor], side: str, width: int) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask of rows of unlike length."""
    tokens, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width).long()
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tokens[i, place], mask[i, place] = row, 1
    return tokens, mask


@pytest.mark.parametrize(
    ("scope", "edited"),
    [
        ("all", {0, 1, 2, 3, 4, 5, 6, 7}),
        ("after_prompt", {3, 4, 5, 6, 7}),
        ("iti_compat", {5, 6, 7}),
        ("last", {3}),
    ],
)
def test_edited_positions_of_four_prompt_and_four_answer_tokens(
    scope: Any, edited: set[int], llama: TransformerBridge
) -> None:
    found = changed_positions(llama, scope, draw_tokens(1, 8), prompt_lengths=[4])
    assert torch.equal(found, grid([edited], 8))


@pytest.mark.parametrize(
    ("scope", "edited"),
    [
        ("all", {0, 1, 2, 3, 4, 5, 6, 7}),
        ("after_prompt", {7}),
        ("iti_compat", {7}),
        ("last", {7}),
    ],
)
def test_a_forward_pass_without_prompt_lengths_is_all_prompt(
    scope: Any, edited: set[int], llama: TransformerBridge
) -> None:
    found = changed_positions(llama, scope, draw_tokens(2, 8))
    assert torch.equal(found, grid([edited] * 2, 8))


@pytest.mark.parametrize("scope", RESTRICTED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_the_edited_positions_and_is_never_edited(
    scope: Any, side: str, llama: TransformerBridge
) -> None:
    lengths, prompts = [8, 6, 7], [4, 2, 5]
    rows = [draw_tokens(1, n, seed=n)[0] for n in lengths]
    tokens, mask = pad(rows, side, 9)
    shifts = [9 - n if side == "left" else 0 for n in lengths]
    expected = [
        {i + shift for i in edited_positions(scope, p, n)}
        for shift, p, n in zip(shifts, prompts, lengths, strict=True)
    ]
    found = changed_positions(llama, scope, tokens, prompt_lengths=prompts, attention_mask=mask)
    assert torch.equal(found, grid(expected, 9))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", SCOPES)
def test_logits_are_those_of_the_plain_model_edited_at_the_same_positions(
    family: str, scope: Any, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    edit, tokens, prompts = draw_edit(model, scope=scope), draw_tokens(2, 10), [6, 3]
    rows = [edited_positions(scope, p, 10) for p in prompts]
    with torch.no_grad(), edited_plain(plain, edit, where=lambda length: grid(rows, length)):
        expected = plain(tokens).logits
    found = edited_logits(model, edit, tokens, prompt_lengths=prompts)
    assert_same_logits(found, expected, exactly=family in BIT_EQUAL)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("prompts", [None, [6, 3, 4]], ids=["all prompt", "prompt and answer"])
def test_padding_does_not_change_the_logits(
    family: str, scope: Any, prompts: list[int] | None, tiny_model: Loader
) -> None:
    model = tiny_model(family)
    edit = draw_edit(model, scope=scope)
    rows = [draw_tokens(1, n, seed=n)[0] for n in (10, 6, 7)]
    own = [None if prompts is None else [n] for n in prompts or [0] * 3]
    alone = [
        edited_logits(model, edit, row[None], prompt_lengths=n)[0]
        for row, n in zip(rows, own, strict=True)
    ]
    for side in ("left", "right"):
        tokens, mask = pad(rows, side, 12)
        found = edited_logits(model, edit, tokens, prompt_lengths=prompts, attention_mask=mask)
        for i, expected in enumerate(alone):
            assert_same_logits(found[i, mask[i].bool()], expected, rel=BATCH_REL)


@pytest.mark.parametrize("scope", RESTRICTED)
def test_rows_of_a_batch_without_padding_equal_single_rows(
    scope: Any, llama: TransformerBridge
) -> None:
    edit, tokens, prompts = draw_edit(llama, scope=scope), draw_tokens(3, 9), [2, 5, 8]
    found = edited_logits(llama, edit, tokens, prompt_lengths=prompts)
    for i, row in enumerate(tokens):
        alone = edited_logits(llama, edit, row[None], prompt_lengths=[prompts[i]])
        assert_same_logits(found[i], alone[0], rel=BATCH_REL)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_cached_prefix_does_not_change_the_logits(
    family: str, scope: Any, tiny_model: Loader
) -> None:
    model, tokens, prompts = tiny_model(family), draw_tokens(2, 10), torch.tensor([6, 7])
    edit = draw_edit(model, scope=scope)
    expected = edited_logits(model, edit, tokens, prompt_lengths=prompts.tolist())
    with torch.no_grad(), edit.applied(model) as positions:
        positions.set_prompt_lengths(prompts)
        first, cache = model(tokens[:, :4], return_type="logits_and_cache", use_cache=True)
        second = model(tokens[:, 4:], past_key_values=cache)
    assert_same_logits(torch.cat([first, second], dim=1), expected, rel=BATCH_REL)


@pytest.mark.real
@pytest.mark.parametrize("scope", SCOPES)
def test_padding_does_not_change_the_logits_of_a_real_model(scope: Any, models_dir: Path) -> None:
    model = load_model(models_dir / "stories3M", device="cpu")
    edit = draw_edit(model, scope=scope)
    texts = ["Once upon a time there was a cat", "The dog", "Lily and Ben went to the big park"]
    rows = [model.to_tokens(text)[0] for text in texts]
    prompts = [len(row) - 1 for row in rows]
    tokens, mask = pad(rows, "left", max(map(len, rows)))
    found = edited_logits(model, edit, tokens, prompt_lengths=prompts, attention_mask=mask)
    for i, row in enumerate(rows):
        alone = edited_logits(model, edit, row[None], prompt_lengths=[prompts[i]])
        assert_same_logits(found[i, mask[i].bool()], alone[0], rel=BATCH_REL)


@pytest.mark.parametrize("scope", RESTRICTED)
@pytest.mark.parametrize("prompts", [[4], [4, 4, 4]])
def test_a_wrong_number_of_prompt_lengths_is_refused(
    scope: Any, prompts: list[int], llama: TransformerBridge
) -> None:
    with pytest.raises(LofitLensError, match=f"{len(prompts)} entries, the batch 2 rows"):
        edited_logits(llama, draw_edit(llama, scope=scope), draw_tokens(2), prompt_lengths=prompts)


@pytest.mark.parametrize("scope", RESTRICTED)
def test_right_padding_without_a_mask_is_refused(scope: Any, llama: TransformerBridge) -> None:
    tokens, _ = pad([draw_tokens(1, 8)[0], draw_tokens(1, 5)[0]], "right", 8)
    with pytest.raises(UnsupportedError, match="attention_mask"):
        edited_logits(llama, draw_edit(llama, scope=scope), tokens)


@pytest.mark.parametrize("scope", RESTRICTED)
def test_a_list_of_texts_that_the_model_would_pad_on_the_right_is_refused(
    scope: Any, llama: TransformerBridge
) -> None:
    assert llama.tokenizer.padding_side == "right"
    with pytest.raises(UnsupportedError), draw_edit(llama, scope=scope).applied(llama):
        llama(["The cat.", "The cat lives in the old house."])


def test_scope_all_needs_no_mask_under_right_padding(llama: TransformerBridge) -> None:
    row = draw_tokens(1, 5)[0]
    tokens, _ = pad([draw_tokens(1, 8)[0], row], "right", 8)
    edit = draw_edit(llama)
    found = edited_logits(llama, edit, tokens)[1, :5]
    assert_same_logits(found, edited_logits(llama, edit, row[None])[0])


@pytest.mark.parametrize("scope", RESTRICTED)
def test_a_mask_of_four_dimensions_is_refused(scope: Any, llama: TransformerBridge) -> None:
    mask = torch.ones(1, 1, 12, 12).tril().bool()
    with pytest.raises(UnsupportedError, match="two-dimensional"):
        edited_logits(llama, draw_edit(llama, scope=scope), draw_tokens(1), attention_mask=mask)


@pytest.mark.parametrize("scope", RESTRICTED)
def test_prompt_lengths_can_be_taken_back(scope: Any, llama: TransformerBridge) -> None:
    edit, tokens = draw_edit(llama, scope=scope), draw_tokens()
    expected = edited_logits(llama, edit, tokens)
    with torch.no_grad(), edit.applied(llama) as positions:
        positions.set_prompt_lengths(torch.tensor([4, 4]))
        assert not torch.equal(llama(tokens), expected)
        positions.set_prompt_lengths(None)
        assert torch.equal(llama(tokens), expected)
