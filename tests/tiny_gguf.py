"""A Hugging Face Llama as a GGUF file, the way llama.cpp's converter writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write_gguf(
    folder: Path, file: Path, *, half: bool = False, rope_factors: torch.Tensor | None = None
) -> Path:
    """Write a Llama folder with a byte-level BPE tokenizer as one GGUF file.

    Args:
        folder: The model.
        file: Where to write.
        half: Whether matrices are written in float16, else in float32.
        rope_factors: What llama.cpp divides rotary frequencies by, as in Llama 3.1.
    """
    from gguf import GGUFWriter

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    writer = GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, folder)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(_name(name), _as_stored(name, tensor, config, half=half))
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: Any, folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)


def _name(name: str) -> str:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _, _, layer, inside = name.split(".", 3)
    return f"blk.{layer}.{_LAYER[inside.removesuffix('.weight')]}.weight"


def _as_stored(name: str, tensor: torch.Tensor, config: Any, *, half: bool) -> np.ndarray:
    """A tensor with the two halves of each rotated head interleaved, as llama.cpp has them."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for projection, n in heads.items():
        if projection in name:
            tensor = tensor.unflatten(0, (n, 2, -1)).transpose(1, 2).flatten(0, 2)
    stored = tensor.contiguous().numpy()
    return stored.astype(np.float16) if half and tensor.ndim > 1 else stored
