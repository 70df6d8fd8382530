"""Multiple choice by the text of the candidates, by their length, or by letters."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from typing import Literal, get_args

from lofit_lens.errors import DataError, LofitLensError, check_one_of
from lofit_lens.tasks.multiple_choice import MultipleChoice
from lofit_lens.tasks.task import Example, Task

ScoredBy = Literal["text", "text-normalised", "letter"]

ORDER_SEED = 42


def scored_by(task: Task, by: ScoredBy) -> Task:
    r"""The same multiple-choice task with its candidates scored in another way, in training too.

    Args:
        task: Any multiple-choice task.
        by: How candidates are compared:

            * "text": by the summed log-probability of their tokens; the task as it is.
            * "text-normalised": by that sum divided by their number of characters, blanks around
              them not counted, as acc_norm of lm-evaluation-harness; records hold the result.
            * "letter": by the log-probability of " A", " B", …, as in MMLU. The candidates are
              listed in the prompt as "A. text", one a line, before its last line; a prompt of one
              line gets "Answer:" as its last. Their order is drawn once for each item.

    Raises:
        LofitLensError: There is no such way, the task is not multiple choice, or its prompts are in
            a chat template already, with no place for a list.
        DataError: An item has more candidates than there are letters.

    Examples:
        >>> example = Example("1", "Is ice cold?\nAnswer:", (" yes",), (" no", " often"))
        >>> print(by_letter(example).prompt, by_letter(example).correct)
        Is ice cold?
        A. often
        B. no
        C. yes
        Answer: (' C',)
    """
    check_one_of("by", by, get_args(ScoredBy))
    if by == "text":
        return task
    rule = task.scoring
    if rule.generates:
        raise LofitLensError(
            f'{task.name} is scored by generation, not by its candidates; leave by="{by}" out.'
        )
    if by == "letter" and task.source.get("chat"):
        raise LofitLensError(
            f"{task.name} is in a chat template, which has no place for a list of candidates. Score it "
            "by letter first: scored_by(task, by).as_chat(tokenizer)."
        )
    source = {**task.source, "by": by} if task.source else {}
    if by == "text-normalised":
        return replace(task, scoring=replace(rule, normalised=True), source=source)
    return task.with_examples(
        by_letter, scoring=MultipleChoice(rule.metrics), compat={}, source=source
    )


def by_letter(example: Example) -> Example:
    """An example whose candidates are listed in the prompt and chosen by their letter."""
    candidates = [*example.correct, *example.incorrect]
    order = list(range(len(candidates)))
    random.Random(f"{ORDER_SEED} {example.id}").shuffle(order)
    if len(order) > len(string.ascii_uppercase):
        raise DataError(f"Example {example.id} has {len(order)} candidates, letters are 26.")
    letter_of = dict(zip(order, string.ascii_uppercase, strict=False))
    listed = "\n".join(f"{letter}. {candidates[i].strip()}" for i, letter in letter_of.items())
    letters = [f" {letter_of[i]}" for i in range(len(order))]
    question, _, lead = example.prompt.rpartition("\n")
    if not question:
        question, lead = example.prompt, "Answer:"
    n = len(example.correct)
    *before, (role, said) = example.messages or [("user", "")]
    return replace(
        example,
        messages=(*before, (role, f"{said}\n{listed}")) if example.messages else (),
        prompt="\n".join(part for part in (question, listed, lead) if part),
        correct=tuple(letters[:n]),
        incorrect=tuple(letters[n:]),
    )
