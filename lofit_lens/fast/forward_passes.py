"""Forward passes over texts, down to the log-probabilities of their answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from lofit_lens.fast.keys_values import KeysValues, Past
from lofit_lens.fast.layout import Bundle, Rows, stack
from lofit_lens.fast.replay import Replay
from lofit_lens.fast.switches import taken
from lofit_lens.fast.wrappers import heeds, listens

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, kw_only=True, eq=False)
class ForwardPasses:
    """How a model runs with what is in force on it; `in_force` gives it.

    Attributes:
        model: A bridge.
        announce: Tells the edits, before a pass, each token's prompt length and place in its text.
        pad: Token id of padding.
        unwrapped: Whether the modules of Hugging Face run, without the wrappers that nobody heeds.
        continues: Whether texts may go on behind keys and values that they have in common.
        shares_rows: Whether they may lie in one row too.
        replay: What lies below the edit, if there is something and it may be kept.
    """

    model: TransformerBridge
    announce: Callable[[Tensor, Tensor], None]
    pad: int
    unwrapped: bool
    continues: bool = False
    shares_rows: bool = False
    replay: Replay | None = None

    def logprobs(
        self,
        bundles: Sequence[Bundle],
        rows: Sequence[Sequence[int]] | None = None,
        *,
        past: Past | None = None,
    ) -> Float[Tensor, " text"]:
        """Summed log-probabilities of the answers of a batch, in float32; differentiable.

        Args:
            bundles: The texts, without what is in `past`.
            rows: Numbers of the bundles in each row; None: one bundle a row.
            past: Keys and values that come before every row.
        """
        model = self.model
        batch = stack(bundles, rows, pad=self.pad, device=model.cfg.device)
        self.announce(batch.prompt_lengths, batch.rank)
        options: dict[str, Any] = {"attention_mask": _mask(model, batch, past), "use_cache": False}
        if past is not None:
            options |= {"past_key_values": past.cache(len(batch.tokens)), "use_cache": True}
        if takes_positions(type(model.original_model)):
            options["position_ids"] = batch.rank
        with _answers_only(model, batch) as chosen:
            logits = self._run(batch.tokens, **options).flatten(0, 1)
        if not chosen:
            logits = logits[batch.places.to(logits.device)]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        on = logprobs.device
        picked = logprobs[batch.picks.to(on), batch.targets.to(on)]
        return torch.where(batch.is_answer.to(on), picked, 0.0).sum(-1)

    def keys_values(self, tokens: Int[Tensor, "row pos"]) -> list[KeysValues]:
        """Run tokens whose prompts go on behind them, and keep their keys and values by layer.

        Args:
            tokens: Token ids, padded on the right if need be.
        """
        n_rows, width = tokens.shape
        rank = torch.arange(width, device=tokens.device).expand(n_rows, -1)
        self.announce(torch.full_like(rank, width + 1), rank)
        cache = DynamicCache()
        with torch.no_grad():
            self._run(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: list[Any] = cache.layers
        return [(layer.keys, layer.values) for layer in layers]

    def _run(self, tokens: Tensor, **options: Any) -> Tensor:
        """The logits of one pass."""
        if self.unwrapped:
            return self.model.original_model(tokens, **options).logits
        return self.model(tokens, **options)


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
        front = sees.new_ones(n_rows, past.length) if real is None else real.to(sees.device)
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
    wanted = taken().answers_only and not any(map(heeds, hf_model._forward_hooks.values()))
    if unembed is None or not wanted or any(map(listens, unembed.modules())):
        yield False
        return

    def choose(_module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        return hidden.flatten(0, 1)[rows.places.to(hidden.device)][None], *args[1:]

    with unembed.register_forward_pre_hook(choose):
        yield True
