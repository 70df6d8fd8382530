"""Weights in 4 or 8 bits, by bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch

from lofit_lens.errors import LofitLensError, UnsupportedError, check_one_of

Quantization = Literal["bnb-4bit", "bnb-8bit"]


def check_quantization(quantization: str, device: str | torch.device | None, source: str) -> None:
    """Refuse quantised loading where it cannot work, before anything is read.

    Args:
        quantization: Its name.
        device: Where the model goes; None if it is spread over CUDA devices.
        source: What is loaded.

    Raises:
        LofitLensError: An unknown name, a missing package, or a GGUF file.
        UnsupportedError: No CUDA device.
    """
    check_one_of("quantization", quantization, get_args(Quantization))
    if source.endswith(".gguf"):
        raise LofitLensError(
            f"{source} is dequantised when it is read. Give the folder of the original weights to "
            "load it with quantization, or leave quantization out."
        )
    if not torch.cuda.is_available() or (
        device is not None and torch.device(device).type != "cuda"
    ):
        where = f"device={str(device)!r}" if torch.cuda.is_available() else "no CUDA device here"
        raise UnsupportedError(
            f"quantization={quantization!r} needs a CUDA device; there is {where}. Load the model "
            'without it, as dtype="bfloat16".'
        )
    if find_spec("bitsandbytes") is None:
        raise LofitLensError(
            f"quantization={quantization!r} needs the package bitsandbytes: "
            'pip install "lofit-lens[quantized]".'
        )


def read_quantized(
    source: str,
    architecture: str,
    quantization: str,
    *,
    revision: str | None,
    dtype: torch.dtype,
    **placement: Any,
) -> Any:
    """The model in plain Transformers, its linear layers quantised.

    Args:
        source: A folder or a name on the hub.
        architecture: Its class, as `family_of` gives it.
        quantization: "bnb-4bit" (NF4, computed in `dtype`) or "bnb-8bit" (LLM.int8).
        revision: Branch, tag or commit on the hub.
        dtype: Type of what is not quantised.
        placement: `device_map` and `max_memory` of Transformers.
    """
    from transformer_lens.model_bridge.sources.transformers.helpers import (
        get_hf_model_class_for_architecture,
    )
    from transformers import BitsAndBytesConfig

    bits: dict[str, Any] = {"load_in_8bit": True}
    if quantization == "bnb-4bit":
        bits = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
        }
    return get_hf_model_class_for_architecture(architecture).from_pretrained(
        source,
        revision=revision,
        dtype=dtype,
        quantization_config=BitsAndBytesConfig(**bits),
        **placement,
    )


def quantization_of(model: Any) -> str | None:
    """How a loaded bridge was quantised by `load_model`, or None."""
    config: Any = model.original_model.config
    settings = getattr(config, "quantization_config", None)
    for bits in (4, 8):
        if getattr(settings, f"load_in_{bits}bit", False):
            return f"bnb-{bits}bit"
    return None
