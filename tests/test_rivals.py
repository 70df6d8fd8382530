from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

import lofit_lens as ll
from lofit_lens.analysis.baselines.bitfit import OutputBias, train_bitfit
from lofit_lens.analysis.baselines.loreft import LoReFT, orthonormal_rows, train_loreft
from lofit_lens.analysis.baselines.rivals import train_beft, train_ia3, train_lora, train_red
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.heads import HeadSet
from lofit_lens.model import freeze
from lofit_lens.provenance import learned_on
from lofit_lens.randomness import random_state_kept
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tokens import Encoder
from lofit_lens.training import TrainingConfig
from tests.helpers import (
    D_MODEL,
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    assert_same_logits,
    count_hooks,
    draw_tokens,
    load_plain,
    plain_projections,
    train,
)
from tests.test_training import OBJECTIVES, PlainLoop, colour_task, every_head

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ModelBuilder = Callable[[str], "TransformerBridge"]
Trained = Callable[..., Any]

# peft 0.21 asks transformers 5.23 for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

RIVALS: dict[str, Trained] = {
    "lora": train_lora,
    "ia3": train_ia3,
    "beft": train_beft,
    "red": train_red,
    "bitfit": train_bitfit,
    "loreft": train_loreft,
}
CONFIG = TrainingConfig(learning_rate=1e-3, epochs=2, batch_size=6)

Change = Callable[[int, Tensor], Tensor]


