"""An edit of the residual stream: one vector added behind some blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from lofit_lens.attention import check_layers
from lofit_lens.edits.hooked import Change, LinearEdit
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.positions import TokenScope
from lofit_lens.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class ResidualIntervention(LinearEdit):
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

    noun = "intervention"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self.layers, self.n_layers)
        if self.vectors.shape[0] != len(self.layers):
            raise LofitLensError(
                f"vectors has {self.vectors.shape[0]} rows; expected one for each of "
                f"{len(self.layers)} layers."
            )

    def changes(self, model: TransformerBridge) -> dict[str, Change]:  # noqa: ARG002
        """One vector behind each of the layers."""
        return {f"blocks.{i}.hook_out": self._change(row) for row, i in enumerate(self.layers)}

    def _check_shape(self, model: TransformerBridge) -> None:
        shape = model.cfg.n_layers, model.cfg.d_model
        wanted = self.n_layers, self.vectors.shape[1]
        if shape != wanted:
            raise ModelMismatchError(
                f"The vectors belong to a model of {wanted[0]} layers and d_model = {wanted[1]}, this "
                f"one has {shape[0]} and {shape[1]}. Make them on this model."
            )

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

    def __repr__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        return (
            f"ResidualIntervention(layers {layers}, {self.n_parameters} parameters, "
            f"scope={self.scope!r})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.frame().to_html(index=False)}"

    def _change(self, row: int) -> Change:
        vector = self._on_device(lambda device: self.vectors[row].to(device))
        return lambda h: h + vector(h.device)
