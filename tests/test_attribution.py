"""Attribution against autograd on a plain model and against differences of the loss itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from lofit_lens.analysis.baselines.attribution import BETA, attribute_heads
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.heads import HeadSet
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tasks import Example, MultipleChoice, Task
from lofit_lens.tokens import Encoder
from tests.helpers import count_hooks, load_plain, plain_projections

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TRAIN = (
    Example("sky", "The colour of the sky is", (" blue.",), (" red.", " grey old cat.")),
    Example("cat", "Q: Who lives in the house?\nA:", (" A grey cat.",), (" Anna.",)),
    Example("ben", "Ben has a sister, Clara. Her name is", (" Clara.",), (" Ben.", " Anna.")),
    Example("end", "The", (" old house of Anna",), (" cat",)),
)


def a_task(objective: Any = "sft") -> Task:
    return Task("toy", TRAIN, TRAIN[:2], TRAIN[:1], TRAIN[:2], objective, MultipleChoice())


def plain_attribution(bridge: TransformerBridge, folder: Path, objective: str) -> torch.Tensor:
    """The same from `retain_grad` on what the projections of a plain model read, text by text."""
    model, encoder = load_plain(folder), Encoder(bridge)
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def read(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
            args[0].retain_grad()
            seen[layer] = args[0]

        return read

    for layer, projection in enumerate(plain_projections(model)):
        projection.register_forward_pre_hook(keep(layer))
    total, weight = torch.zeros(bridge.cfg.n_layers, bridge.cfg.n_heads), 0
    for example in TRAIN:
        wrong = {"sft": (), "dpo": example.incorrect[:1], "choice": example.incorrect}[objective]
        texts = encoder.candidates(
            example.prompt, (*example.correct, *wrong), end=objective != "choice"
        )
        scores, gradient_times_z = [], []
        for text in texts:
            model.zero_grad()
            logits = model(torch.tensor([text.ids])).logits[0].log_softmax(-1)
            score = sum(logits[i - 1, text.ids[i]] for i in range(text.n_prompt, len(text.ids)))
            assert isinstance(score, torch.Tensor)
            score.backward()
            scores.append(score.detach())
            products = [z * z.grad for _, z in sorted(seen.items()) if z.grad is not None]
            heads = [p.unflatten(-1, (bridge.cfg.n_heads, -1)).sum((0, 1, 3)) for p in products]
            gradient_times_z.append(torch.stack(heads))
        found = torch.stack(scores).requires_grad_(True)
        loss = {
            "sft": lambda s: -s[0],
            "dpo": lambda s: -logsigmoid(BETA * (s[0] - s[0].detach() - s[1] + s[1].detach())),
            "choice": lambda s: -s.log_softmax(0)[0],
        }[objective](found)
        (by_text,) = torch.autograd.grad(loss, found)
        total += (by_text[:, None, None] * torch.stack(gradient_times_z)).sum(0).abs().detach()
        weight += texts[0].n_answer if objective == "sft" else 1
    return total / weight


@pytest.mark.parametrize(
    ("family", "objective"),
    [("llama", "sft"), ("llama", "dpo"), ("llama", "choice"), ("gpt2", "sft"), ("gemma2", "dpo")],
)
def test_scores_equal_gradient_times_activation_of_a_plain_model(
    tiny_model: Callable[[str], TransformerBridge],
    tiny_folder: Callable[[str], Path],
    family: str,
    objective: str,
) -> None:
    bridge = tiny_model(family)
    found = attribute_heads(bridge, a_task(objective), progress=False).scores
    expected = plain_attribution(bridge, tiny_folder(family), objective)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)


def test_scores_equal_differences_of_the_loss(llama: TransformerBridge) -> None:
    example = TRAIN[1]
    task = replace(a_task(), train=(example,))
    found = attribute_heads(llama, task, progress=False).scores
    text = Encoder(llama).continuation(example.prompt, example.correct[0], end=True)
    every = HeadSet.every(n_layers=llama.cfg.n_layers, n_heads=llama.cfg.n_heads)
    step = 0.02

    def loss(head: Any, factor: float) -> float:
        edit = HeadIntervention(
            HeadSet([head], n_layers=every.n_layers, n_heads=every.n_heads),
            scale=torch.full((1, llama.cfg.d_head), factor),
        )
        return -float(answer_logprobs(llama, [text], edit)) / text.n_answer

    slopes = torch.tensor([(loss(h, step) - loss(h, -step)) / (2 * step) for h in every])
    torch.testing.assert_close(found.flatten(), slopes.abs(), rtol=2e-2, atol=2e-4)
    assert found.max() > 0.01  # far above the tolerance


def test_opposite_pulls_of_two_examples_do_not_cancel(llama: TransformerBridge) -> None:
    one = Example("one", "The cat is", (" red.",), (" old.",))
    other = Example("other", "The cat is", (" old.",), (" red.",))
    task = replace(a_task("dpo"), train=(one, other))
    alone = attribute_heads(llama, replace(task, train=(one,)), progress=False)
    both = attribute_heads(llama, task, progress=False)
    torch.testing.assert_close(both.scores, alone.scores, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("objective", ["sft", "choice"])
def test_scores_do_not_depend_on_the_batch_size(llama: TransformerBridge, objective: Any) -> None:
    task = a_task(objective)
    one = attribute_heads(llama, task, batch_size=1, progress=False)
    all_at_once = attribute_heads(llama, task, batch_size=4, progress=False)
    torch.testing.assert_close(one.scores, all_at_once.scores, rtol=1e-4, atol=1e-7)


def test_the_model_is_left_as_it_was(llama: TransformerBridge) -> None:
    llama("The cat")  # the first call of a bridge leaves hooks of its own
    before = count_hooks(llama)
    attribute_heads(llama, a_task(), progress=False)
    assert count_hooks(llama) == before
    assert all(parameter.grad is None for parameter in llama.parameters())


def test_scores_tell_where_they_come_from(llama: TransformerBridge) -> None:
    scores = attribute_heads(llama, a_task(), objective="dpo", progress=False)
    assert scores.method == "attribution"
    assert scores.provenance is not None
    assert scores.provenance.task == "toy"
    assert scores.provenance.config["objective"] == "dpo"


def test_a_model_that_trains_and_an_objective_without_answers_are_refused(
    llama: TransformerBridge,
) -> None:
    bare = replace(a_task(), train=(replace(TRAIN[0], incorrect=()),))
    with pytest.raises(DataError, match="sky"):
        attribute_heads(llama, bare, objective="dpo", progress=False)
    llama.requires_grad_(True)
    with pytest.raises(LofitLensError, match="trainable"):
        attribute_heads(llama, a_task(), progress=False)
