"""Whether the fast paths give what the plain path gives on a model, found out by trying.

Families differ in ways that no list foresees: what their blocks return, how they count positions, what
their attention does. So each model is tried once on a few tokens, and what differs is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lofit_lens.fast.direct import DIRECT, attention_of, direct, listens
from lofit_lens.fast.passes import summed_logprobs, takes_positions
from lofit_lens.fast.past import Past, can_continue, joined, run_past
from lofit_lens.fast.rows import Bundle, lay_out, stack
from lofit_lens.fast.switches import shortcuts, taken
from lofit_lens.positions import is_tracked
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

STARTS, ENDS = ((3, 5, 7, 2, 9), (8, 4, 6)), ((5, 8), (4, 3, 6))
GROUPS = [[EncodedText((*start, *end), len(start)) for end in ENDS] for start in STARTS]

_SHARES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Whether texts may share rows and keys and values, for each model that was tried."""

_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""Settings that limit how far a token sees."""

_COUNTING_PLACES = "attention_layers"
"""Setting of a family (GPT-Neo) whose window counts places in the row, those of other texts too."""

_BY_LENGTH = ("dynamic", "longrope")
"""Rotary positions that depend on the length of the whole text."""


@dataclass(frozen=True)
class Standing:
    """How a model stands before an edit is put in force.

    Attributes:
        alone: Whether nobody listens and no other edit is in force. What texts share, and what is
            computed once, must not depend on code that may look at places in the batch.
        shares: Whether sharing was tried and gave the same.
    """

    alone: bool
    shares: bool

    def may_continue(self, model: TransformerBridge, longest: int) -> bool:
        """Whether texts up to a length, in tokens, may go on behind keys and values of others."""
        limit = _trained_length(_text_config(model))
        short = limit is None or longest <= limit
        return taken().shared and self.alone and self.shares and short

    def may_share(self, model: TransformerBridge, longest: int) -> bool:
        """Whether they may lie in one row too, under a mask that knows of no window."""
        config = _text_config(model)
        if "local" in getattr(config, _COUNTING_PLACES, ()):
            longest = config.max_position_embeddings
        windows = (getattr(config, name, None) for name in _WINDOWS)
        narrow = any(isinstance(limit, int) and limit < longest for limit in windows)
        return self.may_continue(model, longest) and not narrow


def standing(model: TransformerBridge) -> Standing:
    """Look at a model before an edit is put in force; the first time, try the fast paths on it."""
    hf_model: Any = model.original_model
    alone = not is_tracked(model) and not any(
        listens(module) for module in {*model.modules(), *hf_model.modules()}
    )
    if alone and taken().direct and model not in DIRECT:
        _try(model)
    return Standing(alone, _SHARES.get(model, False))


def same(model: TransformerBridge, one: Tensor, other: Tensor) -> bool:
    """Whether two log-probabilities differ by rounding only; in half precision that is a lot."""
    whole = next(model.original_model.parameters()).dtype == torch.float32
    return bool(((one - other).abs() < (1e-3 if whole else 0.5)).all())


def works(attempt: Callable[[], bool]) -> bool:
    """Whether something that a family may not support can be done and is right."""
    try:
        return attempt()
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
            ValueError):  # fmt: skip
        return False


def _try(model: TransformerBridge) -> None:
    """Try the modules of Hugging Face with either attention, then sharing."""
    texts = [lay_out([text]) for group in GROUPS for text in group]
    with shortcuts(shared=False), torch.no_grad():
        plain = _scores(model, texts, is_direct=False)
        for attention in (attention_of(model), "eager"):
            DIRECT[model] = attention

            def as_plain() -> bool:
                with direct(model) as is_direct:
                    return is_direct and same(model, plain, _scores(model, texts, is_direct=True))

            if works(as_plain):
                break
        else:
            DIRECT[model] = None
        _SHARES[model] = DIRECT[model] is not None and works(lambda: _shares(model, plain))


def _scores(
    model: TransformerBridge,
    bundles: Sequence[Bundle],
    *,
    is_direct: bool,
    rows: Sequence[Sequence[int]] | None = None,
    past: Past | None = None,
) -> Tensor:
    batch = stack(bundles, rows, pad=0, device=model.cfg.device)
    return summed_logprobs(model, batch, _nobody, direct=is_direct, past=past)


def _shares(model: TransformerBridge, plain: Tensor) -> bool:
    """Whether texts in one row, and behind keys and values, score as they do alone."""
    if not takes_positions(type(model.original_model)) or not can_continue(model):
        return False
    device = model.cfg.device
    with direct(model):
        packed = _scores(model, [lay_out(g) for g in GROUPS], is_direct=True, rows=[[1, 0]])
        pasts = [
            run_past(model, torch.tensor([start[:-1]], device=device), _nobody, direct=True)
            for start in STARTS
        ]
        rest = [lay_out(g, skip=len(s) - 1) for g, s in zip(GROUPS, STARTS, strict=True)]
        behind = _scores(model, rest, is_direct=True, past=joined(pasts))
    return same(model, plain, packed) and same(model, plain, behind)


def _nobody(*_: object) -> None:
    """Nobody has to be told about prompts, as no edit is in force."""


def _text_config(model: TransformerBridge) -> Any:
    hf_model: Any = model.original_model
    return hf_model.config.get_text_config()


def _trained_length(config: Any) -> int | None:
    """Tokens beyond which rotary positions depend on the length of the text."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {
        r.get("rope_type") for r in rope.values() if isinstance(r, dict)
    }
    if not kinds & {*_BY_LENGTH}:
        return None
    return rope.get("original_max_position_embeddings") or config.max_position_embeddings
