"""Keys and values of the tokens that all texts of a scoring run start with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SHORTEST = 8
"""A shorter prefix is not worth the copying."""


@dataclass(frozen=True)
class Prefix:
    """A key/value cache of one row.

    Attributes:
        length: Tokens in it.
        cache: The cache of `transformers`.
    """

    length: int
    cache: DynamicCache

    def repeated(self, rows: int) -> DynamicCache:
        """A copy for a batch; the model will add to it."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return cache


def run_prefix(
    model: TransformerBridge, texts: Sequence[EncodedText], announce: Callable[[Tensor], None]
) -> Prefix | None:
    """Run the common prefix of some texts once, under the edit in force.

    The last token of each prompt is left out, as it predicts the first token of the answer.

    Returns:
        The prefix, or None if there is none worth keeping or the model's cache cannot be repeated
        (recurrent and hybrid families).
    """
    columns = zip(*(text.ids[: text.n_prompt - 1] for text in texts), strict=False)
    shared = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, columns)]
    if len(shared) < SHORTEST or len(texts) < 2:
        return None
    tokens = torch.tensor([shared], device=model.cfg.device)
    # the prompt goes on behind the prefix: scopes that spare it edit nothing here
    announce(torch.tensor([len(shared) + 1]))
    produced: Any = model(tokens, return_type="logits_and_cache", logits_to_keep=1, use_cache=True)
    cache = produced[1]
    return Prefix(len(shared), cache) if type(cache) is DynamicCache else None
