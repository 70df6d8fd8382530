"""The arithmetic that no implementation avoids, and how fast this machine can be at its best.

A frozen model with an edit in layer `lowest` and above costs, for N weights (embeddings left out)
and D tokens, 2ND operations forward and 2ND backward to the activations, no gradient of a weight:
4ND if the edit begins in the first layer. What lies below the lowest edited head need not be
computed again at every step, and backward ends there: both passes begin and end at the output
projection of the lowest layer. The unembedding counts at the positions that predict an answer only.
Attention scores are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from benchmarks.measuring import seconds
from lofit_lens.tokens import EncodedText


def step_flops(config: Any, lowest: int, tokens: int, answer_tokens: int) -> float:
    """Operations of a training step.

    Args:
        config: The Hugging Face configuration of a Llama.
        lowest: The lowest edited layer.
        tokens: Tokens that pass through the layers, padding left out.
        answer_tokens: How many of them predict a token of an answer.
    """
    queries, keys, output, mlp = _weights(config)
    above = config.num_hidden_layers - lowest - 1
    weights = above * (queries + keys + output + mlp) + output + mlp
    return 4 * tokens * weights + 4 * answer_tokens * config.hidden_size * config.vocab_size


def scoring_flops(config: Any, texts: Sequence[EncodedText]) -> float:
    """Operations of scoring texts: every start that texts have in common passes once."""
    starts = {text.ids[:end] for text in texts for end in range(1, len(text.ids))}
    predicting = {text.ids[:end] for text in texts for end in range(text.n_prompt, len(text.ids))}
    layers = config.num_hidden_layers * sum(_weights(config))
    return 2 * len(starts) * layers + 2 * len(predicting) * config.hidden_size * config.vocab_size


def real_tokens(texts: Iterable[EncodedText]) -> int:
    """Tokens that have a next one to predict."""
    return sum(len(text.ids) - 1 for text in texts)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, the best of some."""
    size = 8192 if device.type == "cuda" else 2048
    with torch.random.fork_rng():
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = min(seconds(lambda: torch.mm(a, b), device)[0] for _ in range(10))
    return 2 * size**3 / best


def _weights(config: Any) -> tuple[int, int, int, int]:
    """Weights of one layer: queries, keys with values, output projection, MLP."""
    d_model, d_head = config.hidden_size, config.head_dim
    queries = d_model * config.num_attention_heads * d_head
    keys = 2 * d_model * config.num_key_value_heads * d_head
    return queries, keys, queries, 3 * d_model * config.intermediate_size
