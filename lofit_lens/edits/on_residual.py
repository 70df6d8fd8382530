"""An edit of the residual stream: one vector added behind some blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.attention import check_layers
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.identity import check_same_model
from lofit_lens.positions import PositionTracker, TokenScope, check_scope, tracked_positions
from lofit_lens.provenance import Provenance, unmeasured

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.on_heads import HookFunction


@dataclass(frozen=True, eq=False)
class ResidualIntervention:
    """Vectors added to the residual stream: `h <- h + vector` at the output of some blocks.

    It acts on `blocks.{layer}.hook_out` (`[batch, pos, d_model]`), in float32, cast to the model's
    type (representation engineering, Zou et al. 2023, section 3.2.2).

    Attributes:
        vectors: One row a layer, in the order of `layers`; kept in float32.
        layers: The blocks, counted from 0, without repeats.
        n_layers: Layers of the model.
        scope: The token positions edited.
        provenance: How it was learned, if it was.

    Raises:
        LofitLensError: A layer repeats or lies outside the model, or a shape or the scope is wrong.

    Examples:
        >>> edit = ResidualIntervention(torch.ones(1, 16), (2,), n_layers=4)
        >>> (0.5 * edit).vectors.max().item()
        0.5
    """

    vectors: Float[Tensor, "k d_model"]
    layers: tuple[int, ...]
    n_layers: int
    scope: TokenScope = "all"
    provenance: Provenance | None = field(default=None, repr=False)

    needs_whole_texts = False

    def __post_init__(self) -> None:
        check_scope(self.scope)
        check_layers(self.layers, self.n_layers)
        object.__setattr__(self, "vectors", self.vectors.float())
        if self.vectors.shape[0] != len(self.layers):
            raise LofitLensError(
                f"vectors has {self.vectors.shape[0]} rows; expected one for each of "
                f"{len(self.layers)} layers."
            )
        if not torch.isfinite(self.vectors).all():
            raise LofitLensError("vectors holds numbers that are not finite.")

    @property
    def n_parameters(self) -> int:
        """Numbers stored: layers x d_model."""
        return self.vectors.numel()

    def hooks(
        self, model: TransformerBridge, positions: PositionTracker | None = None
    ) -> list[tuple[str, HookFunction]]:
        """Hook functions for `model.hooks(fwd_hooks=…)`, one per layer.

        Args:
            model: The model they are meant for.
            positions: The tracker of the positions to edit; only scope "all" does without.

        Raises:
            ModelMismatchError: The vectors belong to another model.
            LofitLensError: Another scope than "all" without a tracker.
        """
        self.check_model(model)
        if positions is None and self.scope != "all":
            raise LofitLensError(
                f'hooks() alone cannot follow scope "{self.scope}"; use `with edit.applied(model)`.'
            )
        return [
            (f"blocks.{layer}.hook_out", self._hook(row, positions))
            for row, layer in enumerate(self.layers)
        ]

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[PositionTracker]:
        """Edit every forward pass of `model` inside the context; see `HeadIntervention.applied`.

        Raises:
            ModelMismatchError: The vectors belong to another model.
        """
        with (
            tracked_positions(model, self.scope) as positions,
            model.hooks(fwd_hooks=self.hooks(model, positions)),
        ):
            yield positions

    def check_model(self, model: TransformerBridge) -> None:
        """Refuse a model of another shape or, for learned vectors, with other weights.

        Raises:
            ModelMismatchError: They differ; the message says in what.
        """
        shape, wanted = (model.cfg.n_layers, model.cfg.d_model), (self.n_layers, self._d_model)
        if shape != wanted:
            raise ModelMismatchError(
                f"The vectors belong to a model of {wanted[0]} layers and d_model = {wanted[1]}, this "
                f"one has {shape[0]} and {shape[1]}. Make them on this model."
            )
        if self.provenance is not None:
            check_same_model(model, self.provenance.fingerprint, "The intervention")

    def with_scope(self, scope: TokenScope) -> ResidualIntervention:
        """The same vectors at other positions; measured scores are left behind."""
        return replace(self, scope=scope, provenance=unmeasured(self.provenance))

    def __mul__(self, strength: float) -> ResidualIntervention:
        return replace(
            self, vectors=strength * self.vectors, provenance=unmeasured(self.provenance)
        )

    __rmul__ = __mul__

    def frame(self) -> pd.DataFrame:
        """Columns `layer` and `norm` (L2)."""
        import pandas as pd

        norms = self.vectors.detach().norm(dim=-1).double().cpu().numpy()
        return pd.DataFrame({"layer": list(self.layers), "norm": norms})

    def plot(self) -> go.Figure:
        """Norm of the vector of each layer as bars."""
        import plotly.graph_objects as go

        from lofit_lens.plotting import TEMPLATE

        frame = self.frame()
        return go.Figure(go.Bar(x=frame["layer"], y=frame["norm"])).update_layout(
            title="Norm of what is added to the residual stream",
            template=TEMPLATE,
            xaxis={"title": "layer", "range": [-0.5, self.n_layers - 0.5]},
            yaxis={"title": "L2 norm"},
        )

    def save(self, folder: str | Path) -> Path:
        """Write the intervention to a folder; see `lofit_lens.edits.files`."""
        from lofit_lens.edits.files import save_intervention

        return save_intervention(self, folder)

    @classmethod
    def load(
        cls, folder: str | Path, model: TransformerBridge | None = None
    ) -> ResidualIntervention:
        """Read an intervention, and refuse it if it was made for another model than `model`.

        Raises:
            LofitLensError: The folder does not hold vectors of the residual stream.
        """
        from lofit_lens.edits.files import load_intervention

        found = load_intervention(folder, model)
        if not isinstance(found, cls):
            raise LofitLensError(f"{folder} holds {found!r}; load it with HeadIntervention.load.")
        return found

    def __repr__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        return (
            f"ResidualIntervention(layers {layers}, {self.n_parameters} parameters, "
            f"scope={self.scope!r})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.frame().to_html(index=False)}"

    @property
    def _d_model(self) -> int:
        return self.vectors.shape[1]

    def _hook(self, row: int, positions: PositionTracker | None) -> HookFunction:
        learning = self.vectors.requires_grad

        def on(device: torch.device) -> Tensor:
            return self.vectors[row].to(device)

        kept = cache(on)  # a fixed vector is copied to each device once

        def edit(h: Any, hook: object = None) -> Any:  # noqa: ARG001
            vector = on(h.device) if learning else kept(h.device)
            after = (h.float() + vector).to(h.dtype)
            return after if positions is None else positions.limit(after, h)

        return edit
