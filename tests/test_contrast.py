from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.analysis.baselines.contrast import (
    ANY_TASK,
    INSTRUCTIONS,
    ContrastConfig,
    fit_contrast,
)
from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.model import load_model
from lofit_lens.positions import TOKEN_SCOPES
from lofit_lens.scoring import answer_logprobs, evaluate, generate_greedily
from lofit_lens.tasks import Example, MultipleChoice, Task
from lofit_lens.tokens import EncodedText, Encoder
from tests.helpers import (
    CONTEXT,
    D_MODEL,
    FAMILIES,
    N_LAYERS,
    assert_same_logits,
    build_tokenizer,
    count_hooks,
    draw_edit,
    draw_tokens,
    load_plain,
    type_checks_off,
)
from tests.plain_blocks import hooked_blocks
from tests.test_residual import draw_vectors

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]
POSITIVE, NEGATIVE = "The sky is blue. ", "A grey cat. "
BOS, EOS = 0, 1
REL = 4e-6  # a batch is summed in another order, and a cache in yet another


def contrast(*layers: int, alpha: float = 2.0, scope: Any = "all") -> ContrastIntervention:
    return ContrastIntervention(
        POSITIVE, NEGATIVE, layers, n_layers=N_LAYERS, alpha=alpha, scope=scope
    )


def draw_text(length: int, *, bos: bool, seed: int = 0) -> list[int]:
    drawn = draw_tokens(1, length, seed=seed)[0].tolist()
    return [BOS, *drawn[1:]] if bos else drawn


def behind(h: Tensor, kept: list[Tensor]) -> Tensor:
    kept.append(h.clone())
    return h


def plain_residual(plain: Any, ids: Sequence[int], layer: int) -> Tensor:
    kept: list[Tensor] = []
    with hooked_blocks(plain, {layer: partial(behind, kept=kept)}):
        plain(torch.tensor([ids]))
    return kept[0]


@torch.no_grad()
def plain_logits(
    plain: Any, ids: list[int], edit: ContrastIntervention, where: Sequence[int] | None = None
) -> Tensor:
    """Three forward passes of a plain model by hand, for one text without padding."""
    tokenizer, changes = build_tokenizer(), {}
    bos = int(ids[0] == BOS)
    n = len(ids) - bos
    for layer in edit.layers:
        streams = []
        for text in (edit.positive, edit.negative):
            instruction = tokenizer(text, add_special_tokens=False)["input_ids"]
            states = plain_residual(plain, ids[:bos] + instruction + ids[bos:], layer)
            streams.append(states[:, states.shape[1] - n :])
        added = torch.zeros(1, len(ids), D_MODEL)
        added[:, bos:] = edit.alpha * (streams[0] - streams[1])
        for position in range(len(ids)):
            if where is not None and position not in where:
                added[:, position] = 0
        changes[layer] = partial(torch.add, other=added)
    with hooked_blocks(plain, changes):
        return plain(torch.tensor([ids])).logits


def padded(rows: Sequence[list[int]], side: str, width: int) -> tuple[Tensor, Tensor]:
    tokens, mask = torch.full((len(rows), width), EOS), torch.zeros(len(rows), width).long()
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tokens[i, place], mask[i, place] = torch.tensor(row), 1
    return tokens, mask


def generate(model: TransformerBridge, tokens: Tensor, **options: Any) -> Tensor:
    found = model.generate(
        tokens, max_new_tokens=6, do_sample=False, stop_at_eos=False,
        return_type="tokens", verbose=False, **options,
    )  # fmt: skip
    return torch.as_tensor(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [(1,), (2, 0)])
