"""Several edits of head outputs in one forward pass, each on rows of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lofit_lens.heads import HeadSet
from lofit_lens.model import check_head_shape
from lofit_lens.positions import TokenScope, tracked_positions

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.positions import PositionTracker


class StackedHeads:
    """Head sets in training side by side: each row of a batch is edited by its owner's numbers.

    Args:
        heads: The heads of each.
        parameters: The numbers of each, one row a head.
        component: What the numbers are.
        scope: The token positions edited.
    """

    provenance = None
    needs_whole_texts = False

    def __init__(
        self,
        heads: Sequence[HeadSet],
        parameters: Sequence[Tensor],
        component: Literal["scale", "bias"],
        scope: TokenScope,
    ) -> None:
        self.scope: TokenScope = scope
        self._heads = heads
        self._parameters = parameters
        self._component = component
        self._owners: Tensor | None = None

    @property
    def n_parameters(self) -> int:
        """Numbers of all edits together."""
        return sum(parameter.numel() for parameter in self._parameters)

    def own(self, owners: Sequence[int] | None) -> None:
        """Say whose each row of the next batches is; None: all are the first one's."""
        self._owners = None if owners is None else torch.tensor(owners)

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[PositionTracker]:
        """Edit every forward pass of `model` inside the context."""
        for heads in self._heads:
            check_head_shape(model, heads)
        layers = sorted({layer for heads in self._heads for layer in heads.layers()})
        with tracked_positions(model, self.scope) as positions:
            hooks = [(f"blocks.{i}.attn.hook_z", self._hook(i, positions)) for i in layers]
            with model.hooks(fwd_hooks=hooks):
                yield positions

    def _hook(self, layer: int, positions: PositionTracker) -> Any:
        ranked = [
            (owner, rank, head)
            for owner, heads in enumerate(self._heads)
            for rank, head in heads.in_layer(layer)
        ]
        owners, _, heads_here = torch.tensor(ranked).T

        def numbers(z: Tensor) -> Tensor:
            """`[row, 1, head, d_head]`, zero for heads that the owner of a row does not edit."""
            rows = torch.stack([self._parameters[owner][rank] for owner, rank, _ in ranked])
            shape = (len(self._heads), *z.shape[-2:])
            index = (owners.to(z.device), heads_here.to(z.device))
            dense = torch.zeros(shape, device=z.device).index_put(index, rows.to(z.device))
            if self._owners is None:
                return dense[0]
            return dense[self._owners.to(z.device)][:, None]

        def edit(z: Tensor, hook: object = None) -> Tensor:  # noqa: ARG001
            change = numbers(z)
            after = z * (1 + change) if self._component == "scale" else z + change
            return positions.limit(after.to(z.dtype), z)

        return edit
