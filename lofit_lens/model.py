"""Models: loading a frozen native bridge, and refusing what does not fit it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.identity import EMBEDDED, EMBEDDED_FOLDER
from lofit_lens.tokenizer import attach_tokenizer, load_tokenizer, stand_in

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.heads import HeadSet

DtypeName = Literal["float32", "bfloat16", "float16"]


def load_model(
    name_or_folder: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: DtypeName | torch.dtype | None = None,
    revision: str | None = None,
    n_devices: int | None = None,
    device_map: str | dict[str, str | int] | None = None,
) -> TransformerBridge:
    """Load a language model as a frozen, native `TransformerBridge` in eval mode.

    Native means: no compatibility mode and no weight processing, so logits equal those of
    Hugging Face with eager attention.

    Args:
        name_or_folder: "embedded" for the small model that comes with the package, a local folder
            in Hugging Face format, the name of a folder inside `$LOFIT_LENS_MODELS`, or a name on
            the Hugging Face hub.
        device: Where to put the model. Default: CUDA when present, else the CPU.
        dtype: Weights' type. Default: bfloat16 on CUDA where supported, else float32.
        revision: Branch, tag or commit on the hub.
        n_devices: Spread the model over this many CUDA devices.
        device_map: Placement as in `transformers`, as "auto"; excludes `device`.

    Raises:
        LofitLensError: The model cannot be found or read.

    Examples:
        >>> model = load_model("embedded")  # doctest: +SKIP
        >>> model = load_model("meta-llama/Llama-2-7b-hf", dtype="bfloat16")  # doctest: +SKIP
    """
    from safetensors import SafetensorError
    from transformer_lens.model_bridge import TransformerBridge

    spread = n_devices is not None or device_map is not None
    if spread and device is not None:
        raise LofitLensError("Give either device, or n_devices / device_map to spread the model.")
    on_cuda = torch.cuda.is_available() and (device is None or torch.device(device).type == "cuda")
    if device is None and not spread:
        device = "cuda" if on_cuda else "cpu"
    if dtype is None:
        dtype = torch.bfloat16 if on_cuda and torch.cuda.is_bf16_supported() else torch.float32
    elif isinstance(dtype, str):
        dtype = _dtype_from_name(dtype)

    source = find_model(name_or_folder)
    try:
        model = TransformerBridge.boot_transformers(
            source,
            device=device,
            dtype=dtype,
            revision=revision,
            n_devices=n_devices,
            device_map=device_map,
            tokenizer=stand_in(),
        )
        attach_tokenizer(model, load_tokenizer(source, revision=revision))
    except (
        OSError, ValueError, RuntimeError, AssertionError, NotImplementedError, SafetensorError
    ) as error:  # fmt: skip
        if "out of memory" in str(error):
            raise
        raise LofitLensError(
            f"Could not load the model {str(name_or_folder)!r}: {error}\nGive a folder in Hugging "
            "Face format (config.json, *.safetensors, tokenizer.json) or a name on the hub."
        ) from error
    return freeze(model)


def find_model(name_or_folder: str | Path) -> str:
    """The folder or hub name that `load_model` loads.

    Raises:
        LofitLensError: The text is a path to something that is not a model folder.
    """
    if name_or_folder == EMBEDDED:
        return str(EMBEDDED_FOLDER)
    here = Path(name_or_folder).expanduser()
    shelf = os.environ.get("LOFIT_LENS_MODELS")
    candidates = [here] + ([Path(shelf) / here] if shelf and not here.is_absolute() else [])
    for folder in candidates:
        if (folder / "config.json").is_file():
            return str(folder.resolve())
        if folder.exists():
            raise LofitLensError(f"{folder} is not a model folder: it has no config.json.")
    if here.is_absolute() or str(name_or_folder).startswith((".", "~")):
        raise LofitLensError(f"There is no model folder {here}.")
    return str(name_or_folder)


def freeze(model: TransformerBridge) -> TransformerBridge:
    """Put a bridge in eval mode without trainable parameters; booting makes new ones."""
    model.requires_grad_(False)
    model.eval()
    return model


def check_head_shape(model: TransformerBridge, heads: HeadSet) -> None:
    """Refuse heads of another model shape.

    Raises:
        ModelMismatchError: Layers or heads differ.
    """
    cfg = model.cfg
    if (heads.n_layers, heads.n_heads) != (cfg.n_layers, cfg.n_heads):
        raise ModelMismatchError(
            f"The heads belong to a model of {heads.n_layers} layers x {heads.n_heads} heads, this "
            f"one has {cfg.n_layers} x {cfg.n_heads}. Select heads on this model."
        )


def check_layers(layers: Sequence[int], n_layers: int) -> None:
    """Refuse layers that a model does not have, none at all, or repeats.

    Raises:
        LofitLensError: One of the three.
    """
    outside = [layer for layer in layers if not 0 <= layer < n_layers]
    if outside or not layers or len(set(layers)) < len(layers):
        raise LofitLensError(
            f"layers must be different numbers from 0 to {n_layers - 1}, got {layers}."
        )


def output_projection(model: TransformerBridge, layer: int) -> Any:
    """The attention output projection of a layer, with its own `weight` and `bias`.

    Raises:
        UnsupportedError: Its weights are quantised.
    """
    projection = model.blocks[layer].attn.o.original_component
    if projection.weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UnsupportedError(
            "The weights are quantised, so they cannot be read or folded. Keep the intervention as "
            "hooks (`applied`), or load the model in bfloat16."
        )
    return projection


def _dtype_from_name(name: str) -> torch.dtype:
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in names:
        raise LofitLensError(f"dtype must be one of {', '.join(names)}, got {name!r}.")
    return names[name]
