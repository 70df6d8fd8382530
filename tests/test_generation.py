from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.model import load_model
from lofit_lens.positions import TOKEN_SCOPES
from lofit_lens.scoring.generation import generate_greedily
from tests.helpers import FAMILIES, draw_edit, draw_tokens, edited_plain, load_plain

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]
N_NEW = 8
PROMPTS = ["The cat", "Anna has a son, Ben. Ben has", "The colour of the old house is"]


def steered(model: TransformerBridge, scope: Any = "all") -> HeadIntervention:
    """An edit strong enough to change what is generated."""
    return 4.0 * draw_edit(model, scope=scope)


def greedily(
    model: TransformerBridge, tokens: Tensor, method: str = "generate", **options: Any
) -> Tensor:
    generate = getattr(model, method)
    return generate(
        tokens, max_new_tokens=N_NEW, do_sample=False, stop_at_eos=False, return_type="tokens",
        **options,
    )  # fmt: skip


def plain_greedily(
    plain: Any,
    tokens: Tensor,
    edit: HeadIntervention | None,
    *,
    where: Callable[[int], Tensor] | None = None,
    use_cache: bool = False,
) -> Tensor:
    edits = [] if edit is None else [edit]
    with torch.no_grad(), edited_plain(plain, *edits, where=where):
        return plain.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=N_NEW, do_sample=False,
            eos_token_id=None, pad_token_id=0, use_cache=use_cache,
        )  # fmt: skip


