"""What a training step and a scoring run cost, as ratios on one thread.

    python benchmarks/step.py [--rounds 7] [--json FILE]

The model is a random Llama of 30 million parameters and, where `LOFIT_LENS_MODELS` names a folder
with it, stories3M. Rivals take turns in every round, so that a busy machine slows them all; a ratio
is the median over rounds of (time / time of the first rival in the same round).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer
from transformers.utils.logging import disable_progress_bar

import lofit_lens as ll
from lofit_lens.positions import known_prompts
from lofit_lens.scoring.logprobs import answer_logprobs, batch_logprobs
from lofit_lens.tokens import EncodedText, Encoder

BATCH, PROMPT, ANSWER = 8, 52, 12
TEXTS, PRIMER, QUESTION = 24, 192, 16

Rivals = dict[str, Callable[[], object]]
Edit = Callable[[Tensor, int], Tensor]


def save_random_llama(folder: Path) -> None:
    """Write a Llama with random weights, and a tokenizer that gives every id a word."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<s>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, config.vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w2"))
    FastTokenizer(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )


def random_texts(
    n: int, prompt: int, answer: int, vocab: int, shared: int = 0
) -> list[EncodedText]:
    """Random token ids; the first `shared` tokens of all texts are the same."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, vocab, (n, prompt + answer), generator=generator)
    ids[:, :shared] = ids[0, :shared]
    return [EncodedText(tuple(row), prompt) for row in ids.tolist()]


def training_rivals(folder: Path) -> Rivals:
    """Forward and backward of one batch, with gradients to the numbers of some heads."""
    stock: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    stock.requires_grad_(False).eval()
    model = ll.load_model(folder, device="cpu", dtype="float32")
    cfg = model.cfg
    batch = Encoder(model).batch(random_texts(BATCH, PROMPT, ANSWER, cfg.d_vocab))
    every = ll.HeadSet.every(n_layers=cfg.n_layers, n_heads=cfg.n_heads)
    k = ll.HeadScores(torch.rand(cfg.n_layers, cfg.n_heads)).top(fraction=0.03)
    # one in layer 0, so that the backward pass runs through the whole network
    few = ll.HeadSet(
        ((i * cfg.n_layers // len(k), i) for i in range(len(k))),
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
    )
    scale = nn.Parameter(1e-3 * torch.randn(cfg.n_layers, cfg.n_heads * cfg.d_head))
    bias = torch.zeros_like(scale)

    def stock_loss(kept: int) -> Tensor:
        logits = stock(batch.tokens, use_cache=False, logits_to_keep=kept).logits
        answers = logits[:, -ANSWER - 1 : -1].flatten(0, 1).float()
        return cross_entropy(answers, batch.tokens[:, -ANSWER:].flatten())

    def plain(edit: Edit, kept: int) -> Callable[[], None]:
        def step() -> None:
            scale.grad = None
            with edited_projections(stock, edit):
                stock_loss(kept).backward()

        return step

    def ours(heads: ll.HeadSet, component: str) -> Callable[[], None]:
        numbers = nn.Parameter(1e-3 * torch.randn(len(heads), cfg.d_head))
        parts: dict[str, Any] = {component: numbers}
        edit = ll.HeadIntervention(heads, **parts)

        def step() -> None:
            numbers.grad = None
            with edit.applied(model), known_prompts(model) as announce:
                (-batch_logprobs(model, batch, announce).sum() / (BATCH * ANSWER)).backward()

        return step

    def dense(z: Tensor, layer: int) -> Tensor:
        return z * (1 + scale[layer])

    def head_by_head(z: Tensor, layer: int) -> Tensor:
        z = z.clone()
        for head in range(cfg.n_heads):
            part = slice(head * cfg.d_head, (head + 1) * cfg.d_head)
            z[..., part] = z[..., part].clone() * (1 + scale[layer, part]) + bias[layer, part]
        return z

    return {
        "plain Hugging Face, dense pre-hooks, all heads": plain(dense, 0),
        "  the same, logits at the answer only": plain(dense, ANSWER + 1),
        f"lofit_lens, bias on 3% of heads ({len(few)} of {len(every)})": ours(few, "bias"),
        f"lofit_lens, scale on all {len(every)} heads": ours(every, "scale"),
        "loop over heads with slice writes": plain(head_by_head, 0),
    }


@contextmanager
def edited_projections(stock: Any, edit: Edit) -> Iterator[None]:
    """Edit what goes into every attention output projection of a plain model."""

    def pre_hook(layer: int) -> Callable[..., tuple[Tensor]]:
        return lambda _, args: (edit(args[0], layer),)

    handles = [
        block.self_attn.o_proj.register_forward_pre_hook(pre_hook(i))
        for i, block in enumerate(stock.model.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def scoring_rivals(folder: Path) -> Rivals:
    """Log-probabilities of answers behind a long prompt that all texts share."""
    model = ll.load_model(folder, device="cpu", dtype="float32")
    texts = random_texts(TEXTS, PRIMER + QUESTION, ANSWER, model.cfg.d_vocab, shared=PRIMER)

    def score(share: bool) -> Callable[[], object]:
        return lambda: answer_logprobs(model, texts, batch_size=8, share_prefix=share)

    return {"share_prefix=False": score(False), "share_prefix=True": score(True)}


def measure(rivals: Rivals, rounds: int) -> dict[str, dict[str, float]]:
    """Run the rivals in turns; medians of seconds and of ratios, with the quartiles of the ratios."""
    for run in rivals.values():  # warm up
        run()
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    table = {}
    for name, times in seconds.items():
        ratios = [mine / base for mine, base in zip(times, first, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
        median = statistics.median(times)
        table[name] = {"seconds": median, "ratio": ratio, "low": low, "high": high}
    return table


def report(title: str, table: dict[str, dict[str, float]]) -> None:
    """Print one table."""
    print(f"\n{title}\n{'':<52}{'ms':>8}{'ratio':>8}  quartiles")
    for name, row in table.items():
        quartiles = f"{row['low']:.2f} - {row['high']:.2f}"
        print(f"{name:<52}{1000 * row['seconds']:8.0f}{row['ratio']:8.2f}  {quartiles}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cost of a training step and of scoring.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        random_llama = Path(temporary) / "random-llama-30M"
        save_random_llama(random_llama)
        folders = [random_llama]
        shelf = os.environ.get("LOFIT_LENS_MODELS")
        if shelf and (Path(shelf) / "stories3M").is_dir():
            folders.append(Path(shelf) / "stories3M")
        for folder in folders:
            name = folder.name
            step = measure(training_rivals(folder), options.rounds)
            report(f"{name}: training step, {BATCH} x {PROMPT + ANSWER} tokens", step)
            scoring = measure(scoring_rivals(folder), max(3, options.rounds // 2))
            report(f"{name}: scoring {TEXTS} texts, {PRIMER} of {PRIMER + QUESTION + ANSWER} "
                   "tokens shared", scoring)  # fmt: skip
            results[name] = {"training": step, "scoring": scoring}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
