"""Tiny random models of the families that people bring, as configurations of `transformers`."""

from __future__ import annotations

from typing import Any

VOCAB, N_HEADS, N_LAYERS, WINDOW = 320, 4, 4, 16

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_GQA = _COMMON | {"num_key_value_heads": 2}
_WIDE = _GQA | {"head_dim": 24}  # unlike hidden_size / heads
_GEMMA2 = _WIDE | {"query_pre_attn_scalar": 24, "sliding_window": WINDOW}
_MOE = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCAB, "n_embd": 64, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_positions": 128,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_GPT_NEO: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "num_layers": N_LAYERS, "num_heads": N_HEADS,
    "attention_types": [[["global", "local"], 2]], "max_position_embeddings": 128,
    "window_size": WINDOW, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_MPT: dict[str, Any] = {
    "vocab_size": VOCAB, "d_model": 64, "n_layers": N_LAYERS, "n_heads": N_HEADS,
    "max_seq_len": 128, "expansion_ratio": 2,
}  # fmt: skip
_BLOOM: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "n_layer": N_LAYERS, "n_head": N_HEADS,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
_EVERY_OTHER = ["linear_attention", "full_attention"] * 2
_DELTA_NET = _WIDE | {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "layer_types": _EVERY_OTHER,
}  # fmt: skip
_MLA = _COMMON | {
    "num_key_value_heads": 4, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 20, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8}
