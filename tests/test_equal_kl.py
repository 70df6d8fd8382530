"""Edits at one strength: any that can be multiplied, brought to one KL divergence on plain text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.analysis.baselines.equal_kl import at_kl
from lofit_lens.analysis.baselines.loreft import LoReFT, orthonormal_rows
from lofit_lens.analysis.baselines.rivals import train_beft, train_ia3, train_lora
from lofit_lens.analysis.causal.patching import PatchIntervention
from lofit_lens.analysis.kinds.compare import compare
from lofit_lens.analysis.measure.side_effects import encode_texts, side_effects
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet
from lofit_lens.training import TrainingConfig, TuningConfig
from tests.helpers import D_MODEL, N_HEADS, N_LAYERS, TEXT, draw_edit, draw_tokens
from tests.test_side_effects import by_hand
from tests.test_training import colour_task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# peft 0.21 asks transformers 5.23 for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

Maker = Callable[["TransformerBridge"], Edit]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def adapter(train: Callable[..., Any]) -> Maker:
    """An adapter large enough to change every logit."""
    config = TrainingConfig(learning_rate=1e-2, epochs=3, batch_size=6, validate=False)
    return lambda model: train(model, colour_task(), config, progress=False)


def loreft(_: TransformerBridge) -> LoReFT:
    rotation = torch.stack([orthonormal_rows(rows) for rows in drawn(N_LAYERS, 2, D_MODEL)])
    source = rotation + 0.3 * drawn(N_LAYERS, 2, D_MODEL)
    return LoReFT(rotation, source, 0.3 * drawn(N_LAYERS, 2), positions=3)


EDITS: dict[str, Maker] = {
    "heads": draw_edit,
    "contrast": lambda _: ContrastIntervention("Be good. ", "", (1,), N_LAYERS),
    "LoReFT": loreft,
    "LoRA": adapter(train_lora),
    "(IA)3": adapter(train_ia3),
    "BEFT": adapter(train_beft),
}


def logits(model: TransformerBridge, edit: Edit | None) -> torch.Tensor:
    tokens = draw_tokens()
    with torch.no_grad():
        if edit is None:
            return model(tokens)
        with edit.applied(model):
            return model(tokens)


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_at_strength_one_is_itself_and_at_zero_leaves_the_model(
    kind: str, llama: TransformerBridge
) -> None:
    edit: Any = EDITS[kind](llama)
    assert (logits(llama, edit) - logits(llama, None)).abs().max() > 1e-3
    torch.testing.assert_close(logits(llama, 1.0 * edit), logits(llama, edit))
    torch.testing.assert_close(logits(llama, edit * 0.0), logits(llama, None))


@pytest.mark.parametrize("kind", EDITS)
def test_twice_an_edit_changes_twice_as_much_to_first_order(
    kind: str, llama: TransformerBridge
) -> None:
    edit: Any = EDITS[kind](llama)
    plain = logits(llama, None).double()
    small, twice = (logits(llama, s * edit).double() - plain for s in (0.005, 0.01))
    assert float((twice - 2 * small).norm() / twice.norm()) < 0.05


@pytest.mark.parametrize("kind", EDITS)
def test_every_edit_is_brought_to_the_divergence_that_is_asked_for(
    kind: str, llama: TransformerBridge
) -> None:
    texts = encode_texts(llama, TEXT)
    edit: Any = EDITS[kind](llama)
    start = side_effects(llama, edit, texts).kl
    for target in (0.2 * start, 1.5 * start):
        found = at_kl(edit, target, lambda e: side_effects(llama, e, texts).kl)
        assert found.kl == pytest.approx(target, rel=0.02)
        again = side_effects(llama, found.strength * edit, texts).kl
        assert again == pytest.approx(found.kl, rel=1e-5)
        assert (found.strength < 1) == (target < start)


def test_it_is_the_divergence_of_a_plain_model(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    texts = encode_texts(llama, TEXT)
    found: Any = at_kl(draw_edit(llama), 0.01, lambda e: side_effects(llama, e, texts).kl)
    _, kl = by_hand(tiny_folder("llama"), texts, found.edit)
    assert kl == pytest.approx(0.01, rel=0.021)


def test_what_cannot_be_brought_there_is_refused_with_what_comes_nearest(
    llama: TransformerBridge,
) -> None:
    heads = HeadSet([(0, 1)], n_layers=N_LAYERS, n_heads=N_HEADS)
    with pytest.raises(LofitLensError, match="no strength that could be set"):
        at_kl(PatchIntervention(heads, donor=draw_edit(llama)), 0.1, lambda _: 0.1)
    with pytest.raises(LofitLensError, match=r"the nearest is 0\.05"):
        at_kl(draw_edit(llama), 0.1, lambda _: 0.05)
    for target in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(LofitLensError, match="above 0"):
            at_kl(draw_edit(llama), target, lambda _: 0.1)


def test_methods_of_a_comparison_share_the_training_of_those_at_their_own_strength(
    llama: TransformerBridge,
) -> None:
    texts = encode_texts(llama, TEXT)
    tuning = TuningConfig(epochs=1, batch_size=3, validate=False)
    settings = Settings(k=2, tuning=tuning)
    task = replace(colour_task(12), train=colour_task(12).train[:3], val=colour_task(12).train[3:6])
    task = replace(task, val_as_test=task.val, test=colour_task(12).test[6:])
    found = compare(
        llama, [task], ["random-heads", "random-heads~0.02", "beft~0.02"], settings=settings,
        texts=texts, progress=False,
    )  # fmt: skip
    by_name = {record.method: record for record in found.runs}
    alone, brought = by_name["random-heads"], by_name["random-heads~0.02"]
    assert alone.heads == brought.heads
    assert alone.steps[0] == brought.steps[0]  # trained once
    for record in (brought, by_name["beft~0.02"]):
        assert record.side_effects["kl"] == pytest.approx(0.02, rel=0.02)
        assert record.choices["kl"] == record.side_effects["kl"]
    for name, message in (("lofit~", "got ''"), ("lofit~a", "got 'a'"), ("lofit~0", "above 0")):
        with pytest.raises(LofitLensError, match=message):
            compare(llama, [task], [name], settings=settings, texts=texts, progress=False)
