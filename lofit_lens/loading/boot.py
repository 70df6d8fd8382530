"""Booting a native bridge, without what TransformerLens does besides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from lofit_lens.errors import LofitLensError
from lofit_lens.loading.gguf import GGUF, read_gguf, split_source
from lofit_lens.loading.quantized import read_quantized
from lofit_lens.tokenizer import attach_tokenizer, load_tokenizer, stand_in
from lofit_lens.usable import known_family

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Placement:
    """Where a model goes.

    Attributes:
        device: One device, or None if the model is spread.
        n_devices: Over this many CUDA devices.
        device_map: As `transformers` has it.
    """

    device: str | torch.device | None
    n_devices: int | None
    device_map: str | dict[str, str | int] | None

    def as_transformers(self) -> dict[str, Any]:
        """The same for `from_pretrained`."""
        from transformer_lens.utilities.multi_gpu import resolve_device_map

        spread, memory = resolve_device_map(self.n_devices, self.device_map, self.device)
        return {
            "device_map": spread or {"": self.device or "cuda"},
            **({"max_memory": memory} if memory else {}),
        }


def boot(
    source: str,
    *,
    placement: Placement,
    dtype: torch.dtype,
    revision: str | None,
    quantization: str | None,
) -> TransformerBridge:
    """Boot a bridge with the tokenizer of its own folder, or of its GGUF file.

    A plain folder is read by TransformerLens, what it cannot read by Transformers.

    Raises:
        UnsupportedError: TransformerLens does not know the family, or stumbles over it.
    """
    from transformer_lens.model_bridge import TransformerBridge

    config, architecture = family_of(source, revision)
    options: dict[str, Any] = {"n_devices": placement.n_devices, "device_map": placement.device_map}
    if source.endswith(GGUF) or quantization:
        asked = {"revision": revision, "dtype": dtype, **placement.as_transformers()}
        hf_model = (
            read_quantized(source, architecture, quantization, **asked)
            if quantization
            else read_gguf(source, config, **asked)
        )
        options = {"hf_model": hf_model}
    with nothing_installed(), known_family(config):
        model = TransformerBridge.boot_transformers(
            source,
            device=placement.device,
            dtype=dtype,
            revision=revision,
            tokenizer=stand_in(),
            **options,
        )
    attach_tokenizer(model, load_tokenizer(source, revision=revision))
    return model


def family_of(source: str, revision: str | None) -> tuple[Any, str]:
    """The configuration of a model, and the class that TransformerLens knows it by.

    Raises:
        UnsupportedError: TransformerLens does not know the family, or stumbles over it.
    """
    from transformer_lens.model_bridge.sources._hf_format import (
        determine_architecture_from_hf_config,
    )
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    folder, file = split_source(source)
    config = AutoConfig.from_pretrained(folder, revision=revision, **file)
    if not config.architectures:  # a GGUF file names none
        kind = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
        config.architectures = [kind] if isinstance(kind, str) else None
    with known_family(config):
        return config, determine_architecture_from_hf_config(config)


@contextmanager
def nothing_installed() -> Iterator[None]:
    """Keep TransformerLens from installing packages into the user's environment.

    For a model that also sees pictures it runs `pip install torchvision` where that is missing. The
    processor of the pictures is all that needs it; text goes without.
    """
    from transformer_lens.model_bridge.sources.transformers import helpers

    is_there = find_spec("torchvision") is not None
    with patch.object(helpers, "_ensure_torchvision", lambda: is_there):
        yield


@contextmanager
def told_in_a_line(name: str, quantization: str | None) -> Iterator[None]:
    """Turn what libraries raise on a model that cannot be read into one message.

    Raises:
        LofitLensError: What was raised, with what to give instead.
    """
    from safetensors import SafetensorError

    said_all = (OSError, ValueError, ImportError, SafetensorError)
    try:
        yield
    except (*said_all, RuntimeError, AssertionError, NotImplementedError) as error:
        if "out of memory" in str(error):
            raise
        advice = (
            "Give a folder in Hugging Face format (config.json, *.safetensors, tokenizer.json), a "
            "GGUF file, or a name on the hub."
        )
        if quantization:
            advice = (
                "Families that keep query, key and value in one matrix, such as GPT-2 and GPT-NeoX, "
                "cannot be loaded with quantization: TransformerLens takes that matrix apart."
            )
        message = f"Could not load the model {name!r}: {error}\n{advice}"
        raise LofitLensError(message) from (None if isinstance(error, said_all) else error)
