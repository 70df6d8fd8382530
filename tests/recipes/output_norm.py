"""Heads by the norm of their output weights: a way to choose heads that looks at no data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lofit_lens.analysis.baselines.selectors import HeadSelector
from lofit_lens.attention import heads_of, output_projection
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def by_output_norm() -> HeadSelector:
    """The norm of what each head writes with; neither task nor seed plays a part."""

    def select(model: TransformerBridge, task: Task, seed: int) -> HeadScores:
        grid = heads_of(model)
        norms = [
            output_projection(model, layer).weight.unflatten(1, (grid.n_heads, -1)).norm(dim=(0, 2))
            for layer in grid.layers
        ]
        return HeadScores.of(HeadSet.every(**grid.shape), torch.cat(norms).detach(), "output-norm")

    return select
