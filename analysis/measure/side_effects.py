"""What an edit does besides its task: to plain text, and to answers in free text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lofit_lens.errors import LofitLensError, ScoringError, check_seed, check_whole
from lofit_lens.fast.in_force import edited
from lofit_lens.positions import known_prompts
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.scoring.logprobs import batches_by_length
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import Batch, EncodedText, Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit

Reference = Sequence[Float[Tensor, "batch pos d_vocab"]]

KEPT = 2**28
"""Bytes of logits of the unedited model that are kept for the next edit."""


@dataclass(frozen=True)
class SideEffects:
    """What an edit does to plain text, as ITI measures it (Li et al., 2023, section 5).

    Attributes:
        cross_entropy: Of the edited model on the text, in nats per token.
        kl: KL(unedited || edited) of the next-token distributions, in nats per token; the mean
            over the same positions.
        n_texts: Texts.
        n_tokens: Tokens scored.
    """

    cross_entropy: float
    kl: float
    n_texts: int
    n_tokens: int


def sample_texts(
    model: TransformerBridge, *, n: int = 64, tokens: int = 64, seed: int = 0
) -> tuple[EncodedText, ...]:
    """A fixed plain text for any model: what it writes itself, sampled at temperature 1.

    Each text starts from BOS or, where there is none, from EOS, and goes up to and including EOS.
    Sampling is done on the CPU with its own generator. The cross-entropy of the unedited model on
    it estimates the model's entropy.

    Args:
        model: A bridge, with no edit in force.
        n: Number of texts.
        tokens: Most tokens per text, or as many as the model's context holds.
        seed: Seed of the sampling.

    Raises:
        LofitLensError: The tokenizer has neither BOS nor EOS to start from, or a number is below 1.
        ScoringError: The model gave a logit that is not a number.
    """
    check_whole("n", n, 1)
    check_whole("tokens", tokens, 1)
    check_seed(seed)
    encoder = Encoder(model)
    if encoder.start is None:
        raise LofitLensError(
            "There is nothing to sample a text from: the tokenizer has neither BOS nor EOS. Give "
            "texts of your own to encode_texts."
        )
    generator = torch.Generator().manual_seed(seed)
    rows, cache = torch.full((n, 1), encoder.start, device=model.cfg.device), None
    for _ in range(min(tokens, model.cfg.n_ctx - 1)):
        with torch.no_grad():
            produced: Any = model(
                rows[:, -1:],
                attention_mask=torch.ones_like(rows),
                past_key_values=cache,
                return_type="logits_and_cache",
                use_cache=True,
            )
        logits, cache = produced[0][:, -1], produced[1]
        if logits.isnan().any():
            raise ScoringError(
                "The model gave logits that are not a number, so no text can be sampled from it. "
                "Check its dtype (float16 overflows; use bfloat16 or float32)."
            )
        probabilities = torch.softmax(logits.float().cpu(), dim=-1)
        drawn = torch.multinomial(probabilities, 1, generator=generator)
        rows = torch.cat([rows, drawn.to(rows.device)], dim=1)
    return tuple(EncodedText(_up_to(encoder.eos, row), n_prompt=1) for row in rows.tolist())


def encode_texts(
    model: TransformerBridge, texts: Sequence[str], *, tokens: int = 128
) -> tuple[EncodedText, ...]:
    """Texts of one's own to measure side effects on, each cut to its first tokens.

    Texts with no token to score, such as empty ones, are left out.

    Args:
        model: A bridge.
        texts: Plain text.
        tokens: Most tokens per text, or as many as the model's context holds.

    Raises:
        LofitLensError: No text is left.
    """
    encoder, tokenizer = Encoder(model), model.tokenizer
    assert tokenizer is not None
    lead = encoder.lead
    longest = min(tokens, model.cfg.n_ctx - len(lead))
    settings = {"add_special_tokens": False, "truncation": True, "max_length": longest}
    ids = [(*lead, *tokenizer(text, **settings)["input_ids"]) for text in texts]
    encoded = tuple(EncodedText(row, n_prompt=1) for row in ids if len(row) > 1)
    if not encoded:
        raise LofitLensError(f"None of {len(texts)} texts has a token to score.")
    return encoded


def side_effects(
    model: TransformerBridge,
    edit: Edit | None,
    texts: Sequence[EncodedText],
    *,
    batch_size: int = 16,
    reference: Reference | None = None,
) -> SideEffects:
    """Cross-entropy under an edit, and KL divergence from the unedited model, on plain text.

    The first token of a text counts as its prompt: scopes "all" and "after_prompt" edit every
    position, "last" the first, "iti_compat" all from the third on, so it spares the first two
    predictions, as in scoring. Texts pass the model whole, once without and once with the edit.

    Args:
        model: A bridge, in eval mode.
        edit: The edit; None measures the model as it is, with a divergence of 0.
        texts: From `sample_texts` or `encode_texts`.
        batch_size: Texts per forward pass; two sets of logits `[batch, pos, d_vocab]` are held.
        reference: The logits of the unedited model, from `reference_on` with the same texts and
            batch size; None computes them.

    Raises:
        LofitLensError: There are no texts.
        ScoringError: A number is not finite.
    """
    if not texts:
        raise LofitLensError("There are no texts to measure side effects on.")
    encoder = Encoder(model)
    cross_entropy = kl = 0.0
    for number, batch in enumerate(_batches(encoder, texts, batch_size)):
        before = reference[number] if reference else _logits(model, batch, None)
        after = before if edit is None else _logits(model, batch, edit)
        for row, scored in enumerate(batch.answer_lengths.tolist()):
            p, q = (
                torch.log_softmax(logits[row, -scored - 1 : -1].float(), dim=-1)
                for logits in (before, after)
            )
            targets = batch.tokens[row, -scored:].to(q.device)
            cross_entropy += float(functional.nll_loss(q, targets, reduction="sum"))
            divergence = functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
            kl += float(divergence.clamp(min=0).sum())  # below 0 only by rounding
    n_tokens = sum(text.n_answer for text in texts)
    if not (math.isfinite(cross_entropy) and math.isfinite(kl)):
        raise ScoringError(
            f"On plain text the cross-entropy is {cross_entropy / n_tokens} and the KL divergence "
            f"{kl / n_tokens}. Check the edit's size and the model's dtype (float16 overflows; use "
            "bfloat16 or float32)."
        )
    return SideEffects(cross_entropy / n_tokens, kl / n_tokens, len(texts), n_tokens)


def reference_on(
    model: TransformerBridge, texts: Sequence[EncodedText], *, batch_size: int = 16
) -> Reference | None:
    """The logits of the unedited model on the texts, for many edits; None if they are too large."""
    if 4 * model.cfg.d_vocab * sum(text.n_answer + 1 for text in texts) > KEPT:
        return None
    return [_logits(model, batch, None) for batch in _batches(Encoder(model), texts, batch_size)]


def _batches(encoder: Encoder, texts: Sequence[EncodedText], batch_size: int) -> Iterator[Batch]:
    check_whole("batch_size", batch_size, 1)
    for indices in batches_by_length([len(text.ids) for text in texts], batch_size):
        yield encoder.batch([texts[i] for i in indices])


def open_answers(
    model: TransformerBridge,
    task: Task,
    edit: Edit | None,
    *,
    n: int = 32,
    max_new_tokens: int = 50,
    batch_size: int = 32,
) -> list[dict[str, str]]:
    """Greedy answers in free text to the questions of a multiple-choice task.

    Args:
        model: A bridge, in eval mode.
        task: The task; its first test items are answered, those without a prompt left out.
        edit: The edit; None answers with the model as it is.
        n: Number of test items.
        max_new_tokens: Tokens per answer; it ends at a line break.
        batch_size: Prompts per batch.

    Returns:
        For each the `id`, the `prompt` (its last paragraph) and the `answer`.
    """
    asked = [example for example in task.test[:n] if example.prompt.strip()]
    prompts = [example.prompt for example in asked]
    generated = generate_greedily(
        model, prompts, edit, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=False
    )
    answers = []
    for example, text in zip(asked, generated, strict=True):
        said = example.messages[-1][1] if example.messages else example.prompt
        prompt, answer = said.split("\n\n")[-1], text.split("\n")[0].strip()
        answers.append({"id": example.id, "prompt": prompt, "answer": answer})
    return answers


REFUSAL = re.compile(
    r"""\W*((unfortunately|sorry|well|but)\W+)*
    ( no\ comment
    | (i|we)\ have\ no\ (comment|idea|opinion)
    | (i|we)\ ((really|simply|just|honestly)\ )?(can\ ?not|can't|could\ not|won't|do\ not\ know|don't\ know)\b
    | (i\ am|i'm)\ (very\ |so\ |afraid\ )?(sorry|not\ able|unable|not\ sure|not\ allowed|i\ can)
    | as\ an?\ (ai|language|large)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def is_refusal(answer: str) -> bool:
    """Whether an answer begins by declining to answer.

    Counted: "I have no comment" and its likes, which TruthfulQA judges true and uninformative; "I
    (really) cannot / can't / won't", "I don't know", "I'm sorry", "I am not able / unable / not
    sure", "As an AI / a language model", also behind "Sorry," or "Unfortunately,". A pattern, not
    a judge: "I can't stand rain" counts as well, and an empty answer does not.
    """
    return REFUSAL.match(answer.replace("\u2019", "'")) is not None


def _logits(
    model: TransformerBridge, batch: Batch, edit: Edit | None
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits at the scored positions and the one behind, under an edit."""
    with torch.no_grad(), edited(model, edit), known_prompts(model) as announce:
        announce(batch.prompt_lengths)
        produced: Any = model(
            batch.tokens,
            attention_mask=batch.attention_mask,
            logits_to_keep=int(batch.answer_lengths.max()) + 1,
            use_cache=False,
        )
    return produced


def _up_to(eos: int | None, ids: list[int]) -> tuple[int, ...]:
    """The ids behind the first up to and with EOS, and the first."""
    end = ids.index(eos, 1) + 1 if eos in ids[1:] else len(ids)
    return tuple(ids[:end])
