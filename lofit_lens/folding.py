"""Folding an intervention into the weights of the attention output projection.

`z' = (1 + A) z + v` at every position is the same as `b_O += sum_h v_h W_O[h]` with the original
`W_O`, followed by `W_O[h] *= (1 + A_h)` (paper, section 3: no cost at inference).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lofit_lens.attention import output_projection
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import UnsupportedError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class Folded:
    """A fold in force; `undo()`, or leaving it as a context, restores the weights bit by bit.

    Folds undo in any order only if they touch different layers; otherwise undo the last first.
    """

    def __init__(self, originals: list[tuple[Any, Tensor, Tensor | None]]) -> None:
        self._originals = originals

    def undo(self) -> None:
        """Put the original weights back; a second call does nothing."""
        while self._originals:
            projection, weight, bias = self._originals.pop()
            projection.weight = nn.Parameter(weight, requires_grad=False)
            projection.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def __enter__(self) -> Folded:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def fold(model: TransformerBridge, intervention: HeadIntervention) -> Folded:
    """Write an intervention into the weights of a loaded model, in memory.

    Args:
        model: The model; its weights change until the fold is undone.
        intervention: An edit of scope "all".

    Returns:
        A handle that undoes the fold, also usable as a context manager.

    Raises:
        UnsupportedError: Another scope than "all", quantised weights, or scale on weights that
            TransformerLens has processed.
        ModelMismatchError: The heads belong to another model shape.

    Examples:
        >>> with fold(model, tuned):  # doctest: +SKIP
        ...     model.generate("Q: Can pigs fly? A:")
    """
    check_foldable(intervention)
    intervention.check_model(model)
    layers = intervention.heads.layers()
    projections = {layer: output_projection(model, layer) for layer in layers}
    originals = [(p, p.weight.data, None if p.bias is None else p.bias.data)
                 for p in projections.values()]  # fmt: skip
    folded = Folded(originals)
    try:
        for layer, projection in projections.items():
            fold_projection(projection, intervention, layer)
    except BaseException:
        folded.undo()
        raise
    return folded


def check_foldable(intervention: HeadIntervention) -> None:
    """Refuse an edit that depends on the position.

    Raises:
        UnsupportedError: The scope is not "all".
    """
    if intervention.scope != "all":
        raise UnsupportedError(
            f'An edit of scope "{intervention.scope}" depends on the position, so it cannot be '
            'folded into weights. Keep it as hooks (`applied`), or tune with scope="all".'
        )


def fold_projection(projection: Any, intervention: HeadIntervention, layer: int) -> None:
    """Fold one layer of an intervention into an output projection; new tensors take the place.

    Computed in float64 and cast back to the type of the weights.
    """
    weight, bias = projection.weight, projection.bias
    by_input = weight.data if isinstance(projection, Conv1D) else weight.data.T
    per_head: Float[Tensor, "head d_head d_model"] = by_input.double().unflatten(
        0, (intervention.heads.n_heads, -1)
    )
    width = per_head.shape[1]  # heads of other layers may be wider
    ranked = intervention.heads.in_layer(layer)
    rows = [rank for rank, _ in ranked]
    heads = [head for _, head in ranked]
    if intervention.bias is not None:
        offset = intervention.bias[rows, :width].to(per_head)
        added = torch.einsum("kd,kdm->m", offset, per_head[heads])
        before = 0 if bias is None else bias.data.double()
        projection.bias = nn.Parameter((before + added).to(weight.dtype), requires_grad=False)
    if intervention.scale is not None:
        scaled = per_head.clone()
        scaled[heads] *= 1 + intervention.scale[rows, :width].to(per_head)[..., None]
        flat = scaled.flatten(0, 1)
        new = flat if isinstance(projection, Conv1D) else flat.T
        projection.weight = nn.Parameter(new.contiguous().to(weight.dtype), requires_grad=False)
