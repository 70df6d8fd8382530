"""The attention of a model: which layers have heads, how wide z is there, and its projections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError, check_whole
from lofit_lens.grid import MOST, Head, HeadGrid, headless

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.heads import HeadSet

WIDTHS: WeakKeyDictionary[Any, tuple[int, ...]] = WeakKeyDictionary()
"""Width of z by layer of each model looked at; 0 where a layer has no heads."""


def heads_of(model: TransformerBridge) -> HeadGrid:
    """The heads of a model; in hybrid families some layers have none.

    Raises:
        UnsupportedError: No layer has heads, or layers differ in their number.
    """
    widths = z_widths(model)
    without = tuple(layer for layer, width in enumerate(widths) if not width)
    return HeadGrid(model.cfg.n_layers, model.cfg.n_heads, without)


def key_value_heads(cfg: Any) -> int:
    """Key/value heads of a layer, from the configuration of a bridge."""
    return getattr(cfg, "n_key_value_heads", None) or cfg.n_heads


def z_widths(model: TransformerBridge) -> tuple[int, ...]:
    """Numbers in the output of one head of each layer, 0 where a layer has no heads.

    They are read from the output projections: with multi-head latent attention (DeepSeek) they are
    not `cfg.d_head`, and some families (Gemma 4) have wider heads in some layers.

    Raises:
        UnsupportedError: No layer has heads, or layers differ in their number.
    """
    if model not in WIDTHS:
        WIDTHS[model] = _read_widths(model)
    return WIDTHS[model]


def z_width(model: TransformerBridge) -> int:
    """The widest z; rows of scale and bias are this long, with zeros behind narrower heads."""
    return max(z_widths(model))


def real_columns(
    model: TransformerBridge, heads: Sequence[Head] | HeadSet
) -> Bool[Tensor, "head d_head"]:
    """Which numbers of the rows of some heads exist, and which only fill up narrower heads."""
    widths = z_widths(model)
    rows = torch.tensor([widths[layer] for layer, _ in heads])
    return torch.arange(max(widths)) < rows[:, None]


def no_z(model: TransformerBridge, *rows: int) -> Float[Tensor, "*rows layer head d_head"]:
    """Zeros for the outputs of all heads, float32 on the CPU.

    They are to be filled where heads are: zeros stay in layers without heads and behind narrower ones.
    """
    shape = (*rows, model.cfg.n_layers, model.cfg.n_heads, z_width(model))
    return torch.zeros(shape, dtype=torch.float32)


def z_hooks(
    model: TransformerBridge, function: Callable[[int], Callable[..., Any]]
) -> list[tuple[str, Callable[..., Any]]]:
    """Hooks for `model.hooks(fwd_hooks=…)` on `hook_z` of every layer that has heads.

    Args:
        model: A bridge.
        function: Gives the hook function of a layer.
    """
    return [(f"blocks.{layer}.attn.hook_z", function(layer)) for layer in heads_of(model).layers]


def output_projection(model: TransformerBridge, layer: int) -> Any:
    """The attention output projection of a layer, with its own `weight` and `bias`.

    Raises:
        UnsupportedError: The layer has no attention, or its weights are quantised.
    """
    projection = _projection(model, layer)
    if projection is None:
        raise UnsupportedError(
            f"Layer {layer} of this model has no attention heads. Choose one of layers "
            f"{', '.join(map(str, heads_of(model).layers))}."
        )
    weight = getattr(projection, "weight", None)
    plain = getattr(weight, "dtype", None) in (torch.float32, torch.bfloat16, torch.float16)
    if not plain or hasattr(weight, "quant_state"):  # which bitsandbytes may keep in any type
        raise UnsupportedError(
            "The weights are quantised, so they cannot be read or folded. Keep the intervention as "
            "hooks (`applied`), or load the model in bfloat16."
        )
    return projection


def device_of(model: TransformerBridge, layer: int | None = None) -> torch.device:
    """Where the outputs of the heads of a layer are; default: of the first layer that has some."""
    place = heads_of(model).layers[0] if layer is None else layer
    projection = _projection(model, place)
    assert projection is not None
    return projection.weight.device


def check_head_shape(model: TransformerBridge, heads: HeadSet) -> None:
    """Refuse heads of another model shape, or in a layer that has none.

    Raises:
        ModelMismatchError: Layers or heads differ.
        UnsupportedError: The model has no heads.
    """
    grid = heads_of(model)
    if (heads.n_layers, heads.n_heads) != (grid.n_layers, grid.n_heads):
        raise ModelMismatchError(
            f"The heads belong to a model of {heads.n_layers} layers x {heads.n_heads} heads, this "
            f"one has {grid.n_layers} x {grid.n_heads}. Select heads on this model."
        )
    missing = [layer for layer in heads.layers() if layer in grid.without]
    if missing:
        raise ModelMismatchError(
            f"This model has {headless(missing)}, so heads there do not fit it. Its heads are in "
            f"layers {', '.join(map(str, grid.layers))}."
        )


def check_layers(layers: Sequence[int], n_layers: int) -> None:
    """Refuse layers that a model does not have, none at all, or repeats.

    Raises:
        LofitLensError: One of the three.
    """
    check_whole("n_layers", n_layers, 1, MOST)
    outside = [layer for layer in layers if not 0 <= layer < n_layers]
    if outside or not layers or len(set(layers)) < len(layers):
        raise LofitLensError(
            f"layers must be different numbers from 0 to {n_layers - 1}, got {layers}."
        )


def _projection(model: TransformerBridge, layer: int) -> Any:
    """The output projection of a layer as the Hugging Face model has it; None without attention."""
    attention = dict(model.blocks[layer].named_children()).get("attn")
    output = None if attention is None else dict(attention.named_children()).get("o")
    return None if output is None else output.original_component


def _read_widths(model: TransformerBridge) -> tuple[int, ...]:
    """The width of z of every layer."""
    name, n_heads = model.cfg.architecture, model.cfg.n_heads
    if "blocks" not in dict(model.named_children()):
        raise UnsupportedError(
            f"{name} is not a decoder-only language model: TransformerLens shows no `blocks` of it. "
            "LoFiT edits the attention heads of a decoder; load one such as Llama or Qwen."
        )
    widths = [_width(model, layer) for layer in range(model.cfg.n_layers)]
    if not any(widths):
        raise UnsupportedError(
            f"{name} has no attention heads that TransformerLens shows in any of its "
            f"{len(widths)} layers, so there is nothing to select or tune. Take a model with "
            "attention, such as Llama or Qwen, or a hybrid one such as Qwen3.5, LFM2 or Jamba."
        )
    if {width % n_heads for width in widths} != {0} or not _alike(model, widths):
        raise UnsupportedError(
            f"The layers of {name} differ in their number of heads, and head sets are of layers x "
            "heads. Take a model with as many heads in every layer that has some."
        )
    widths = [width // n_heads for width in widths]
    for layer, width in enumerate(widths):
        conversion = model.blocks[layer].attn.o.hook_in.hook_conversion if width else None
        if conversion is not None:  # TransformerLens 4.3 splits by `cfg.d_head`, wrong for MLA
            conversion.n_heads, conversion.d_head = n_heads, width
    return tuple(widths)


def _width(model: TransformerBridge, layer: int) -> int:
    """Numbers that enter the output projection of a layer; 0 where there is none."""
    projection = _projection(model, layer)
    if projection is None:
        return 0
    by_input = isinstance(projection, Conv1D)
    return projection.weight.shape[0] if by_input else projection.in_features


def _alike(model: TransformerBridge, widths: Sequence[int]) -> bool:
    """Whether each layer has `cfg.n_heads` heads, as far as its attention says how wide they are."""
    for layer, width in enumerate(widths):
        attention: Any = model.blocks[layer].attn.original_component if width else None
        size = getattr(attention, "v_head_dim", None) or getattr(attention, "head_dim", None)
        if size is not None and width != model.cfg.n_heads * size:
            return False
    return True
