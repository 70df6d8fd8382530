"""A bias on every value projection, a rival with an edit of a class of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.attention import heads_of, key_value_heads
from lofit_lens.edits.hooked import Change, LinearEdit
from lofit_lens.errors import ModelMismatchError
from lofit_lens.positions import TokenScope
from lofit_lens.provenance import Provenance
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import TrainingConfig
from lofit_lens.training.loop import fit

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class ValueBias(LinearEdit):
    """A vector added to the output of every value projection, as its bias would be.

    Attributes:
        vectors: One row a layer, in it one a key/value head.
        scope: The token positions edited.
        provenance: How it was learned, if it was.
    """

    vectors: Float[Tensor, "layer head d_head"]
    scope: TokenScope = "all"
    provenance: Provenance | None = field(default=None, repr=False)

    def _check_shape(self, model: TransformerBridge) -> None:
        if self.vectors.shape != shape_of(model):
            raise ModelMismatchError(
                f"The vectors have shape {tuple(self.vectors.shape)}, this model needs "
                f"{shape_of(model)} (layers, key/value heads and d_head). Learn them on this model."
            )

    def changes(self, model: TransformerBridge) -> dict[str, Change]:
        """One vector at the output of each value projection."""

        def plus(row: int) -> Change:
            vector = self._on_device(lambda device: self.vectors[row].to(device))
            return lambda v: v + vector(v.device)

        layers = heads_of(model).layers
        return {f"blocks.{i}.attn.v.hook_out": plus(row) for row, i in enumerate(layers)}


def shape_of(model: TransformerBridge) -> tuple[int, int, int]:
    """Layers, key/value heads and the width of a head."""
    return len(heads_of(model).layers), key_value_heads(model.cfg), model.cfg.d_head


def train_value_bias(
    model: TransformerBridge, task: Task, config: TrainingConfig, *, progress: bool = True
) -> ValueBias:
    """Train the bias of every value projection, from zero."""
    vectors = torch.zeros(shape_of(model), device=model.cfg.device, requires_grad=True)
    edit = ValueBias(vectors, config.scope)
    return fit(
        model, task, edit, [vectors], edit.learned, config,
        generator=torch.Generator().manual_seed(config.seed),
        what={"component": "value bias"}, progress=progress,
    )  # fmt: skip
