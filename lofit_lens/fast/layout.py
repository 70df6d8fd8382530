"""How texts lie in the batch that goes through the model.

A bundle holds one text, or several that start alike: their common tokens once, then the rest of each,
hidden from one another. A row holds one bundle or several, hidden from one another too. Rows are
padded on the right, where a causal model does not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lofit_lens.sequences import common_start
from lofit_lens.tokens import EncodedText

PADDING = -1

WIDTHS = (64, 128, 256)
"""Tokens up to which bundles are tried in one row."""


@dataclass(frozen=True, eq=False)
class Bundle:
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
        prompt_lengths: Tokens before the answer of its text, for each token; left-out ones in
            front count.
        sees: Which tokens of its row each token attends to; None if it is all before it.
        places: Positions that predict a token of an answer, in the flattened batch.
        picks: For each text and token of its answer, the index into `places`, padded with 0.
        targets: The token there.
        is_answer: Which entries of the two are not padding.
    """

    tokens: Int[Tensor, "row pos"]
    rank: Int[Tensor, "row pos"]
    prompt_lengths: Int[Tensor, "row pos"]
    sees: Bool[Tensor, "row pos pos"] | None
    places: Int[Tensor, " place"]
    picks: Int[Tensor, "text answer"]
    targets: Int[Tensor, "text answer"]
    is_answer: Bool[Tensor, "text answer"]


def lay_out(texts: Sequence[EncodedText], *, skip: int = 0) -> Bundle:
    """Put texts with the same number of prompt tokens into one bundle.

    Args:
        texts: One text, or several that start alike.
        skip: Leave out this many tokens at the start of each; they are the same in all texts, and
            come before the last token of the prompt.
    """
    common = len(texts[0].ids)
    if len(texts) > 1:
        common = common_start(text.ids[:-1] for text in texts)
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
    return Bundle(
        torch.tensor(tokens),
        torch.tensor(rank),
        torch.tensor(branch),
        texts[0].n_prompt,
        torch.tensor(before),
        torch.tensor(answer),
        tuple(text.n_answer for text in texts),
    )


def side_by_side(
    lengths: Sequence[int], d_model: int, owners: Sequence[int] | None = None
) -> list[list[int]]:
    """Which bundles to put into one row, by their numbers, so that a pass costs the least.

    Wider rows hold less padding, and more pairs of tokens that attention looks at. A token costs
    about 24 d_model^2 operations in the matrices of a block and 4 d_model for each token of its
    row; attention reaches about a third of the speed of a matrix product.

    Args:
        lengths: Tokens of each bundle.
        d_model: Size of the residual stream.
        owners: Whose each bundle is; a row holds those of one owner. None: all are of one.

    Returns:
        One list a row.
    """
    owners = owners or [0] * len(lengths)
    apart = [[i] for i in range(len(lengths))]
    own = [[i for i in range(len(lengths)) if owners[i] == one] for one in dict.fromkeys(owners)]

    def cost(rows: Sequence[Sequence[int]]) -> float:
        width = max(sum(lengths[i] for i in row) for row in rows)
        return len(rows) * width * (1 + width / (2 * d_model))

    filled = [
        [row for some in own for row in _filled(some, lengths, max(width, *lengths))]
        for width in WIDTHS
    ]
    return min(apart, *filled, key=cost)


def _filled(some: Sequence[int], lengths: Sequence[int], width: int) -> list[list[int]]:
    """Rows of a width: the longest bundle first, each into the first row where it fits."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(some, key=lambda i: -lengths[i]):
        row = next((r for r, free in enumerate(room) if free >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


def stack(
    bundles: Sequence[Bundle],
    rows: Sequence[Sequence[int]] | None = None,
    *,
    pad: int,
    device: torch.device | str | None,
) -> Rows:
    """Pad bundles into one batch.

    Args:
        bundles: The bundles; the texts of the batch are in their order.
        rows: Numbers of the bundles in each row; None: one bundle a row.
        pad: Token id of padding.
        device: Where to put the batch.
    """
    rows = rows or [[i] for i in range(len(bundles))]

    def padded(parts: Sequence[Tensor], value: int = 0) -> Tensor:
        lines = [torch.cat([parts[i] for i in row]) for row in rows]
        return pad_sequence(lines, batch_first=True, padding_value=value)

    tokens = padded([bundle.tokens for bundle in bundles], pad)
    width, starts = tokens.shape[1], [0] * len(bundles)
    for line, row in enumerate(rows):
        lengths = [len(bundles[i].tokens) for i in row]
        for i, start in zip(row, accumulate([0, *lengths]), strict=False):
            starts[i] = line * width + start
    before = torch.cat([b.before + start for b, start in zip(bundles, starts, strict=True)])
    places, index = before.unique(return_inverse=True)
    n_answer = [n for bundle in bundles for n in bundle.n_answer]
    answers = torch.cat([bundle.answer for bundle in bundles]).split(n_answer)
    prompts = [torch.full_like(bundle.tokens, bundle.n_prompt) for bundle in bundles]
    sees = None
    if len(rows) < len(bundles) or any(len(bundle.n_answer) > 1 for bundle in bundles):
        branch = padded([bundle.branch for bundle in bundles]).to(device)
        number = [torch.full_like(bundle.tokens, i) for i, bundle in enumerate(bundles)]
        sees = _sees(padded(number, PADDING).to(device), branch)
    return Rows(
        tokens.to(device),
        padded([bundle.rank for bundle in bundles]).to(device),
        padded(prompts, 1).to(device),
        sees,
        places.to(device),
        pad_sequence(list(index.split(n_answer)), batch_first=True).to(device),
        pad_sequence(list(answers), batch_first=True).to(device),
        (torch.arange(max(n_answer)) < torch.tensor(n_answer)[:, None]).to(device),
    )


def _sees(
    bundle: Int[Tensor, "row pos"], branch: Int[Tensor, "row pos"]
) -> Bool[Tensor, "row pos pos"]:
    """Each token sees those before it in its own bundle, common ones and those of its own text."""
    own_text = (branch[:, :, None] == branch[:, None, :]) | (branch == 0)[:, None, :]
    return torch.tril(own_text & (bundle[:, :, None] == bundle[:, None, :]))
