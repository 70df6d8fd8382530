"""A tiny chat model: a tokenizer with turns, templates of several kinds, a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lofit_lens.randomness import random_state_kept
from lofit_lens.tasks import Example, MultipleChoice, Task
from tests.helpers import CONFIGS, VOCAB, build_tokenizer

TURNS = ["<|user|>", "<|model|>", "<|system|>", "<|end|>"]

PLAIN = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no system turns here') }}{% endif %}"
    "{{ '<|user|>' if m['role'] == 'user' else '<|model|>' }}{{ '\n' + m['content'] | trim }}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|model|>\n{% endif %}"
)
"""Two roles, BOS in the template, an end of turn that is not EOS (as Gemma's)."""

SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|system|>\nBe kind.</s>\n{% endif %}"
    "{% for m in messages %}{{ {'assistant': '<|model|>'}.get(m['role'], '<|' + m['role'] + '|>') }}"
    "{{ '\n' + m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|model|>\n{% endif %}"
)
"""A system turn of its own, no BOS though the tokenizer puts one, EOS ends a turn (as Zephyr's)."""

BLANK = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} "
    "[/INST]{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""No generation prompt; a blank before the answer and one before its end (as Llama 2's)."""

THOUGHT = SYSTEM.replace(
    "{{ '\n' + m['content'] }}",
    "{{ '\n' + ('<think></think>' if m['role'] == 'assistant' else '') + m['content'] }}",
)
"""An empty thought between the generation prompt and the answer."""

TEMPLATES = {"plain": PLAIN, "system": SYSTEM, "blank": BLANK, "thought": THOUGHT}


def chat_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": TURNS})
    tokenizer.chat_template = template
    return tokenizer


def save_chat_model(name: str, folder: Path) -> Path:
    """Save a random Llama whose tokenizer has one of the templates, or none."""
    config = CONFIGS["llama"]()
    config.vocab_size = VOCAB + len(TURNS)
    with random_state_kept():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.data = 0.15 * torch.randn_like(parameter) + (parameter.ndim == 1)
    model.save_pretrained(folder)
    chat_tokenizer(TEMPLATES.get(name)).save_pretrained(folder)
    return folder


def examples(start: int, n: int) -> tuple[Example, ...]:
    places = ["house", "sky", "cat", "old house", "grey cat"]
    return tuple(
        Example(
            f"{start + i}",
            f"Q: What is the colour of the {places[i % 5]} {start + i}?",
            (" blue", " sky blue"),
            (" red", " grey"),
        )
        for i in range(n)
    )


def made_up(scoring: Any = None, **changes: Any) -> Task:
    task = Task(
        name="colours",
        train=examples(0, 9),
        val=examples(20, 8),
        test=examples(40, 8),
        val_as_test=examples(20, 8),
        objective="sft",
        scoring=scoring or MultipleChoice(("accuracy", "MC1")),
        compat={"paper-code": MultipleChoice(counted_lead=("\nA:", 3))},
        floors={"chance": 0.5},
    )
    return replace(task, **changes)


def conversation(example: Example, system: str | None = None) -> list[dict[str, str]]:
    """What the template gets, written down by hand."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": example.prompt}]


def templated(tokenizer: Any, messages: list[dict[str, str]], *, is_open: bool = True) -> list[int]:
    return tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=is_open, return_dict=False
    )
