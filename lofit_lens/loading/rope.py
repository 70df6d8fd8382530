"""Rotary positions of a GGUF file, which Transformers 5 reads as plain ones where they are scaled."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lofit_lens.errors import UnsupportedError

LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""Settings of every Llama 3.1, 3.2 and 3.3; the factor differs and is in the file."""


def set_rope(config: Any, path: str) -> None:
    """Put the scaling of rotary positions that a GGUF file has into its configuration.

    llama.cpp keeps the scaling of Llama 3.1 and later as a tensor of divisors, one for each
    frequency, and others as settings. The first is recognised and set; with others the model would
    compute something else than its file says.

    Raises:
        UnsupportedError: The file scales positions in another way.
    """
    from gguf import GGUFReader

    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        return  # this version of Transformers knows
    reader = GGUFReader(path)
    divisors = next((t.data for t in reader.tensors if t.name == "rope_freqs.weight"), None)
    if divisors is not None:
        found = torch.tensor(divisors).float()
        if not bool((found == 1).all()):
            config.rope_parameters = _as_llama3(found, rope, path)
        return
    names = [name for name in reader.fields if name.endswith(".rope.scaling.type")]
    kind = reader.fields[names[0]].contents() if names else "none"
    if kind != "none":
        raise _refusal(path, str(kind))


def _as_llama3(found: Tensor, rope: dict[str, Any], path: str) -> dict[str, Any]:
    settings = {**LLAMA3, "factor": float(found.max())}
    expected = llama3_divisors(2 * len(found), theta=rope["rope_theta"], **settings)
    if not torch.allclose(found, expected, rtol=1e-4):
        raise _refusal(path, "rope_freqs.weight")
    return {**rope, **settings, "rope_type": "llama3"}


def llama3_divisors(
    d_head: int,
    *,
    theta: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Tensor:
    """What Llama 3.1 divides each rotary frequency by, from the highest to the lowest.

    Wavelengths up to `original / high` stay, those from `original / low` on are `factor` times as
    long, and those between are blended.
    """
    frequency = theta ** -(torch.arange(0, d_head, 2).double() / d_head)
    turns = original_max_position_embeddings * frequency / (2 * math.pi)
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return (1 / ((1 - kept) / factor + kept)).float()


def _refusal(path: str, kind: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path} scales its rotary positions ({kind}), which Transformers does not read from a GGUF "
        "file, so the model would compute something else. Load it from its folder in Hugging Face "
        "format."
    )
