"""The models of the benchmarks: plain and bridged around the same weights."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from benchmarks.texts import Texts, tokenizer_of
from lofit_lens.model import freeze
from lofit_lens.tokens import Encoder


@dataclass(frozen=True)
class Shape:
    """A Llama with random weights.

    Attributes:
        layers: Number of layers.
        d_model: Size of the residual stream.
        heads: Query heads per layer.
        kv_heads: Key/value heads per layer.
        d_mlp: Size of the hidden layer.
        d_vocab: Size of the vocabulary.
    """

    layers: int
    d_model: int
    heads: int
    kv_heads: int
    d_mlp: int
    d_vocab: int


SHAPES = {
    "tiny": Shape(4, 64, 4, 4, 172, 512),  # the 7B shape in small: every head its own keys
    "30M": Shape(8, 512, 8, 2, 1408, 8000),
    "110M": Shape(12, 768, 12, 4, 2048, 16000),
    "7B": Shape(32, 4096, 32, 32, 11008, 32000),
    "13B": Shape(40, 5120, 40, 40, 13824, 32000),
}
STORIES = "stories3M"
"""A real model, in the folder `$LOFIT_LENS_MODELS`."""

WORK = {
    "tiny": (2, 4),
    STORIES: (8, 16),
    "30M": (4, 24),
    "110M": (2, 12),
    "7B": (4, 32),
    "13B": (4, 32),
}
"""Training batches and scored questions in a round, so that a round takes seconds."""

CONTEXT = 1024


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to measure on.

    Attributes:
        name: Its name.
        plain: The Hugging Face model, frozen, with scaled-dot-product attention.
        tokenizer: Its tokenizer.
        n_batches: Training batches in a round.
        n_items: Scored questions in a round.
    """

    name: str
    plain: Any
    tokenizer: Any
    n_batches: int
    n_items: int

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.plain.device

    @property
    def size(self) -> str:
        """How large it is, in words."""
        weights = list(self.plain.parameters())
        n = sum(weight.numel() for weight in weights)
        held = sum(weight.numel() * weight.element_size() for weight in weights)
        return f"{n / 1e6:,.1f} million parameters, {held / 1e9:.2f} GB."

    @property
    def exact(self) -> bool:
        """Whether results are compared in float32."""
        return self.plain.dtype == torch.float32

    def copy(self, attention: str = "sdpa") -> Any:
        """A plain model with modules of its own around the same weights."""
        shared = {id(tensor): tensor for tensor in self.plain.parameters()}
        twin = copy.deepcopy(self.plain, shared)
        twin.set_attn_implementation(attention)
        return twin

    def bridge(self) -> TransformerBridge:
        """A bridge with modules of its own around the same weights, as `load_model` makes it."""
        return freeze(
            TransformerBridge.boot_transformers(
                self.name, hf_model=self.copy("eager"), tokenizer=self.tokenizer,
                device=self.device, dtype=self.plain.dtype,
            )
        )  # fmt: skip

    @cached_property
    def encoder(self) -> Encoder:
        """Turns text into tokens."""
        return Encoder(self.bridge())


def load_subject(name: str, texts: Texts, device: str, folder: Path) -> Subject | None:
    """Make or load a model by its name.

    Random weights are drawn on the device, in bfloat16 on a GPU, and never written to disk.

    Args:
        name: A key of `SHAPES`, or "stories3M".
        texts: What the tokenizer of a random model is trained on.
        device: "cpu" or "cuda".
        folder: For the tokenizer of a random model; it must last as long as the model.

    Returns:
        The model, or None if it is a real one that is not at hand.
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if name == STORIES:
        folder = Path(os.environ.get("LOFIT_LENS_MODELS", "")) / STORIES
        if not (folder / "config.json").is_file():
            return None
        plain: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, device_map=device, attn_implementation="sdpa"
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    else:
        plain = _random_llama(SHAPES[name], device, dtype)
        tokenizer_of(texts, SHAPES[name].d_vocab).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)  # as `transformers` completes it
    plain.requires_grad_(False).eval()
    return Subject(name, plain, tokenizer, *WORK[name])


def _random_llama(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    config = LlamaConfig(
        vocab_size=shape.d_vocab, hidden_size=shape.d_model, intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, max_position_embeddings=CONTEXT,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
