"""Models: loading a frozen native bridge, and refusing what does not fit it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from lofit_lens.errors import LofitLensError
from lofit_lens.identity import EMBEDDED, EMBEDDED_FOLDER
from lofit_lens.randomness import random_state_kept
from lofit_lens.tokenizer import attach_tokenizer, load_tokenizer, stand_in
from lofit_lens.usable import check_usable, known_family

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

DtypeName = Literal["float32", "bfloat16", "float16"]


@random_state_kept()
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
        UnsupportedError: It has no attention heads to edit, or TransformerLens cannot run it.

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
        with known_family(source, revision):
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
            f"Could not load the model {str(name_or_folder)!r}: {error}\nGive a folder in "
            "Hugging Face format (config.json, *.safetensors, tokenizer.json) or a name on the hub."
        ) from error
    return check_usable(freeze(model))


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


def _dtype_from_name(name: str) -> torch.dtype:
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in names:
        raise LofitLensError(f"dtype must be one of {', '.join(names)}, got {name!r}.")
    return names[name]
