"""The edit itself: per-head scale and bias on `hook_z`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.attention import check_head_shape, real_columns, z_width
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.heads import HeadSet
from lofit_lens.identity import check_same_model, weights_processed
from lofit_lens.positions import PositionTracker, TokenScope, check_scope, tracked_positions
from lofit_lens.provenance import Provenance, unmeasured

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge


HeadTensor = Float[Tensor, "k d_head"]
HookFunction = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class HeadIntervention:
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

    needs_whole_texts = False

    def __post_init__(self) -> None:
        if self.scale is None and self.bias is None:
            raise LofitLensError("An intervention needs scale, bias or both.")
        check_scope(self.scope)
        for name, tensor in (("scale", self.scale), ("bias", self.bias)):
            if tensor is not None and tensor.dtype != torch.float32:
                tensor = tensor.float()  # in bfloat16, 1 + scale would round small scales away
                object.__setattr__(self, name, tensor)
            if tensor is not None and tensor.shape != (len(self.heads), self.d_head):
                raise LofitLensError(
                    f"{name} has shape {tuple(tensor.shape)}; expected one row for each of "
                    f"{len(self.heads)} heads and d_head = {self.d_head} columns."
                )
            if tensor is not None and not torch.isfinite(tensor).all():
                raise LofitLensError(f"{name} holds numbers that are not finite.")

    @property
    def d_head(self) -> int:
        """Size of a head, the widest where they differ."""
        return self._some_tensor.shape[-1]

    @property
    def n_parameters(self) -> int:
        """Numbers stored: heads x d_head, for scale and bias each."""
        return sum(t.numel() for t in (self.scale, self.bias) if t is not None)

    def hooks(
        self, model: TransformerBridge, positions: PositionTracker | None = None
    ) -> list[tuple[str, HookFunction]]:
        """Hook functions for `model.hooks(fwd_hooks=…)`, one per layer with active heads.

        Args:
            model: The model they are meant for.
            positions: The tracker of the positions to edit; only scope "all" does without.

        Raises:
            ModelMismatchError: The heads belong to another model shape.
            UnsupportedError: Scale on a model whose weights TransformerLens has processed.
            LofitLensError: Another scope than "all" without a tracker, or another d_head.
        """
        self.check_model(model)
        if positions is None and self.scope != "all":
            raise LofitLensError(
                f'hooks() alone cannot follow scope "{self.scope}"; use `with edit.applied(model)`.'
            )
        return [
            (f"blocks.{layer}.attn.hook_z", self._hook(layer, positions))
            for layer in self.heads.layers()
        ]

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[PositionTracker]:
        """Edit every forward pass of `model` inside the context.

        Contexts nest: each adds its edit to those outside it, and takes only its own away, also
        after an exception. Run `backward` inside the context.

        Yields:
            The tracker; with another scope than "all", `set_prompt_lengths` on it says how many
            tokens of each row are prompt when prompt and answer come in one forward pass.

        Raises:
            ModelMismatchError, UnsupportedError: See `hooks`.

        Examples:
            >>> with edit.applied(model):  # doctest: +SKIP
            ...     model.generate("Q: Can pigs fly? A:", max_new_tokens=16)
        """
        with (
            tracked_positions(model, self.scope) as positions,
            model.hooks(fwd_hooks=self.hooks(model, positions)),
        ):
            yield positions

    def check_model(self, model: TransformerBridge) -> None:
        """Refuse a model of another shape or, for a learned edit, with other weights.

        Raises:
            ModelMismatchError: They differ; the message says in what.
            UnsupportedError: Scale on a model whose weights TransformerLens has processed.
        """
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
        if self.provenance is not None:
            check_same_model(model, self.provenance.fingerprint, "The intervention")
        if self.scale is not None and weights_processed(model):
            raise UnsupportedError(
                "A scale edit would be wrong on this model: TransformerLens has processed its "
                "weights, which can move value biases out of z. Load it with `load_model`, without "
                "`enable_compatibility_mode`."
            )

    def with_scope(self, scope: TokenScope) -> HeadIntervention:
        """The same edit at other positions; its measured scores are left behind."""
        return replace(self, scope=scope, provenance=unmeasured(self.provenance))

    def __mul__(self, strength: float) -> HeadIntervention:
        return replace(
            self,
            scale=None if self.scale is None else strength * self.scale,
            bias=None if self.bias is None else strength * self.bias,
            provenance=unmeasured(self.provenance),
        )

    __rmul__ = __mul__

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

        norms = np.full((self.heads.n_layers, self.heads.n_heads), np.nan)
        frame = self.frame()
        total = np.hypot(frame["scale_norm"].to_numpy(), frame["bias_norm"].to_numpy())
        norms[frame["layer"].to_numpy(), frame["head"].to_numpy()] = total
        title = f"Norm of the edit of {len(self.heads)} heads"
        if self.provenance is not None:
            task = self.provenance.task
            title += f" for {elided([task], 40)[task]}"
        return head_grid(norms, label="norm", title=title, without=self.heads.without)

    def save(self, folder: str | Path) -> Path:
        """Write the intervention to a folder; see `lofit_lens.edits.files`."""
        from lofit_lens.edits.files import save_intervention

        return save_intervention(self, folder)

    @classmethod
    def load(cls, folder: str | Path, model: TransformerBridge | None = None) -> HeadIntervention:
        """Read an intervention, and refuse it if it was made for another model than `model`.

        Raises:
            LofitLensError: The folder does not hold an edit of heads.
        """
        from lofit_lens.edits.files import load_intervention

        found = load_intervention(folder, model)
        if not isinstance(found, cls):
            raise LofitLensError(
                f"{folder} holds {found!r}; load it with ResidualIntervention.load."
            )
        return found

    def __repr__(self) -> str:
        parts = [n for n, t in (("scale", self.scale), ("bias", self.bias)) if t is not None]
        return (
            f"HeadIntervention({' and '.join(parts)} on {len(self.heads)} heads, "
            f"{self.n_parameters} parameters, scope={self.scope!r})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.frame().head(20).to_html(index=False)}"

    @property
    def _some_tensor(self) -> Tensor:
        tensor = self.bias if self.scale is None else self.scale
        assert tensor is not None
        return tensor

    def _hook(self, layer: int, positions: PositionTracker | None) -> HookFunction:
        ranked = self.heads.in_layer(layer)
        rows = torch.tensor([rank for rank, _ in ranked])
        heads = torch.tensor([head for _, head in ranked])
        # Adding a row of zeros to the other heads is cheaper than picking some out and putting
        # them back. A scale would have z of all heads kept for the backward pass, so it picks.
        dense = self.scale is None or len(heads) == self.heads.n_heads
        learning = self._some_tensor.requires_grad

        def placed(tensor: Tensor | None, device: torch.device) -> Tensor | None:
            """The rows of this layer on the device of its activations, one for every head if dense."""
            if tensor is None:
                return None
            here = tensor[rows.to(tensor.device)].to(device)
            if not dense:
                return here
            shape = (self.heads.n_heads, self.d_head)
            return here.new_zeros(shape).index_copy(0, heads.to(device), here)

        def parts(device: torch.device) -> tuple[Tensor, Tensor | None, Tensor | None]:
            return heads.to(device), placed(self.scale, device), placed(self.bias, device)

        kept = cache(parts)  # a learned edit is copied to each device once

        def edit(z: Float[Tensor, "batch pos head d_head"], hook: object = None) -> Tensor:  # noqa: ARG001
            index, scale, bias = parts(z.device) if learning else kept(z.device)
            width = z.shape[-1]
            before = z if dense else z.index_select(-2, index)
            after = before.float()
            if scale is not None:
                after = after * (1 + scale[:, :width])
            if bias is not None:
                after = after + bias[:, :width]
            after = after.to(z.dtype)
            if positions is not None:
                after = positions.limit(after, before)
            return after if dense else z.index_copy(-2, index, after)

        return edit
