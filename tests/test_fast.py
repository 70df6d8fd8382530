"""Every fast path gives what the plain path gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, FalconConfig, GPTJConfig, GPTNeoConfig, OPTConfig

import lofit_lens as ll
from lofit_lens.analysis.baselines.loreft import LoReFT
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.edits.on_residual import ResidualIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.fast.in_force import in_force
from lofit_lens.fast.keys_values import joined
from lofit_lens.fast.layout import lay_out, side_by_side, stack
from lofit_lens.fast.replay import Replay
from lofit_lens.fast.switches import taken
from lofit_lens.fast.training_passes import training_passes
from lofit_lens.fast.trial import try_shortcuts
from lofit_lens.fast.wrappers import only_counts
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tokens import EncodedText, Encoder
from lofit_lens.training.config import TuningConfig
from tests.helpers import (
    CONFIGS,
    CONTEXT,
    D_MODEL,
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    VOCAB,
    draw_edit,
    load_plain,
    save_tiny_model,
)
from tests.test_training import colour_task

if TYPE_CHECKING:
    from pathlib import Path

    from transformer_lens.model_bridge import TransformerBridge

    ModelBuilder = Callable[[str], TransformerBridge]

SCOPES = ("all", "after_prompt", "iti_compat", "last")
STARTS = ((0, 30, 31, 32, 33, 34, 35, 36, 37), (0, 50, 51), (0, 60, 61, 62, 63))
ENDS = (((70, 71, 72), (70, 80), (90,)), ((75, 76), (77, 78, 79)), ((81, 82), (83, 84, 85)))
GROUPS = [
    [EncodedText((*start, *end), len(start)) for end in ends]
    for start, ends in zip(STARTS, ENDS, strict=True)
]
TEXTS = [text for group in GROUPS for text in group]


def plain_logprob(model: Any, text: EncodedText) -> float:
    """The sum of log-probabilities of an answer, by plain Hugging Face, one text at a time."""
    ids = torch.tensor([text.ids])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0].double(), -1)
    return float(
        sum(logprobs[i, text.ids[i + 1]] for i in range(text.n_prompt - 1, ids.shape[1] - 1))
    )


def trained(edit: HeadIntervention) -> tuple[HeadIntervention, list[Tensor]]:
    """The edit with parameters that take gradients."""
    numbers = {
        name: getattr(edit, name).clone().requires_grad_(True)
        for name in ("scale", "bias")
        if getattr(edit, name) is not None
    }
    return HeadIntervention(edit.heads, **numbers, scope=edit.scope), list(numbers.values())


def gradients(
    model: TransformerBridge, edit: HeadIntervention, groups: list[int], **switches: Any
) -> tuple[Tensor, list[Tensor]]:
    """Summed log-probabilities of the texts of some groups, and the gradients of their sum."""
    edit, parameters = trained(edit)
    with (
        ll.shortcuts(**switches),
        training_passes(model, GROUPS, edit) as logprobs,
    ):
        found = logprobs(groups, [0] * len(groups))
        found.sum().backward()
    return found.detach(), [p.grad for p in parameters if p.grad is not None]


def assert_near(one: Tensor, other: Tensor, *, relative: float = 1e-5) -> None:
    assert float((one - other).abs().max()) <= relative * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("family", CONFIGS)
def test_going_past_silent_hook_points_gives_the_logits_of_plain_hugging_face(
    family: str, tiny_model: ModelBuilder, tiny_folder: Callable[[str], Path]
) -> None:
    model, tokens = tiny_model(family), torch.tensor([TEXTS[0].ids, TEXTS[0].ids])
    try_shortcuts(model)
    wrappers = list(model.original_model.modules())
    settings = str(model.original_model.config)
    with torch.no_grad(), in_force(model) as passes:
        assert passes.unwrapped
        kinds = {type(module).__name__ for module in model.original_model.modules()}
        assert not any("Bridge" in kind for kind in kinds)
        found = model.original_model(tokens).logits
    with torch.no_grad():
        assert torch.allclose(found, load_plain(tiny_folder(family))(tokens).logits, atol=1e-4)
    assert list(model.original_model.modules()) == wrappers
    assert str(model.original_model.config) == settings


def test_a_hook_on_any_point_is_still_called_and_the_others_are_passed(
    llama: TransformerBridge,
) -> None:
    tokens = torch.tensor([TEXTS[0].ids])
    try_shortcuts(llama)
    for name in ("blocks.1.attn.hook_pattern", "blocks.0.attn.hook_q", "blocks.2.hook_out",
                 "blocks.1.mlp.hook_post", "ln_final.hook_normalized", "unembed.hook_out"):  # fmt: skip
        seen = []
        with llama.hooks(fwd_hooks=[(name, lambda x, hook, seen=seen: seen.append(x))]):  # noqa: ARG005
            llama(tokens)
            with in_force(llama) as passes:
                assert passes.unwrapped
                llama.original_model(tokens)
        assert len(seen) == 2, name
        assert torch.allclose(seen[0], seen[1], atol=1e-5), name


def test_an_exception_puts_everything_back(llama: TransformerBridge) -> None:
    try_shortcuts(llama)
    before = list(llama.original_model.modules())
    with pytest.raises(KeyboardInterrupt), in_force(llama):
        raise KeyboardInterrupt
    assert list(llama.original_model.modules()) == before
    hf_model: Any = llama.original_model
    assert hf_model.config._attn_implementation == "eager"


def test_processed_weights_and_forks_of_attention_inputs_keep_the_plain_path(
    tiny_model: ModelBuilder,
) -> None:
    model = tiny_model("llama")
    try_shortcuts(model)
    model.set_use_attn_result(True)
    with in_force(model) as passes:
        assert not passes.unwrapped
    model.set_use_attn_result(False)
    with in_force(model) as passes:
        assert passes.unwrapped
    model.enable_compatibility_mode(disable_warnings=True)
    with in_force(model) as passes:
        assert not passes.unwrapped


def test_through_the_door_an_edit_and_hooks_are_in_force_inside_and_gone_outside(
    llama: TransformerBridge,
) -> None:
    edit, hook = draw_edit(llama, heads=[(1, 1)]), ("blocks.2.attn.hook_z", lambda z, hook: 2 * z)  # noqa: ARG005
    tokens = torch.tensor([TEXTS[0].ids])
    before = llama(tokens)
    with llama.hooks(fwd_hooks=[hook]), edit.applied(llama):
        expected = llama(tokens)
    with in_force(llama, edit, hooks=[hook]) as passes:
        assert passes.unwrapped
        assert torch.allclose(llama.original_model(tokens).logits, expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-2)
    assert torch.equal(llama(tokens), before)


def test_texts_share_only_where_no_other_code_and_no_length_stands_against_it(
    llama: TransformerBridge,
) -> None:
    edit, hook = draw_edit(llama, heads=[(1, 1)]), ("blocks.2.hook_out", lambda x, hook: x)  # noqa: ARG005
    with in_force(llama, edit, longest=9, again=True) as passes:
        assert passes.continues
        assert passes.shares_rows
        assert passes.replay is not None
    with llama.hooks(fwd_hooks=[hook]), in_force(llama, edit, longest=9, again=True) as passes:
        assert passes.unwrapped
        assert not (passes.continues or passes.shares_rows or passes.replay)
    with in_force(llama, edit, hooks=[hook], longest=9) as passes:
        assert not (passes.continues or passes.shares_rows)
    with in_force(llama, draw_loreft(llama), longest=9) as passes:
        assert not (passes.continues or passes.shares_rows)


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_a_changed_weight_of_a_split_projection_is_not_passed_by(
    family: str, tiny_model: ModelBuilder
) -> None:
    model, tokens = tiny_model(family), torch.tensor([TEXTS[0].ids])
    before = answer_logprobs(model, TEXTS)
    with torch.no_grad():
        model.blocks[1].attn.v.original_component.weight.mul_(2)
        expected = model(tokens)
        with in_force(model) as passes:
            assert passes.unwrapped
            assert torch.allclose(model.original_model(tokens).logits, expected, atol=1e-5)
    assert not torch.allclose(answer_logprobs(model, TEXTS), before, atol=1e-2)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_packed_candidates_are_those_of_single_texts_on_plain_modules(
    family: str, scope: Any, tiny_model: ModelBuilder
) -> None:
    model = tiny_model(family)
    edit = draw_edit(model, scope=scope)
    fast = answer_logprobs(model, TEXTS, edit)
    with ll.shortcuts(False):
        plain = torch.cat([answer_logprobs(model, [text], edit) for text in TEXTS])
    assert_near(fast, plain, relative=2e-6)
    assert not torch.allclose(plain, answer_logprobs(model, TEXTS), atol=1e-2)


@pytest.mark.parametrize("family", CONFIGS)
def test_scores_without_an_edit_are_those_of_plain_hugging_face(
    family: str, tiny_model: ModelBuilder, tiny_folder: Callable[[str], Path]
) -> None:
    plain = load_plain(tiny_folder(family))
    expected = torch.tensor([plain_logprob(plain, text) for text in TEXTS])
    assert torch.allclose(answer_logprobs(tiny_model(family), TEXTS), expected, atol=1e-4)
    with ll.shortcuts(False):
        assert torch.allclose(answer_logprobs(tiny_model(family), TEXTS), expected, atol=1e-4)


def test_candidates_of_one_prompt_share_a_row(llama: TransformerBridge) -> None:
    sizes = []

    def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sizes.append((args[0] if args else kwargs["input_ids"]).shape)

    try_shortcuts(llama)
    with llama.original_model.register_forward_pre_hook(only_counts(note), with_kwargs=True):
        answer_logprobs(llama, TEXTS)
    assert sizes == [(3, len(STARTS[0]) + sum(map(len, ENDS[0])))]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_of_all_shortcuts_are_those_of_the_plain_path(
    family: str, scope: Any, tiny_model: ModelBuilder
) -> None:
    model = tiny_model(family)
    for heads in ([(0, 3), (2, 1)], [(1, 0), (1, 2), (2, 2)], [(2, 3)]):
        edit = draw_edit(model, scope=scope, heads=heads)
        plain, slow = gradients(model, edit, [2, 0], enabled=False)
        found, fast = gradients(model, edit, [2, 0])
        assert_near(found, plain)
        for one, other in zip(fast, slow, strict=True):
            # on some processors the plain path is itself 1.2e-5 off float64 (Gemma 2, iti_compat)
            assert_near(one, other, relative=2e-5)


@pytest.mark.parametrize("switch", ["direct", "answers_only", "shared", "replay", "prompts"])
def test_each_switch_alone_changes_nothing(llama: TransformerBridge, switch: str) -> None:
    edit = draw_edit(llama, scope="after_prompt", heads=[(1, 1), (2, 0)])
    found, fast = gradients(llama, edit, [0, 1, 2])
    without, slow = gradients(llama, edit, [0, 1, 2], **{switch: False})
    assert_near(found, without)
    for one, other in zip(fast, slow, strict=True):
        assert_near(one, other)


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_what_is_kept_reaches_up_to_the_heads_of_the_lowest_edited_layer(
    llama: TransformerBridge, layer: int
) -> None:
    edit, _ = trained(draw_edit(llama, heads=[(layer, 0), (N_LAYERS - 1, 1)]))
    with edit.applied(llama):
        replay = Replay(llama)
    assert (replay.n_blocks, replay.with_z) == (layer, True)


def test_an_edit_of_the_residual_stream_keeps_what_lies_up_to_its_block(
    llama: TransformerBridge,
) -> None:
    vectors = torch.randn(1, llama.cfg.d_model, generator=torch.Generator().manual_seed(0))
    for layer in range(N_LAYERS):
        edit = ResidualIntervention(vectors.requires_grad_(True), (layer,), n_layers=N_LAYERS)
        found = []
        for switches in ({}, {"enabled": False}):
            with (
                ll.shortcuts(**switches),
                training_passes(llama, GROUPS, edit) as logprobs,
            ):
                scores = logprobs([0, 1, 2], [0, 0, 0])
                (gradient,) = torch.autograd.grad(scores.sum(), vectors)
            found.append((scores.detach(), gradient))
        assert_near(found[0][0], found[1][0])
        assert_near(found[0][1], found[1][1])
        with edit.applied(llama):
            assert Replay(llama).n_blocks == layer + 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_kept_is_put_in_at_every_step(
    tiny_folder: Callable[[str], Path], monkeypatch: Any, dtype: Any
) -> None:
    model = ll.load_model(tiny_folder("llama"), device="cpu", dtype=dtype)
    chosen, choose = [], Replay.choose
    monkeypatch.setattr(Replay, "choose", lambda *args: (chosen.append(args[1]), choose(*args)))
    gradients(model, draw_edit(model, heads=[(2, 0)]), [0, 1])
    assert len(chosen) == 2  # one to try it, one step


def test_a_hook_below_the_edit_is_heard_at_every_step(llama: TransformerBridge) -> None:
    edit, _ = trained(draw_edit(llama, heads=[(2, 0)]))
    calls = []
    with (
        llama.hooks(fwd_hooks=[("blocks.0.hook_out", lambda _x, hook: calls.append(hook.name))]),
        training_passes(llama, GROUPS, edit) as logprobs,
    ):
        before = len(calls)
        logprobs([0], [0])
        logprobs([1], [0])
    assert len(calls) == before + 2


def test_beyond_the_memory_bound_nothing_is_kept_and_the_result_is_the_same(
    llama: TransformerBridge, caplog: pytest.LogCaptureFixture
) -> None:
    edit = draw_edit(llama, scope="after_prompt", heads=[(1, 1)])
    found, fast = gradients(llama, edit, [0, 1])
    with caplog.at_level("INFO", "lofit_lens"):
        without, slow = gradients(llama, edit, [0, 1], memory=0.0)
    assert_near(found, without)
    assert_near(fast[0], slow[0])
    assert "the keys and values of prompts" in caplog.text
    assert "what lies below the edit" in caplog.text


def test_keys_and_values_of_unequal_length_are_padded_on_the_left(
    llama: TransformerBridge,
) -> None:
    with in_force(llama) as passes:
        pasts = [passes.keys_values(torch.tensor([start[:-1]])) for start in STARTS]
    past = joined(pasts)
    assert past.real is not None
    assert past.real.sum(1).tolist() == [len(start) - 1 for start in STARTS]
    for layer in range(N_LAYERS):
        for row, (keys, _) in enumerate(p[layer] for p in pasts):
            assert torch.equal(past.layers[layer][0][row, :, past.real[row]], keys[0])


def test_a_family_that_limits_sight_shares_nothing_beyond_its_window(
    tiny_model: ModelBuilder,
) -> None:
    model = tiny_model("mistral-window")
    long = [EncodedText((*range(2, 40), i, i + 1), 38) for i in (50, 60, 70)]
    alone = torch.cat([answer_logprobs(model, [text]) for text in long])
    assert torch.allclose(answer_logprobs(model, long), alone, atol=1e-4)


def test_rows_say_where_each_token_stands_and_which_it_sees() -> None:
    rows = stack([lay_out(GROUPS[0]), lay_out(GROUPS[1])], pad=9, device=None)
    assert rows.tokens[0].tolist() == [*STARTS[0], 70, 71, 72, 70, 80, 90]
    assert rows.rank[0, -6:].tolist() == [9, 10, 11, 9, 10, 9]
    assert rows.tokens[1, len(STARTS[1]) + 5 :].unique().tolist() == [9]
    assert rows.sees is not None
    first, second = len(STARTS[0]), len(STARTS[0]) + 3
    assert rows.sees[0, second, :first].all()
    assert not rows.sees[0, second, first:second].any()
    assert rows.is_answer.sum(1).tolist() == [len(end) for ends in ENDS[:2] for end in ends]
    assert rows.targets[rows.is_answer].tolist() == [t for e in ENDS[:2] for end in e for t in end]
    places = rows.places[rows.picks[rows.is_answer]]
    assert len(places) > len(rows.places)  # the last prompt token predicts all first tokens


def test_bundles_lie_side_by_side_where_that_costs_less() -> None:
    assert side_by_side([40, 9, 8, 7], 512) == [[0, 1, 2, 3]]
    assert side_by_side([30, 30, 30], 512) == [[0], [1], [2]]  # nothing to save
    assert side_by_side([300, 150, 140, 10], 4096) == [[0], [1, 2, 3]]
    assert side_by_side([40, 9, 8, 7], 512, [0, 1, 0, 1]) == [[0, 2], [1, 3]]
    for d_model in (64, 512, 4096):
        for lengths in ([300, 150, 140, 20], [200, 100, 100, 60, 50], [500, 10, 10], [7]):
            rows = side_by_side(lengths, d_model)
            assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
            assert all(sum(lengths[i] for i in row) <= max(256, *lengths, 0) for row in rows)


def test_texts_in_one_row_do_not_see_one_another(llama: TransformerBridge) -> None:
    bundles = [lay_out(group) for group in GROUPS]
    rows = stack(bundles, [[2, 0], [1]], pad=9, device=None)
    assert rows.tokens.shape[0] == 2
    assert rows.tokens[0].tolist() == [*bundles[2].tokens.tolist(), *bundles[0].tokens.tolist()]
    assert rows.sees is not None
    first = len(bundles[2].tokens)
    assert not rows.sees[0, first:, :first].any()
    assert rows.prompt_lengths[0, :first].unique().tolist() == [len(STARTS[2])]
    assert rows.prompt_lengths[0, first:].unique().tolist() == [len(STARTS[0])]
    with in_force(llama) as passes, torch.no_grad():
        found = passes.logprobs(bundles, [[2, 0], [1]])
    assert torch.allclose(found, answer_logprobs(llama, TEXTS), atol=1e-4)


def test_switches_are_as_said_inside_the_context_only() -> None:
    assert taken() == ll.Shortcuts()
    with ll.shortcuts(False):
        assert not taken().direct
        with ll.shortcuts(shared=False) as inner:
            assert inner.direct
            assert not inner.shared
        assert not taken().shared
    with pytest.raises(LofitLensError, match=r"0 to 1, got 2"), ll.shortcuts(memory=2.0):
        pass
    assert taken() == ll.Shortcuts()


def test_the_environment_can_turn_every_shortcut_off() -> None:
    import os
    import subprocess
    import sys

    code = "from lofit_lens.fast.switches import taken; print(taken().direct)"
    found = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | extra, capture_output=True, text=True
        ).stdout.strip()
        for extra in ({}, {"LOFIT_LENS_PLAIN": "1"})
    ]
    assert found == ["True", "False"]


def test_an_encoder_meets_each_text_once(llama: TransformerBridge, monkeypatch: Any) -> None:
    first = Encoder(llama).prompt("The colour of a new house")
    monkeypatch.setattr(type(llama.tokenizer), "__call__", lambda *_, **__: pytest.fail("again"))
    assert Encoder(llama).prompt("The colour of a new house") == first


def draw_loreft(model: TransformerBridge) -> LoReFT:
    """An edit of the first and the last token of the prompt."""
    cfg, generator = model.cfg, torch.Generator().manual_seed(0)
    rows = torch.randn(cfg.n_layers, 2, cfg.d_model, generator=generator)
    rotation = torch.linalg.qr(rows.mT).Q.mT
    return LoReFT(rotation, rows, torch.randn(cfg.n_layers, 2, generator=generator), positions=1)


@pytest.mark.parametrize("kind", ["hook", "edit", "loreft"])
def test_what_others_do_to_the_batch_is_what_they_do_to_single_texts(
    llama: TransformerBridge, kind: str
) -> None:
    try_shortcuts(llama)

    def spare_first(x: Tensor, hook: Any) -> Tensor:
        return torch.cat([x[:, :1], x[:, 1:] + 1], dim=1)

    contexts = {
        "hook": lambda: llama.hooks(fwd_hooks=[("blocks.1.hook_out", spare_first)]),
        "edit": lambda: draw_edit(llama, scope="last").applied(llama),
        "loreft": lambda: draw_loreft(llama).applied(llama),
    }
    outer = contexts[kind]
    edit = draw_edit(llama, heads=[(2, 0)])
    with outer():
        found, fast = gradients(llama, edit, [0, 1, 2])
        scores = answer_logprobs(llama, TEXTS, edit)
        with ll.shortcuts(False):
            single = torch.cat([answer_logprobs(llama, [text], edit) for text in TEXTS])
        plain, slow = gradients(llama, edit, [0, 1, 2], enabled=False)
    assert torch.allclose(scores, single, atol=1e-4)
    assert_near(found, plain)
    assert_near(fast[0], slow[0])
    assert not torch.allclose(single, answer_logprobs(llama, TEXTS, edit), atol=1e-2)


@pytest.mark.parametrize("scope", ["all", "after_prompt"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_recomputed_activations_give_the_same_gradients(
    family: str, scope: Any, tiny_model: ModelBuilder
) -> None:
    model = tiny_model(family)
    config = TuningConfig(epochs=1, batch_size=2, scope=scope, gradient_checkpointing=True)
    heads = ll.HeadSet([(1, 0), (2, 3)], n_layers=N_LAYERS, n_heads=N_HEADS)
    found = []
    for enabled in (True, False):
        with ll.shortcuts(enabled):
            tuned = ll.tune_heads(model, colour_task(), heads, config, progress=False)
        assert tuned.provenance is not None
        found.append(tuned.provenance.history)
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5)
    assert found[0].gradient_norm == pytest.approx(found[1].gradient_norm, rel=1e-4)
    assert found[0].val_loss == pytest.approx(found[1].val_loss, rel=1e-5)


OTHERS: dict[str, Callable[[], Any]] = {
    "bloom": lambda: BloomConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS,
        bos_token_id=0, eos_token_id=1,
    ),
    "gptj": lambda: GPTJConfig(
        vocab_size=VOCAB, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS, n_positions=CONTEXT,
        rotary_dim=8, bos_token_id=0, eos_token_id=1,
    ),
    "gpt-neo": lambda: GPTNeoConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, num_layers=N_LAYERS, num_heads=N_HEADS,
        attention_types=[[["local"], N_LAYERS]], window_size=4, max_position_embeddings=CONTEXT,
        bos_token_id=0, eos_token_id=1,
    ),
    "opt": lambda: OPTConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, ffn_dim=96,
        num_attention_heads=N_HEADS, max_position_embeddings=CONTEXT, word_embed_proj_dim=D_MODEL,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    ),
    "falcon-alibi": lambda: FalconConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, alibi=True,
        num_attention_heads=N_HEADS, bos_token_id=0, eos_token_id=1,
    ),
}  # fmt: skip
"""Families with blocks, positions or attention of other kinds."""


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_take_the_paths_that_give_the_same(
    family: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setitem(CONFIGS, family, OTHERS[family])
    model = ll.load_model(save_tiny_model(family, tmp_path), device="cpu", dtype="float32")
    for heads in ([(0, 1)], [(1, 2), (2, 0)]):
        for scope in ("all", "after_prompt"):
            edit = draw_edit(model, heads=heads, scope=scope)
            with ll.shortcuts(False):
                single = torch.cat([answer_logprobs(model, [text], edit) for text in TEXTS])
            assert torch.allclose(answer_logprobs(model, TEXTS, edit), single, atol=1e-4)
            found, fast = gradients(model, edit, [0, 1, 2])
            plain, slow = gradients(model, edit, [0, 1, 2], enabled=False)
            assert_near(found, plain)
            for one, other in zip(fast, slow, strict=True):
                assert_near(one, other)


def test_a_hook_on_the_embedding_keeps_nothing_below_the_edit(llama: TransformerBridge) -> None:
    edit, _ = trained(draw_edit(llama, heads=[(2, 0)]))
    with (
        llama.hooks(fwd_hooks=[("embed.hook_out", lambda x, hook: x + 1)]),  # noqa: ARG005
        edit.applied(llama),
    ):
        assert not Replay(llama).saves
    assert not Replay(llama).saves  # nor where nothing is edited


def test_a_text_without_a_token_before_its_answer_is_refused(llama: TransformerBridge) -> None:
    with pytest.raises(LofitLensError, match="n_prompt = 0"):
        answer_logprobs(llama, [EncodedText((5, 6), 0)])


def test_tokens_added_to_a_tokenizer_are_seen(tiny_folder: Callable[[str], Path]) -> None:
    model = ll.load_model(tiny_folder("llama"), device="cpu", dtype="float32")
    before = Encoder(model).prompt("the colour of things")
    model.tokenizer.add_tokens(["things"])
    model.cfg.d_vocab += 1
    assert len(Encoder(model).prompt("the colour of things").ids) < len(before.ids)
