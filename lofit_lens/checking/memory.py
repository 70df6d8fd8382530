"""How much memory the work on a model takes, estimated from its shape.

With B texts of T tokens in a forward pass, e bytes a number, L layers, residual width d, z of all heads
in a layer w, MLP width f, keys and values of a layer k, vocabulary V and A answer tokens:

    training     L B T e (4 d + 3 w + 3.5 f)  +  12 B A V
    scoring      B T e (2 L k + 3 d + 3 f)

each beside the weights. Training keeps what the backward pass through the frozen layers needs, for every
layer; stage 2 less, from the lowest layer with a tuned head on. Scoring holds keys and values, of given
candidates as of generated answers. The factors were fitted to the tensors that were alive at once in
float32 on a CPU, in small Llamas of six shapes with texts of 64 to 486 tokens; the estimate was 0.9 to
1.2 times the measured peak. What a CUDA context and the gaps of an allocator take comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ANSWER = 8
"""Tokens of an answer that are reckoned with."""


TRAINING_BATCH = 8
"""Texts of a step of training: the default of both stages."""


@dataclass(frozen=True)
class Sizes:
    """What the estimate needs to know of a model.

    Attributes:
        parameters: Numbers in the weights.
        n_layers: Layers.
        d_model: Width of the residual stream.
        d_heads: Width of z over all heads of the widest layer.
        d_mlp: Width of what is inside the MLP; of the experts a token goes through, if it has any.
        d_keys: Width of keys, or of values, of a layer.
        d_vocab: Vocabulary.
    """

    parameters: int
    n_layers: int
    d_model: int
    d_heads: int
    d_mlp: int
    d_keys: int
    d_vocab: int


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes, the weights included where work is done.

    Attributes:
        weights: The weights alone.
        scoring: Scoring of given candidates, or of generated answers.
        training: Either stage; tuning takes less if the lowest tuned head is in a high layer.
    """

    weights: int
    scoring: int
    training: int


def memory_needed(sizes: Sizes, *, batch_size: int, length: int, bytes_each: int) -> MemoryNeed:
    """Estimate the memory of the kinds of work; see the module for the formula.

    Args:
        sizes: The model.
        batch_size: Texts in a forward pass of scoring.
        length: Tokens of a text.
        bytes_each: Bytes of a number: 4 in float32, 2 in bfloat16 and float16.
    """
    weights = sizes.parameters * bytes_each
    inside = 3 * sizes.d_model + 3 * sizes.d_mlp
    held = 2 * sizes.n_layers * sizes.d_keys
    kept = 4 * sizes.d_model + 3 * sizes.d_heads + 3.5 * sizes.d_mlp
    training = int(sizes.n_layers * bytes_each * TRAINING_BATCH * length * kept)
    training += 12 * TRAINING_BATCH * ANSWER * sizes.d_vocab
    return MemoryNeed(
        weights=weights,
        scoring=weights + bytes_each * batch_size * length * (held + inside),
        training=weights + training,
    )


def mlp_width(config: Any) -> int:
    """The width inside the MLP of a configuration, of all experts that a token goes through."""
    d_model: int = getattr(config, "hidden_size", None) or config.n_embd
    names = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    dense = next((w for name in names if (w := getattr(config, name, None))), None)
    width = max(dense) if isinstance(dense, list) else dense or 4 * d_model
    experts = getattr(config, "num_experts_per_tok", None) or 0
    return max(width, experts * (getattr(config, "moe_intermediate_size", None) or width))
