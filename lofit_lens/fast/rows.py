"""How texts lie in the batch that goes through the model.

A row holds one text, or several that start alike: their common tokens once, then the rest of each,
hidden from one another. Rows are padded on the right, where a causal model does not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lofit_lens.tokens import EncodedText

PADDING = -1


@dataclass(frozen=True, eq=False)
class Row:
    """Texts that share their first tokens.

    Attributes:
        tokens: The common tokens, then what follows in each text.
        rank: Place of each token in its own text.
        branch: 0 for common tokens, else the number of the text, from 1.
        n_prompt: Tokens before the answer, the same for all texts.
        before: Place of the token that predicts each token of an answer, text by text.
        answer: The tokens of the answers, text by text.
        n_answer: Their number in each text.
    """

    tokens: Int[Tensor, " pos"]
    rank: Int[Tensor, " pos"]
    branch: Int[Tensor, " pos"]
    n_prompt: int
    before: Int[Tensor, " answers"]
    answer: Int[Tensor, " answers"]
    n_answer: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch.

    Attributes:
        tokens: Token ids, padded on the right.
        rank: Place of each token in its own text.
        prompt_lengths: Tokens before the answers, the left-out ones in front included.
        sees: Which tokens of its row each token attends to; None if it is all before it.
        places: Positions that predict a token of an answer, in the flattened batch.
        picks: For each text and token of its answer, the index into `places`, padded with 0.
        targets: The token there.
        is_answer: Which entries of the two are not padding.
    """

    tokens: Int[Tensor, "row pos"]
    rank: Int[Tensor, "row pos"]
    prompt_lengths: Int[Tensor, " row"]
    sees: Bool[Tensor, "row pos pos"] | None
    places: Int[Tensor, " place"]
    picks: Int[Tensor, "text answer"]
    targets: Int[Tensor, "text answer"]
    is_answer: Bool[Tensor, "text answer"]


def common_start(texts: Sequence[EncodedText], *, limit: int | None = None) -> int:
    """How many tokens the texts have in common at their start."""
    columns = zip(*(text.ids[:limit] for text in texts), strict=False)
    return sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, columns))


def lay_out(texts: Sequence[EncodedText], *, skip: int = 0) -> Row:
    """Put texts with the same number of prompt tokens into one row.

    Args:
        texts: One text, or several that start alike.
        skip: Leave out this many tokens at the start of each; they are the same in all texts, and
            come before the last token of the prompt.
    """
    shortest = min(len(text.ids) for text in texts)
    common = len(texts[0].ids) if len(texts) == 1 else common_start(texts, limit=shortest - 1)
    tokens = list(texts[0].ids[skip:common])
    rank = list(range(skip, common))
    branch = [0] * len(tokens)
    before, answer = [], []
    for number, text in enumerate(texts, start=1):
        start = len(tokens)  # of this text's own tokens
        for place in range(text.n_prompt - 1, len(text.ids) - 1):
            before.append(place - skip if place < common else start + place - common)
            answer.append(text.ids[place + 1])
        tokens += text.ids[common:]
        rank += range(common, len(text.ids))
        branch += [number] * (len(text.ids) - common)
    return Row(
        torch.tensor(tokens),
        torch.tensor(rank),
        torch.tensor(branch),
        texts[0].n_prompt,
        torch.tensor(before),
        torch.tensor(answer),
        tuple(text.n_answer for text in texts),
    )


def stack(rows: Sequence[Row], *, pad: int, device: torch.device | str | None) -> Rows:
    """Pad rows into one batch."""
    tokens = pad_sequence([row.tokens for row in rows], batch_first=True, padding_value=pad)
    width = tokens.shape[1]
    before = torch.cat([row.before + i * width for i, row in enumerate(rows)])
    places, index = before.unique(return_inverse=True)
    lengths = [n for row in rows for n in row.n_answer]
    answers = torch.cat([row.answer for row in rows]).split(lengths)
    sees = None
    if any(len(row.n_answer) > 1 for row in rows):
        branch = pad_sequence(
            [row.branch for row in rows], batch_first=True, padding_value=PADDING
        ).to(device)
        same = branch[:, :, None] == branch[:, None, :]
        sees = torch.tril(same | (branch == 0)[:, None, :])
    return Rows(
        tokens.to(device),
        pad_sequence([row.rank for row in rows], batch_first=True).to(device),
        torch.tensor([row.n_prompt for row in rows], device=device),
        sees,
        places.to(device),
        pad_sequence(list(index.split(lengths)), batch_first=True).to(device),
        pad_sequence(list(answers), batch_first=True).to(device),
        pad_sequence([torch.ones(n, dtype=torch.bool) for n in lengths], batch_first=True).to(
            device
        ),
    )