def hook_plain(modules: list[Any], change: Change) -> None:
    """Change what the modules of a plain model give, by layer."""

    def hook(layer: int) -> Callable[..., Any]:
        def run(_module: Any, _args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (change(layer, output[0]), *output[1:])
            return change(layer, output)

        return run

    for layer, module in enumerate(modules):
        module.register_forward_hook(hook(layer))


def plain_blocks(model: Any) -> list[Any]:
    inner = model.base_model
    return list(inner.h if hasattr(inner, "h") else inner.layers)


# The same start, data, loss and loop


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_rival_and_lofit_start_from_the_same_loss(
    objective: Any, llama: TransformerBridge
) -> None:
    # the first batch holds all examples: LoFiT draws parameters before it draws their order.
    # Its own start, N(0, 1e-3), moves the loss a little: set to zero here
    config = replace(CONFIG, objective=objective, epochs=1, init_std=0.0)
    lofit = train(llama, colour_task(), every_head(), "bias", config, progress=False)
    assert lofit.provenance is not None
    expected = lofit.provenance.history
    for fit_rival in RIVALS.values():
        found = fit_rival(llama, colour_task(), config, progress=False).provenance.history
        assert found.loss[0] == pytest.approx(expected.loss[0], abs=1e-5)
        assert found.val_loss[0] == pytest.approx(expected.val_loss[0], abs=1e-5)


def test_lora_and_lofit_start_from_the_same_loss_on_the_embedded_model() -> None:
    model = ll.load_model("embedded", device="cpu", dtype="float32")
    for ability in ("truth", "edit"):
        task = ll.tasks.embedded(ability)
        task = replace(task, train=task.train[:8], source={})
        config = TrainingConfig(learning_rate=1e-3, epochs=1, validate=False)
        heads = HeadSet.random(6, n_layers=4, n_heads=16, seed=0)
        lora = train_lora(model, task, config, progress=False)
        exact = train(model, task, heads, "bias", replace(config, init_std=0.0), progress=False)
        lofit = train(model, task, heads, "bias", config, progress=False)
        first = [edit.provenance.history.loss[0] for edit in (lora, exact, lofit)]  # pyright: ignore[reportOptionalMemberAccess]
        assert first[0] == pytest.approx(first[1], abs=1e-5)
        assert first[0] == pytest.approx(first[2], abs=1e-2)


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_learns_and_leaves_the_model_as_it_was(name: str, llama: TransformerBridge) -> None:
    tokens, task = draw_tokens(), colour_task()
    before, hooks, state = llama(tokens), count_hooks(llama), torch.get_rng_state()
    config = replace(CONFIG, learning_rate=0.01, epochs=8)
    edit = RIVALS[name](llama, task, config, progress=False)
    assert isinstance(edit, Edit)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(llama(tokens), before)
    assert count_hooks(llama) == hooks
    assert not any("forward" in module.__dict__ for module in llama.modules())
    assert not any(p.requires_grad or p.grad is not None for p in llama.parameters())
    provenance: Any = edit.provenance
    history = provenance.history
    assert history.loss[-1] < 0.97 * history.loss[0]
    assert history.val_loss[-1] < 0.97 * history.val_loss[0]
    encoder = Encoder(llama)
    texts = [encoder.continuation(e.prompt, e.correct[0], end=True) for e in task.val]
    loss = -answer_logprobs(llama, texts, edit).sum() / sum(text.n_answer for text in texts)
    assert float(loss) == pytest.approx(history.val_loss[-1], rel=1e-4)


@pytest.mark.parametrize("name", RIVALS)
def test_a_seed_gives_the_same_rival(name: str, llama: TransformerBridge) -> None:
    config = replace(CONFIG, batch_size=2, epochs=1, validate=False)
    losses = [
        RIVALS[name](llama, colour_task(), replace(config, seed=seed), progress=False)
        .provenance.history.loss
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_run_of_lora_equals_peft_and_adamw_on_a_plain_model(
    tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    model, task = tiny_model("llama"), colour_task(4)
    config = TrainingConfig(learning_rate=0.01, epochs=3, batch_size=4, validate=False)
    ours = train_lora(model, task, config, dropout=0.0, progress=False)
    loop = PlainLoop(tiny_folder("llama"), Encoder(model), task, "sft")
    with random_state_kept():
        torch.manual_seed(config.seed)
        adapted = peft.get_peft_model(
            loop.model, peft.LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"])
        )
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    assert ours.n_parameters == sum(p.numel() for p in parameters)
    loop.model = adapted
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)
    losses = []
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 3)
        optimizer.zero_grad()
        loss = loop.loss(list(task.train), config.beta)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert ours.provenance is not None
    assert ours.provenance.history.loss == pytest.approx(losses, abs=1e-4)


@pytest.mark.parametrize("name", RIVALS)
def test_gradient_checkpointing_gives_the_same_run(name: str, llama: TransformerBridge) -> None:
    fit_rival: Trained = partial(train_lora, dropout=0.0) if name == "lora" else RIVALS[name]
    config = replace(CONFIG, validate=False)
    kept = fit_rival(llama, colour_task(), config, progress=False)
    config = replace(config, gradient_checkpointing=True)
    again = fit_rival(llama, colour_task(), config, progress=False)
    edits: list[Any] = [kept, again]
    norms, same = (edit.provenance.history.gradient_norm for edit in edits)
    assert norms == pytest.approx(same, rel=1e-6)


def test_dropout_with_gradient_checkpointing_is_refused(llama: TransformerBridge) -> None:
    config = replace(CONFIG, gradient_checkpointing=True)
    with pytest.raises(LofitLensError, match="dropout=0"):
        train_lora(llama, colour_task(), config, progress=False)


@pytest.mark.parametrize("name", ["lora", "ia3", "beft", "loreft"])
def test_a_scope_that_a_rival_cannot_have_is_refused(name: str, llama: TransformerBridge) -> None:
    with pytest.raises(LofitLensError, match='scope="all"'):
        RIVALS[name](llama, colour_task(), replace(CONFIG, scope="last"), progress=False)


def test_red_and_bitfit_take_any_scope(llama: TransformerBridge) -> None:
    config = replace(CONFIG, scope="after_prompt", validate=False)
    for fit_rival in (train_red, train_bitfit):
        assert fit_rival(llama, colour_task(), config, progress=False).scope == "after_prompt"


def test_red_trains_scale_and_bias_of_every_head(llama: TransformerBridge) -> None:
    edit = train_red(llama, colour_task(), CONFIG, progress=False)
    assert edit.heads == every_head()
    for tensor in (edit.scale, edit.bias):
        assert tensor is not None
        assert bool((tensor.norm(dim=-1) > 0).all())


# Parameters


@pytest.mark.parametrize(
    ("n_layers", "n_heads", "d_model", "lora", "red", "reft"),
    [(32, 32, 4096, 4.19e6, 262e3, 2.10e6), (40, 40, 5120, 6.55e6, 409e3, 3.28e6)],
)
def test_parameters_are_those_of_the_paper_for_llama_2(
    n_layers: int, n_heads: int, d_model: int, lora: float, red: float, reft: float
) -> None:
    """Table 3, three digits."""
    config = LlamaConfig(
        hidden_size=d_model, num_hidden_layers=n_layers, num_attention_heads=n_heads,
        intermediate_size=256, vocab_size=32,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        adapted: Any = peft.get_peft_model(
            model, peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
        )
    in_peft = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert in_peft == n_layers * 2 * 2 * 8 * d_model
    assert in_peft == pytest.approx(lora, rel=2e-3)
    d_head = d_model // n_heads
    zeros = torch.zeros(n_layers * n_heads, d_head)
    every = HeadSet.every(n_layers=n_layers, n_heads=n_heads)
    assert HeadIntervention(every, zeros, zeros).n_parameters == pytest.approx(red, rel=2e-3)
    rows = torch.zeros(n_layers, 8, d_model)
    edit = LoReFT(rows, rows, torch.zeros(n_layers, 8), positions=3)
    assert edit.n_parameters == n_layers * (2 * 8 * d_model + 8)
    assert edit.n_parameters == pytest.approx(reft, rel=2e-3)
    assert OutputBias(torch.zeros(n_layers, d_model)).n_parameters == n_layers * d_model


def test_ia3_has_a_number_for_each_key_value_and_inner_activation(
    llama: TransformerBridge,
) -> None:
    edit = train_ia3(llama, colour_task(), replace(CONFIG, epochs=1), progress=False)
    key_value_heads, d_head, d_mlp = 2, 24, 96
    assert edit.n_parameters == N_LAYERS * (2 * key_value_heads * d_head + d_mlp)


def test_beft_is_a_bias_of_all_heads_that_query_heads_of_one_value_head_share(
    llama: TransformerBridge,
) -> None:
    edit = train_beft(llama, colour_task(), CONFIG, progress=False)
    values = torch.stack(list(edit.weights.values())).view(N_LAYERS, 2, -1)
    assert edit.n_parameters == values.numel()
    assert bool((values.norm(dim=-1) > 0).all())
    bias = values.repeat_interleave(N_HEADS // 2, dim=1).flatten(0, 1)
    tokens = draw_tokens()
    with torch.no_grad():
        with edit.applied(llama):
            found = llama(tokens)
        with HeadIntervention(every_head(), bias=bias).applied(llama):
            assert_same_logits(llama(tokens), found, rel=1e-5)


# BitFit


@pytest.mark.parametrize("family", FAMILIES)
def test_bitfit_equals_a_bias_of_the_output_projection(
    family: str, tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    model, plain, tokens = tiny_model(family), load_plain(tiny_folder(family)), draw_tokens()
    vectors = 0.5 * torch.randn(N_LAYERS, D_MODEL, generator=torch.Generator().manual_seed(0))
    for projection, vector in zip(plain_projections(plain), vectors, strict=True):
        module: Any = projection
        bias = torch.zeros(D_MODEL) if module.bias is None else module.bias.data
        module.bias = torch.nn.Parameter(bias + vector)
    with torch.no_grad(), OutputBias(vectors).applied(model):
        assert_same_logits(model(tokens), plain(tokens).logits)


def test_lofit_is_bitfit_in_the_span_of_its_heads(llama: TransformerBridge) -> None:
    tokens, d_head = draw_tokens(), llama.cfg.d_head
    heads = HeadSet([(1, 2)], n_layers=N_LAYERS, n_heads=4)
    offset = torch.randn(1, d_head, generator=torch.Generator().manual_seed(0))
    weight = llama.blocks[1].attn.o.original_component.weight[:, 2 * d_head : 3 * d_head]
    vectors = torch.zeros(N_LAYERS, D_MODEL)
    vectors[1] = weight @ offset[0]
    with HeadIntervention(heads, bias=offset).applied(llama):
        expected = llama(tokens)
    with OutputBias(vectors).applied(llama):
        assert_same_logits(llama(tokens), expected)


# LoReFT


def draw_loreft(*, positions: int = 2, n_layers: int = N_LAYERS) -> LoReFT:
    generator = torch.Generator().manual_seed(0)
    rotation, source = (torch.randn(n_layers, 3, D_MODEL, generator=generator) for _ in range(2))
    return LoReFT(rotation, source, torch.randn(n_layers, 3, generator=generator), positions)


def loreft_by_hand(edit: LoReFT, places: list[int]) -> Change:
    """Wu et al. 2024, section 3.2, at some places of every row."""

    def change(layer: int, h: Tensor) -> Tensor:
        # R by Gram-Schmidt, row by row
        rows: list[Tensor] = []
        for row in edit.rotation[layer]:
            for done in rows:
                row = row - (row @ done) * done
            rows.append(row / row.norm())
        rotation = torch.stack(rows)
        h = h.clone()
        for row in range(h.shape[0]):
            for place in places:
                x = h[row, place].clone()
                target = edit.source[layer] @ x + edit.bias[layer]
                h[row, place] = x + rotation.T @ (target - rotation @ x)
        return h

    return change


@pytest.mark.parametrize("family", FAMILIES)
def test_loreft_equals_a_plain_hook_at_the_ends_of_the_prompt(
    family: str, tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    model, plain, tokens = tiny_model(family), load_plain(tiny_folder(family)), draw_tokens()
    edit = draw_loreft()
    hook_plain(plain_blocks(plain), loreft_by_hand(edit, [0, 1, 10, 11]))
    with torch.no_grad():
        with edit.applied(model):
            found = model(tokens)
        assert_same_logits(found, plain(tokens).logits, rel=1e-5)
        assert (found - model(tokens)).abs().max() > 0.1


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_loreft_edits_the_whole_of_a_short_prompt_once(
    length: int, tiny_folder: Callable[[str], Path], llama: TransformerBridge
) -> None:
    plain, tokens = load_plain(tiny_folder("llama")), draw_tokens(1, length)
    edit = draw_loreft(positions=3)
    hook_plain(plain_blocks(plain), loreft_by_hand(edit, list(range(length))))
    with torch.no_grad(), edit.applied(llama):
        assert_same_logits(llama(tokens), plain(tokens).logits, rel=1e-5)


def test_loreft_finds_the_prompt_in_scoring(
    tiny_folder: Callable[[str], Path], llama: TransformerBridge
) -> None:
    """Prompts of several lengths share a long start, and are padded on the left in one batch."""
    encoder, edit = Encoder(llama), draw_loreft()
    start = "The colour of the house is red. The colour of"
    prompts = [start + " the cat is", start + " the old house of the cat is"]
    texts = [encoder.continuation(p, a) for p in prompts for a in (" grey.", " blue, not red.")]
    found = answer_logprobs(llama, texts, edit)
    for text, score in zip(texts, found, strict=True):
        plain = load_plain(tiny_folder("llama"))
        places = [0, 1, text.n_prompt - 2, text.n_prompt - 1]
        hook_plain(plain_blocks(plain), loreft_by_hand(edit, places))
        with torch.no_grad():
            logprobs = plain(torch.tensor([text.ids])).logits[0].log_softmax(-1)
        expected = sum(
            float(logprobs[i - 1, text.ids[i]]) for i in range(text.n_prompt, len(text.ids))
        )
        assert float(score) == pytest.approx(expected, abs=2e-4)


def test_loreft_edits_the_prompt_alone_in_generation(
    tiny_folder: Callable[[str], Path], llama: TransformerBridge
) -> None:
    encoder, edit, steps = Encoder(llama), draw_loreft(), 6
    prompts = ["Anna has a son, Ben. Ben has", "Q: What is the colour of the sky?"]
    found = generate_greedily(llama, prompts, edit, max_new_tokens=steps)
    for prompt, text in zip(prompts, found, strict=True):
        ids = list(encoder.prompt(prompt).ids)
        n = len(ids)
        plain = load_plain(tiny_folder("llama"))
        hook_plain(plain_blocks(plain), loreft_by_hand(edit, [0, 1, n - 2, n - 1]))
        for _ in range(steps):
            with torch.no_grad():
                ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == encoder.eos:
                break
        assert text == encoder.decode(ids).removeprefix(encoder.decode(ids[:n]))


def test_gram_schmidt_gives_orthonormal_rows_and_keeps_them() -> None:
    rows = orthonormal_rows(torch.randn(4, 9, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(rows @ rows.T, torch.eye(4), atol=1e-6)
    assert torch.allclose(orthonormal_rows(rows), rows, atol=1e-6)
    # the first row keeps its direction when its first number changes its sign
    near = torch.eye(2, 3)[[1, 0]]
    above, below = (
        orthonormal_rows(near + torch.tensor([[x, 0.0, 0.0], [0.0, 0.0, 0.0]]))
        for x in (1e-4, -1e-4)
    )
    assert torch.allclose(above, below, atol=1e-3)


@pytest.mark.parametrize(
    ("rank", "positions", "message"), [(0, 1, "rank"), (D_MODEL + 1, 1, "rank"), (2, 0, "position")]
)
def test_impossible_loreft_settings_are_refused(
    rank: int, positions: int, message: str, llama: TransformerBridge
) -> None:
    with pytest.raises(LofitLensError, match=message):
        train_loreft(llama, colour_task(), CONFIG, rank=rank, positions=positions, progress=False)


def test_edits_of_another_model_are_refused(tiny_model: ModelBuilder) -> None:
    model, other = tiny_model("llama"), tiny_model("mistral")
    origin = learned_on(model, colour_task(), {})
    vectors = torch.zeros(N_LAYERS, D_MODEL)
    for edit in (
        OutputBias(vectors[:2]),
        OutputBias(vectors, provenance=origin),
        draw_loreft(n_layers=2),
        replace(draw_loreft(), provenance=origin),
    ):
        with pytest.raises(ModelMismatchError), edit.applied(other):
            pass


def test_rivals_stay_float32_on_a_bfloat16_model(tiny_folder: Callable[[str], Path]) -> None:
    from lofit_lens.model import load_model

    model = freeze(load_model(tiny_folder("llama"), device="cpu", dtype="bfloat16"))
    for name, fit_rival in RIVALS.items():
        config = replace(CONFIG, epochs=1, learning_rate=1e-5, validate=False)
        edit = fit_rival(model, colour_task(), config, progress=False)
        assert math.isfinite(edit.provenance.history.loss[0]), name
        with edit.applied(model):
            assert model(draw_tokens()).dtype == torch.bfloat16
