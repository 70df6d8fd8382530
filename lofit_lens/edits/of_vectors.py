"""Vectors that other tools made, as edits: ITI's directions, control vectors, vectors by hook point."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lofit_lens.arrays import read_arrays
from lofit_lens.attention import heads_of, no_z
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.edits.on_residual import ResidualIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet
from lofit_lens.positions import TokenScope, check_scope

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_LAYER = re.compile(
    r"(?:(?:model\.|transformer\.|gpt_neox\.)?(?:layers?|h|blocks|direction)[._]?)?(-?\d{1,4})"
    r"(?:\.hook_(?:out|resid_post|(resid_pre)))?"
)
_HEADS = re.compile(r"blocks\.(\d{1,4})\.attn\.hook_z")

_KNOWN = (
    "Known are a layer, as 12, -1, layer_12, direction.12, model.layers.12 or "
    "blocks.12.hook_resid_post, and blocks.12.attn.hook_z."
)


def read_vectors(
    source: str | Path,
    model: TransformerBridge,
    *,
    heads: HeadSet | str | Path | None = None,
    scope: TokenScope = "all",
) -> HeadIntervention | ResidualIntervention:
    """Vectors of another tool as an edit that adds them.

    They are added as they are; `strength * edit` multiplies them, as ITI does by alpha.

    Args:
        source: One of these:
            * ITI: a `.npy` with a direction for every head, `[layer * head, d_head]` or
              `[layer, head, d_head]`;
            * a `.npy` with a vector behind every block, `[layer, d_model]`;
            * vectors by layer or hook point in a `.npz` or `.safetensors`, such as `layer_12`,
              `blocks.12.hook_resid_post` (`[d_model]`) or `blocks.12.attn.hook_z`
              (`[head, d_head]`); layers count from 0, negative ones from the end, and layer 12 is the
              output of block 12;
            * a control vector of repeng or llama.cpp, `.gguf`.
        model: The model they are meant for.
        heads: Heads to take, as a set or a head list; default: those whose vector is not zero.
        scope: The token positions; ITI's own are "iti_compat".

    Returns:
        An edit of heads or of the residual stream, without provenance: of the model only the shape is
        checked.

    Raises:
        LofitLensError: The file is missing, damaged or a pickle, a name or shape in it is not known, or
            the vectors do not fit the model.

    Examples:
        >>> iti = read_vectors("directions.npy", model, heads="top_heads.npy")  # doctest: +SKIP
        >>> evaluate(model, task, 15 * iti)  # doctest: +SKIP
    """
    check_scope(scope)
    path = Path(source)
    arrays = read_arrays(path)
    try:
        z, residual = _by_place(arrays, model)
        if z is not None and residual:
            raise LofitLensError(
                "it has vectors of heads and of the residual stream; keep them apart"
            )
        if z is not None:
            return _of_heads(z, model, heads, scope)
        if heads is not None:
            raise LofitLensError("it has vectors of the residual stream, so heads cannot be chosen")
        vectors = torch.stack(list(residual.values()))
        return ResidualIntervention(vectors, tuple(residual), model.cfg.n_layers, scope)
    except LofitLensError as error:
        raise LofitLensError(
            f"{path} is no edit of this model: {str(error).rstrip('.')}."
        ) from error


def _by_place(
    arrays: Mapping[str, Tensor], model: TransformerBridge
) -> tuple[Tensor | None, dict[int, Tensor]]:
    """Vectors of all heads `[layer, head, d_head]` if there are some, and vectors by layer."""
    n_layers, d_model = model.cfg.n_layers, model.cfg.d_model
    z, residual = no_z(model), {}
    if list(arrays) == [""]:
        array = arrays[""]
        if array.shape in (z.shape, z.flatten(0, 1).shape):
            return array.reshape(z.shape), {}
        if array.shape == (n_layers, d_model):
            return None, dict(enumerate(array))
        shapes = f"{[*z.flatten(0, 1).shape]}, {[*z.shape]} or {[n_layers, d_model]}"
        raise LofitLensError(f"its shape is {[*array.shape]}; expected {shapes}")
    if not arrays:
        raise LofitLensError("it is empty")
    of_heads = False
    for name, array in arrays.items():
        if found := _HEADS.fullmatch(name):
            layer, of_heads = _layer(name, int(found[1]), n_layers), True
            z[layer] = _shaped(name, array, z[layer])
        elif found := _LAYER.fullmatch(name):
            layer = int(found[1]) - (found[2] is not None)
            if found[2] and layer < 0:
                raise LofitLensError(f"{name!r} is in front of the first block, which has no edit")
            layer = _layer(name, layer, n_layers)
            if layer in residual:
                raise LofitLensError(f"{name!r} is the second vector of layer {layer}")
            residual[layer] = _shaped(name, array, torch.empty(d_model))
        else:
            raise LofitLensError(f"{name[:80]!r} names no place in a model. {_KNOWN}")
    return (z if of_heads else None), residual


def _layer(name: str, layer: int, n_layers: int) -> int:
    if not -n_layers <= layer < n_layers:
        raise LofitLensError(f"{name!r} lies outside the model, which has {n_layers} layers")
    return layer % n_layers


def _shaped(name: str, array: Tensor, like: Tensor) -> Tensor:
    """A vector as wanted, given so, flat, or inside lists of one."""
    found, wanted = ([n for n in part.shape if n != 1] for part in (array, like))
    if found not in (wanted, [like.numel()]):
        raise LofitLensError(f"{name!r} has shape {[*array.shape]}; expected {[*like.shape]}")
    return array.reshape(like.shape)


def _of_heads(
    z: Tensor, model: TransformerBridge, heads: HeadSet | str | Path | None, scope: TokenScope
) -> HeadIntervention:
    shape = heads_of(model).shape
    if heads is None:
        heads = HeadSet(map(tuple, z.any(-1).nonzero().tolist()), **shape)
        if not len(heads):
            raise LofitLensError("all its numbers are zero")
    elif not isinstance(heads, HeadSet):
        heads = HeadSet.load(heads, **shape)
    layer, head = torch.tensor(list(heads)).reshape(-1, 2).T
    edit = HeadIntervention(heads, bias=z[layer, head], scope=scope)
    edit.check_model(model)
    return edit
