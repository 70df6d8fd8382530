"""From text to tokens: which tokens are the answer, and batches with their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor

from lofit_lens.errors import LofitLensError, UnsupportedError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


MOST_KNOWN, LONGEST_KNOWN = 20_000, 128
"""Texts remembered with their tokens, and tokens of the longest of them: 200 MB at most."""

_KNOWN: WeakKeyDictionary[Any, dict[tuple[str, int], tuple[list[int], list[int]]]] = (
    WeakKeyDictionary()
)
"""Texts tokenised before, by tokenizer: a task is scored again for every edit."""


@dataclass(frozen=True)
class EncodedText:
    """Token ids of a prompt and its answer.

    Attributes:
        ids: All token ids, BOS included.
        n_prompt: How many of them come before the answer.
    """

    ids: tuple[int, ...]
    n_prompt: int

    @property
    def n_answer(self) -> int:
        """How many tokens are answer."""
        return len(self.ids) - self.n_prompt


@dataclass(frozen=True)
class Batch:
    """Left-padded token ids: the answers end at the right edge of every row.

    Attributes:
        tokens: Token ids.
        attention_mask: 1 for real tokens, 0 for padding.
        prompt_lengths: Real tokens before the answer, per row.
        answer_lengths: Tokens of the answer, per row.
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    prompt_lengths: Int[Tensor, " batch"]
    answer_lengths: Int[Tensor, " batch"]


class Encoder:
    """Turns text into tokens for one model.

    BOS is put in front where TransformerLens does so for the model's family
    (`cfg.default_prepend_bos`) and the tokenizer has one. Prompt and answer are tokenised
    together; a token belongs to the answer if it ends behind the last character of the prompt, so
    one that straddles the border counts as answer. The candidates of one item are all scored from
    the place where the first of their answers begins.

    Raises:
        UnsupportedError: The tokenizer gives no character offsets.
    """

    def __init__(self, model: TransformerBridge) -> None:
        tokenizer: Any = model.tokenizer
        if tokenizer is None or not getattr(tokenizer, "is_fast", False):
            raise UnsupportedError(
                "A fast tokenizer is needed, because the tokens of an answer are found by character "
                "offsets. Save the model folder with a tokenizer.json."
            )
        self._tokenizer = tokenizer
        self._device = model.cfg.device
        self._n_ctx: int = model.cfg.n_ctx
        self.bos: int | None = tokenizer.bos_token_id if model.cfg.default_prepend_bos else None
        self.eos: int | None = tokenizer.eos_token_id
        self.pad: int = next(
            (
                i
                for i in (tokenizer.pad_token_id, self.eos, self.bos)
                if i is not None and i < model.cfg.d_vocab
            ),
            0,
        )

    def prompt(self, text: str) -> EncodedText:
        """Encode a prompt to generate from."""
        ids = self._with_context(self._plain(text)[0])
        return self._checked(EncodedText(ids, len(ids)), text)

    def continuation(self, prompt: str, answer: str, *, end: bool = False) -> EncodedText:
        """Encode a prompt followed by an answer.

        Args:
            prompt: May be empty; then all of `answer` is scored, after BOS or, in families
                without one, after EOS.
            answer: Glued to the prompt as it is, its leading space included.
            end: Whether the answer ends with EOS.

        Raises:
            LofitLensError: The answer has no token, or the text exceeds the context.
        """
        ids, ends = self._plain(prompt + answer)
        n_prompt = sum(end_of_token <= len(prompt) for end_of_token in ends)
        return self._continuation(ids, n_prompt, prompt + answer, end=end)

    def candidates(
        self, prompt: str, answers: Sequence[str], *, end: bool = False
    ) -> list[EncodedText]:
        """Encode the candidate answers of one prompt, all scored from the same token on."""
        texts = [self.continuation(prompt, answer, end=end) for answer in answers]
        n_prompt = min(text.n_prompt for text in texts)
        return [replace(text, n_prompt=n_prompt) for text in texts]

    def counted_continuation(
        self, prompt: str, lead: str, answer: str, *, lead_tokens: int
    ) -> EncodedText:
        """Encode as `continuation`, but count `lead_tokens` tokens for `lead` after the prompt.

        This is how the code of ITI and LoFiT finds the answer. A tokenizer that joins the end of
        the prompt with the lead makes it lose the first tokens of the answer.
        """
        text = prompt + lead + answer
        ids, _ = self._plain(text)
        n_prompt = len(self._plain(prompt)[0]) + lead_tokens
        return self._continuation(ids, n_prompt, text, end=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def batch(self, texts: Sequence[EncodedText]) -> Batch:
        """Pad on the left into one batch, on the device of the model."""
        rows = [torch.tensor(text.ids) for text in texts]
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), self.pad)
        mask = torch.zeros_like(tokens)
        for row, ids in enumerate(rows):
            tokens[row, longest - len(ids) :] = ids
            mask[row, longest - len(ids) :] = 1
        return Batch(
            tokens.to(self._device),
            mask.to(self._device),
            torch.tensor([text.n_prompt for text in texts], device=self._device),
            torch.tensor([text.n_answer for text in texts], device=self._device),
        )

    def _plain(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids without special tokens, and the character at which each token ends."""
        known = _KNOWN.setdefault(self._tokenizer, {})
        key = text, len(self._tokenizer)  # tokens may be added
        if key in known:
            return known[key]
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        found = encoded["input_ids"], [end for _, end in encoded["offset_mapping"]]
        if len(found[0]) <= LONGEST_KNOWN:
            if len(known) >= MOST_KNOWN:
                known.clear()
            known[key] = found
        return found

    def _with_context(self, ids: list[int]) -> tuple[int, ...]:
        if self.bos is not None:
            return (self.bos, *ids)
        return tuple(ids)

    def _continuation(self, ids: list[int], n_prompt: int, text: str, *, end: bool) -> EncodedText:
        if n_prompt >= len(ids):
            raise LofitLensError(f"The answer in {text[-60:]!r} has no token of its own.")
        all_ids = self._with_context(ids)
        n_prompt += len(all_ids) - len(ids)
        if n_prompt == 0:
            if self.eos is None:
                raise LofitLensError(
                    "An answer without a prompt cannot be scored: the tokenizer has neither BOS nor "
                    "EOS to stand before its first token. Give the task a prompt."
                )
            all_ids, n_prompt = (self.eos, *all_ids), 1
        if end and self.eos is not None:
            all_ids = (*all_ids, self.eos)
        return self._checked(EncodedText(all_ids, n_prompt), text)

    def _checked(self, encoded: EncodedText, text: str) -> EncodedText:
        if len(encoded.ids) > self._n_ctx:
            raise LofitLensError(
                f"A text of {len(encoded.ids)} tokens exceeds the model's context of {self._n_ctx}: "
                f"{text[:60]!r}… Shorten the prompts or use a model with a longer context."
            )
        if not encoded.ids:
            raise LofitLensError("An empty prompt has no token to continue from.")
        return encoded
