"""BitFit on the attention output: LoFiT without localisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.attention import heads_of
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
class OutputBias(LinearEdit):
    """A vector added to the output of every attention output projection, as its bias would be.

    It acts on `blocks.{layer}.attn.o.hook_out` (`[batch, pos, d_model]`), in float32, cast to the
    model's type. The bias of LoFiT adds `W_O v`, which is such a vector in the span of the columns
    of the chosen heads.

    Attributes:
        vectors: One row a layer.
        scope: The token positions edited.
        provenance: How it was learned, if it was.
    """

    vectors: Float[Tensor, "layer d_model"]
    scope: TokenScope = "all"
    provenance: Provenance | None = field(default=None, repr=False)

    def _check_shape(self, model: TransformerBridge) -> None:
        shape = (len(heads_of(model).layers), model.cfg.d_model)
        if self.vectors.shape != shape:
            raise ModelMismatchError(
                f"The vectors have shape {tuple(self.vectors.shape)}, this model needs {shape} (layers "
                "and d_model). Learn them on this model."
            )

    def changes(self, model: TransformerBridge) -> dict[str, Change]:
        """One vector at the output of each output projection."""

        def plus(row: int) -> Change:
            vector = self._on_device(lambda device: self.vectors[row].to(device))
            return lambda out: out + vector(out.device)

        layers = heads_of(model).layers
        return {f"blocks.{i}.attn.o.hook_out": plus(row) for row, i in enumerate(layers)}

    def __repr__(self) -> str:
        return f"OutputBias({self.n_parameters} parameters, scope={self.scope!r})"


def train_bitfit(
    model: TransformerBridge, task: Task, config: TrainingConfig, *, progress: bool = True
) -> OutputBias:
    """Train the bias of every attention output projection (BitFit, Ben Zaken et al. 2022).

    It starts at zero, so the first loss is that of the model as it is. Arguments and errors are those
    of `train_red`.
    """
    shape = len(heads_of(model).layers), model.cfg.d_model
    vectors = torch.zeros(shape, dtype=torch.float32, device=model.cfg.device, requires_grad=True)
    edit = OutputBias(vectors, config.scope)
    return fit(
        model, task, edit, [vectors], edit.learned, config,
        generator=torch.Generator().manual_seed(config.seed),
        what={"component": "output bias"}, progress=progress,
    )  # fmt: skip
