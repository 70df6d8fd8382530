from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.analysis.baselines.loreft import LoReFT
from lofit_lens.analysis.causal.patching import PatchIntervention
from lofit_lens.analysis.causal.stacking import StackedEdits
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.on_residual import ResidualIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.heads import HeadSet
from lofit_lens.provenance import learned_on
from lofit_lens.scoring import answer_logprobs, evaluate, generate_greedily
from lofit_lens.tasks import ExactMatch
from lofit_lens.tokens import EncodedText
from tests.helpers import (
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    SOME_HEADS,
    assert_same_logits,
    count_hooks,
    draw_edit,
    draw_tokens,
    edited_plain,
    load_plain,
)
from tests.plain_blocks import hooked_blocks
from tests.test_adapters import draw_adapter, finished, in_plain
from tests.test_causal_ablation import hooked_z, plain_z, some_heads
from tests.test_residual import draw_vectors
from tests.test_selection import colours_of_things

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]
EOS = 1
ALL = HeadSet.every(n_layers=N_LAYERS, n_heads=N_HEADS)
NONE = HeadSet([], n_layers=N_LAYERS, n_heads=N_HEADS)
CONTRAST = ContrastIntervention(
    "The sky is blue. ", "A grey cat. ", (1,), n_layers=N_LAYERS, alpha=2.0
)


def on_plain(plain: Any, edit: Any) -> AbstractContextManager[None]:
    """An edit of heads or of the residual stream, by hooks of a plain model."""
    if edit is None:
        return nullcontext()
    if isinstance(edit, ResidualIntervention):
        changes = {
            layer: partial(torch.add, other=edit.vectors[row])
            for row, layer in enumerate(edit.layers)
        }
        return hooked_blocks(plain, changes)
    return edited_plain(plain, edit)


def put(
    layer: int, z: Tensor, *, stored: dict[int, Tensor], heads: Iterable[tuple[int, int]]
) -> Tensor:
    """Stored z in place of that of some heads."""
    z = z.clone()
    for chosen, head in heads:
        if chosen == layer:
            z[:, :, head] = stored[layer][:, :, head]
    return z


@torch.no_grad()
def plain_patched(
    plain: Any, tokens: Tensor, heads: Iterable[tuple[int, int]], donor: Any, base: Any
) -> Tensor:
    """Two forward passes of a plain model: store z in the one, put it into the other."""
    with on_plain(plain, donor):
        stored = plain_z(plain, tokens)

    change = partial(put, stored=stored, heads=heads)
    with on_plain(plain, base), hooked_z(plain, change):
        return plain(tokens).logits


@torch.no_grad()
def logits(model: TransformerBridge, edit: Edit, tokens: Tensor, **options: Any) -> Tensor:
    with edit.applied(model):
        return model(tokens, **options)


