"""Which server reads a bias of the attention output projection, for which family.

Read in the sources named here; `docs/guide/keep-and-share.md` shows the same table. Transformers is not
in it, since an export is proved by reloading it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["reads it", "drops it", "refuses the model", "does not read it", "not found out"]


@dataclass(frozen=True)
class Reading:
    """What a server does with the bias.

    Attributes:
        outcome: It reads the bias; drops it without a word, so that the edit is lost; refuses the
            model; does not read it, in one of these two ways; or this was not found out.
        source: Release or commit that was read.
    """

    outcome: Outcome
    source: str = ""

    def __str__(self) -> str:
        lost = ", so the edit is lost" if self.outcome == "drops it" else ""
        return f"{self.outcome}{lost} ({self.source})" if self.source else self.outcome


SERVERS = ("vLLM", "llama.cpp", "MLC-LLM")

_VLLM = "0.33.0"
_VLLM_HF = "0.33.0, by its Transformers backend"

_READ: dict[str, dict[str, Reading]] = {
    "LlamaForCausalLM": {
        "vLLM": Reading("reads it", _VLLM),
        "llama.cpp": Reading("reads it", "069be0a"),
        "MLC-LLM": Reading("does not read it", "01ced33"),
    },
    "Qwen3ForCausalLM": {
        "vLLM": Reading("drops it", _VLLM),
        "llama.cpp": Reading("refuses the model", "069be0a"),
        "MLC-LLM": Reading("reads it", "00c44c3"),
    },
    "GemmaForCausalLM": {
        "vLLM": Reading("drops it", _VLLM),
        "MLC-LLM": Reading("refuses the model", "00c44c3"),
    },
    "Gemma2ForCausalLM": {
        "vLLM": Reading("reads it", _VLLM),
        "llama.cpp": Reading("refuses the model", "82234e0"),
        "MLC-LLM": Reading("refuses the model", "00c44c3"),
    },
    "Gemma3ForCausalLM": {
        "vLLM": Reading("reads it", _VLLM),
        "llama.cpp": Reading("does not read it", "569a009"),
        "MLC-LLM": Reading("refuses the model", "01ced33"),
    },
    "GPT2LMHeadModel": {
        "vLLM": Reading("reads it", _VLLM),
        "llama.cpp": Reading("reads it", "82234e0"),
        "MLC-LLM": Reading("reads it", "14f57cd"),
    },
    "GPTNeoXForCausalLM": {
        "vLLM": Reading("reads it", _VLLM_HF),
        "llama.cpp": Reading("reads it", "a0b8c17"),
        "MLC-LLM": Reading("reads it", "06432df"),
    },
    "OPTForCausalLM": {"vLLM": Reading("reads it", _VLLM)},
    "BloomForCausalLM": {"vLLM": Reading("reads it", _VLLM)},
    "OlmoForCausalLM": {"vLLM": Reading("reads it", _VLLM_HF)},
    "Olmo2ForCausalLM": {
        "vLLM": Reading("reads it", _VLLM_HF),
        "llama.cpp": Reading("refuses the model", "8a5c4e0"),
        "MLC-LLM": Reading("does not read it", "27822ba"),
    },
    "Olmo3ForCausalLM": {"vLLM": Reading("reads it", _VLLM_HF)},
    "PhiForCausalLM": {
        "vLLM": Reading("reads it", _VLLM_HF),
        "llama.cpp": Reading("reads it", "8a5c4e0"),
        "MLC-LLM": Reading("reads it", "24ab415"),
    },
    "GraniteForCausalLM": {
        "vLLM": Reading("reads it", _VLLM),
        "llama.cpp": Reading("reads it", "02eabed"),
    },
    "CohereForCausalLM": {
        "vLLM": Reading("drops it", _VLLM),
        "MLC-LLM": Reading("does not read it", "01ced33"),
    },
    "Cohere2ForCausalLM": {"vLLM": Reading("drops it", _VLLM)},
    "Starcoder2ForCausalLM": {
        "vLLM": Reading("reads it", _VLLM_HF),
        "llama.cpp": Reading("reads it", "82234e0"),
        "MLC-LLM": Reading("reads it", "00c44c3"),
    },
    "SmolLM3ForCausalLM": {"vLLM": Reading("reads it", _VLLM_HF)},
    "ArceeForCausalLM": {"vLLM": Reading("reads it", _VLLM_HF)},
    "ApertusForCausalLM": {"vLLM": Reading("reads it", _VLLM)},
    "NemotronForCausalLM": {"vLLM": Reading("reads it", _VLLM)},
    "Qwen3MoeForCausalLM": {"vLLM": Reading("drops it", _VLLM)},
    "GptOssForCausalLM": {"vLLM": Reading("reads it", _VLLM)},
}
"""By class of the exported checkpoint."""


def servers_of(architecture: str) -> dict[str, Reading]:
    """What each server does with the output bias of a checkpoint of a class.

    Args:
        architecture: Class of the exported checkpoint, as "LlamaForCausalLM".
    """
    found = _READ.get(architecture, {})
    return {server: found.get(server, Reading("not found out")) for server in SERVERS}


def families() -> tuple[str, ...]:
    """The classes of which at least one server was read."""
    return tuple(_READ)
