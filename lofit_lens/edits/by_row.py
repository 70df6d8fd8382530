"""Several edits of head outputs in one forward pass, each on rows of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.attention import check_head_shape
from lofit_lens.edits.hooked import Change, HookedEdit
from lofit_lens.heads import HeadSet
from lofit_lens.positions import Places, TokenScope

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class StackedHeads(HookedEdit):
    """Head sets in training side by side: each row of a batch is edited by its owner's numbers.

    Args:
        heads: The heads of each.
        parameters: The numbers of each, one row a head.
        component: What the numbers are.
        scope: The token positions edited.
    """

    provenance = None

    def __init__(
        self,
        heads: Sequence[HeadSet],
        parameters: Sequence[Tensor],
        component: Literal["scale", "bias"],
        scope: TokenScope,
    ) -> None:
        self.scope: TokenScope | Places = scope
        self._heads = heads
        self._parameters = parameters
        self._component = component
        self.own(None)
        self._layers = sorted({layer for some in heads for layer in some.layers()})
        self._by_layer: Sequence[Tensor] = ()
        places = [
            (self._layers.index(layer), owner, head)
            for owner, some in enumerate(heads)
            for layer, head in some
        ]
        self._places = torch.tensor(places, device=parameters[0].device).unbind(-1)

    @property
    def n_parameters(self) -> int:
        """Numbers of all edits together."""
        return sum(parameter.numel() for parameter in self._parameters)

    def own(self, owners: Sequence[int] | None) -> None:
        """Say whose each row of the next batches is; None: all are the first one's."""
        self._present = {0} if owners is None else set(owners)
        self._owners = torch.tensor(owners or [0], device=self._parameters[0].device)

    def _check_shape(self, model: TransformerBridge) -> None:
        for heads in self._heads:
            check_head_shape(model, heads)

    def changes(self, model: TransformerBridge) -> dict[str, Change]:  # noqa: ARG002
        """The numbers of each row's owner at `hook_z` of every layer that one of them edits."""
        return {
            f"blocks.{layer}.attn.hook_z": self._change(place)
            for place, layer in enumerate(self._layers)
        }

    def _change(self, place: int) -> Change:
        def change(z: Tensor) -> Tensor:
            if place == 0:  # once for all layers, as each forward pass meets this one first
                self._by_layer = self._laid_out()
            numbers = self._by_layer[place].to(z.device)
            here = numbers[self._owners.to(z.device)][:, None, :, : z.shape[-1]]
            return z * (1 + here) if self._component == "scale" else z + here

        return change

    def _laid_out(self) -> tuple[Float[Tensor, "run head d_head"], ...]:
        """The numbers by layer, zero for heads that a run does not edit.

        A run without rows in the batch gets no gradient, as one of zeros would be stepped on.
        """
        numbers = [
            parameter if run in self._present else parameter.detach()
            for run, parameter in enumerate(self._parameters)
        ]
        rows = torch.cat([parameter.to(self._owners.device) for parameter in numbers])
        shape = (len(self._layers), len(self._heads), self._heads[0].n_heads, rows.shape[-1])
        return rows.new_zeros(shape).index_put(self._places, rows).unbind()
