"""The losses, on summed log-probabilities of answers.

A training item is one example with the sequences its objective needs: the answer alone (`sft`),
the preferred and the rejected answer (`dpo`, `ipo`), or every candidate, the right one first (`choice`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from lofit_lens.tasks.scoring import Scoring
from lofit_lens.tasks.task import Example, Objective
from lofit_lens.tokens import EncodedText, Encoder

Logprobs = Float[Tensor, " text"]


@dataclass(frozen=True)
class Item:
    """The sequences of one training example.

    Attributes:
        texts: Encoded sequences, in the order the objective expects.
        reference: Their log-probabilities without the edit; DPO and IPO only.
        lengths: What their log-probabilities are divided by; `choice` only.
    """

    texts: tuple[EncodedText, ...]
    reference: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()


def encode_items(
    encoder: Encoder,
    examples: Sequence[Example],
    objective: Objective,
    scoring: Scoring,
) -> list[Item]:
    """Encode training examples for an objective, and for the scoring of their task.

    Under all but `choice` answers end with EOS, so that the model learns to stop; under `choice`
    they do not, as candidates are scored without it.
    """
    items = []
    wrong = {"sft": 0, "dpo": 1, "ipo": 1, "choice": None}[objective]
    for example in examples:
        answers = (scoring.target(example), *example.incorrect[:wrong])
        texts = tuple(encoder.candidates(example.prompt, answers, end=objective != "choice"))
        lengths = tuple(map(scoring.length, answers)) if objective == "choice" else ()
        items.append(Item(texts, lengths=lengths))
    return items


def summed_loss(
    objective: Objective, logprobs: Logprobs, items: Sequence[Item], *, beta: float
) -> Float[Tensor, ""]:
    """The loss summed over items; divide by `total_weight` of the batch for its mean.

    Args:
        objective: Which loss.
        logprobs: Summed answer log-probabilities, the sequences of one item behind the other.
        items: The items.
        beta: Of DPO and IPO.
    """
    per_item = logprobs.split([len(item.texts) for item in items])
    losses = [_loss(objective, *one, beta) for one in zip(per_item, items, strict=True)]
    return torch.stack(losses).sum()


def total_weight(objective: Objective, items: Sequence[Item]) -> int:
    """What the summed loss of a batch is divided by: answer tokens for `sft`, else items."""
    return sum(item.texts[0].n_answer for item in items) if objective == "sft" else len(items)


def dpo_loss(margin: Tensor, beta: float) -> Tensor:
    """Direct preference optimisation, sigmoid form (Rafailov et al. 2023, eq. 7).

    Args:
        margin: By how much more the preferred answer has gained on the reference than the rejected one.
        beta: Strength of the pull to the reference.
    """
    return -logsigmoid(beta * margin)


def ipo_loss(margin: Tensor, beta: float) -> Tensor:
    """Identity preference optimisation (Azar et al. 2023, eq. 17; beta is their tau).

    Log-probabilities are sums over tokens, as there; TRL divides them by the number of tokens.
    Arguments are those of `dpo_loss`.
    """
    return (margin - 1 / (2 * beta)) ** 2


PREFERENCE = {"dpo": dpo_loss, "ipo": ipo_loss}
"""Objectives on pairs, with the model as it is as the reference."""


def _loss(objective: Objective, logprobs: Logprobs, item: Item, beta: float) -> Tensor:
    """The loss of one item."""
    if objective == "sft":
        return -logprobs[0]
    if objective in PREFERENCE:
        chosen, rejected = (new - old for new, old in zip(logprobs, item.reference, strict=True))
        return PREFERENCE[objective](chosen - rejected, beta)
    if item.lengths:
        logprobs = logprobs / logprobs.new_tensor(item.lengths)
    return torch.logsumexp(logprobs, 0) - logprobs[0]
