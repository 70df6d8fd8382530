"""Right and wrong statements: the answers of a task behind their questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from lofit_lens.errors import DataError
from lofit_lens.tasks.task import Example
from lofit_lens.tokens import EncodedText, Encoder


@dataclass(frozen=True, eq=False)
class Statements:
    """Answers put behind their questions, each right or wrong.

    Attributes:
        texts: Question and answer as one text.
        right: Whether the answer is right.
        groups: The group of the question; a split by group keeps a question's answers together.
    """

    texts: tuple[EncodedText, ...]
    right: Bool[np.ndarray, " text"]
    groups: tuple[str, ...]


def all_statements(encoder: Encoder, examples: Sequence[Example], *, seed: int) -> Statements:
    """Every right and every wrong answer of each example (ITI, section 3.1).

    Args:
        encoder: Of the model.
        examples: From a training or validation split.
        seed: Draws wrong answers where the examples have none; see `with_wrong_answers`.
    """
    texts, right, groups = [], [], []
    for example in with_wrong_answers(examples, seed=seed):
        for answers, is_right in ((example.correct, True), (example.incorrect, False)):
            texts += [encoder.continuation(example.prompt, answer) for answer in answers]
            right += [is_right] * len(answers)
            groups += [example.group or example.id] * len(answers)
    return Statements(tuple(texts), np.array(right), tuple(groups))


def paired_statements(
    encoder: Encoder, examples: Sequence[Example], *, seed: int
) -> list[tuple[EncodedText, EncodedText]]:
    """Pairs of a right and a wrong answer to one question, as many as it has of both.

    Args:
        encoder: Of the model.
        examples: From a training or validation split.
        seed: Draws wrong answers where the examples have none; see `with_wrong_answers`.
    """
    return [
        (encoder.continuation(example.prompt, right), encoder.continuation(example.prompt, wrong))
        for example in with_wrong_answers(examples, seed=seed)
        for right, wrong in zip(example.correct, example.incorrect, strict=False)
    ]


def with_wrong_answers(examples: Sequence[Example], *, seed: int) -> list[Example]:
    """The examples, each with a wrong answer.

    An exact-match example has accepted spellings and no wrong answer. It keeps its first spelling
    and is given the answer of another example, drawn with the seed.

    Args:
        examples: From one split.
        seed: Seed of the draw.

    Raises:
        DataError: An example needs a wrong answer and all examples have the same answer.
    """
    rng = random.Random(seed)
    answers = sorted({example.correct[0] for example in examples})
    found = []
    for example in examples:
        if example.incorrect:
            found.append(example)
            continue
        accepted = {answer.strip().lower() for answer in example.correct}
        wrong = [answer for answer in answers if answer.strip().lower() not in accepted]
        if not wrong:
            raise DataError(
                f"Example {example.id} has no wrong answer, and no other example has another answer to "
                "draw one from. Give the task incorrect answers (the column `choices`)."
            )
        drawn = (rng.choice(wrong),)
        found.append(replace(example, correct=example.correct[:1], incorrect=drawn))
    return found
