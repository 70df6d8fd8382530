"""From text to tokens: which tokens are the answer, and batches with their masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lofit_lens.chat import ChatPrompt
from lofit_lens.errors import LofitLensError, UnsupportedError
from lofit_lens.tokenizer import rule_of

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
        ids: All token ids, those that the tokenizer puts in front included.
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
    """Turns text into tokens for one model, as the tokenizer of its folder does.

    The ids of a text are those of `tokenizer(text)`, less what it puts behind: its BOS stands in
    front where the tokenizer puts it there by itself, and once where the text begins with it
    already; in front of a `ChatPrompt` stands what its template writes. Prompt and answer are
    tokenised together; a token belongs to the answer if it ends behind the last character of the
    prompt, so one that straddles the border counts as answer. The candidates of one item are all
    scored from the place where the first of their answers begins.

    Attributes:
        lead: Ids in front of every text.
        start: The id that stands before an answer without a prompt: the last of `lead`, or else
            BOS, or else EOS.
        eos: The id that closes an answer in training.
        ends: Ids that end a generation: EOS and those of the model's generation settings.
        pad: The id that fills rows up.

    Raises:
        UnsupportedError: There is no tokenizer, or it gives no character offsets.
    """

    def __init__(self, model: TransformerBridge) -> None:
        tokenizer: Any = model.tokenizer
        if tokenizer is None:
            raise UnsupportedError(
                "The model came without a tokenizer, so it can read no text. Put the files of its "
                "tokenizer (tokenizer.json, tokenizer_config.json) into its folder."
            )
        if not getattr(tokenizer, "is_fast", False):
            raise UnsupportedError(
                "A fast tokenizer is needed, because the tokens of an answer are found by character "
                "offsets. Save the model folder with a tokenizer.json."
            )
        self._tokenizer = tokenizer
        self._device = model.cfg.device
        self._n_ctx: int = model.cfg.n_ctx
        self._d_vocab: int = model.cfg.d_vocab
        rule = rule_of(tokenizer)
        self.lead = rule.lead
        self.eos = self._in_vocabulary(rule.eos)
        before = (*reversed(rule.lead), rule.bos, rule.eos)
        self.start = self._in_vocabulary(*before)
        settings: Any = getattr(model.original_model, "generation_config", None)
        ends = getattr(settings, "eos_token_id", None)
        ends = ends if isinstance(ends, list | tuple) else [ends]
        known = (self._in_vocabulary(end) for end in (rule.eos, *ends))
        self.ends = tuple(dict.fromkeys(end for end in known if end is not None))
        self.pad = self._in_vocabulary(tokenizer.pad_token_id, rule.eos, rule.bos) or 0

    def _in_vocabulary(self, *ids: int | None) -> int | None:
        """The first of some ids that the model has an embedding for."""
        return next((i for i in ids if i is not None and i < self._d_vocab), None)

    def prompt(self, text: str) -> EncodedText:
        """Encode a prompt to generate from."""
        ids = self._with_lead(self._plain(text)[0], text)
        return self._checked(EncodedText(ids, len(ids)), text)

    def continuation(self, prompt: str, answer: str, *, end: bool = False) -> EncodedText:
        """Encode a prompt followed by an answer.

        Args:
            prompt: May be empty; then all of `answer` is scored, after `start`.
            answer: Glued to the prompt as it is, its leading space included.
            end: Whether the answer ends with EOS or, behind a `ChatPrompt`, as its turn does.

        Raises:
            LofitLensError: The answer has no token, or the text exceeds the context.
        """
        close = prompt.close if end and isinstance(prompt, ChatPrompt) else ""
        ids, ends = self._plain(prompt + answer + close)
        n_prompt = sum(end_of_token <= len(prompt) for end_of_token in ends)
        return self._continuation(ids, n_prompt, prompt, answer, end=end and not close)

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
        return self._continuation(ids, n_prompt, prompt, lead + answer, end=False)

    def ends_behind(self, prompts: Iterable[str]) -> tuple[int, ...]:
        """Ids that end a generation behind some prompts: `ends`, and the ends of their turns."""
        closes = {p.close: None for p in prompts if isinstance(p, ChatPrompt) and p.close}
        turns = (self._in_vocabulary(self._plain(close)[0][-1]) for close in closes)
        return tuple(dict.fromkeys([*self.ends, *(turn for turn in turns if turn is not None)]))

    def spliced_continuation(self, prompt: str, answer: str) -> EncodedText:
        """Encode as `continuation`, but as lm-evaluation-harness does.

        The tokens of the prompt alone, without its last blanks, and behind them those that the
        whole text has after as many tokens. It differs from `continuation` only where a token of
        the whole text covers the place where the prompt ends.
        """
        before, (whole, _) = self._plain(prompt.rstrip())[0], self._plain(prompt + answer)
        n = len(before)
        return self._continuation([*before, *whole[n:]], n, prompt, answer, end=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def batch(self, texts: Sequence[EncodedText]) -> Batch:
        """Pad on the left into one batch, on the device of the model."""
        rows = [torch.tensor(text.ids) for text in texts]
        left = partial(pad_sequence, batch_first=True, padding_side="left")
        return Batch(
            left(rows, padding_value=self.pad).to(self._device),
            left([torch.ones_like(row) for row in rows]).to(self._device),
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

    def _with_lead(self, ids: list[int], prompt: str) -> tuple[int, ...]:
        is_whole = isinstance(prompt, ChatPrompt) or tuple(ids[: len(self.lead)]) == self.lead
        return tuple(ids) if is_whole else (*self.lead, *ids)

    def _continuation(
        self, ids: list[int], n_prompt: int, prompt: str, answer: str, *, end: bool
    ) -> EncodedText:
        text = prompt + answer
        if n_prompt >= len(ids):
            raise LofitLensError(f"The answer in {text[-60:]!r} has no token of its own.")
        all_ids = self._with_lead(ids, prompt)
        n_prompt += len(all_ids) - len(ids)
        if n_prompt == 0:
            if self.start is None:
                raise LofitLensError(
                    "An answer without a prompt cannot be scored: the tokenizer has neither BOS nor "
                    "EOS to stand before its first token. Give the task a prompt."
                )
            all_ids, n_prompt = (self.start, *all_ids), 1
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
        if max(encoded.ids) >= self._d_vocab:
            raise LofitLensError(
                f"The tokenizer gives the id {max(encoded.ids)} in {text[:60]!r}, the model knows ids "
                f"below {self._d_vocab} only. Load the model with the tokenizer it was trained with."
            )
        return encoded
