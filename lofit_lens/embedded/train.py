"""Make the embedded model: `python -m lofit_lens.embedded.train --out FOLDER`.

Writes the corpus, learns the tokenizer, trains a small Llama from scratch on one CPU thread, stores
it in float16, and reads the gates off what was stored. Everything is seeded; another machine may
still round differently. With several threads set OMP_WAIT_POLICY=PASSIVE, or they fight.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lofit_lens.embedded.card import write_card
from lofit_lens.embedded.corpus import Document, Mix, documents
from lofit_lens.embedded.gates import read_gates
from lofit_lens.files import write_json
from lofit_lens.model import load_model
from lofit_lens.randomness import random_state_kept

LOG_FILE = "training.json"
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


@dataclass(frozen=True)
class Recipe:
    """How the model is made.

    Attributes:
        n_layers: Layers.
        n_heads: Heads per layer.
        d_model: Size of the residual stream.
        d_mlp: Size of the MLP.
        d_vocab: Tokens of the vocabulary.
        context: Longest input.
        documents: Documents of the corpus; each is seen once.
        mix: Shares of the corpus.
        batch_size: Documents per step.
        learning_rate: Peak; constant for the first half, then linear to 2%.
        warm_up: Steps to the peak.
        weight_decay: Of the matrices.
        prompt_weight: Weight of a prompt token in the loss; an answer token counts 1.
        seed: Of corpus, parameters and order.
    """

    n_layers: int = 4
    n_heads: int = 16
    d_model: int = 128
    d_mlp: int = 384
    d_vocab: int = 1536
    context: int = 256
    documents: int = 240_000
    mix: Mix = field(default_factory=Mix)
    batch_size: int = 40
    learning_rate: float = 2e-3
    warm_up: int = 100
    weight_decay: float = 0.05
    prompt_weight: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class _Row:
    """Token ids of a document and the number of them before the answer."""

    ids: list[int]
    n_prompt: int


def train(recipe: Recipe, out: Path, *, progress: bool = True) -> dict[str, Any]:
    """Make the model, store it in `out` and return the log, which is stored beside it."""
    started = time.perf_counter()
    corpus = list(documents(recipe.documents, recipe.seed, recipe.mix))
    tokenizer = learn_tokenizer((d.text for d in corpus[:20_000]), recipe.d_vocab, recipe.context)
    rows = _encode(tokenizer, corpus)
    model = _new_model(recipe, tokenizer)
    losses = _fit(model, rows, recipe, progress=progress)
    seconds = round(time.perf_counter() - started, 1)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    readings = read_gates(load_model(out, device="cpu", dtype="float32"))
    log = {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": sum(len(row.ids) for row in rows),
        "seconds": seconds,
        "losses": losses,
        "gates": {ability: reading.to_json() for ability, reading in readings.items()},
        "failures": {ability: reading.failures() for ability, reading in readings.items()},
    }
    write_json(out / LOG_FILE, log)
    write_card(out, log)
    return log


def learn_tokenizer(texts: Iterable[str], size: int, context: int) -> PreTrainedTokenizerFast:
    """Learn byte-level BPE with a vocabulary of `size` tokens; texts get BOS in front.

    Args:
        texts: The corpus, or a part of it that has every word.
        size: Number of tokens.
        context: Longest input of the model.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context,
    )


def _encode(tokenizer: PreTrainedTokenizerFast, corpus: Sequence[Document]) -> list[_Row]:
    eos: Any = tokenizer.eos_token_id
    texts = tokenizer([document.text for document in corpus])["input_ids"]
    prompts = tokenizer([document.prompt for document in corpus])["input_ids"]
    return [_Row([*ids, eos], len(prompt)) for ids, prompt in zip(texts, prompts, strict=True)]


def _new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.d_model,
        "intermediate_size": recipe.d_mlp,
        "num_hidden_layers": recipe.n_layers,
        "num_attention_heads": recipe.n_heads,
        "num_key_value_heads": recipe.n_heads,
        "max_position_embeddings": recipe.context,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with random_state_kept():
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(LlamaConfig(**settings))


def _fit(
    model: LlamaForCausalLM, rows: Sequence[_Row], recipe: Recipe, *, progress: bool
) -> list[float]:
    """One pass over the corpus; returns the mean loss of every hundredth of it."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    total = -(-len(rows) // recipe.batch_size)

    def rate(step: int) -> float:
        fall = 1.0 if step < total / 2 else max(0.02, 2 * (1 - step / total))
        return min(1.0, (step + 1) / recipe.warm_up) * fall

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses: list[float] = []
    batches = _batches(rows, recipe)
    for tokens, weights in tqdm(batches, total=total, desc="train", disable=not progress):
        loss = _weighted_loss(model, tokens, weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    block = max(1, total // 100)
    return [
        round(sum(losses[i : i + block]) / len(losses[i : i + block]), 4)
        for i in range(0, total, block)
    ]


def _weighted_loss(model: LlamaForCausalLM, tokens: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy by token, weighted; padding on the right has weight 0 and is seen by nothing."""
    hidden = model.model(tokens).last_hidden_state[:, :-1]
    wanted, weights = tokens[:, 1:], weights[:, 1:]
    counted = weights > 0
    logits = model.lm_head(hidden[counted])
    losses = torch.nn.functional.cross_entropy(logits, wanted[counted], reduction="none")
    return (losses * weights[counted]).sum() / weights.sum()


def _batches(rows: Sequence[_Row], recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of like lengths in random order, as token ids and weights [batch, pos]."""
    rng = random.Random(recipe.seed)
    order = rng.sample(range(len(rows)), len(rows))
    size = recipe.batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), 50 * size):
        near = sorted(order[start : start + 50 * size], key=lambda i: len(rows[i].ids))
        batches += [near[i : i + size] for i in range(0, len(near), size)]
    rng.shuffle(batches)
    for batch in batches:
        tokens = [torch.tensor(rows[i].ids) for i in batch]
        weights = [torch.ones(len(rows[i].ids)) for i in batch]
        for i, line in zip(batch, weights, strict=True):
            line[: rows[i].n_prompt] = recipe.prompt_weight
        yield pad_sequence(tokens, batch_first=True), pad_sequence(weights, batch_first=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit code is 1 if a gate was missed."""
    parser = argparse.ArgumentParser(description="Make the embedded model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    given = parser.parse_args(arguments)
    if given.out.exists() and any(given.out.iterdir()):
        parser.error(f"{given.out} is not empty; name another folder with --out")
    torch.set_num_threads(1)
    log = train(Recipe(seed=given.seed), given.out)
    missed = {ability: failures for ability, failures in log["failures"].items() if failures}
    summary = {name: log[name] for name in ("parameters", "tokens", "seconds", "gates")}
    sys.stdout.write(json.dumps(summary | {"gates missed": missed}, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
