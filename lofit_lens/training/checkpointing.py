"""Gradient checkpointing on a bridge in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from lofit_lens.errors import UnsupportedError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@contextmanager
def checkpointing(model: TransformerBridge) -> Iterator[None]:
    """Recompute each block in the backward pass, for the time of the context.

    Only the blocks themselves are told that they train; everything inside them, dropout above
    all, stays in eval mode, so that losses and gradients are the same as without.

    Raises:
        UnsupportedError: The architecture has no blocks that can be checkpointed.
    """
    hf_model: Any = model.original_model
    blocks: list[Any] = [m for m in hf_model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not blocks or not hf_model.supports_gradient_checkpointing:
        raise UnsupportedError(
            f"{type(hf_model).__name__} has no gradient checkpointing. Set "
            "gradient_checkpointing=False, and a smaller micro_batch_size to save memory."
        )
    recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    for block in blocks:
        block._gradient_checkpointing_func = recompute  # the documented switch of the class
        block.gradient_checkpointing = block.training = True
    try:
        yield
    finally:
        for block in blocks:
            block.gradient_checkpointing = block.training = False
