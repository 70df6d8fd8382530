"""Whether the fast paths give what the plain path gives on a model, found out by trying.

Families differ in ways that no list foresees: what their blocks return, how they count positions, what
their attention does. So each model is tried once on a few tokens, and what differs is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lofit_lens.fast.forward_passes import ForwardPasses, takes_positions
from lofit_lens.fast.keys_values import joined
from lofit_lens.fast.layout import lay_out
from lofit_lens.fast.switches import shortcuts, taken
from lofit_lens.fast.wrappers import fastest_attention, nobody_listens, without_wrappers
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

STARTS, ENDS = ((3, 5, 7, 2, 9), (8, 4, 6)), ((5, 8), (4, 3, 6))
GROUPS = [[EncodedText((*start, *end), len(start)) for end in ENDS] for start in STARTS]

_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""Settings that limit how far a token sees."""

_COUNTING_PLACES = "attention_layers"
"""Setting of a family (GPT-Neo) whose window counts places in the row, those of other texts too."""

_BY_LENGTH = ("dynamic", "longrope")
"""Rotary positions that depend on the length of the whole text."""


@dataclass(frozen=True)
class Trial:
    """What was found when the fast paths were tried on a model.

    Attributes:
        attention: The attention with which the modules of Hugging Face give the same as the bridge;
            None if neither does, or nothing was tried.
        shares: Whether texts in one row, and behind keys and values, score as they do alone.
    """

    attention: str | None = None
    shares: bool = False


_TRIALS: WeakKeyDictionary[Any, Trial] = WeakKeyDictionary()


def try_shortcuts(model: TransformerBridge) -> Trial:
    """Try the fast paths on a model, the first time nobody listens to it, and tell what was found."""
    if model not in _TRIALS and taken().direct and nobody_listens(model):
        _TRIALS[model] = _tried(model)
    return _TRIALS.get(model, Trial())


def may_continue(model: TransformerBridge, longest: int) -> bool:
    """Whether texts up to a length, in tokens, may go on behind keys and values of others."""
    config = _text_config(model)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {r.get("rope_type") for r in (rope, *rope.values()) if isinstance(r, dict)}
    if kinds.isdisjoint(_BY_LENGTH):
        return True
    trained = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    return longest <= trained


def may_share_rows(model: TransformerBridge, longest: int) -> bool:
    """Whether they may lie in one row too, under a mask that knows of no window."""
    config = _text_config(model)
    if "local" in getattr(config, _COUNTING_PLACES, ()):
        longest = config.max_position_embeddings
    windows = (getattr(config, name, None) for name in _WINDOWS)
    narrow = any(isinstance(limit, int) and limit < longest for limit in windows)
    return may_continue(model, longest) and not narrow


def same(model: TransformerBridge, one: Tensor, other: Tensor) -> bool:
    """Whether two log-probabilities differ by rounding only; in half precision that is a lot."""
    whole = next(model.original_model.parameters()).dtype == torch.float32
    return bool(((one - other).abs() < (1e-3 if whole else 0.5)).all())


def works(attempt: Callable[..., bool], *given: Any) -> bool:
    """Whether something that a family may not support can be done and is right."""
    try:
        return attempt(*given)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
            ValueError):  # fmt: skip
        return False


def _tried(model: TransformerBridge) -> Trial:
    """Try the modules of Hugging Face with either attention, then sharing."""
    with shortcuts(shared=False), torch.no_grad():
        plain = _alone(_passes(model, unwrapped=False))
        for attention in (fastest_attention(model), "eager"):
            if works(_unwraps, model, attention, plain):
                return Trial(attention, works(_shares, model, attention, plain))
    return Trial()


def _passes(model: TransformerBridge, *, unwrapped: bool) -> ForwardPasses:
    """Passes of which nobody has to be told, as no edit is in force."""
    return ForwardPasses(model=model, announce=lambda *_: None, pad=0, unwrapped=unwrapped)


def _alone(passes: ForwardPasses) -> Tensor:
    """The scores of all texts, each in a row of its own."""
    return passes.logprobs([lay_out([text]) for group in GROUPS for text in group])


def _unwraps(model: TransformerBridge, attention: str, plain: Tensor) -> bool:
    """Whether texts score the same without the wrappers."""
    with without_wrappers(model, attention) as unwrapped:
        return unwrapped and same(model, plain, _alone(_passes(model, unwrapped=True)))


def _shares(model: TransformerBridge, attention: str, plain: Tensor) -> bool:
    """Whether texts in one row, and behind keys and values, score as they do alone."""
    recurrent = getattr(model.original_model, "_is_stateful", False)  # a state, no keys and values
    if not takes_positions(type(model.original_model)) or recurrent:
        return False
    with without_wrappers(model, attention):
        passes = _passes(model, unwrapped=True)
        packed = passes.logprobs([lay_out(group) for group in GROUPS], [[1, 0]])
        starts = [torch.tensor([start[:-1]], device=model.cfg.device) for start in STARTS]
        past = joined([passes.keys_values(tokens) for tokens in starts])
        rest = [lay_out(g, skip=len(s) - 1) for g, s in zip(GROUPS, STARTS, strict=True)]
        behind = passes.logprobs(rest, past=past)
    return same(model, plain, packed) and same(model, plain, behind)


def _text_config(model: TransformerBridge) -> Any:
    hf_model: Any = model.original_model
    return hf_model.config.get_text_config()
