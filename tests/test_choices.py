"""Multiple choice by text, by length and by letter, in scoring and in training."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.scoring import evaluate
from lofit_lens.tasks import (
    ExactMatch,
    Example,
    MultipleChoice,
    Task,
    from_file,
    load_tasks,
    reload_task,
    scored_by,
)
from lofit_lens.tasks.choices import ScoredBy, by_letter
from lofit_lens.tokens import Encoder
from lofit_lens.training.objectives import encode_items, summed_loss
from tests.chats import PLAIN, chat_tokenizer
from tests.helpers import load_plain, type_checks_off

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

COLOURS = ("red", "blue", "grey and old", "green", "white", "a kind of blue")


def colour_task(scoring: MultipleChoice | ExactMatch | None = None, n: int = 6) -> Task:
    examples = tuple(
        Example(
            id=str(i),
            prompt=f"Q: What is the colour of house {i}?\nA:",
            correct=(f" {COLOURS[i % 6]}", f" {COLOURS[(i + 1) % 6]}."),
            incorrect=(f" {COLOURS[(i + 2) % 6]}", f" {COLOURS[(i + 3) % 6]}"),
        )
        for i in range(n)
    )
    return Task(
        name="colours", train=examples, val=examples, test=examples, val_as_test=examples,
        objective="choice", scoring=scoring or MultipleChoice(("MC1", "MC2")),
        compat={"paper-code": MultipleChoice(("MC1",), counted_lead=("\nA:", 3))},
    )  # fmt: skip


def test_normalised_scores_are_divided_by_the_characters_of_the_candidate(
    llama: TransformerBridge,
) -> None:
    task = colour_task()
    plain = evaluate(llama, task, progress=False)
    divided = evaluate(llama, scored_by(task, "text-normalised"), progress=False)
    for example, before, after in zip(task.test, plain.records, divided.records, strict=True):
        for kind, answers in (("correct", example.correct), ("incorrect", example.incorrect)):
            expected = [
                score / len(answer.strip())
                for score, answer in zip(before[kind], answers, strict=True)
            ]
            assert after[kind] == pytest.approx(expected, abs=1e-6)
        right, wrong = after["correct"], after["incorrect"]
        assert after["MC1"] == float(right[0] > max(wrong))
        mass = sum(map(math.exp, right))
        assert after["MC2"] == pytest.approx(mass / (mass + sum(map(math.exp, wrong))))


def test_choice_trains_on_the_normalised_scores_that_are_compared(
    llama: TransformerBridge,
) -> None:
    task = scored_by(colour_task(), "text-normalised")
    example = task.train[2]
    items = encode_items(Encoder(llama), [example], "choice", task.scoring)
    answers = (example.correct[0], *example.incorrect)
    scores = torch.tensor([-9.0, -4.0, -30.0], requires_grad=True)
    loss = summed_loss("choice", scores, items, beta=0.5)
    shares = [
        math.exp(score / len(answer.strip()))
        for score, answer in zip(scores.tolist(), answers, strict=True)
    ]
    assert loss.item() == pytest.approx(-math.log(shares[0] / sum(shares)), abs=1e-6)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad[0].item() == pytest.approx(
        (shares[0] / sum(shares) - 1) / len(answers[0].strip()), abs=1e-6
    )


def test_letters_are_scored_as_a_plain_model_scores_them(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    task = scored_by(colour_task(), "letter")
    found = evaluate(llama, task, progress=False)
    model = load_plain(tiny_folder("llama"))
    tokenizer = Encoder(llama)._tokenizer
    for example, record in zip(task.test, found.records, strict=True):
        scores = []
        for letter in example.correct + example.incorrect:
            ids = tokenizer(example.prompt + letter).input_ids
            n = len(tokenizer(example.prompt).input_ids)
            with torch.no_grad():
                logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores.append(sum(logprobs[i - 1, ids[i]].item() for i in range(n, len(ids))))
        assert [*record["correct"], *record["incorrect"]] == pytest.approx(scores, abs=1e-4)


def test_every_letter_names_its_candidate_in_the_prompt() -> None:
    task = colour_task(n=60)
    lettered = scored_by(task, "letter")
    assert lettered == scored_by(task, "letter")
    assert lettered.compat == {}
    for before, after in zip(task.test, lettered.test, strict=True):
        question, *listed, lead = after.prompt.split("\n")
        assert (f"{question}\n{lead}", after.id) == (before.prompt, before.id)
        texts = dict(line.split(". ", 1) for line in listed)
        for answers, letters in (
            (before.correct, after.correct),
            (before.incorrect, after.incorrect),
        ):
            assert [f" {texts[letter.strip()]}" for letter in letters] == list(answers)
    right = Counter(example.correct[0] for example in lettered.test)
    assert set(right) == {" A", " B", " C", " D"}
    assert max(right.values()) < 30


def test_a_prompt_of_one_line_asks_for_the_answer_and_none_lists_only() -> None:
    asked = by_letter(Example("1", "Is ice cold?", ("yes",), ("no",)))
    assert asked.prompt.split("\n")[0] == "Is ice cold?"
    assert asked.prompt.endswith("\nAnswer:")
    bare = by_letter(Example("1", "", ("It is.",), ("It are.",)))
    assert bare.prompt.startswith("A. ") and bare.prompt.endswith("\nAnswer:")
    many = Example("x", "Which?", ("0",), tuple(map(str, range(1, 27))))
    with pytest.raises(DataError, match="Example x has 27 candidates"):
        by_letter(many)


def test_the_candidates_of_a_conversation_are_listed_in_what_its_user_says_last() -> None:
    turns = (("user", "Hello"), ("assistant", "Hi."), ("user", "Is ice cold?"))
    example = Example("1", "…", ("yes",), ("no", "often"), messages=turns)
    task = replace(colour_task(), train=(example,), val=(example,), test=(example,))
    (asked,) = scored_by(task, "letter").test
    listed = asked.prompt.split("\n")[1:-1]
    assert sorted(line[3:] for line in listed) == ["no", "often", "yes"]
    said = "\n".join(["Is ice cold?", *listed])
    assert asked.messages == (*turns[:2], ("user", said))
    chat = scored_by(task, "letter").as_chat(chat_tokenizer(PLAIN))
    assert f"{said}<|end|>" in chat.test[0].prompt
    with pytest.raises(LofitLensError, match="has no place for a list of candidates"):
        scored_by(task.as_chat(chat_tokenizer(PLAIN)), "letter")


def test_only_multiple_choice_has_candidates_and_only_three_ways_are_known() -> None:
    generated = colour_task(ExactMatch())
    assert scored_by(generated, "text") is generated
    with pytest.raises(LofitLensError, match=r'scored by generation.*by="letter"'):
        scored_by(generated, "letter")
    wrong: Any = "bytes"
    with (
        type_checks_off(),
        pytest.raises(LofitLensError, match="text, text-normalised, letter, got 'bytes'"),
    ):
        scored_by(colour_task(), wrong)


@pytest.mark.parametrize("by", ["text", "text-normalised", "letter"])
def test_a_file_says_how_its_choices_are_scored_and_is_loaded_again_so(
    by: ScoredBy, tmp_path: Path
) -> None:
    rows = [
        {"q": f"Which is {i}?", "options": ["one", f"number {i}", "none"], "a": f"number {i}"}
        for i in range(20)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    read = partial(from_file, path, prompt="{q}\nAnswer:", answer="a", choices="options")
    task, plain = read(by=by), read()
    assert task == scored_by(plain, by)
    assert (task.test[0].prompt == plain.test[0].prompt) == (by != "letter")
    assert task.scoring == MultipleChoice(normalised=by == "text-normalised")
    assert reload_task(json.loads(json.dumps(dict(task.source)))) == reload_task(task.source)
    assert reload_task(task.source).data_hash() == task.data_hash()
    assert reload_task(task.source).scoring == task.scoring


def test_a_named_task_can_be_scored_by_letter_too() -> None:
    (plain,) = load_tasks("embedded:truth")
    (task,) = load_tasks("embedded:truth", options={"by": "letter"})
    assert task == scored_by(plain, "letter")
    assert reload_task(json.loads(json.dumps(dict(task.source)))) == task
    with pytest.raises(LofitLensError, match="embedded:kinship is scored by generation"):
        load_tasks("embedded:kinship", options={"by": "letter"})
