"""Keys and values of tokens that have been run already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

KeysValues = tuple[Float[Tensor, "_ _ _ _"], Float[Tensor, "_ _ _ _"]]


@dataclass(frozen=True, eq=False)
class Past:
    """Keys and values that come before every row of a batch.

    Attributes:
        layers: Keys and values of each layer; one row stands for all rows of the batch.
        real: Which of the tokens are there in each row, padded on the left; None if all are.
    """

    layers: Sequence[KeysValues]
    real: Bool[Tensor, "row past"] | None = None

    @property
    def length(self) -> int:
        """Tokens, padding included."""
        return self.layers[-1][0].shape[-2]

    def cache(self, n_rows: int) -> DynamicCache:
        """As a cache of `transformers`, for one forward pass."""
        cache = DynamicCache()
        for keys, values in self.layers:
            layer: Any = _Fixed()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = (x.expand(n_rows, -1, -1, -1) for x in (keys, values))
            cache.layers.append(layer)
        return cache


class _Fixed(DynamicLayer):
    """Keys and values that new ones are put behind, without keeping these for every layer."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        keys = torch.cat([self.keys, key_states], dim=-2)
        return keys, torch.cat([self.values, value_states], dim=-2)


def joined(texts: Sequence[Sequence[KeysValues]]) -> Past:
    """Keys and values of several texts of one row each, padded on the left into one batch."""
    lengths = [layers[-1][0].shape[-2] for layers in texts]
    longest = max(lengths)
    first = texts[0][-1][0]
    place = torch.arange(longest, device=first.device)
    real = place >= torch.tensor([[longest - n] for n in lengths], device=first.device)

    def batch(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(part, (0, 0, longest - part.shape[-2], 0)) for part in parts])

    layers = [
        (batch([keys for keys, _ in layer]), batch([values for _, values in layer]))
        for layer in zip(*texts, strict=True)
    ]
    return Past(layers, None if min(lengths) == longest else real)