def last_seen(model: TransformerBridge, name: str, tokens: Tensor) -> Tensor:
    """What a hook point gives in the last run of a forward pass."""
    seen: list[Tensor] = []

    def keep(activation: Tensor, hook: object) -> None:
        seen.append(activation)

    model.run_with_hooks(tokens, fwd_hooks=[(name, keep)])
    return seen[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pair", ["sufficiency", "necessity", "residual", "both"])
def test_logits_are_those_of_two_passes_of_the_plain_model_by_hand(
    family: str, pair: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain, tokens = tiny_model(family), load_plain(tiny_folder(family)), draw_tokens()
    tuned, other = draw_edit(model, heads=ALL), draw_edit(model, heads=[(1, 2), (0, 3)], seed=1)
    donor, base = {
        "sufficiency": (tuned, None),
        "necessity": (None, tuned),
        "residual": (draw_vectors(0, 1), None),
        "both": (tuned, other),
    }[pair]
    found = logits(model, PatchIntervention(some_heads(), donor=donor, base=base), tokens)
    assert_same_logits(found, plain_patched(plain, tokens, SOME_HEADS, donor, base))
    with torch.no_grad():
        assert (found - model(tokens)).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_patched_from_an_edit_of_heads_give_the_logits_of_that_edit(
    family: str, tiny_model: Loader
) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    tuned = draw_edit(model)
    expected = logits(model, tuned, tokens)
    assert torch.equal(logits(model, PatchIntervention(ALL, donor=tuned), tokens), expected)
    with torch.no_grad():
        unedited = model(tokens)
    assert torch.equal(logits(model, PatchIntervention(ALL, base=tuned), tokens), unedited)


def test_the_tuned_heads_alone_are_all_that_an_edit_of_heads_works_through(
    llama: TransformerBridge,
) -> None:
    tokens, tuned = draw_tokens(), draw_edit(llama)
    only = PatchIntervention(tuned.heads, donor=tuned)
    assert torch.equal(logits(llama, only, tokens), logits(llama, tuned, tokens))
    without = PatchIntervention(tuned.heads, base=tuned)
    with torch.no_grad():
        assert torch.equal(logits(llama, without, tokens), llama(tokens))


def test_without_heads_the_model_is_the_base(llama: TransformerBridge) -> None:
    tokens, tuned = draw_tokens(), draw_edit(llama)
    expected = logits(llama, tuned, tokens)
    assert torch.equal(logits(llama, PatchIntervention(NONE, base=tuned), tokens), expected)
    with torch.no_grad():
        unedited = llama(tokens)
    assert torch.equal(logits(llama, PatchIntervention(NONE, donor=tuned), tokens), unedited)


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
@pytest.mark.parametrize("as_donor", [True, False])
def test_a_contrast_vector_can_be_patched_from_and_into(
    family: str, as_donor: bool, tiny_folder: Folder, tiny_model: Loader
) -> None:
    """The contrast adds the same thing to a text however often; it is read off and added by hand."""
    model, plain, tokens = tiny_model(family), load_plain(tiny_folder(family)), draw_tokens()
    name = "blocks.1.hook_out"
    with torch.no_grad():
        unsteered = last_seen(model, name, tokens)
        with CONTRAST.applied(model):
            added = last_seen(model, name, tokens) - unsteered
    heads = some_heads((2, 0), (0, 1), (2, 3))
    steered = partial(hooked_blocks, plain, {1: partial(torch.add, other=added)})

    @torch.no_grad()
    def by_hand() -> Tensor:
        with steered() if as_donor else nullcontext():
            stored = plain_z(plain, tokens)

        change = partial(put, stored=stored, heads=heads)
        with nullcontext() if as_donor else steered(), hooked_z(plain, change):
            return plain(tokens).logits

    role = {"donor" if as_donor else "base": CONTRAST}
    found = logits(model, PatchIntervention(heads, **role), tokens)
    assert_same_logits(found, by_hand(), rel=1e-5)
    assert (found - logits(model, CONTRAST, tokens)).abs().max() > 0.1


# peft 0.21 asks transformers by a name that is on its way out
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("as_donor", [True, False])
def test_lora_can_be_patched_from_and_into(
    as_donor: bool, tiny_folder: Folder, llama: TransformerBridge
) -> None:
    lora, tokens = finished(draw_adapter(llama, "lora")), draw_tokens()
    folder = tiny_folder("llama")
    models = load_plain(folder), in_plain(folder, "lora", lora)
    first, second = reversed(models) if as_donor else models
    stored = plain_z(first, tokens)
    with torch.no_grad(), hooked_z(second, partial(put, stored=stored, heads=SOME_HEADS)):
        expected = second(tokens).logits
    role = {"donor" if as_donor else "base": lora}
    found = logits(llama, PatchIntervention(some_heads(), **role), tokens)
    assert_same_logits(found, expected)
    assert (found - logits(llama, lora, tokens)).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_the_logits(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    donor = draw_edit(model, heads=ALL)
    patch = PatchIntervention(some_heads(), donor=donor)
    rows = [draw_tokens(1, n, seed=n) for n in (11, 7)]
    tokens, mask = torch.full((2, 11), EOS), torch.zeros(2, 11).long()
    for i, row in enumerate(rows):
        tokens[i, -row.shape[1] :], mask[i, -row.shape[1] :] = row[0], 1
    found = logits(model, patch, tokens, attention_mask=mask)
    for i, row in enumerate(rows):
        expected = plain_patched(plain, row, SOME_HEADS, donor, None)[0]
        assert_same_logits(found[i, -row.shape[1] :], expected, rel=4e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_generation_is_that_of_the_plain_model_patched_at_every_step(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    base, tokens = draw_edit(model, heads=ALL), draw_tokens(1, 7)
    patch, expected = PatchIntervention(some_heads(), base=base), tokens
    for _ in range(5):
        step = plain_patched(plain, expected, SOME_HEADS, None, base)[:, -1].argmax(
            -1, keepdim=True
        )
        expected = torch.cat([expected, step], dim=1)
    options: Any = {"max_new_tokens": 5, "do_sample": False, "return_type": "tokens"}
    with patch.applied(model):
        found = model.generate(tokens, stop_at_eos=False, verbose=False, **options)
        hf: Any = model.hf_generate(
            tokens, eos_token_id=None, use_past_kv_cache=False, use_cache=False, **options
        )
        with pytest.raises(UnsupportedError, match="use_cache=False"):
            model.hf_generate(tokens, eos_token_id=None, **options)
    assert torch.equal(torch.as_tensor(found), expected)
    assert torch.equal(torch.as_tensor(hf), expected)
    assert not torch.equal(
        torch.as_tensor(model.generate(tokens, verbose=False, **options)), expected
    )


def test_a_key_value_cache_is_refused(llama: TransformerBridge) -> None:
    tokens, patch = draw_tokens(), PatchIntervention(some_heads(), donor=draw_edit(llama))
    with torch.no_grad():
        _, cache = llama(tokens[:, :4], return_type="logits_and_cache", use_cache=True)
    with pytest.raises(UnsupportedError, match="use_past_kv_cache=False"):
        logits(llama, patch, tokens[:, 4:], past_key_values=cache)


def test_the_donor_leaves_the_cache_of_the_patched_run_alone(llama: TransformerBridge) -> None:
    from transformers import DynamicCache

    tokens, cache = draw_tokens(), DynamicCache()
    patch = PatchIntervention(some_heads(), donor=draw_edit(llama))
    found = logits(llama, patch, tokens, past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == tokens.shape[1]
    assert_same_logits(found, logits(llama, patch, tokens))


@pytest.mark.parametrize("batch_size", [1, 32])
def test_scores_are_those_of_patched_texts_one_by_one(
    batch_size: int, tiny_folder: Folder, llama: TransformerBridge
) -> None:
    plain, donor = load_plain(tiny_folder("llama")), draw_edit(llama, heads=ALL)
    shared = draw_tokens(1, 12)[0].tolist()  # long enough to be run once, were that allowed
    texts = [EncodedText((*shared, *draw_tokens(1, 3, seed=s)[0].tolist()), 12) for s in (1, 2, 3)]
    found = answer_logprobs(
        llama, texts, PatchIntervention(some_heads(), donor=donor), batch_size=batch_size
    )
    for score, text in zip(found.tolist(), texts, strict=True):
        tokens = torch.tensor([text.ids])
        logprobs = plain_patched(plain, tokens, SOME_HEADS, donor, None).log_softmax(-1)
        expected = sum(float(logprobs[0, i - 1, text.ids[i]]) for i in range(12, 15))
        assert score == pytest.approx(expected, rel=1e-5)


def test_a_task_of_exact_match_is_scored_with_a_patch(llama: TransformerBridge) -> None:
    task = replace(colours_of_things(), scoring=ExactMatch(max_new_tokens=3))
    tuned = draw_edit(llama)
    found = evaluate(llama, task, PatchIntervention(tuned.heads, donor=tuned), progress=False)
    prompts = [example.prompt for example in task.test]
    expected = generate_greedily(llama, prompts, tuned, max_new_tokens=3)
    assert [record["generated"] for record in found.records] == expected


def test_a_patch_has_the_last_word_on_its_heads(llama: TransformerBridge) -> None:
    tokens, tuned = draw_tokens(), draw_edit(llama)
    patch = PatchIntervention(tuned.heads, donor=draw_edit(llama, heads=ALL, seed=2))
    inside = StackedEdits((patch, tuned))
    outside = StackedEdits((tuned, patch))
    assert torch.equal(logits(llama, inside, tokens), logits(llama, outside, tokens))
    none = PatchIntervention(tuned.heads, base=tuned)
    assert_same_logits(logits(llama, none, tokens), llama(tokens).detach(), exactly=True)


def test_patches_inside_each_other_are_refused(llama: TransformerBridge) -> None:
    tokens, inner = draw_tokens(), PatchIntervention(some_heads(), donor=draw_edit(llama))
    for edit in (StackedEdits((inner, inner)), PatchIntervention(ALL, donor=inner)):
        with pytest.raises(UnsupportedError, match="Another patch"):
            logits(llama, edit, tokens)


@torch.no_grad()
def test_a_scoped_edit_around_a_patch_acts_in_both_runs(llama: TransformerBridge) -> None:
    tokens, outer = draw_tokens(), draw_edit(llama, heads=[(0, 1)], scope="last")
    tuned = draw_edit(llama)
    with outer.applied(llama), tuned.applied(llama):
        expected = llama(tokens)
    with outer.applied(llama), PatchIntervention(ALL, donor=tuned).applied(llama):
        assert torch.equal(llama(tokens), expected)


@torch.no_grad()
def test_a_pass_that_stops_early_is_patched_up_to_there(llama: TransformerBridge) -> None:
    tokens, tuned = draw_tokens(), draw_edit(llama)
    with tuned.applied(llama):
        expected = llama(tokens, stop_at_layer=1)
    with PatchIntervention(ALL, donor=tuned).applied(llama):
        assert torch.equal(llama(tokens, stop_at_layer=1), expected)
        whole = llama(tokens)
    assert torch.equal(whole, logits(llama, tuned, tokens))


@torch.no_grad()
def test_a_cache_of_activations_holds_the_patched_run(llama: TransformerBridge) -> None:
    tokens, tuned = draw_tokens(), draw_edit(llama)
    one = replace(tuned, heads=some_heads((0, 3)), scale=tuned.scale[:1], bias=tuned.bias[:1])
    with one.applied(llama):
        expected = last_seen(llama, "blocks.1.attn.hook_z", tokens)
    with PatchIntervention(some_heads((0, 3)), donor=tuned).applied(llama):
        _, found = llama.run_with_cache(tokens, names_filter=["blocks.1.attn.hook_z"])
    assert torch.equal(next(iter(found.values())), expected)


def test_nothing_stays_behind_also_after_an_exception(llama: TransformerBridge) -> None:
    tokens, tuned = draw_tokens(), draw_edit(llama)
    llama(tokens)  # TransformerLens attaches hooks of its own on the first pass
    before, names = count_hooks(llama), set(llama.__dict__)
    own = set(llama.original_model.__dict__)
    signature = inspect.signature(llama.original_model.forward)

    def fail(z: Tensor, hook: object) -> Tensor:
        raise ZeroDivisionError

    with torch.no_grad():
        expected = llama(tokens)
        with PatchIntervention(some_heads(), donor=tuned).applied(llama):
            assert inspect.signature(llama.original_model.forward) == signature
            with pytest.raises(ZeroDivisionError), llama.hooks([("blocks.1.attn.hook_z", fail)]):
                llama(tokens)
            patched = llama(tokens)
        assert torch.equal(llama(tokens), expected)
    assert torch.equal(patched, logits(llama, PatchIntervention(some_heads(), donor=tuned), tokens))
    assert count_hooks(llama) == before
    assert set(llama.__dict__) == names
    assert set(llama.original_model.__dict__) == own


def test_it_is_an_edit_without_parameters_that_comes_from_what_its_edits_come_from(
    llama: TransformerBridge,
) -> None:
    tuned = draw_edit(llama)
    origin = replace(learned_on(llama, colours_of_things(), {}), metrics={"MC1": 1.0})
    learned = replace(tuned, provenance=origin)
    patch = PatchIntervention(tuned.heads, donor=tuned)
    assert isinstance(patch, Edit)
    assert (patch.n_parameters, patch.needs_whole_texts, patch.provenance) == (0, True, None)
    unmeasured = replace(origin, metrics={})
    assert PatchIntervention(tuned.heads, donor=learned).provenance == unmeasured
    assert PatchIntervention(tuned.heads, base=learned).provenance == unmeasured


def test_two_runs_without_an_edit_are_refused() -> None:
    with pytest.raises(LofitLensError, match="give donor or base"):
        PatchIntervention(ALL)


def test_heads_of_another_model_are_refused(llama: TransformerBridge) -> None:
    patch = PatchIntervention(
        HeadSet([(3, 0)], n_layers=4, n_heads=N_HEADS), donor=draw_edit(llama)
    )
    with pytest.raises(ModelMismatchError, match="4 layers"), patch.applied(llama):
        pass


@pytest.mark.parametrize("role", ["donor", "base"])
def test_edits_of_some_positions_are_refused(role: str, llama: TransformerBridge) -> None:
    rows = torch.eye(llama.cfg.d_model)[:2].repeat(N_LAYERS, 1, 1)
    loreft = LoReFT(rows, rows, torch.zeros(N_LAYERS, 2), positions=1)
    before = count_hooks(llama)
    for edit in (draw_edit(llama, scope="last"), CONTRAST.with_scope("after_prompt"), loreft):
        patch = PatchIntervention(ALL, **{role: edit})
        with pytest.raises(UnsupportedError, match="all token positions"), patch.applied(llama):
            pass
    assert count_hooks(llama) == before


def test_a_contrast_vector_around_a_patch_or_inside_it_is_refused(llama: TransformerBridge) -> None:
    tokens, patch = draw_tokens(), PatchIntervention(some_heads(), donor=draw_edit(llama))
    for edits in ((CONTRAST, patch), (patch, CONTRAST)):
        with pytest.raises(UnsupportedError, match="as donor or base"):
            logits(llama, StackedEdits(edits), tokens)
