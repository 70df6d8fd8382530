from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lofit_lens import tasks
from lofit_lens.analysis.baselines.activations import last_residual, last_z, last_z_batches
from lofit_lens.analysis.baselines.statements import (
    all_statements,
    paired_statements,
    with_wrong_answers,
)
from lofit_lens.errors import DataError
from lofit_lens.tasks.task import Example
from lofit_lens.tokens import Encoder
from tests.helpers import FAMILIES, TEXT, count_hooks, load_plain, plain_projections

ANSWERS = [" blue", " a grey cat", " Ben", " a very old house indeed"]


def plain_last(folder: Path, texts: list[Any], n_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Head outputs and residual stream at the last token, one text at a time and unpadded."""
    plain = load_plain(folder)
    seen: list[torch.Tensor] = []
    for projection in plain_projections(plain):
        projection.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1]))
    z, residual = [], []
    for text in texts:
        seen.clear()
        with torch.no_grad():
            hidden = plain(torch.tensor([text.ids]), output_hidden_states=True).hidden_states
        z.append(torch.stack([layer.view(n_heads, -1) for layer in seen]))
        residual.append(torch.stack([layer[0, -1] for layer in hidden[1:-1]]))
    return torch.stack(z), torch.stack(residual)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_batches_read_what_the_plain_model_computes(
    family: str, tiny_model: Callable[[str], Any], tiny_folder: Callable[[str], Path]
) -> None:
    model = tiny_model(family)
    encoder = Encoder(model)
    texts = [encoder.continuation(*pair) for pair in zip(TEXT, ANSWERS, strict=True)]
    assert len({len(text.ids) for text in texts}) > 2
    z, residual = plain_last(tiny_folder(family), texts, model.cfg.n_heads)
    last_z(model, texts[:1])  # the first forward pass makes the hooks of Transformers itself
    hooks = count_hooks(model)
    for batch_size in (1, 3):
        found = last_z(model, texts, batch_size=batch_size)
        assert found.dtype == torch.float32
        assert (found - z).abs().max() <= 1e-5 * z.abs().max()
        streams = last_residual(model, texts, batch_size=batch_size)
        # Hugging Face shows the last layer only behind the final norm
        assert (streams[:, :-1] - residual).abs().max() <= 1e-5 * residual.abs().max()
    assert count_hooks(model) == hooks
    places = [i for batch, _ in last_z_batches(model, texts, batch_size=3) for i in batch]
    assert sorted(places) == [0, 1, 2, 3]


def test_the_answers_of_a_question_stay_in_one_group(llama: Any) -> None:
    task = tasks.embedded("truth")
    encoder = Encoder(llama)
    parts = [
        all_statements(encoder, split[:9], pool=task.train, seed=0)
        for split in (task.train, task.val)
    ]
    for examples, part in zip((task.train[:9], task.val[:9]), parts, strict=True):
        expected = [e.group for e in examples for _ in e.correct + e.incorrect]
        assert list(part.groups) == expected
        labels = [right for e in examples for right in [True] * len(e.correct) + [False] * 4]
        assert part.right.tolist() == labels
    assert not set(parts[0].groups) & set(parts[1].groups)


def test_wrong_answers_are_drawn_with_the_seed_and_are_wrong() -> None:
    examples = [
        Example(str(i), f"Q{i} A:", (f" {n}", f" {n.upper()}")) for i, n in enumerate("abcab")
    ]
    first, again, other = (
        with_wrong_answers(examples, pool=examples, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert [e.incorrect for e in first] != [e.incorrect for e in other]
    for example in first + other:
        assert len(example.correct) == len(example.incorrect) == 1
        assert example.incorrect[0].strip().lower() != example.correct[0].strip().lower()
        assert example.incorrect[0] in {" a", " b", " c"}


def test_wrong_answers_come_from_the_pool_and_not_from_the_split() -> None:
    train = [Example(str(i), f"Q{i} A:", (f" {n}",)) for i, n in enumerate(("Rome", "Paris"))]
    val = [Example("v", "Q A:", (" Rome",)), Example("w", "Q? A:", (" Rome",))]
    found = with_wrong_answers(val, pool=[*train, *val], seed=0)
    assert [example.incorrect for example in found] == [(" Paris",)] * 2
    with pytest.raises(DataError, match=r"Example v has no wrong answer, .* other than ' Rome'"):
        with_wrong_answers(val, pool=val, seed=0)


def test_an_accepted_spelling_is_never_drawn_as_a_wrong_answer() -> None:
    city = Example("0", "Q A:", (" New York", " NYC", " the Big Apple"))
    pool = [
        Example(str(i), "Q A:", (name,))
        for i, name in enumerate((" nyc", "The big apple ", " NEW YORK", " Boston"), start=1)
    ]
    drawn = {with_wrong_answers([city], pool=[city, *pool], seed=seed)[0] for seed in range(20)}
    assert {(e.correct, e.incorrect) for e in drawn} == {((" New York",), (" Boston",))}
    with pytest.raises(DataError, match="no wrong answer"):
        with_wrong_answers([city], pool=[city, *pool[:3]], seed=0)


def test_examples_with_wrong_answers_are_left_as_they_are() -> None:
    examples = list(tasks.embedded("truth").train[:5])
    assert with_wrong_answers(examples, pool=(), seed=0) == examples


def test_statements_and_pairs_say_the_same(llama: Any) -> None:
    examples = [
        Example("0", "Q: A:", (" x", " y"), (" z",)),
        Example("1", "Q? A:", (" u",), (" v",)),
    ]
    encoder = Encoder(llama)
    pairs = paired_statements(encoder, examples, pool=examples, seed=0)
    whole = all_statements(encoder, examples, pool=examples, seed=0)
    right = np.flatnonzero(whole.right).tolist()
    assert [text for text, _ in pairs] == [whole.texts[right[0]], whole.texts[right[2]]]
    assert [text for _, text in pairs] == [whole.texts[i] for i in np.flatnonzero(~whole.right)]
    assert whole.groups == ("0", "0", "0", "1", "1")
