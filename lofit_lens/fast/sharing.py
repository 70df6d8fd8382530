"""Whether texts that start alike can share a row, or go on behind one another's keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lofit_lens.fast.passes import summed_logprobs, takes_positions
from lofit_lens.fast.past import Announce, Past, can_continue, joined, run_past
from lofit_lens.fast.rows import Bundle, lay_out, stack
from lofit_lens.fast.switches import taken
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_WINDOWS = ("sliding_window", "attention_chunk_size")
"""Settings that limit how far a token sees."""

_SHARES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""What was found for each model."""


def can_share(model: TransformerBridge, announce: Announce, longest: int, *, direct: bool) -> bool:
    """Whether a mask of our own can say which tokens see which.

    It cannot where a family limits how far tokens see, or does not take their positions. A family
    that seems to allow it is tried once on a few tokens, under the edits in force.

    Args:
        model: A bridge.
        announce: From `known_prompts`.
        longest: Tokens of the longest text.
        direct: Whether the context `direct` is open; without it nothing is shared.
    """
    hf_model: Any = model.original_model
    text = hf_model.config.get_text_config()
    windows = (getattr(text, name, None) for name in _WINDOWS)
    if (
        not taken().shared
        or not direct
        or not takes_positions(type(hf_model))
        or not can_continue(model)
        or any(window is not None and window < longest for window in windows)
    ):
        return False
    if model not in _SHARES:
        _SHARES[model] = _gives_the_same(model, announce)
    return _SHARES[model]


def _gives_the_same(model: TransformerBridge, announce: Announce) -> bool:
    """Try sharing on two pairs of short texts."""
    device = model.cfg.device
    starts, ends = ((3, 5, 7, 2, 9), (8, 4, 6)), ((5, 8), (4, 3, 6))
    groups = [[EncodedText((*start, *end), len(start)) for end in ends] for start in starts]
    skips = [len(start) - 1 for start in starts]

    def scores(
        bundles: Sequence[Bundle],
        past: Past | None = None,
        rows: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        batch = stack(bundles, rows, pad=0, device=device)
        return summed_logprobs(model, batch, announce, direct=True, past=past)

    with torch.no_grad():
        apart = scores([lay_out([text]) for group in groups for text in group])
        packed = scores([lay_out(group) for group in groups], rows=[[1, 0]])
        pasts = [
            run_past(model, torch.tensor([start[:-1]], device=device), announce, direct=True)
            for start in starts
        ]
        behind = scores(
            [lay_out(g, skip=n) for g, n in zip(groups, skips, strict=True)], joined(pasts)
        )
    whole = next(model.original_model.parameters()).dtype == torch.float32
    near = 1e-3 if whole else 0.5
    return all(bool(((apart - other).abs() < near).all()) for other in (packed, behind))
