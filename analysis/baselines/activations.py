"""What a model computes at the last token of texts: head outputs and the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.attention import no_z, z_hooks
from lofit_lens.errors import check_whole
from lofit_lens.scoring.logprobs import batches_by_length
from lofit_lens.tokens import Batch, EncodedText, Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def last_z(
    model: TransformerBridge, texts: Sequence[EncodedText], *, batch_size: int = 32
) -> Float[Tensor, "text layer head d_head"]:
    """`hook_z` at the last token of each text, float32 on the CPU (ITI, section 3.1).

    Zeros stand in layers without heads and behind heads that are narrower than the widest.

    Args:
        model: A bridge; edits in force are part of what is read.
        texts: Encoded texts.
        batch_size: Texts per forward pass.
    """
    return _stored(last_z_batches(model, texts, batch_size=batch_size), len(texts))


def last_residual(
    model: TransformerBridge, texts: Sequence[EncodedText], *, batch_size: int = 32
) -> Float[Tensor, "text layer d_model"]:
    """The residual stream behind every block at the last token, read as `last_z` is."""
    layers = range(model.cfg.n_layers)

    def hooks_on(keep: Callable[[int], Callable[..., None]]) -> list[tuple[str, Any]]:
        return [(f"blocks.{i}.hook_out", keep(i)) for i in layers]

    batches = read_batches(model, texts, hooks_on, _last, batch_size=batch_size)
    stacked = ((rows, torch.stack([seen[i] for i in layers], dim=1)) for rows, seen in batches)
    return _stored(stacked, len(texts))


def last_z_batches(
    model: TransformerBridge, texts: Sequence[EncodedText], *, batch_size: int = 32
) -> Iterator[tuple[list[int], Tensor]]:
    """`last_z` batch by batch, for statistics that need no stored activations.

    Yields:
        The places of some texts and their activations `[text, layer, head, d_head]`.
    """
    hooks_on = partial(z_hooks, model)
    for rows, seen in read_batches(model, texts, hooks_on, _last, batch_size=batch_size):
        z = no_z(model, len(rows))
        for layer, found in seen.items():
            z[:, layer, :, : found.shape[-1]] = found
        yield rows, z


def read_batches(
    model: TransformerBridge,
    texts: Sequence[EncodedText],
    hooks_on: Callable[[Callable[[int], Callable[..., None]]], list[tuple[str, Any]]],
    kept: Callable[[Tensor, Batch], Tensor],
    *,
    batch_size: int,
) -> Iterator[tuple[list[int], dict[int, Tensor]]]:
    """What hooks see on texts, batch by batch.

    Args:
        model: A bridge; edits in force are part of what is read.
        texts: Encoded texts.
        hooks_on: The hooks by the name of their place, from what makes the hook of a layer.
        kept: What is kept of an activation `[batch, pos, ...]`.
        batch_size: Texts per forward pass.

    Yields:
        The places of some texts, and what is kept of each layer, on the CPU.
    """
    check_whole("batch_size", batch_size, 1)
    encoder = Encoder(model)
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def read(activation: Any, hook: object = None) -> None:  # noqa: ARG001
            seen[layer] = kept(activation.detach(), batch).cpu()

        return read

    for indices in batches_by_length([len(text.ids) for text in texts], batch_size):
        batch = encoder.batch([texts[i] for i in indices])
        with torch.no_grad(), model.hooks(fwd_hooks=hooks_on(keep)):
            model(batch.tokens, attention_mask=batch.attention_mask, logits_to_keep=1)
        yield indices, seen


def _last(activation: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
    return activation[:, -1].float()


def _stored(batches: Iterator[tuple[list[int], Tensor]], n: int) -> Tensor:
    stored: Tensor | None = None
    for indices, activations in batches:
        if stored is None:
            stored = torch.empty(n, *activations.shape[1:], dtype=torch.float32)
        stored[indices] = activations
    assert stored is not None
    return stored
