"""What a model computes at the last token of texts: head outputs and the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.scoring.logprobs import batches_by_length
from lofit_lens.tokens import EncodedText, Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def last_z(
    model: TransformerBridge, texts: Sequence[EncodedText], *, batch_size: int = 32
) -> Float[Tensor, "text layer head d_head"]:
    """`hook_z` at the last token of each text, float32 on the CPU (ITI, section 3.1).

    Args:
        model: A bridge; edits in force are part of what is read.
        texts: Encoded texts.
        batch_size: Texts per forward pass.
    """
    return _stored(last_z_batches(model, texts, batch_size=batch_size), len(texts))


def last_residual(
    model: TransformerBridge, texts: Sequence[EncodedText], *, batch_size: int = 32
) -> Float[Tensor, "text layer d_model"]:
    """The residual stream behind every block at the last token, float32 on the CPU.

    Args:
        model: A bridge; edits in force are part of what is read.
        texts: Encoded texts.
        batch_size: Texts per forward pass.
    """
    return _stored(_last(model, texts, "hook_out", batch_size), len(texts))


def last_z_batches(
    model: TransformerBridge, texts: Sequence[EncodedText], *, batch_size: int = 32
) -> Iterator[tuple[list[int], Tensor]]:
    """`hook_z` at the last token, batch by batch, for statistics that need no stored activations.

    Args:
        model: A bridge; edits in force are part of what is read.
        texts: Encoded texts.
        batch_size: Texts per forward pass.

    Yields:
        The places of some texts and their activations `[text, layer, head, d_head]`.
    """
    yield from _last(model, texts, "attn.hook_z", batch_size)


def _last(
    model: TransformerBridge, texts: Sequence[EncodedText], hook: str, batch_size: int
) -> Iterator[tuple[list[int], Tensor]]:
    encoder, n_layers = Encoder(model), model.cfg.n_layers
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def read(activation: Any, hook: object = None) -> None:  # noqa: ARG001
            seen[layer] = activation[:, -1].detach().float().cpu()

        return read

    for indices in batches_by_length([len(text.ids) for text in texts], batch_size):
        batch = encoder.batch([texts[i] for i in indices])
        hooks = [(f"blocks.{layer}.{hook}", keep(layer)) for layer in range(n_layers)]
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            model(batch.tokens, attention_mask=batch.attention_mask, logits_to_keep=1)
        yield indices, torch.stack([seen[layer] for layer in range(n_layers)], dim=1)


def _stored(batches: Iterator[tuple[list[int], Tensor]], n: int) -> Tensor:
    stored: Tensor | None = None
    for indices, activations in batches:
        if stored is None:
            stored = torch.empty(n, *activations.shape[1:])
        stored[indices] = activations
    assert stored is not None
    return stored
