"""The edit itself: per-head scale and bias on `hook_z`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.attention import check_head_shape, real_columns, z_width
from lofit_lens.edits.hooked import Change, LinearEdit
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.heads import HeadSet
from lofit_lens.identity import weights_processed
from lofit_lens.positions import TokenScope
from lofit_lens.provenance import Provenance

if TYPE_CHECKING:
    from typing import Self

    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge


HeadTensor = Float[Tensor, "k d_head"]


@dataclass(frozen=True, eq=False)
class HeadIntervention(LinearEdit):
    """An affine edit of the outputs of some heads: `z <- (1 + scale) * z + bias`.

    It acts on `blocks.{layer}.attn.hook_z` (`[batch, pos, head, d_head]`, query heads), before
    the output projection (paper, section 3). Only the chosen heads are stored, in float32; the
    edit is computed in float32 and cast to the model's type. With zero parameters it is exactly
    the identity.

    Attributes:
        heads: The heads, in the order of the rows of `scale` and `bias`.
        scale: A of the paper, one row a head; None leaves the scale alone. Where a model has heads
            of several widths, rows are as long as the widest and end in zeros for the others.
        bias: v of the paper, one row a head, likewise; None adds nothing.
        scope: The token positions edited.
        provenance: How it was learned, if it was.

    Raises:
        LofitLensError: Neither scale nor bias is given, or a shape or the scope is wrong.

    Examples:
        >>> heads = HeadSet([(0, 1)], n_layers=2, n_heads=4)
        >>> edit = HeadIntervention(heads, bias=torch.ones(1, 8))
        >>> (0.5 * edit).bias.max().item()
        0.5
    """

    heads: HeadSet
    scale: HeadTensor | None = None
    bias: HeadTensor | None = None
    scope: TokenScope = "all"
    provenance: Provenance | None = field(default=None, repr=False)

    noun = "intervention"

    def __post_init__(self) -> None:
        if self.scale is None and self.bias is None:
            raise LofitLensError("An intervention needs scale, bias or both.")
        super().__post_init__()
        for name, tensor in self.numbers().items():
            if tensor.shape != (len(self.heads), self.d_head):
                raise LofitLensError(
                    f"{name} has shape {tuple(tensor.shape)}; expected one row for each of "
                    f"{len(self.heads)} heads and d_head = {self.d_head} columns."
                )

    @property
    def d_head(self) -> int:
        """Size of a head, the widest where they differ."""
        return next(iter(self.numbers().values())).shape[-1]

    def changes(self, model: TransformerBridge) -> dict[str, Change]:  # noqa: ARG002
        """Scale and bias at `hook_z` of each layer with active heads."""
        return {f"blocks.{layer}.attn.hook_z": self._change(layer) for layer in self.heads.layers()}

    def _check_shape(self, model: TransformerBridge) -> None:
        check_head_shape(model, self.heads)
        if self.d_head != z_width(model):
            raise ModelMismatchError(
                f"The intervention has d_head = {self.d_head}, the model {z_width(model)}."
            )
        unreal = ~real_columns(model, self.heads)
        if any(t is not None and t.detach().cpu()[unreal].any() for t in (self.scale, self.bias)):
            raise ModelMismatchError(
                "The intervention has numbers behind the width of a head: in this model heads of "
                "some layers are narrower, and their rows must end in zeros."
            )
        if self.scale is not None and weights_processed(model):
            raise UnsupportedError(
                "A scale edit would be wrong on this model: TransformerLens has processed its "
                "weights, which can move value biases out of z. Load it with `load_model`, without "
                "`enable_compatibility_mode`."
            )

    def frame(self) -> pd.DataFrame:
        """Columns `rank`, `layer`, `head`, `name`, and the L2 norms `scale_norm`, `bias_norm`."""
        frame = self.heads.frame()
        for name, tensor in (("scale_norm", self.scale), ("bias_norm", self.bias)):
            norms = torch.zeros(len(self.heads)) if tensor is None else tensor.detach().norm(dim=-1)
            frame[name] = norms.double().cpu().numpy()
        return frame

    def plot(self) -> go.Figure:
        """Layer x head heat map of the norm of the edit."""
        from lofit_lens.plotting import elided, head_grid

        frame = self.frame()
        total = np.hypot(frame["scale_norm"].to_numpy(), frame["bias_norm"].to_numpy())
        norms = self.heads.placed(torch.from_numpy(total), fill=np.nan).numpy()
        title = f"Norm of the edit of {len(self.heads)} heads"
        if self.provenance is not None:
            task = self.provenance.task
            title += f" for {elided([task], 40)[task]}"
        return head_grid(norms, label="norm", title=title, without=self.heads.without)

    def to_parts(self) -> dict[str, Any]:
        """Its parts, with those of the heads beside them."""
        parts = super().to_parts()
        return parts | parts.pop("heads").to_json()

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        """The edit made of what `to_parts` gave."""
        names = [field.name for field in fields(HeadSet)]
        heads = {name: parts[name] for name in names if name in parts}
        return super().from_parts({"scale": None, "bias": None, **parts, "heads": heads})

    def __repr__(self) -> str:
        parts = [n for n, t in (("scale", self.scale), ("bias", self.bias)) if t is not None]
        return (
            f"HeadIntervention({' and '.join(parts)} on {len(self.heads)} heads, "
            f"{self.n_parameters} parameters, scope={self.scope!r})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.frame().head(20).to_html(index=False)}"

    def _change(self, layer: int) -> Change:
        ranked = self.heads.in_layer(layer)
        rows = torch.tensor([rank for rank, _ in ranked])
        heads = torch.tensor([head for _, head in ranked])
        # Adding a row of zeros to the other heads is cheaper than picking some out and putting
        # them back. A scale would have z of all heads kept for the backward pass, so it picks.
        dense = self.scale is None or len(heads) == self.heads.n_heads

        def placed(tensor: Tensor | None, device: torch.device) -> Tensor | None:
            """The rows of this layer on the device of its activations, one for every head if dense."""
            if tensor is None:
                return None
            here = tensor[rows.to(tensor.device)].to(device)
            if not dense:
                return here
            shape = (self.heads.n_heads, self.d_head)
            return here.new_zeros(shape).index_copy(0, heads.to(device), here)

        parts = self._on_device(
            lambda device: (heads.to(device), placed(self.scale, device), placed(self.bias, device))
        )

        def change(z: Float[Tensor, "batch pos head d_head"]) -> Tensor:
            index, scale, bias = parts(z.device)
            width = z.shape[-1]
            after = z if dense else z.index_select(-2, index)
            if scale is not None:
                after = after * (1 + scale[:, :width])
            if bias is not None:
                after = after + bias[:, :width]
            return after if dense else z.index_copy(-2, index, after)

        return change
