"""Summed log-probabilities of answers, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from lofit_lens.errors import LofitLensError, ScoringError
from lofit_lens.fast.forward_passes import ForwardPasses
from lofit_lens.fast.in_force import in_force
from lofit_lens.fast.keys_values import Past
from lofit_lens.fast.layout import lay_out
from lofit_lens.fast.memory import BatchSize, check_batch_size, within_memory
from lofit_lens.sequences import common_start
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit

SHORTEST = 8
"""A shorter common start of all texts is not worth keeping."""


def answer_logprobs(
    model: TransformerBridge,
    texts: Sequence[EncodedText],
    edit: Edit | None = None,
    *,
    batch_size: BatchSize = 32,
    progress: bool = False,
) -> Float[Tensor, " text"]:
    """Sum of the log-probabilities of each answer's tokens, without length normalisation.

    What texts have in common is run once: the tokens that all of them start with, such as a
    few-shot primer, for the whole call, and the prompt of the candidates of an item with them.

    Args:
        model: A bridge, in eval mode.
        texts: Prompts with answers, from `Encoder.continuation`.
        edit: The edit in force; None scores the model as it is.
        batch_size: Texts per forward pass; they are grouped by length. "auto" takes the largest
            that fits into memory.
        progress: Whether to show a bar.

    Returns:
        One number per text, float32 on the CPU.

    Raises:
        ScoringError: A log-probability is NaN or infinite.
    """
    check_batch_size(batch_size)
    for text in texts:
        if text.n_prompt < 1:
            raise LofitLensError(
                f"A text to score needs a token before its answer, got n_prompt = {text.n_prompt}. "
                "Encode texts with `Encoder.continuation`, which puts one there."
            )
    device = next(model.original_model.parameters()).device
    longest = max((len(text.ids) for text in texts), default=0)

    def scored(size: int) -> Float[Tensor, " text"]:
        scores = torch.full((len(texts),), torch.nan, dtype=torch.float32)
        with (
            torch.no_grad(),
            in_force(model, edit, longest=longest) as passes,
            tqdm(total=len(texts), desc="score", leave=False, disable=not progress) as bar,
        ):
            past = _common_past(passes, texts) if passes.continues else None
            skip = 0 if past is None else past.length
            groups = _alike(texts, size) if passes.shares_rows else [[i] for i in range(len(texts))]
            together = [
                texts[alike[0]].n_prompt + sum(texts[i].n_answer for i in alike) for alike in groups
            ]
            for batch in batches_by_length(together, size, list(map(len, groups))):
                bundles = [lay_out([texts[i] for i in groups[place]], skip=skip) for place in batch]
                indices = [i for place in batch for i in groups[place]]
                scores[indices] = passes.logprobs(bundles, past=past).cpu()
                bar.update(len(indices))
        return scores

    scores = within_memory(scored, batch_size, device)
    odd = int((~torch.isfinite(scores)).sum())
    if odd:
        raise ScoringError(
            f"{odd} of {len(texts)} answers have a log-probability that is not finite, so they cannot be "
            "compared. Check the edit's size and the model's dtype (float16 overflows; use bfloat16 or "
            "float32)."
        )
    return scores


def batches_by_length(
    lengths: Sequence[int], batch_size: int, counts: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first, so that memory runs out at once or never.

    Args:
        lengths: Length of each text, or of each group of texts.
        batch_size: Most texts in a batch.
        counts: Texts in each group, at most a batch; default one.

    Raises:
        LofitLensError: `batch_size` is not a whole number of at least 1.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise LofitLensError(f"batch_size must be a whole number of at least 1, got {batch_size}.")
    batch: list[int] = []
    room = batch_size
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        count = counts[i] if counts else 1
        if count > room:
            yield batch
            batch, room = [], batch_size
        batch.append(i)
        room -= count
    if batch:
        yield batch


def _common_past(passes: ForwardPasses, texts: Sequence[EncodedText]) -> Past | None:
    """Keys and values of what all texts start with, if it is worth keeping.

    The last token of each prompt is left out, as it predicts the first token of the answer.
    """
    if len(texts) < 2:
        return None
    length = common_start(text.ids[: text.n_prompt - 1] for text in texts)
    if length < SHORTEST:
        return None
    tokens = torch.tensor([texts[0].ids[:length]], device=passes.model.cfg.device)
    return Past(passes.keys_values(tokens))


def _alike(texts: Sequence[EncodedText], batch_size: int) -> list[list[int]]:
    """Indices of texts with the same prompt, at most a batch of them together."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i, text in enumerate(texts):
        by_prompt.setdefault(text.ids[: text.n_prompt], []).append(i)
    return [
        alike[start : start + batch_size]
        for alike in by_prompt.values()
        for start in range(0, len(alike), batch_size)
    ]
