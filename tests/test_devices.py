"""A model whose layers are on several devices, as far as a machine without GPUs can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import torch

from lofit_lens.analysis.kinds.causal import causal_curves
from lofit_lens.edits.files import load_edit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.fast.switches import shortcuts
from lofit_lens.fast.trial import try_shortcuts
from lofit_lens.fast.wrappers import listens
from lofit_lens.folding import fold
from lofit_lens.heads import HeadSet
from lofit_lens.model import freeze
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.stages import select_heads, tune_heads, tune_together
from lofit_lens.tokenizer import attach_tokenizer, load_tokenizer, stand_in
from lofit_lens.training import SelectionConfig, TuningConfig
from tests.helpers import N_HEADS, N_LAYERS, draw_edit, draw_tokens, load_plain
from tests.pretend_devices import FIRST, SECOND, Elsewhere, pretended
from tests.test_spine import apart, compared, results
from tests.test_training import colour_task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PLACES = {
    "model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "model.layers.0": FIRST,
    "model.layers.1": SECOND, "model.layers.2": SECOND, "model.norm": SECOND, "lm_head": SECOND,
}  # fmt: skip
HEADS = HeadSet([(0, 3), (1, 0), (2, 1), (2, 2)], n_layers=N_LAYERS, n_heads=N_HEADS)


@pytest.fixture
def spread(tiny_folder: Callable[[str], Path]) -> Iterator[TransformerBridge]:
    """The tiny Llama with its first layer on one pretended device and the others on a second."""
    import accelerate
    from transformer_lens.model_bridge import TransformerBridge

    folder = str(tiny_folder("llama"))
    plain = load_plain(folder)
    with pretended():
        names: Any = {name: str(device) for name, device in PLACES.items()}
        placed = accelerate.dispatch_model(
            plain, device_map=names, main_device=FIRST, force_hooks=True
        )
        model = TransformerBridge.boot_transformers(folder, hf_model=placed, tokenizer=stand_in())
        attach_tokenizer(model, load_tokenizer(folder))
        yield freeze(model)


@pytest.fixture
def together(
    llama: TransformerBridge, spread: TransformerBridge
) -> tuple[TransformerBridge, TransformerBridge]:
    """The same model on one device and on two; the first is loaded before anything is pretended."""
    return llama, spread


def test_tensors_of_two_pretended_devices_cannot_be_combined() -> None:
    with pretended():
        one, other, here = (torch.ones(2).to(place) for place in (FIRST, SECOND, "cpu"))
        for mixed in ((one, other), (one, here)):
            with pytest.raises(RuntimeError, match="same device"):
                torch.add(*mixed)
        assert (one + other.to(FIRST)).device == FIRST
        assert torch.equal((one + torch.tensor(2.0)).cpu(), torch.full((2,), 3.0))


def test_the_layers_are_where_they_were_put(spread: TransformerBridge) -> None:
    weights = [block.attn.o.original_component.weight for block in spread.blocks]
    assert all(isinstance(weight, Elsewhere) for weight in weights)
    assert [weight.device for weight in weights] == [FIRST, SECOND, SECOND]
    assert torch.device(spread.cfg.device or "cpu") == FIRST


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("scope", ["all", "after_prompt", "last"])
def test_both_stages_and_scores_are_those_of_one_device(
    together: tuple[TransformerBridge, ...], scope: Any, fast: bool
) -> None:
    switches: dict[str, Any] = {} if fast else {"direct": False}
    first = SelectionConfig(epochs=1, scope=scope, learning_rate=0.05)
    second = TuningConfig(epochs=2, scope=scope, learning_rate=0.05)
    found = []
    for model in together:
        with shortcuts(**switches):
            scores = select_heads(model, colour_task(), first, progress=False)
            tuned = tune_heads(model, colour_task(), HEADS, second, progress=False)
            evaluation = evaluate(model, colour_task(), tuned, progress=False)
        found.append((scores.scores, tuned.bias, evaluation.records))
    (scores, bias, records), (scores_there, bias_there, records_there) = found
    assert bias is not None and bias_there is not None
    assert torch.equal(scores, scores_there.cpu())
    assert torch.equal(bias, bias_there.cpu())
    assert records == records_there


def test_the_fast_paths_are_those_of_one_device(together: tuple[TransformerBridge, ...]) -> None:
    one, two = map(try_shortcuts, together)
    assert one == two
    assert two.attention is not None and two.shares


def test_runs_trained_in_one_pass_are_those_of_one_device(
    together: tuple[TransformerBridge, ...],
) -> None:
    low, high = HEADS, HeadSet([(2, 0), (2, 3)], n_layers=N_LAYERS, n_heads=N_HEADS)
    config = TuningConfig(epochs=1, learning_rate=0.05)
    runs = [(heads, replace(config, seed=seed)) for heads in (low, high) for seed in (1, 2)]
    one, two = (tune_together(model, colour_task(), runs, progress=False) for model in together)
    for here, there in zip(one, two, strict=True):
        assert isinstance(here, HeadIntervention) and isinstance(there, HeadIntervention)
        assert here.bias is not None and there.bias is not None
        assert torch.equal(here.bias, there.bias.cpu())


@pytest.mark.parametrize("objective", ["sft", "dpo", "choice"])
def test_every_objective_is_that_of_one_device(
    together: tuple[TransformerBridge, ...], objective: Any
) -> None:
    config = TuningConfig(epochs=1, objective=objective, micro_batch_size=2)
    config = replace(config, gradient_checkpointing=objective == "sft")
    found = [tune_heads(m, colour_task(), HEADS, config, progress=False) for m in together]
    one, two = (edit.bias for edit in found)
    assert one is not None and two is not None and torch.equal(one, two.cpu())


def test_folded_weights_and_generated_text_are_those_of_one_device(
    together: tuple[TransformerBridge, ...],
) -> None:
    prompts, tokens, found = ["The colour of the", "Who"], draw_tokens(), []
    for model in together:
        edit = draw_edit(model, heads=HEADS)
        with torch.no_grad(), edit.applied(model):
            hooked = model(tokens).cpu()
        text = generate_greedily(model, prompts, edit, max_new_tokens=6)
        with torch.no_grad(), fold(model, edit):
            folded = model(tokens).cpu()
        assert torch.allclose(hooked, folded, atol=1e-4)
        found.append((hooked, folded, text))
    (hooked, folded, text), (hooked_there, folded_there, text_there) = found
    assert torch.equal(hooked, hooked_there) and torch.equal(folded, folded_there)
    assert text == text_there


def test_an_edit_learned_on_two_devices_is_kept_and_used_on_one(
    together: tuple[TransformerBridge, ...], tmp_path: Path
) -> None:
    one, two = together
    config = TuningConfig(epochs=1)
    edit = tune_heads(two, colour_task(), HEADS, config, progress=False)
    kept = load_edit(edit.save(tmp_path / "edit"), one)
    scores = [evaluate(m, colour_task(), e, progress=False) for m, e in ((one, kept), (two, edit))]
    assert scores[0].records == scores[1].records


METHODS = (
    "lofit",
    "gates/bias",
    "attribution/bias",
    "iti",
    "bitfit",
    "red",
    "loreft",
    "repe-contrast",
)
"""Those of a kind of their own, but for the adapters of peft, whose ways of making parameters cannot be
pretended."""


def test_every_method_of_a_comparison_gives_the_numbers_of_one_device(
    together: tuple[TransformerBridge, ...],
) -> None:
    one, two = (compared(model, METHODS, texts=None) for model in together)
    assert results(one.runs) == results(two.runs)


def test_causal_curves_are_those_of_one_device(together: tuple[TransformerBridge, ...]) -> None:
    frames = [
        causal_curves(
            model, apart(), HEADS, edit=draw_edit(model, heads=HEADS), ablation="mean", draws=1,
            progress=False,
        ).frame()
        for model in together
    ]  # fmt: skip
    assert frames[0].equals(frames[1])


def test_who_computes_in_place_of_a_layer_is_heard_where_accelerate_places_it(
    spread: TransformerBridge,
) -> None:
    layer: Any = spread.blocks[0].attn.q.original_component
    assert "forward" in vars(layer) and not listens(layer)
    with patch.object(layer, "forward", lambda x: x):
        assert listens(layer)
