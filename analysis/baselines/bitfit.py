"""BitFit on the attention output: LoFiT without localisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.attention import heads_of
from lofit_lens.edits.hooked import changed
from lofit_lens.errors import ModelMismatchError
from lofit_lens.identity import check_same_model
from lofit_lens.positions import PositionTracker, TokenScope, check_scope
from lofit_lens.provenance import Provenance
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import TrainingConfig
from lofit_lens.training.loop import fit

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class OutputBias:
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

    needs_whole_texts = False

    def __post_init__(self) -> None:
        check_scope(self.scope)

    @property
    def n_parameters(self) -> int:
        """Layers that have attention x d_model."""
        return self.vectors.numel()

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[PositionTracker]:
        """Edit every forward pass of `model` inside the context; contexts nest.

        Raises:
            ModelMismatchError: The vectors belong to another model.
        """
        layers = heads_of(model).layers
        shape = (len(layers), model.cfg.d_model)
        if self.vectors.shape != shape:
            raise ModelMismatchError(
                f"The vectors have shape {tuple(self.vectors.shape)}, this model needs {shape} (layers "
                "and d_model). Learn them on this model."
            )
        if self.provenance is not None:
            check_same_model(model, self.provenance.fingerprint, "The bias")

        def plus(place: int) -> Callable[[Tensor], Tensor]:
            return lambda out: out + self.vectors[place].to(out.device)

        changes = {f"blocks.{i}.attn.o.hook_out": plus(k) for k, i in enumerate(layers)}
        with changed(model, changes, self.scope) as positions:
            yield positions

    def __repr__(self) -> str:
        return f"OutputBias({self.n_parameters} parameters, scope={self.scope!r})"


def train_bitfit(
    model: TransformerBridge, task: Task, config: TrainingConfig, *, progress: bool = True
) -> OutputBias:
    """Train the bias of every attention output projection (BitFit, Ben Zaken et al. 2022).

    It starts at zero, so the first loss is that of the model as it is.

    Args:
        model: A frozen bridge in eval mode.
        task: The task; its training and validation examples are used.
        config: How; `init_std` is not used.
        progress: Whether to show a bar.

    Raises:
        TrainingStopped: Training became unstable.
    """
    shape = len(heads_of(model).layers), model.cfg.d_model
    vectors = torch.zeros(shape, device=model.cfg.device, requires_grad=True)
    edit = OutputBias(vectors, config.scope)

    def learned(provenance: Provenance) -> OutputBias:
        return replace(edit, vectors=vectors.detach().cpu().clone(), provenance=provenance)

    return fit(
        model, task, edit, [vectors], learned, config,
        generator=torch.Generator().manual_seed(config.seed),
        what={"component": "output bias"}, progress=progress,
    )  # fmt: skip
