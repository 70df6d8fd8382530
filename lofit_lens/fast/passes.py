"""One forward pass over rows of texts, down to the log-probabilities of their answers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lofit_lens.fast.direct import heeds, listens
from lofit_lens.fast.past import Announce, Past
from lofit_lens.fast.rows import Rows
from lofit_lens.fast.switches import taken

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def summed_logprobs(
    model: TransformerBridge,
    rows: Rows,
    announce: Announce,
    *,
    direct: bool,
    past: Past | None = None,
) -> Float[Tensor, " text"]:
    """Summed log-probabilities of the answers of a batch, in float32; differentiable.

    Args:
        model: A bridge.
        rows: The texts, without what is in `past`.
        announce: From `known_prompts`.
        direct: Whether the context `direct` is open.
        past: Keys and values that come before every row.
    """
    announce(rows.prompt_lengths, rows.rank)
    options: dict[str, Any] = {"attention_mask": _mask(model, rows, past), "use_cache": False}
    if past is not None:
        options |= {"past_key_values": past.cache(len(rows.tokens)), "use_cache": True}
    if takes_positions(type(model.original_model)):
        options["position_ids"] = rows.rank
    with _answers_only(model, rows) as chosen:
        if direct:
            logits = model.original_model(rows.tokens, **options).logits
        else:
            logits = model(rows.tokens, **options)
    logits = logits.flatten(0, 1)
    if not chosen:
        logits = logits[rows.places.to(logits.device)]
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    on = logprobs.device
    picked = logprobs[rows.picks.to(on), rows.targets.to(on)]
    return torch.where(rows.is_answer.to(on), picked, 0.0).sum(-1)


@cache
def takes_positions(kind: type) -> bool:
    """Whether a class of models can be told the place of each token in its text."""
    return "position_ids" in inspect.signature(kind.forward).parameters


def _mask(
    model: TransformerBridge, rows: Rows, past: Past | None
) -> Float[Tensor, "row 1 pos total"] | Bool[Tensor, "row 1 pos total"] | None:
    """The attention mask; None where the model's own causal one is right."""
    real = None if past is None else past.real
    if rows.sees is None and real is None:
        return None
    n_rows, width = rows.tokens.shape
    sees = rows.sees
    if sees is None:
        sees = torch.ones(width, width, dtype=torch.bool, device=rows.tokens.device).tril()
        sees = sees.expand(n_rows, -1, -1)
    if past is not None:
        front = sees.new_ones(n_rows, past.length) if real is None else real
        sees = torch.cat([front[:, None].expand(-1, width, -1), sees], dim=-1)
    hf_model: Any = model.original_model
    if hf_model.config._attn_implementation == "sdpa":
        return sees[:, None]
    dtype = next(hf_model.parameters()).dtype
    zero = torch.zeros((), dtype=dtype, device=sees.device)
    return torch.where(sees[:, None], zero, torch.finfo(dtype).min)


@contextmanager
def _answers_only(model: TransformerBridge, rows: Rows) -> Iterator[bool]:
    """Let the unembedding see only the positions that predict an answer, if nobody else looks."""
    hf_model: Any = model.original_model
    unembed = hf_model.get_output_embeddings()
    watched = any(map(heeds, hf_model._forward_hooks.values()))
    if (
        not taken().answers_only
        or unembed is None
        or watched
        or any(map(listens, unembed.modules()))
    ):
        yield False
        return

    def choose(_module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        return hidden.flatten(0, 1)[rows.places.to(hidden.device)][None], *args[1:]

    handle = unembed.register_forward_pre_hook(choose)
    try:
        yield True
    finally:
        handle.remove()