_GRANITE4 = _GQA | _MAMBA2 | {
    "layer_types": ["mamba", "attention"] * 2, "num_local_experts": 0,
    "shared_intermediate_size": 96,
}  # fmt: skip
_ALTERNATING = ["sliding_attention", "full_attention"] * 2

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", _WIDE),
    "Llama, tied": ("LlamaConfig", _WIDE | {"tie_word_embeddings": True}),
    "Llama, 1 key/value head": ("LlamaConfig", _WIDE | {"num_key_value_heads": 1}),
    "Llama, attention bias": ("LlamaConfig", _WIDE | {"attention_bias": True}),
    "Llama, Llama-3 rope": ("LlamaConfig", _WIDE | {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    "Mistral": ("MistralConfig", _WIDE | {"sliding_window": None}),
    "Mistral, window": ("MistralConfig", _WIDE | {"sliding_window": WINDOW}),
    "Ministral 3": ("Ministral3Config", _WIDE),
    "Mixtral": ("MixtralConfig", _GQA | {"num_local_experts": 4}),
    "Qwen2": ("Qwen2Config", _GQA),
    "Qwen2-MoE": ("Qwen2MoeConfig", _GQA | _MOE),
    "Qwen3": ("Qwen3Config", _WIDE),
    "Qwen3-MoE": ("Qwen3MoeConfig", _WIDE | _MOE),
    "Qwen3-Next": ("Qwen3NextConfig", _DELTA_NET | _MOE),
    "Qwen3.5": ("Qwen3_5TextConfig", _DELTA_NET),
    "Gemma": ("GemmaConfig", _WIDE),
    "Gemma 2": ("Gemma2Config", _GEMMA2),
    "Gemma 3": ("Gemma3TextConfig", _GEMMA2 | {"layer_types": _ALTERNATING}),
    "Gemma 3 with a vision tower": ("Gemma3Config", {
        "text_config": _GEMMA2 | {"layer_types": _ALTERNATING}, "boi_token_index": 5,
        "eoi_token_index": 6, "image_token_index": 7, "mm_tokens_per_image": 4, "vision_config": {
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14}}),
    "Gemma 3n": ("Gemma3nTextConfig", _WIDE | {
        "layer_types": _ALTERNATING, "sliding_window": WINDOW, "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0, "laurel_rank": 8,
        "intermediate_size": 96, "activation_sparsity_pattern": [0.0] * N_LAYERS}),
    "Gemma 4": ("Gemma4TextConfig", _WIDE | {
        "global_head_dim": 40, "sliding_window": WINDOW, "layer_types": _ALTERNATING,
        "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCAB,
        "num_kv_shared_layers": 0}),
    "Phi": ("PhiConfig", _COMMON),
    "Phi-3": ("Phi3Config", _GQA | {"pad_token_id": 1}),
    "OLMo": ("OlmoConfig", _GQA),
    "OLMo 2": ("Olmo2Config", _GQA),
    "OLMo 3": ("Olmo3Config", _GQA | {"sliding_window": WINDOW, "layer_types": _ALTERNATING}),
    "OLMoE": ("OlmoeConfig", _GQA | {"num_experts": 4, "num_experts_per_tok": 2}),
    "GPT-2": ("GPT2Config", _GPT2),
    "GPT-Neo": ("GPTNeoConfig", _GPT_NEO),
    "GPT-NeoX": ("GPTNeoXConfig", _COMMON),
    "GPT-J": ("GPTJConfig", _GPT2 | {"rotary_dim": 8}),
    "CodeGen": ("CodeGenConfig", _GPT2 | {"rotary_dim": 8}),
    "OPT": ("OPTConfig", _COMMON | {"ffn_dim": 96, "word_embed_proj_dim": 64, "pad_token_id": 1}),
    "BLOOM": ("BloomConfig", _BLOOM),
    "Falcon": ("FalconConfig", _COMMON | {"multi_query": False, "parallel_attn": True}),
    "MPT": ("MptConfig", _MPT),
    "StableLM": ("StableLmConfig", _GQA),
    "Starcoder 2": ("Starcoder2Config", _GQA),
    "Cohere": ("CohereConfig", _GQA | {"pad_token_id": 0}),
    "Cohere 2": ("Cohere2Config", _WIDE | {"pad_token_id": 0, "sliding_window": WINDOW}),
    "GLM": ("GlmConfig", _WIDE | {"pad_token_id": 1}),
    "GLM-4": ("Glm4Config", _WIDE | {"pad_token_id": 1}),
    "Granite": ("GraniteConfig", _GQA),
    "EXAONE 4": ("Exaone4Config", _WIDE | {"sliding_window": WINDOW}),
    "Seed-OSS": ("SeedOssConfig", _WIDE),
    "ERNIE 4.5": ("Ernie4_5Config", _WIDE),
    "SmolLM3": ("SmolLM3Config", _GQA | {"pad_token_id": 1}),
    "Nemotron": ("NemotronConfig", _WIDE),
    "Arcee": ("ArceeConfig", _WIDE),
    "Apertus": ("ApertusConfig", _WIDE | {"pad_token_id": 1}),
    "GPT-OSS": ("GptOssConfig", _WIDE | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW,
        "layer_types": _ALTERNATING, "pad_token_id": 1}),
    "DeepSeek-V2": ("DeepseekV2Config", _MLA | {"q_lora_rank": None}),
    "DeepSeek-V3": ("DeepseekV3Config", _MLA | {"q_lora_rank": 24}),
    "LFM2": ("Lfm2Config", _GQA | {"layer_types": ["conv", "full_attention"] * 2}),
    "Jamba": ("JambaConfig", _GQA | {
        "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "num_experts": 2,
        "use_mamba_kernels": False, "pad_token_id": 1}),
    "Bamba": ("BambaConfig", _GQA | _MAMBA2 | {"attn_layer_indices": [1, 3]}),
    "Falcon-H1": ("FalconH1Config", _GQA | {
        "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8,
        "mamba_n_groups": 1}),
    "Granite 4, rotary positions": ("GraniteMoeHybridConfig", _GRANITE4 | {
        "position_embedding_type": "rope"}),
    "Granite 4, no positions": ("GraniteMoeHybridConfig", _GRANITE4),
    "Nemotron-H": ("NemotronHConfig", _GQA),
    "RecurrentGemma": ("RecurrentGemmaConfig", _GQA | {
        "lru_width": 64, "attention_window_size": WINDOW,
        "block_types": ["recurrent", "attention"]}),
    "Mamba": ("MambaConfig", {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 4,
                              "state_size": 8, "bos_token_id": 0, "eos_token_id": 1}),
    "Mamba 2": ("Mamba2Config", {
        "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 4, "state_size": 8,
        "num_heads": 8, "head_dim": 16, "n_groups": 1, "bos_token_id": 0, "eos_token_id": 1}),
    "RWKV": ("RwkvConfig", {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 4,
                            "bos_token_id": 0, "eos_token_id": 1}),
    "Helium": ("HeliumConfig", _WIDE),
    "BioGPT": ("BioGptConfig", _COMMON | {"pad_token_id": 1}),
    "BERT": ("BertConfig", _COMMON | {"pad_token_id": 1}),
    "T5": ("T5Config", {
        "vocab_size": VOCAB, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4,
        "decoder_start_token_id": 0}),
}  # fmt: skip
"""Name to the configuration's class and its fields."""


def config_of(family: str) -> Any:
    """The configuration of a tiny model of a family."""
    import transformers

    name, fields = CONFIGS[family]
    return getattr(transformers, name)(**fields)
