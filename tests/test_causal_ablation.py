from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.analysis.causal.ablation import (
    ablation_to,
    mean_ablation,
    mean_z,
    training_texts,
    zero_ablation,
)
from lofit_lens.analysis.causal.patching import PatchIntervention
from lofit_lens.analysis.causal.stacking import StackedEdits
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.provenance import learned_on
from tests.helpers import (
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    SOME_HEADS,
    assert_same_logits,
    count_hooks,
    draw_edit,
    draw_tokens,
    hooked_projections,
    load_plain,
    plain_projections,
    save_tiny_model,
)
from tests.test_selection import colours_of_things

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]


def some_heads(*heads: tuple[int, int]) -> HeadSet:
    return HeadSet(heads or SOME_HEADS, n_layers=N_LAYERS, n_heads=N_HEADS)


def hooked_z(plain: Any, change: Callable[[int, Tensor], Tensor]) -> AbstractContextManager[None]:
    """Put z of every layer of a plain model, as [batch, pos, head, d_head], through a function."""
    return hooked_projections(
        plain, lambda layer, z: change(layer, z.unflatten(-1, (N_HEADS, -1))).flatten(-2)
    )


@torch.no_grad()
def plain_z(plain: Any, tokens: Tensor) -> dict[int, Tensor]:
    """z of every layer of a plain model, by hand-written hooks."""
    found: dict[int, Tensor] = {}

    def keep(layer: int, z: Tensor) -> Tensor:
        found[layer] = z.clone()
        return z

    with hooked_z(plain, keep):
        plain(tokens)
    return found


