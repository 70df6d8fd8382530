"""Tokens drawn in place of the likeliest ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        seeds: A seed for each prompt. What is drawn behind it depends on this and on nothing that
            shares its batch, nor on the device.
        temperature: What logits are divided by, above 0.
        top_k: Only this many of the likeliest tokens are drawn from; None means all.
        top_p: Only the likeliest tokens that together have this probability are.
    """

    seeds: Sequence[int]
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


@contextmanager
def drawn(model: TransformerBridge, sampling: Sampling, prompts: Sequence[int]) -> Iterator[None]:
    """Make the likeliest token of each step one that is drawn, inside the context.

    Gumbel noise is added to the logits: the largest sum is a draw from their softmax.

    Args:
        model: A bridge that generates greedily.
        sampling: How.
        prompts: Which of the prompts are in the batch, row by row.
    """
    from transformers.generation import logits_process as warpers

    warps: list[Any] = [warpers.TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k is not None:
        warps.append(warpers.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None:
        warps.append(warpers.TopPLogitsWarper(sampling.top_p))
    generators = [torch.Generator().manual_seed(sampling.seeds[i]) for i in prompts]

    def draw(_module: object, _args: object, output: Any) -> Any:
        scores = output.logits[:, -1].float()
        for warp in warps:
            scores = warp(None, scores)
        size = scores.shape[-1]
        waits = [torch.empty(size).exponential_(generator=each) for each in generators]
        output.logits = (scores - torch.stack(waits).log().to(scores.device))[:, None]
        return output

    with model.original_model.register_forward_hook(draw):
        yield
