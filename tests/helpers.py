"""Tiny random models of several families, saved as folders, and a tokenizer for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import config
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from lofit_lens.randomness import random_state_kept

N_LAYERS, N_HEADS, D_MODEL, VOCAB, CONTEXT = 3, 4, 64, 320, 128
WINDOW = 16
HEAD_DIM = 24  # unlike D_MODEL / N_HEADS, where a family allows it

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "intermediate_size": 96,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_GQA: dict[str, Any] = _COMMON | {"num_key_value_heads": 2, "head_dim": HEAD_DIM}

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_GQA),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS, n_positions=CONTEXT,
        bos_token_id=0, eos_token_id=1,
    ),
    "neox": lambda: GPTNeoXConfig(**_COMMON),
    "qwen3": lambda: Qwen3Config(**_GQA),
    "gemma2": lambda: Gemma2Config(**_GQA, query_pre_attn_scalar=HEAD_DIM, sliding_window=CONTEXT),
    "mistral": lambda: MistralConfig(**_GQA, sliding_window=None),
    "gemma2-window": lambda: Gemma2Config(
        **_GQA, query_pre_attn_scalar=HEAD_DIM, sliding_window=WINDOW
    ),
    "mistral-window": lambda: MistralConfig(**_GQA, sliding_window=WINDOW),
    "qwen2": lambda: Qwen2Config(**_COMMON, num_key_value_heads=2),
}  # fmt: skip

EXPORTABLE = tuple(family for family in CONFIGS if family != "mistral-window")
"""Families whose edited checkpoint plain `transformers` can hold, bias and all."""

FAMILIES = ("llama", "gpt2", "neox", "qwen3", "gemma2", "mistral")
"""The families every edit is tested on."""

BIT_EQUAL = ("llama", "neox", "qwen3", "gemma2", "mistral")
"""Families whose native bridge gives exactly the logits of Hugging Face; GPT-2 is 1e-6 off."""

TEXT = [
    "Q: What is the colour of the sky?\nA: The sky is blue.",
    "Q: Who lives in the old house?\nA: A grey cat lives in the old house.",
    "The colour of the house is red and the colour of the cat is grey.",
    "Anna has a son, Ben. Ben has a sister, Clara. Clara is the daughter of Anna.",
]


WITHOUT_BOS = ("gpt2", "neox", "qwen2", "qwen3")
"""Families whose tokenizers put nothing in front of a text, here as among their real ones."""


def build_tokenizer(
    *, merges_across_lines: bool = False, adds_bos: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; it may merge `?` with the line break behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=not merges_across_lines
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=CONTEXT
    )


def draw_parameters(model: torch.nn.Module) -> None:
    """Draw every parameter from the global state, biases too, and norms around 1."""
    for name, parameter in model.named_parameters():
        spread = 0.1 if parameter.ndim == 1 else 0.15
        parameter.data = spread * torch.randn_like(parameter)
        if parameter.ndim == 1 and "bias" not in name:
            parameter.data += 1.0


def save_tiny_model(
    family: str, folder: Path, *, seed: int = 0, merges_across_lines: bool = False
) -> Path:
    """Save a random model of a family, every parameter drawn, biases and norms included."""
    with random_state_kept():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(CONFIGS[family]())
        draw_parameters(model)
    model.save_pretrained(folder)
    build_tokenizer(
        merges_across_lines=merges_across_lines, adds_bos=family not in WITHOUT_BOS
    ).save_pretrained(folder)
    return folder


def load_plain(folder: Path | str) -> Any:
    """The same model in plain `transformers`, with eager attention."""
    return AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


def plain_projections(model: Any) -> list[torch.nn.Module]:
    """The attention output projections of a plain model, by layer."""
    endings = ("self_attn.o_proj", "attn.c_proj", "attention.dense")
    return [module for name, module in model.named_modules() if name.endswith(endings)]


SOME_HEADS = ((0, 3), (2, 1), (0, 0), (2, 2))
"""Two heads in each of two layers, out of order; layer 1 has none."""


def draw_edit(
    model: Any,
    *,
    scale: bool = True,
    bias: bool = True,
    scope: Any = "all",
    heads: Iterable[tuple[int, int]] = SOME_HEADS,
    seed: int = 0,
) -> Any:
    """A random intervention, large enough to change every logit."""
    from lofit_lens.attention import heads_of, real_columns
    from lofit_lens.edits.on_heads import HeadIntervention
    from lofit_lens.heads import HeadSet

    chosen = HeadSet(heads, **heads_of(model).shape)
    generator = torch.Generator().manual_seed(seed)
    real = real_columns(model, chosen)
    drawn = [0.5 * torch.randn(real.shape, generator=generator) * real for _ in range(2)]
    return HeadIntervention(
        chosen, scale=drawn[0] if scale else None, bias=drawn[1] if bias else None, scope=scope
    )


@contextmanager
def edited_plain(
    plain: Any, *edits: Any, where: Callable[[int], torch.Tensor] | None = None
) -> Iterator[None]:
    """The oracle: `z * (1 + A) + v` before each projection of a plain model, on all of `z`.

    `where` says, for a number of positions, which of them are edited; None means all.
    """

    def dense(edit: Any, rows: torch.Tensor | None, layer: int) -> torch.Tensor:
        heads = edit.heads
        grid = torch.zeros(heads.n_layers, heads.n_heads, edit.d_head)
        if rows is not None:
            grid = grid.index_put(tuple(torch.tensor(list(heads)).T), rows)
        return grid[layer].flatten()

    def change(layer: int, z: torch.Tensor) -> torch.Tensor:
        for edit in edits:
            scale, bias = dense(edit, edit.scale, layer), dense(edit, edit.bias, layer)
            after = (z.float() * (1 + scale) + bias).to(z.dtype)
            z = after if where is None else torch.where(where(z.shape[1])[..., None], after, z)
        return z

    with hooked_projections(plain, change):
        yield


@contextmanager
def hooked_projections(
    plain: Any, change: Callable[[int, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Put what enters each output projection of a plain model, all heads in one, through a function."""

    def pre_hook(layer: int) -> Callable[..., tuple[torch.Tensor]]:
        return lambda _module, args: (change(layer, args[0]),)

    handles = [
        projection.register_forward_pre_hook(pre_hook(layer))
        for layer, projection in enumerate(plain_projections(plain))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def draw_tokens(rows: int = 2, length: int = 12, *, vocab: int = VOCAB, seed: int = 0) -> Any:
    """Random token ids without BOS and EOS."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab, (rows, length), generator=generator)


def assert_same_logits(
    found: torch.Tensor, expected: torch.Tensor, *, exactly: bool = False, rel: float = 2e-6
) -> None:
    """Bit-equal, or within `rel` of the largest logit (4 to 10 in these random models)."""
    if exactly:
        assert torch.equal(found, expected)
    else:
        worst = float((found.detach() - expected.detach()).abs().max())
        assert worst <= rel * float(expected.detach().abs().max()), worst


def count_hooks(model: Any) -> int:
    """Forward hooks and pre-hooks on every module of a bridge and of the model it wraps."""
    modules = {*model.modules(), *model.original_model.modules()}
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@contextmanager
def type_checks_off() -> Iterator[None]:
    """Without the shape checks of the tests, as a user meets the code."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def train(model: Any, task: Any, heads: Any, component: Any, config: Any, *, progress: bool) -> Any:
    """The scale or the bias of some heads, trained alone."""
    from lofit_lens.errors import TrainingStopped
    from lofit_lens.training.loop import train_together

    (found,) = train_together(model, task, [(heads, config)], component, progress=progress)
    if isinstance(found, TrainingStopped):
        raise found
    return found