@pytest.mark.parametrize("bos", [True, False])
def test_logits_are_those_of_three_passes_of_the_plain_model_by_hand(
    family: str, layers: tuple[int, ...], bos: bool, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain, edit = tiny_model(family), load_plain(tiny_folder(family)), contrast(*layers)
    ids = draw_text(10, bos=bos)
    with torch.no_grad(), edit.applied(model):
        found = model(torch.tensor([ids]))
    assert_same_logits(found, plain_logits(plain, ids, edit))
    assert (found - model(torch.tensor([ids]))).abs().max() > 0.1


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_a_scope_limits_where_the_difference_is_added_and_not_the_streams(
    scope: Any, tiny_folder: Folder, llama: TransformerBridge
) -> None:
    edited = {
        "all": range(10),
        "after_prompt": range(5, 10),
        "iti_compat": range(7, 10),
        "last": [5],
    }
    plain, ids, edit = load_plain(tiny_folder("llama")), draw_text(10, bos=True), contrast(1)
    expected = plain_logits(plain, ids, edit, edited[scope])
    with torch.no_grad(), edit.with_scope(scope).applied(llama) as positions:
        positions.set_prompt_lengths(torch.tensor([6]))
        assert_same_logits(llama(torch.tensor([ids])), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_the_logits(
    family: str, side: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain, edit = tiny_model(family), load_plain(tiny_folder(family)), contrast(0, 1)
    rows = [draw_text(n, bos=n != 7, seed=n) for n in (10, 5, 7)]
    tokens, mask = padded(rows, side, 30)
    with torch.no_grad(), edit.applied(model):
        found = model(tokens, attention_mask=mask)
    for i, row in enumerate(rows):
        assert_same_logits(found[i, mask[i].bool()], plain_logits(plain, row, edit)[0], rel=REL)


def test_rows_of_one_start_token_are_left_alone(llama: TransformerBridge) -> None:
    tokens, mask = padded([[BOS], [BOS]], "left", 2)
    with torch.no_grad():
        expected = llama(tokens, attention_mask=mask)
        with contrast(1).applied(llama):
            assert torch.equal(llama(tokens, attention_mask=mask), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_generation_is_that_of_the_plain_model_by_hand(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain, edit = tiny_model(family), load_plain(tiny_folder(family)), contrast(1)
    ids = draw_text(7, bos=True)
    expected = list(ids)
    for _ in range(6):
        expected.append(int(plain_logits(plain, expected, edit)[0, -1].argmax()))
    assert expected != generate(model, torch.tensor([ids]))[0].tolist()
    with edit.applied(model):
        assert generate(model, torch.tensor([ids]))[0].tolist() == expected


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generating_with_a_cache_gives_what_it_gives_without(
    family: str, scope: Any, tiny_model: Loader
) -> None:
    model, edit = tiny_model(family), contrast(1, scope=scope)
    rows = [draw_text(n, bos=True, seed=n) for n in (9, 6)]
    tokens, mask = padded(rows, "left", 9)
    with edit.applied(model):
        cached = generate(model, tokens, attention_mask=mask)
        plain = generate(model, tokens, attention_mask=mask, use_past_kv_cache=False)
        alone = [generate(model, torch.tensor([row]))[0, -6:] for row in rows]
        hf: Any = model.hf_generate(
            tokens[:1], max_new_tokens=6, do_sample=False, return_type="tokens", eos_token_id=None
        )
    assert torch.equal(cached, plain)
    assert torch.equal(cached[:, -6:], torch.stack(alone))
    assert torch.equal(torch.as_tensor(hf)[0, :15], cached[0])


@torch.no_grad()
def test_a_cache_made_inside_the_context_can_be_gone_on_from(llama: TransformerBridge) -> None:
    tokens = draw_tokens(2, 10)
    with contrast(1).applied(llama):
        expected = llama(tokens)
        first, cache = llama(tokens[:, :4], return_type="logits_and_cache", use_cache=True)
        second = llama(tokens[:, 4:], past_key_values=cache)
    assert_same_logits(torch.cat([first, second], dim=1), expected, rel=REL)


def reordered(cache: Any) -> Any:
    cache.reorder_cache(torch.tensor([1, 0]))
    return cache


def shortened(cache: Any) -> Any:
    cache.crop(-1)
    return cache


@torch.no_grad()
@pytest.mark.parametrize("change", [reordered, shortened])
def test_a_cache_changed_since_is_refused(
    change: Callable[[Any], Any], llama: TransformerBridge
) -> None:
    tokens = draw_tokens(2, 10)
    with contrast(1).applied(llama):
        _, cache = llama(tokens[:, :4], return_type="logits_and_cache", use_cache=True)
        with pytest.raises(UnsupportedError, match="from its first token"):
            llama(tokens[:, 4:], past_key_values=change(cache))


@torch.no_grad()
def test_a_cache_made_outside_the_context_is_refused(llama: TransformerBridge) -> None:
    tokens = draw_tokens(2, 10)
    _, cache = llama(tokens[:, :4], return_type="logits_and_cache", use_cache=True)
    with (
        contrast(1).applied(llama),
        pytest.raises(UnsupportedError, match="cache of 4 tokens"),
    ):
        llama(tokens[:, 4:], past_key_values=cache)


@torch.no_grad()
@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (torch.ones(1, 4, D_MODEL), {}, "token ids"),
        (draw_tokens(1, 4), {"attention_mask": torch.ones(1, 1, 4, 4)}, "two-dimensional"),
    ],
)
def test_passes_without_ids_or_with_a_mask_of_four_dimensions_are_refused(
    inputs: Tensor, options: Any, message: str, llama: TransformerBridge
) -> None:
    with contrast(1).applied(llama), pytest.raises(UnsupportedError, match=message):
        llama(inputs, **options)


@torch.no_grad()
def test_a_text_that_is_too_long_with_the_instruction_is_refused(
    llama: TransformerBridge,
) -> None:
    with contrast(1).applied(llama), pytest.raises(LofitLensError, match="instruction included"):
        llama(draw_tokens(1, CONTEXT))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_alpha_zero_is_exactly_the_identity(family: str, scope: Any, tiny_model: Loader) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    with torch.no_grad():
        expected = model(tokens)
        with contrast(0, 2, alpha=0.0, scope=scope).applied(model):
            assert torch.equal(model(tokens), expected)


def test_equal_instructions_are_refused() -> None:
    with pytest.raises(LofitLensError, match="difference is nothing"):
        ContrastIntervention("Be good.", "Be good.", (1,), n_layers=N_LAYERS)


@pytest.mark.parametrize("layers", [(3,), (-1,), (1, 1), ()])
def test_layers_outside_the_model_or_twice_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(LofitLensError, match="from 0 to 2"):
        contrast(*layers)


def test_a_model_of_another_depth_is_refused(llama: TransformerBridge) -> None:
    edit = ContrastIntervention(POSITIVE, NEGATIVE, (3,), n_layers=4)
    with pytest.raises(ModelMismatchError, match="4 layers"), edit.applied(llama):
        pass


@torch.no_grad()
def test_other_edits_at_all_positions_are_part_of_the_streams(
    tiny_folder: Folder, llama: TransformerBridge
) -> None:
    plain, ids, edit = load_plain(tiny_folder("llama")), draw_text(9, bos=True), contrast(2)
    other = draw_vectors(1)
    with hooked_blocks(plain, {1: partial(torch.add, other=other.vectors[0])}):
        expected = plain_logits(plain, ids, edit)
    with edit.applied(llama), other.applied(llama):
        assert_same_logits(llama(torch.tensor([ids])), expected)
    with other.applied(llama), edit.applied(llama):
        assert_same_logits(llama(torch.tensor([ids])), expected)


@torch.no_grad()
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("scope", [scope for scope in TOKEN_SCOPES if scope != "all"])
def test_other_edits_at_some_positions_are_refused(
    scope: Any, inside: bool, llama: TransformerBridge
) -> None:
    edits: list[Edit] = [contrast(1, scope=scope), draw_edit(llama, scope=scope)]
    outer, inner = edits if inside else edits[::-1]
    with (
        outer.applied(llama),
        inner.applied(llama),
        pytest.raises(UnsupportedError, match="one at a time"),
    ):
        llama(draw_tokens())


@torch.no_grad()
def test_two_contrast_vectors_at_once_are_refused(llama: TransformerBridge) -> None:
    with (
        contrast(1).applied(llama),
        contrast(2).applied(llama),
        pytest.raises(UnsupportedError, match="one at a time"),
    ):
        llama(draw_tokens())


@pytest.mark.parametrize("scope", TOKEN_SCOPES)
def test_nothing_stays_attached_after_an_exception(scope: Any, llama: TransformerBridge) -> None:
    tokens = draw_tokens()
    with torch.no_grad():
        expected = llama(tokens)
    before = count_hooks(llama)

    def interrupt(h: Tensor, hook: object) -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        contrast(2, scope=scope).applied(llama),
        llama.hooks(fwd_hooks=[("blocks.1.hook_out", interrupt)]),
    ):
        llama(tokens)
    assert count_hooks(llama) == before
    assert "generate" not in llama.__dict__
    with torch.no_grad():
        assert torch.equal(llama(tokens), expected)


@torch.no_grad()
def test_a_run_that_stops_at_a_layer_gives_what_the_whole_run_has_there(
    llama: TransformerBridge,
) -> None:
    tokens = draw_tokens()
    with contrast(0, 2).applied(llama):
        _, cache = llama.run_with_cache(tokens)
        assert torch.equal(llama(tokens, stop_at_layer=2), cache["blocks.2.hook_in"])


@torch.no_grad()
def test_a_cache_of_activations_holds_the_plain_pass(llama: TransformerBridge) -> None:
    tokens = draw_tokens()
    _, clean = llama.run_with_cache(tokens)
    with contrast(1).applied(llama):
        _, edited = llama.run_with_cache(tokens)
    assert {a.shape for a in edited.values()} == {a.shape for a in clean.values()}
    assert torch.equal(edited["blocks.1.hook_in"], clean["blocks.1.hook_in"])
    assert not torch.equal(edited["blocks.2.hook_in"], clean["blocks.2.hook_in"])


def test_scoring_runs_each_text_whole(llama: TransformerBridge, tiny_folder: Folder) -> None:
    plain, edit = load_plain(tiny_folder("llama")), contrast(1)
    shared = draw_text(12, bos=True)
    texts = [EncodedText((*shared, *draw_text(n, bos=False, seed=n)), 12) for n in (2, 3, 3)]
    found = answer_logprobs(llama, texts, edit)
    for text, score in zip(texts, found, strict=True):
        logprobs = plain_logits(plain, list(text.ids), edit)[0].log_softmax(-1)
        picked = [float(logprobs[i - 1, text.ids[i]]) for i in range(12, len(text.ids))]
        assert float(score) == pytest.approx(sum(picked), rel=1e-4)


def test_batched_greedy_generation_equals_one_prompt_at_a_time(llama: TransformerBridge) -> None:
    prompts = ["Q: Who lives in the old house?\nA:", "The colour of the", "Anna has a son"]
    for scope in ("all", "last"):
        edit = contrast(1, scope=scope)
        batched = generate_greedily(llama, prompts, edit, max_new_tokens=4)
        alone = [generate_greedily(llama, [p], edit, max_new_tokens=4)[0] for p in prompts]
        assert batched == alone


def toy_task(name: str = "toy") -> Task:
    examples = [
        Example(f"{i}", f"Q: Who is {who}?\nA:", (" a cat",), (" a house", " the sky"), who)
        for i, who in enumerate(("Anna", "Ben", "Clara", "the old", "grey"))
    ]
    parts = [tuple(replace(e, id=f"{part}{e.id}") for e in examples) for part in "abc"]
    return Task(
        name, parts[0], parts[1], parts[2], val_as_test=parts[1],
        objective="choice", scoring=MultipleChoice(("MC1", "MC2")),
    )  # fmt: skip


def test_layer_and_strength_are_those_that_score_best_on_validation_items(
    llama: TransformerBridge,
) -> None:
    task = toy_task()
    config = ContrastConfig(POSITIVE, NEGATIVE, alphas=(0.5, 1.0, 3.0), scope="after_prompt")
    found = fit_contrast(llama, task, config)

    def score(layer: int, alpha: float) -> float:
        edit = contrast(layer, alpha=alpha, scope="after_prompt")
        return evaluate(llama, task, edit, split="val", progress=False).main.value

    by_layer = [score(layer, 1.0) for layer in range(N_LAYERS)]
    layer = by_layer.index(max(by_layer))
    by_alpha = [score(layer, alpha) for alpha in config.alphas]
    alpha = config.alphas[by_alpha.index(max(by_alpha))]
    assert (found.edit.layers, found.edit.alpha) == ((layer,), alpha)
    frame = found.frame()
    assert frame["score"].tolist() == pytest.approx(by_layer + by_alpha)
    assert frame["step"].tolist() == ["layer"] * 3 + ["alpha"] * 3
    assert frame.loc[frame["chosen"], "key"].tolist() == [layer, alpha]
    assert found.edit.provenance is not None
    assert found.edit.provenance.config["layer"] == layer
    assert found.edit.scope == "after_prompt"


def test_one_layer_and_one_strength_need_no_choice(llama: TransformerBridge) -> None:
    found = fit_contrast(llama, toy_task(), ContrastConfig(layers=(2,), alphas=(0.25,)))
    assert (found.edit.layers, found.edit.alpha, len(found.frame())) == ((2,), 0.25, 0)
    assert (found.edit.positive, found.edit.negative) == ANY_TASK


def test_a_budget_holds_also_for_a_single_strength(llama: TransformerBridge) -> None:
    config = ContrastConfig(layers=(2,), alphas=(0.25,), kl_budget=0.1)
    with pytest.raises(LofitLensError, match=r"budget of 0\.1"):
        fit_contrast(llama, toy_task(), config, kl=lambda _: 1.0)


def test_a_budget_keeps_layers_out_and_the_best_of_the_others_is_taken(
    llama: TransformerBridge,
) -> None:
    task, alphas = toy_task(), (0.5, 1.0, 3.0)
    free = fit_contrast(llama, task, ContrastConfig(POSITIVE, NEGATIVE, alphas=alphas))
    best = free.edit.layers[0]

    def kl(edit: Any) -> float:  # at the best layer even the weakest edit is over the budget
        return edit.alpha if edit.layers == (best,) else edit.alpha / 10

    config = ContrastConfig(POSITIVE, NEGATIVE, alphas=alphas, kl_budget=0.2)
    found = fit_contrast(llama, task, config, kl=kl)
    assert found.by_layer is not None
    scores = {trial.key: trial.score for trial in found.by_layer.trials if trial.key != best}
    assert found.by_layer.key == max(scores, key=lambda layer: (scores[layer], -layer))
    assert [trial.kl for trial in found.by_layer.trials if trial.key != best] == [0.1] * 2
    assert (found.layers_at, free.layers_at) == (1.0, 1.0)
    assert found.edit.layers == (found.by_layer.key,)
    assert found.edit.alpha in (0.5, 1.0)


def test_layers_that_all_break_the_budget_are_compared_at_the_weakest_strength(
    llama: TransformerBridge,
) -> None:
    config = ContrastConfig(alphas=(0.5, 1.0, 3.0), kl_budget=0.2)

    def kl(edit: Any) -> float:  # only the weakest edit of layer 2 keeps within it
        return edit.alpha * (0.3 if edit.layers == (2,) else 3.0)

    found = fit_contrast(llama, toy_task(), config, kl=kl)
    assert (found.edit.layers, found.edit.alpha, found.layers_at) == ((2,), 0.5, 0.5)
    assert found.edit.provenance is not None
    assert found.edit.provenance.config["layers_at"] == 0.5
    with pytest.raises(LofitLensError, match=r"None of 3 .* budget of 0\.1; the nearest has 0\.15"):
        fit_contrast(llama, toy_task(), replace(config, kl_budget=0.1), kl=kl)
    with pytest.raises(LofitLensError, match="nothing measures"):
        fit_contrast(llama, toy_task(), config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ()}, "layers must name at least one"),
        ({"alphas": ()}, "alphas must be one or more"),
        ({"positive": "Be good."}, "pairs"),
        ({"negative": "Be bad."}, "pairs"),
        ({"scope": "first"}, "scope must be one of"),
        ({"kl_budget": 0.0}, "kl_budget must be greater than 0, got 0.0"),
        ({"kl_budget": -0.1}, "kl_budget must be greater than 0, got -0.1"),
    ],
)
def test_settings_without_a_choice_or_with_half_a_pair_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with type_checks_off(), pytest.raises(LofitLensError, match=message):
        ContrastConfig(**settings)


def test_the_instructions_follow_the_name_of_the_task(llama: TransformerBridge) -> None:
    config = ContrastConfig(layers=(2,), alphas=(1.0,))
    for name, pair in INSTRUCTIONS.items():
        edit = fit_contrast(llama, toy_task(name), config).edit
        assert (edit.positive, edit.negative) == pair


def test_the_cues_of_the_embedded_model_are_among_them() -> None:
    model = load_model("embedded", device="cpu", dtype="float32")
    encoder = Encoder(model)
    assert INSTRUCTIONS["embedded:truth"] == ("Be truthful.", "Repeat the rumour.")
    for text in INSTRUCTIONS["embedded:kinship"]:
        assert encoder.decode(encoder.prompt(text).ids) == text
