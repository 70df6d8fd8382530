"""Token scope: at which positions an intervention edits.

All scopes but "all" need to know where the prompt ends, in scoring (prompt and answer in one
forward pass), in generation (with or without a key/value cache) and under padding. A tracker
looks at the inputs of each forward pass of the model and works the positions out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast, get_args
from unittest.mock import patch
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lofit_lens.errors import LofitLensError, UnsupportedError, check_one_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TokenScope = Literal["all", "after_prompt", "iti_compat", "last"]
"""Where an edit applies.

* `all`: every position, prompt and answer alike (the paper's LoFiT; the only one that folds).
* `after_prompt`: from the last token of the prompt on, that is every position whose output
  predicts a token of the answer. Keys and values of the prompt before it are untouched.
* `iti_compat`: as the original ITI code. Given prompt and answer together, the edit starts at
  the second token of the answer, so the first two predictions are never steered; in generation
  it starts at the last token of the prompt.
* `last`: the last token of the prompt only.

A forward pass on its own, outside `generate` and without prompt lengths, is one prompt.
"""

TOKEN_SCOPES: tuple[str, ...] = get_args(TokenScope)

SPARE_PROMPTS: tuple[str, ...] = ("after_prompt", "iti_compat", "last")
"""Scopes that leave alone all tokens of a prompt but the last."""

Places = Callable[[Int[Tensor, "batch total"], Int[Tensor, "batch _"]], Bool[Tensor, "batch total"]]
"""A scope of one's own: which tokens are edited, by their rank in the text, padding left out, and
the number of tokens of the prompt."""


def check_scope(scope: str) -> TokenScope:
    """The token scope of a name.

    Raises:
        LofitLensError: There is no such scope.
    """
    check_one_of("scope", scope, TOKEN_SCOPES)
    return cast(TokenScope, scope)


class PositionTracker:
    """Knows which positions of the forward pass in progress are edited.

    Attributes:
        mask: Positions to edit in this forward pass; None means all of them.
        prompt_lengths: What `set_prompt_lengths` said last.
        rank: Place of each token in its own text, likewise.
    """

    def __init__(self, scope: TokenScope | Places, pad_token_id: int | None) -> None:
        self.mask: Bool[Tensor, "batch pos"] | None = None
        self._scope = scope
        self._pad_token_id = pad_token_id
        self.prompt_lengths: Tensor | None = None
        self.rank: Int[Tensor, "batch pos"] | None = None
        self._generating = False
        self._generation_prompts: Int[Tensor, " batch"] | None = None

    def limit(self, after: Tensor, before: Tensor) -> Tensor:
        """`after` at the positions edited in this forward pass, `before` at all others.

        Args:
            after: Activations `[batch, pos, ...]` under the edit.
            before: The same without it.
        """
        if self.mask is None:
            return after
        mask = self.mask.to(before.device)
        return torch.where(mask.reshape(*mask.shape, *[1] * (before.ndim - 2)), after, before)

    def set_prompt_lengths(
        self,
        lengths: Int[Tensor, " batch"] | Int[Tensor, "batch pos"] | None,
        rank: Int[Tensor, "batch pos"] | None = None,
    ) -> None:
        """Say how many real tokens of each row are prompt; None: each input is all prompt.

        Args:
            lengths: Tokens of the prompt in each row; with `rank`, of each token's own text.
            rank: Place of each token of the next inputs in its own text, where these do not simply
                follow one another; None works it out from the attention mask.
        """
        self.prompt_lengths, self.rank = lengths, rank

    @contextmanager
    def generation(self) -> Iterator[None]:
        """Treat the forward passes inside as one generation: the first holds the prompts."""
        self._generating, self._generation_prompts = True, None
        try:
            yield
        finally:
            self._generating, self._generation_prompts = False, None

    def before_forward(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Work out the mask; a forward pre-hook of the Hugging Face model."""
        tokens = args[0] if args else kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs.get("inputs_embeds")
        assert isinstance(tokens, Tensor)
        batch, length = tokens.shape[:2]
        if self.rank is not None and not self._generating:
            assert self.prompt_lengths is not None
            self.mask = self._edited(self.rank, self.prompt_lengths.to(self.rank.device))
            return
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        attention = kwargs.get("attention_mask")
        if attention is None:
            if not past and self._generation_prompts is None:
                self._refuse_hidden_padding(tokens)
            attention = torch.ones(batch, past + length, dtype=torch.long, device=tokens.device)
        elif attention.ndim != 2:
            raise UnsupportedError(
                f'Token scope "{self._name}" needs a two-dimensional attention mask, got '
                f"{tuple(attention.shape)}. Pass [batch, pos] ones and zeros."
            )
        real = attention.bool()
        rank = real.long().cumsum(-1) - 1
        lengths = self._lengths_of_prompts(real, past)
        if lengths.shape[0] != batch:
            raise LofitLensError(
                f"prompt_lengths has {lengths.shape[0]} entries, the batch {batch} rows."
            )
        edited = self._edited(rank, lengths.to(rank.device)[:, None])
        self.mask = (edited & real)[:, past : past + length]

    def _edited(
        self,
        rank: Int[Tensor, "batch total"],
        lengths: Tensor,
    ) -> Bool[Tensor, "batch total"]:
        last = lengths - 1
        if callable(self._scope):
            return self._scope(rank, last + 1)
        teacher_forced = self.prompt_lengths is not None and not self._generating
        if self._scope == "last":
            return rank == last
        if self._scope == "iti_compat" and teacher_forced:
            return rank >= last + 2
        return rank >= last

    @property
    def _name(self) -> str:
        return getattr(self._scope, "__name__", str(self._scope))

    def _lengths_of_prompts(self, real: Bool[Tensor, "batch total"], past: int) -> Tensor:
        if self._generating:
            if self._generation_prompts is None:
                self._generation_prompts = real.sum(-1)
            return self._generation_prompts
        if self.prompt_lengths is not None:
            return self.prompt_lengths
        return real[:, :past].sum(-1) if past else real.sum(-1)

    def _refuse_hidden_padding(self, tokens: Tensor) -> None:
        if self._pad_token_id is None or tokens.ndim != 2 or tokens.shape[0] == 1:
            return
        for edge in (tokens[:, 0], tokens[:, -1]):
            padded = edge == self._pad_token_id
            if padded.any() and not padded.all():
                raise UnsupportedError(
                    f'Token scope "{self._name}" needs to know which tokens are padding, and some '
                    "rows of this batch start or end with the padding token. Pass attention_mask."
                )


_ACTIVE: WeakKeyDictionary[Any, list[PositionTracker]] = WeakKeyDictionary()
"""The trackers attached to each model at this moment."""


def is_tracked(model: TransformerBridge) -> bool:
    """Whether an edit in force on a model follows token positions."""
    return bool(_ACTIVE.get(model))


@contextmanager
def known_prompts(model: TransformerBridge) -> Iterator[Callable[..., None]]:
    """Tell every edit in force on a model where the prompts end, inside the context.

    Yields:
        A function to call before each forward pass, as `PositionTracker.set_prompt_lengths`.
    """
    trackers = list(_ACTIVE.get(model, ()))
    before = [(tracker.prompt_lengths, tracker.rank) for tracker in trackers]

    def announce(lengths: Tensor, rank: Int[Tensor, "batch pos"] | None = None) -> None:
        for tracker in trackers:
            tracker.set_prompt_lengths(lengths, rank)

    try:
        yield announce
    finally:
        for tracker, (lengths, rank) in zip(trackers, before, strict=True):
            tracker.set_prompt_lengths(lengths, rank)


@contextmanager
def tracked_positions(
    model: TransformerBridge, scope: TokenScope | Places
) -> Iterator[PositionTracker]:
    """Attach a tracker to a model for the time of the context; scope "all" attaches nothing."""
    tracker = PositionTracker(scope, getattr(model.tokenizer, "pad_token_id", None))
    with ExitStack() as stack:
        if scope != "all":
            hook = model.original_model.register_forward_pre_hook
            stack.enter_context(hook(tracker.before_forward, with_kwargs=True))
            active = _ACTIVE.setdefault(model, [])
            active.append(tracker)
            stack.callback(active.remove, tracker)
            for name in ("generate", "hf_generate", "generate_stream"):
                stack.enter_context(_announced(model, name, tracker))
        yield tracker


@contextmanager
def _announced(model: TransformerBridge, name: str, tracker: PositionTracker) -> Iterator[None]:
    """Tell the tracker when `model.<name>` runs."""
    method = getattr(model, name)

    def announce(*args: Any, **kwargs: Any) -> Any:
        with tracker.generation():
            return method(*args, **kwargs)

    def announce_stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with tracker.generation():
            yield from method(*args, **kwargs)

    with patch.object(model, name, announce_stream if name == "generate_stream" else announce):
        yield
