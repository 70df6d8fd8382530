"""Which server reads a bias of the attention output projection, for which family.

Read in the sources named here; `docs/guide/keep-and-share.md` shows the same table. Transformers is not
in it, since an export is proved by reloading it there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

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

_TABLE = """
LlamaForCausalLM       reads it 0.33.0   reads it 069be0a           does not read it 01ced33
Qwen3ForCausalLM       drops it 0.33.0   refuses the model 069be0a  reads it 00c44c3
GemmaForCausalLM       drops it 0.33.0   -                          refuses the model 00c44c3
Gemma2ForCausalLM      reads it 0.33.0   refuses the model 82234e0  refuses the model 00c44c3
Gemma3ForCausalLM      reads it 0.33.0   does not read it 569a009   refuses the model 01ced33
GPT2LMHeadModel        reads it 0.33.0   reads it 82234e0           reads it 14f57cd
GPTNeoXForCausalLM     reads it 0.33.0*  reads it a0b8c17           reads it 06432df
OPTForCausalLM         reads it 0.33.0   -                          -
BloomForCausalLM       reads it 0.33.0   -                          -
OlmoForCausalLM        reads it 0.33.0*  -                          -
Olmo2ForCausalLM       reads it 0.33.0*  refuses the model 8a5c4e0  does not read it 27822ba
Olmo3ForCausalLM       reads it 0.33.0*  -                          -
PhiForCausalLM         reads it 0.33.0*  reads it 8a5c4e0           reads it 24ab415
GraniteForCausalLM     reads it 0.33.0   reads it 02eabed           -
CohereForCausalLM      drops it 0.33.0   -                          does not read it 01ced33
Cohere2ForCausalLM     drops it 0.33.0   -                          -
Starcoder2ForCausalLM  reads it 0.33.0*  reads it 82234e0           reads it 00c44c3
SmolLM3ForCausalLM     reads it 0.33.0*  -                          -
ArceeForCausalLM       reads it 0.33.0*  -                          -
ApertusForCausalLM     reads it 0.33.0   -                          -
NemotronForCausalLM    reads it 0.33.0   -                          -
Qwen3MoeForCausalLM    drops it 0.33.0   -                          -
GptOssForCausalLM      reads it 0.33.0   -                          -
"""
"""By class of the exported checkpoint, for each of `SERVERS`: what it does, and the release or commit
read; with a star, by its Transformers backend."""


def servers_of(architecture: str) -> dict[str, Reading]:
    """What each server does with the output bias of a checkpoint of a class.

    Args:
        architecture: Class of the exported checkpoint, as "LlamaForCausalLM".
    """
    found = READ.get(architecture, [Reading("not found out")] * len(SERVERS))
    return dict(zip(SERVERS, found, strict=True))


def _reading(cell: str) -> Reading:
    outcome, _, source = cell.rpartition(" ")
    source = source.replace("*", ", by its Transformers backend")
    return Reading(cast(Outcome, outcome), source) if outcome else Reading("not found out")


_ROWS = [re.split(r"\s{2,}", row) for row in _TABLE.strip().splitlines()]
READ = {family: [_reading(cell) for cell in cells] for family, *cells in _ROWS}
"""The classes of which at least one server was read, and what each of `SERVERS` does."""
