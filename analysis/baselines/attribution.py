"""Gradient x activation: how much the loss would change, to first order, without a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lofit_lens.attention import heads_of, z_hooks
from lofit_lens.errors import check_whole
from lofit_lens.fast.in_force import in_force
from lofit_lens.fast.layout import lay_out
from lofit_lens.head_scores import HeadScores
from lofit_lens.provenance import learned_on
from lofit_lens.scoring.logprobs import batches_by_length
from lofit_lens.tasks.task import Objective, Task
from lofit_lens.tokens import Encoder
from lofit_lens.training.loop import check_ready
from lofit_lens.training.objectives import Item, encode_items, summed_loss, total_weight

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

BETA = 0.5
"""DPO's beta (`TrainingConfig.beta`); at the unedited model it only scales the scores."""


def attribute_heads(
    model: TransformerBridge,
    task: Task,
    *,
    objective: Objective | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> HeadScores:
    """Score every head by gradient x activation of the task's loss on its training examples.

    For one example, the sum over positions and coordinates of `z * d loss / d z` at `hook_z` is
    what removing the head would take from the loss, to first order. The score is the sum over
    examples of its absolute value, divided as the training loss is (by answer tokens for `sft`,
    else by examples), so that examples which pull a head in opposite ways do not cancel (Michel,
    Levy and Neubig 2019, equation 2, without their scaling by layer; with a zero baseline it is
    attribution patching). Nothing is drawn, so there is no seed.

    The number is read off as the gradient of one factor `1 + A` for each text and head at A = 0:
    one forward and one backward pass for all heads.

    Args:
        model: A frozen bridge in eval mode.
        task: The task; only its training examples are used.
        objective: The loss; None takes the task's own.
        batch_size: Examples per forward pass; the scores do not depend on it.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: The model is not frozen or not in eval mode, or the examples lack what the
            objective needs.
    """
    check_ready(model)
    check_whole("batch_size", batch_size, 1)
    objective = objective or task.objective
    task.check_objective(objective)
    items = encode_items(Encoder(model), task.train, objective, task.scoring)
    total = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, dtype=torch.float32)
    lengths = [max(len(text.ids) for text in item.texts) for item in items]
    with tqdm(total=len(items), desc="attribute", disable=not progress) as bar:
        for indices in batches_by_length(lengths, batch_size):
            batch = [items[i] for i in indices]
            total += _attributions(model, batch, objective).abs().sum(0)
            bar.update(len(batch))
    config = {"objective": objective, "selector": "attribution"}
    return HeadScores(
        total / total_weight(objective, items),
        "attribution",
        learned_on(model, task, config),
        heads_of(model).without,
    )


def _attributions(
    model: TransformerBridge, items: Sequence[Item], objective: Objective
) -> Float[Tensor, "item layer head"]:
    """The sum of `z * d loss / d z` of each example and head, with the sign."""
    texts = [text for item in items for text in item.texts]
    shape = (len(texts), model.cfg.n_layers, model.cfg.n_heads)
    factors = torch.zeros(shape, dtype=torch.float32, device=model.cfg.device, requires_grad=True)

    def scaled(layer: int) -> Callable[..., Tensor]:
        def edit(z: Tensor, hook: Any = None) -> Tensor:  # noqa: ARG001
            factor = 1 + factors[:, layer, :].to(z.device)
            return (z.float() * factor[:, None, :, None]).to(z.dtype)

        return edit

    with torch.enable_grad(), in_force(model, hooks=z_hooks(model, scaled)) as passes:
        logprobs = passes.logprobs([lay_out([text]) for text in texts])
        reference = iter(logprobs.tolist())  # the unedited model is DPO's reference
        items = [
            replace(item, reference=tuple(next(reference) for _ in item.texts)) for item in items
        ]
        loss = summed_loss(objective, logprobs, items, beta=BETA)
        (gradient,) = torch.autograd.grad(loss, factors)
    of_items = gradient.cpu().split([len(item.texts) for item in items])
    return torch.stack([rows.sum(0) for rows in of_items])