def where_generating(scope: str, n_prompt: int) -> Callable[[int], Tensor]:
    """Positions edited in a forward pass over everything generated so far."""

    def where(length: int) -> Tensor:
        place = torch.arange(length)
        if scope == "all":
            return place >= 0
        return place == n_prompt - 1 if scope == "last" else place >= n_prompt - 1

    return where


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_generated_tokens_are_those_of_the_plain_model_with_the_edit(
    family: str, scope: Any, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    edit, tokens = steered(model, scope), draw_tokens(1, 6)
    expected = plain_greedily(plain, tokens, edit, where=where_generating(scope, 6))
    with edit.applied(model):
        assert torch.equal(greedily(model, tokens), expected)
        assert torch.equal(greedily(model, tokens, use_past_kv_cache=False), expected)
        assert torch.equal(greedily(model, tokens, "hf_generate"), expected)
        uncached = {"use_past_kv_cache": False, "use_cache": False}
        assert torch.equal(greedily(model, tokens, "hf_generate", **uncached), expected)
    assert not torch.equal(plain_greedily(plain, tokens, None), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_tokens_are_those_of_the_plain_model_with_a_cache(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, tokens = tiny_model(family), draw_tokens(1, 6)
    edit = steered(model)
    expected = plain_greedily(load_plain(tiny_folder(family)), tokens, edit, use_cache=True)
    with edit.applied(model):
        assert torch.equal(greedily(model, tokens), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_a_decode_loop_of_the_user_with_a_cache_agrees_with_generate(
    family: str, scope: Any, tiny_model: Loader
) -> None:
    model, tokens = tiny_model(family), draw_tokens(1, 6)
    with torch.no_grad(), steered(model, scope).applied(model):
        expected = greedily(model, tokens)
        logits, cache = model(tokens, return_type="logits_and_cache", use_cache=True)
        found = tokens
        for _ in range(N_NEW):
            new = logits[:, -1:].argmax(-1)
            found = torch.cat([found, new], dim=1)
            logits, cache = model(new, return_type="logits_and_cache", past_key_values=cache)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
def test_streamed_tokens_agree_with_generate(
    cached: bool, scope: Any, llama: TransformerBridge
) -> None:
    tokens = draw_tokens(1, 6)
    with steered(llama, scope).applied(llama):
        expected = greedily(llama, tokens)
        stream = llama.generate_stream(
            tokens, max_new_tokens=N_NEW, do_sample=False, stop_at_eos=False, return_type="tokens",
            use_past_kv_cache=cached, verbose=False,
        )  # fmt: skip
        pieces: list[Any] = list(stream)
        assert torch.equal(torch.cat(pieces, dim=1), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_a_list_of_prompts_gives_what_each_gives_alone(
    family: str, scope: Any, tiny_model: Loader
) -> None:
    model = tiny_model(family)
    options: dict[str, Any] = {"max_new_tokens": N_NEW, "do_sample": False, "verbose": False}
    with steered(model, scope).applied(model):
        together = model.generate(PROMPTS, **options)
        assert together == [model.generate(prompt, **options) for prompt in PROMPTS]


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_a_list_of_prompts_gives_the_same_with_the_generate_of_hugging_face(
    scope: Any, llama: TransformerBridge
) -> None:
    options: dict[str, Any] = {"max_new_tokens": N_NEW, "do_sample": False}
    with steered(llama, scope).applied(llama):
        expected = llama.generate(PROMPTS, verbose=False, **options)
        assert llama.hf_generate(PROMPTS, **options) == expected


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_a_streamed_list_of_prompts_gives_what_generate_gives(
    scope: Any, llama: TransformerBridge
) -> None:
    options: dict[str, Any] = {"max_new_tokens": N_NEW, "do_sample": False, "verbose": False}
    with steered(llama, scope).applied(llama):
        expected: Any = llama.generate(PROMPTS, return_type="tokens", stop_at_eos=False, **options)
        stream = llama.generate_stream(PROMPTS, return_type="tokens", stop_at_eos=False, **options)
        pieces: list[Any] = list(stream)
        assert torch.equal(torch.cat(pieces, dim=1), expected)


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
@pytest.mark.parametrize("method", ["generate", "generate without cache", "hf_generate"])
def test_rows_of_a_token_batch_may_end_before_others(
    method: str, scope: Any, llama: TransformerBridge
) -> None:
    tokens, edit = draw_tokens(2, 6), steered(llama, scope)
    with edit.applied(llama):
        new = greedily(llama, tokens)[:, 6:].tolist()
    end = next(i for i, token in enumerate(new[0]) if i and token not in new[0][:i] + new[1])
    tokenizer = llama.tokenizer
    eos = new[0][end]
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(eos)
    options: dict[str, Any] = {"max_new_tokens": N_NEW, "do_sample": False, "eos_token_id": eos}
    if method == "generate without cache":
        options["use_past_kv_cache"] = False
    with edit.applied(llama):
        found: Any = getattr(llama, method.split()[0])(tokens, return_type="tokens", **options)
    assert found[1, 6:].tolist() == new[1]
    assert found[0, 6 : 6 + end + 1].tolist() == new[0][: end + 1]
    assert set(found[0, 6 + end :].tolist()) == {eos}


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_prompt_lengths_of_an_earlier_scoring_do_not_disturb_generation(
    scope: Any, llama: TransformerBridge
) -> None:
    tokens = draw_tokens(1, 6)
    with steered(llama, scope).applied(llama) as positions:
        expected = greedily(llama, tokens)
        positions.set_prompt_lengths(torch.tensor([2, 3]))
        assert torch.equal(greedily(llama, tokens), expected)


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_one_generation_does_not_disturb_the_next(scope: Any, llama: TransformerBridge) -> None:
    short, long = draw_tokens(1, 4, seed=1), draw_tokens(1, 9, seed=2)
    edit = steered(llama, scope)
    with edit.applied(llama):
        expected = greedily(llama, long)
    with edit.applied(llama):
        greedily(llama, short)
        assert torch.equal(greedily(llama, long), expected)


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_nested_edits_generate_alike_with_and_without_a_cache(
    scope: Any, llama: TransformerBridge
) -> None:
    tokens, outer = draw_tokens(1, 6), draw_edit(llama, seed=1, scope=scope)
    with outer.applied(llama), steered(llama, "after_prompt").applied(llama):
        expected = greedily(llama, tokens, use_past_kv_cache=False)
        assert torch.equal(greedily(llama, tokens), expected)
        assert torch.equal(greedily(llama, tokens, "hf_generate"), expected)


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_the_cache_of_a_generation_holds_the_edited_activations(
    scope: Any, llama: TransformerBridge
) -> None:
    tokens, edit = draw_tokens(1, 6), steered(llama, scope)
    cache: Any
    with torch.no_grad(), edit.applied(llama) as positions:
        produced, cache = greedily(llama, tokens, return_cache=True)
        positions.set_prompt_lengths(torch.tensor([6]))
        if scope == "iti_compat":  # which starts two tokens earlier in generation than in scoring
            positions.set_prompt_lengths(torch.tensor([4]))
        _, expected = llama.run_with_cache(produced)
    name = "blocks.2.attn.hook_z"
    assert torch.allclose(cache[name], expected[name], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_greedy_continuations_do_not_depend_on_the_batch(
    family: str, scope: Any, tiny_model: Loader
) -> None:
    model = tiny_model(family)
    edit = steered(model, scope)
    alone = [generate_greedily(model, [prompt], edit, max_new_tokens=8)[0] for prompt in PROMPTS]
    assert generate_greedily(model, PROMPTS, edit, max_new_tokens=8) == alone
    assert generate_greedily(model, PROMPTS, edit, max_new_tokens=8, batch_size=2) == alone
    assert alone != generate_greedily(model, PROMPTS, max_new_tokens=8)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_continuations_are_those_of_the_plain_model(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    edit, tokenizer = steered(model), AutoTokenizer.from_pretrained(tiny_folder(family))
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        produced = plain_greedily(plain, torch.tensor([ids]), edit)[0, len(ids) :].tolist()
        if tokenizer.eos_token_id in produced:
            produced = produced[: produced.index(tokenizer.eos_token_id)]
        full = tokenizer.decode(ids + produced, skip_special_tokens=True)
        assert full.startswith(prompt)
        found = generate_greedily(model, [prompt], edit, max_new_tokens=N_NEW)
        assert found == [full.removeprefix(prompt)]


def test_a_continuation_ends_before_eos_and_the_other_rows_go_on(
    llama: TransformerBridge,
) -> None:
    tokenizer = llama.tokenizer
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    new = [greedily(llama, torch.tensor([row]))[0, len(row) :].tolist() for row in ids]
    place = next(i for i, t in enumerate(new[0]) if i and t not in new[0][:i] + new[1] + new[2])
    before = generate_greedily(llama, PROMPTS, max_new_tokens=N_NEW)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(new[0][place])
    after = generate_greedily(llama, PROMPTS, max_new_tokens=N_NEW)
    assert after[1:] == before[1:]
    expected = tokenizer.decode(ids[0] + new[0][:place], skip_special_tokens=True)
    assert PROMPTS[0] + after[0] == expected
    assert len(after[0]) < len(before[0])


@pytest.mark.real
@pytest.mark.parametrize("name", ["stories260K", "stories3M"])
def test_the_leading_blank_of_a_continuation_is_kept(name: str, models_dir: Path) -> None:
    model = load_model(models_dir / name, device="cpu")
    [continuation] = generate_greedily(model, ["Once upon a"], max_new_tokens=6)
    assert continuation.startswith(" time")


@pytest.mark.real
@pytest.mark.parametrize("name", ["stories260K", "stories3M"])
@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_a_real_model_generates_in_batches_what_it_generates_alone(
    name: str, scope: Any, models_dir: Path
) -> None:
    model = load_model(models_dir / name, device="cpu")
    edit = 0.3 * draw_edit(model, scope=scope)
    prompts = ["Once upon a time", "Lily had a", "Tom and his dog went to the"]
    alone = [generate_greedily(model, [prompt], edit, max_new_tokens=8)[0] for prompt in prompts]
    assert generate_greedily(model, prompts, edit, max_new_tokens=8) == alone


def test_no_prompts_give_no_continuations(llama: TransformerBridge) -> None:
    assert generate_greedily(llama, []) == []
