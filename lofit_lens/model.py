"""Models: loading a frozen native bridge, and refusing what does not fit it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lofit_lens.errors import LofitLensError, check_one_of
from lofit_lens.loading.boot import Placement, boot, told_in_a_line
from lofit_lens.loading.find import find_model
from lofit_lens.loading.hub import on_hub
from lofit_lens.loading.quantized import Quantization, check_quantization
from lofit_lens.randomness import random_state_kept
from lofit_lens.tokenizer import load_tokenizer
from lofit_lens.usable import check_usable

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

DtypeName = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@random_state_kept()
def load_model(
    name_or_folder: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: DtypeName | torch.dtype | None = None,
    quantization: Quantization | None = None,
    revision: str | None = None,
    n_devices: int | None = None,
    device_map: str | dict[str, str | int] | None = None,
) -> TransformerBridge:
    """Load a language model as a frozen, native `TransformerBridge` in eval mode.

    Native means: no compatibility mode and no weight processing, so logits equal those of
    Hugging Face with eager attention. Nothing is installed on the way.

    Args:
        name_or_folder: "embedded" for the small model that comes with the package, a local folder
            in Hugging Face format, a GGUF file or a folder with one (its weights are dequantised;
            extra `gguf`), the name of either inside `$LOFIT_LENS_MODELS`, or a name on the Hugging
            Face hub. A folder without a tokenizer gives a model without one, for hooks on token
            ids.
        device: Where to put the model. Default: CUDA when present, else the CPU.
        dtype: Weights' type. Default: bfloat16 on CUDA where supported, else float32.
        quantization: "bnb-4bit" or "bnb-8bit": linear layers in 4 (NF4) or 8 bits by bitsandbytes
            (extra `quantized`), on CUDA only. Such weights cannot be folded or exported.
        revision: Branch, tag or commit on the hub.
        n_devices: Spread the model over this many CUDA devices.
        device_map: Placement as in `transformers`, as "auto"; excludes `device`.

    Raises:
        LofitLensError: The model cannot be found or read.
        UnsupportedError: It has no attention heads to edit, TransformerLens cannot run it, or
            quantisation was asked for where there is no CUDA device.

    Examples:
        >>> model = load_model("embedded")  # doctest: +SKIP
        >>> model = load_model("meta-llama/Llama-2-7b-hf", dtype="bfloat16")  # doctest: +SKIP
        >>> model = load_model("SmolLM2-135M-Instruct-Q4_1.gguf")  # doctest: +SKIP
    """
    place, dtype = placed(device, dtype, n_devices, device_map)
    source = find_model(name_or_folder)
    if quantization is not None:
        check_quantization(quantization, place.device, source)
    with (
        on_hub(source, revision) as commit,
        told_in_a_line(str(name_or_folder), quantization),
    ):
        model = boot(
            source,
            placement=place,
            dtype=dtype,
            revision=commit or revision,
            quantization=quantization,
        )
        if commit is not None:  # newer versions of Transformers do not keep it
            model.original_model.config._commit_hash = commit  # pyright: ignore
    return check_usable(freeze(model))


def read_tokenizer(name_or_folder: str | Path, *, revision: str | None = None) -> Any:
    """The tokenizer of a model that is not loaded; None for a folder without one.

    Args:
        name_or_folder: As `load_model` takes it.
        revision: Branch, tag or commit on the hub.

    Raises:
        LofitLensError: The model cannot be found, or its tokenizer not be read.
    """
    source = find_model(name_or_folder)
    with on_hub(source, revision) as commit, told_in_a_line(str(name_or_folder), None):
        return load_tokenizer(source, revision=commit or revision)


def placed(
    device: str | torch.device | None,
    dtype: DtypeName | torch.dtype | None,
    n_devices: int | None = None,
    device_map: str | dict[str, str | int] | None = None,
) -> tuple[Placement, torch.dtype]:
    """Where a model goes and in which type, by the defaults of `load_model`.

    Raises:
        LofitLensError: A device together with a spread, one that is not there, or an unknown type.
    """
    spread = n_devices is not None or device_map is not None
    if spread and device is not None:
        raise LofitLensError("Give either device, or n_devices / device_map to spread the model.")
    on_cuda = torch.cuda.is_available() if device is None else _is_cuda(device)
    if device is None and not spread:
        device = "cuda" if on_cuda else "cpu"
    if dtype is None:
        dtype = torch.bfloat16 if on_cuda and torch.cuda.is_bf16_supported() else torch.float32
    elif isinstance(dtype, str):
        check_one_of("dtype", dtype, DTYPES)
        dtype = DTYPES[dtype]
    return Placement(device, n_devices, device_map), dtype


def freeze(model: TransformerBridge) -> TransformerBridge:
    """Put a bridge in eval mode without trainable parameters; booting makes new ones."""
    model.requires_grad_(False)
    model.eval()
    return model


def _is_cuda(name: str | torch.device) -> bool:
    """Whether a device is a CUDA device; one that is not there is refused."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LofitLensError(f"There is no device {name!r}. Give cpu, cuda, cuda:1, …") from error
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        raise LofitLensError(
            f"There is no device {str(name)!r}; CUDA devices that PyTorch can use here: {there}. Give "
            "another, or leave it out."
        )
    return device.type == "cuda"