def plain_means(plain: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """The mean over the tokens of texts that pass a plain model one by one."""
    layers = [plain_z(plain, torch.tensor([list(row)])) for row in rows]
    return torch.stack(
        [torch.cat([z[layer][0] for z in layers]).double().mean(0) for layer in range(N_LAYERS)]
    ).float()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_zero_ablation_is_the_model_without_the_rows_of_w_o_of_the_heads(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain, tokens = tiny_model(family), load_plain(tiny_folder(family)), draw_tokens()
    d_head = model.cfg.d_head
    for layer, head in SOME_HEADS:
        weight: Any = plain_projections(plain)[layer].weight
        place = slice(head * d_head, (head + 1) * d_head)
        weight[place if family == "gpt2" else (slice(None), place)] = 0
    with zero_ablation(model, some_heads()).applied(model):
        found = model(tokens)
    assert_same_logits(found, plain(tokens).logits)
    assert (found - model(tokens)).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_mean_ablation_puts_the_mean_over_the_training_texts_in_place_of_z(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model, plain, tokens = tiny_model(family), load_plain(tiny_folder(family)), draw_tokens()
    task = colours_of_things()
    texts = [text.ids for text in training_texts(model, task)]
    means = plain_means(plain, texts)

    def put(layer: int, z: Tensor) -> Tensor:
        for chosen, head in SOME_HEADS:
            if chosen == layer:
                z = z.clone()
                z[:, :, head] = means[layer, head]
        return z

    with mean_ablation(model, task, some_heads(), batch_size=3).applied(model):
        found = model(tokens)
    with hooked_z(plain, put):
        assert_same_logits(found, plain(tokens).logits, rel=4e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_padding_does_not_count_in_the_mean(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model = tiny_model(family)
    texts = training_texts(model, colours_of_things())
    assert len({len(text.ids) for text in texts}) > 1
    expected = plain_means(load_plain(tiny_folder(family)), [text.ids for text in texts])
    for batch_size in (1, 3, 64):
        found = mean_z(model, texts, batch_size=batch_size)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6)


def test_texts_are_those_of_training_with_their_first_answer(llama: TransformerBridge) -> None:
    task = colours_of_things()
    tokenizer: Any = llama.tokenizer
    found = [
        tokenizer.decode(text.ids, skip_special_tokens=True) for text in training_texts(llama, task)
    ]
    assert found == [example.prompt + example.correct[0] for example in task.train]


@torch.no_grad()
def test_a_head_that_is_tuned_and_then_ablated_gives_what_the_ablation_says(
    llama: TransformerBridge,
) -> None:
    tokens, tuned = draw_tokens(), draw_edit(llama)
    outputs = torch.randn(N_LAYERS, N_HEADS, llama.cfg.d_head)
    ablation = ablation_to(llama, some_heads(), outputs)
    with ablation.applied(llama):
        alone = llama(tokens)
    with StackedEdits((tuned, ablation)).applied(llama):
        assert torch.equal(llama(tokens), alone)
    with tuned.applied(llama), ablation.applied(llama):
        assert torch.equal(llama(tokens), alone)
    with StackedEdits((ablation, tuned)).applied(llama):
        assert (llama(tokens) - alone).abs().max() > 0.1


@torch.no_grad()
def test_an_edit_of_other_heads_stays_in_force_beside_an_ablation(llama: TransformerBridge) -> None:
    tokens, tuned = draw_tokens(), draw_edit(llama, heads=[(1, 1)])
    ablation = zero_ablation(llama, some_heads())
    with ablation.applied(llama):
        alone = llama(tokens)
    with StackedEdits((tuned, ablation)).applied(llama):
        first = llama(tokens)
    with StackedEdits((ablation, tuned)).applied(llama):
        assert torch.equal(llama(tokens), first)
    assert (first - alone).abs().max() > 0.1


@torch.no_grad()
def test_without_heads_nothing_is_ablated(llama: TransformerBridge) -> None:
    tokens, none = draw_tokens(), HeadSet([], n_layers=N_LAYERS, n_heads=N_HEADS)
    expected = llama(tokens)
    with zero_ablation(llama, none).applied(llama):
        assert torch.equal(llama(tokens), expected)


def test_a_stack_of_edits_is_an_edit_made_of_all_of_them(llama: TransformerBridge) -> None:
    tuned, ablation = draw_edit(llama), zero_ablation(llama, some_heads())
    contrast = ContrastIntervention("Yes. ", "No. ", (1,), n_layers=N_LAYERS)
    stack = StackedEdits((tuned, ablation))
    assert isinstance(stack, Edit)
    assert stack.n_parameters == tuned.n_parameters + ablation.n_parameters
    assert not stack.needs_whole_texts
    assert StackedEdits((tuned, contrast)).needs_whole_texts
    assert stack.provenance is None
    measured = mean_ablation(llama, colours_of_things(), some_heads())
    assert StackedEdits((tuned, measured)).provenance == measured.provenance


def test_edits_of_other_folds_or_tasks_are_not_put_together(llama: TransformerBridge) -> None:
    """Only one provenance would reach the check of `evaluate` against scoring training items."""

    def learned(**source: Any) -> HeadIntervention:
        task = replace(colours_of_things(), source=source)
        return replace(draw_edit(llama), provenance=learned_on(llama, task, {}))

    zero = learned(name="truthfulqa", fold=0)
    others = (
        learned(name="truthfulqa", fold=1), learned(name="mquake"), learned(),
        StackedEdits((draw_edit(llama), learned(name="truthfulqa", fold=1))),
    )  # fmt: skip
    for other in others:
        with pytest.raises(LofitLensError, match="learned on the same data"):
            StackedEdits((zero, other))
        with pytest.raises(LofitLensError, match="learned on the same data"):
            PatchIntervention(some_heads(), donor=other, base=zero)
    same = learned(name="truthfulqa", fold=0)
    assert StackedEdits((draw_edit(llama), zero, same)).provenance == zero.provenance
    listed = [learned(name="a.csv", split=split) for split in ((1, 2), [1, 2])]
    assert PatchIntervention(some_heads(), *listed).provenance == listed[0].provenance


def test_nothing_of_a_stack_stays_behind(llama: TransformerBridge) -> None:
    before = count_hooks(llama)
    stack = StackedEdits((draw_edit(llama, scope="last"), zero_ablation(llama, some_heads())))
    with pytest.raises(ZeroDivisionError), stack.applied(llama):
        raise ZeroDivisionError
    assert count_hooks(llama) == before


def test_means_of_one_model_are_refused_on_another(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    task = colours_of_things()
    edit = mean_ablation(llama, task, some_heads())
    assert edit.provenance is not None
    assert edit.provenance.data_hash == learned_on(llama, task, {}).data_hash
    other = load_model(save_tiny_model("llama", tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(ModelMismatchError, match="another one"), edit.applied(other):
        pass


def test_heads_of_another_model_are_refused(llama: TransformerBridge) -> None:
    wrong = HeadSet([(3, 0)], n_layers=4, n_heads=N_HEADS)
    with pytest.raises(ModelMismatchError, match="4 layers"):
        zero_ablation(llama, wrong)
    with pytest.raises(ModelMismatchError, match="4 layers"):
        mean_ablation(llama, colours_of_things(), wrong)
