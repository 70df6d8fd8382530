"""Summed log-probabilities of answers, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lofit_lens.errors import LofitLensError, ScoringError
from lofit_lens.positions import known_prompts
from lofit_lens.scoring.prefix import Prefix, run_prefix
from lofit_lens.tokens import Batch, EncodedText, Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edit import Edit


def answer_logprobs(
    model: TransformerBridge,
    texts: Sequence[EncodedText],
    intervention: Edit | None = None,
    *,
    batch_size: int = 32,
    share_prefix: bool = True,
    progress: bool = False,
) -> Float[Tensor, " text"]:
    """Sum of the log-probabilities of each answer's tokens, without length normalisation.

    Args:
        model: A bridge, in eval mode.
        texts: Prompts with answers, from `Encoder.continuation`.
        intervention: The edit in force; None scores the model as it is.
        batch_size: Sequences per forward pass; they are grouped by length.
        share_prefix: Run the tokens that all texts start with, such as a few-shot primer, once,
            and keep their keys and values.
        progress: Whether to show a bar.

    Returns:
        One number per text, float32 on the CPU.

    Raises:
        ScoringError: A log-probability is NaN or infinite.
    """
    scores = torch.full((len(texts),), torch.nan)
    encoder = Encoder(model)
    if intervention is not None and intervention.needs_whole_texts:
        share_prefix = False
    with (
        torch.no_grad(),
        edited(model, intervention),
        known_prompts(model) as announce,
        tqdm(total=len(texts), desc="score", leave=False, disable=not progress) as bar,
    ):
        prefix = run_prefix(model, texts, announce) if share_prefix else None
        lengths = [len(text.ids) for text in texts]
        # behind a prefix, padding would lie inside the text and use up a sliding window
        for indices in batches_by_length(lengths, batch_size, equal=prefix is not None):
            batch = encoder.batch([texts[i] for i in indices], skip=prefix.length if prefix else 0)
            scores[indices] = batch_logprobs(model, batch, announce, prefix).cpu()
            bar.update(len(indices))
    if not torch.isfinite(scores).all():
        raise ScoringError(
            f"{int((~torch.isfinite(scores)).sum())} of {len(texts)} answers have a log-probability "
            "that is not finite, so they cannot be compared. Check the intervention's size and the "
            "model's dtype (float16 overflows; use bfloat16 or float32)."
        )
    return scores


def batch_logprobs(
    model: TransformerBridge,
    batch: Batch,
    announce: Callable[[Tensor], None],
    prefix: Prefix | None = None,
) -> Float[Tensor, " batch"]:
    """Summed answer log-probabilities of one batch; differentiable.

    Only the positions that predict an answer token are unembedded.

    Args:
        model: A bridge.
        batch: Encoded texts; without the prefix, if there is one.
        announce: Where to say how long the prompts are; from `known_prompts`.
        prefix: Keys and values that come before every row.
    """
    announce(batch.prompt_lengths)
    kept = int(batch.answer_lengths.max())
    mask, cache = batch.attention_mask, {"use_cache": False}
    if prefix is not None:
        rows = mask.shape[0]
        mask = torch.cat([mask.new_ones(rows, prefix.length), mask], dim=1)
        cache = {"past_key_values": prefix.repeated(rows)}
    logits = model(batch.tokens, attention_mask=mask, logits_to_keep=kept + 1, **cache)
    logits = logits[:, -(kept + 1) : -1]
    targets = batch.tokens[:, -kept:].to(logits.device)
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    picked = logprobs.gather(-1, targets[..., None]).squeeze(-1)
    place = torch.arange(kept, device=logits.device)
    is_answer = place >= kept - batch.answer_lengths.to(logits.device)[:, None]
    return torch.where(is_answer, picked, 0.0).sum(-1)


def batches_by_length(
    lengths: Sequence[int], batch_size: int, *, equal: bool = False
) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first, so that memory runs out at once or never.

    Args:
        lengths: Length of each text.
        batch_size: Largest batch.
        equal: Whether all texts of a batch must have the same length.

    Raises:
        LofitLensError: `batch_size` is not a whole number of at least 1.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise LofitLensError(f"batch_size must be a whole number of at least 1, got {batch_size}.")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups = [list(g) for _, g in groupby(order, key=lengths.__getitem__)] if equal else [order]
    for group in groups:
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


@contextmanager
def edited(model: TransformerBridge, intervention: Edit | None) -> Iterator[None]:
    """Apply an intervention, or none."""
    with nullcontext() if intervention is None else intervention.applied(model):
        yield
