"""Ablation of heads: an edit under which they give zero, or their mean, whatever they read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.analysis.baselines.activations import read_batches
from lofit_lens.attention import check_head_shape, no_z, real_columns, z_hooks
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.heads import HeadSet
from lofit_lens.provenance import Provenance, learned_on
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import Batch, EncodedText, Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def zero_ablation(model: TransformerBridge, heads: HeadSet) -> HeadIntervention:
    """An edit under which some heads give 0 at every position (Michel et al., 2019).

    It takes away what a head gives on average as well, to which the rest of the model is tuned;
    the mean ablation leaves that. To ablate heads that another edit changes, apply it inside that
    edit (`StackedEdits`), so that it has the last word.

    Args:
        model: The model the heads belong to.
        heads: The heads.

    Raises:
        ModelMismatchError: The heads belong to another model shape.
    """
    check_head_shape(model, heads)
    return ablation_to(model, heads, no_z(model))


def mean_ablation(
    model: TransformerBridge, task: Task, heads: HeadSet, *, batch_size: int = 32
) -> HeadIntervention:
    """An edit under which some heads give their mean at every position (Wang et al., 2023).

    What is left of a head is what it gives on every text alike. The mean is that of `mean_z` over
    the training texts of the task. Take it outside of edits: the mean of a tuned head holds its
    offset, and the ablation is to take the offset away too.

    Args:
        model: The model, with no edit in force.
        task: The task; its test and validation examples are not read.
        heads: The heads.
        batch_size: Texts per forward pass.

    Raises:
        ModelMismatchError: The heads belong to another model shape.
    """
    check_head_shape(model, heads)
    means = mean_z(model, training_texts(model, task), batch_size=batch_size)
    return ablation_to(model, heads, means, learned_on(model, task, {"method": "mean-ablation"}))


def ablation_to(
    model: TransformerBridge,
    heads: HeadSet,
    outputs: Float[Tensor, "layer head d_head"],
    provenance: Provenance | None = None,
) -> HeadIntervention:
    """An edit under which some heads give the same output at every position: `z <- 0 z + output`.

    Args:
        model: The model.
        heads: The heads; may be none.
        outputs: The output of every head of the model.
        provenance: How the outputs were measured, if they were.
    """
    rows = [outputs[layer, head] for layer, head in heads]
    fixed = torch.stack(rows) if rows else outputs.new_zeros(0, outputs.shape[-1])
    gone = -real_columns(model, heads).to(fixed)
    return HeadIntervention(heads, scale=gone, bias=fixed, provenance=provenance)


def training_texts(model: TransformerBridge, task: Task) -> list[EncodedText]:
    """The training prompts of a task, each with its first correct answer, as training sees them."""
    encoder = Encoder(model)
    return [encoder.continuation(example.prompt, example.correct[0]) for example in task.train]


def mean_z(
    model: TransformerBridge, texts: Sequence[EncodedText], *, batch_size: int = 32
) -> Float[Tensor, "layer head d_head"]:
    """The mean of `hook_z` of every head, float32 on the CPU.

    Every token of every text counts the same, BOS included; padding does not count.

    Args:
        model: A bridge; edits in force are part of what is read.
        texts: Encoded texts, at least one.
        batch_size: Texts per forward pass.
    """

    def summed(z: Tensor, batch: Batch) -> Tensor:
        return z[batch.attention_mask.bool().to(z.device)].float().sum(0)

    total, hooks_on = no_z(model).double(), partial(z_hooks, model)
    for _, seen in read_batches(model, texts, hooks_on, summed, batch_size=batch_size):
        for layer, z in seen.items():
            total[layer, :, : z.shape[-1]] += z
    return (total / sum(len(text.ids) for text in texts)).float()
