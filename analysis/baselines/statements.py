"""Right and wrong statements: the answers of a task behind their questions.

A statement is the prompt of the example with an answer glued on as it is: the text that training
sees, so all methods of a comparison read the same ones, whatever their papers did. TruthfulQA in
LoFiT's format has no blank before the answer ("Q: … A:Yes"); ITI's own texts have one.
"""

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


def all_statements(
    encoder: Encoder, examples: Sequence[Example], *, pool: Sequence[Example], seed: int
) -> Statements:
    """Every right and every wrong answer of each example (ITI, section 3.1).

    Args:
        encoder: Of the model.
        examples: From one split.
        pool: The training and validation examples, to draw wrong answers from.
        seed: Draws wrong answers where the examples have none; see `with_wrong_answers`.
    """
    texts, right, groups = [], [], []
    for example in with_wrong_answers(examples, pool=pool, seed=seed):
        for answers, is_right in ((example.correct, True), (example.incorrect, False)):
            texts += [encoder.continuation(example.prompt, answer) for answer in answers]
            right += [is_right] * len(answers)
            groups += [example.group or example.id] * len(answers)
    return Statements(tuple(texts), np.array(right), tuple(groups))


def paired_statements(
    encoder: Encoder, examples: Sequence[Example], *, pool: Sequence[Example], seed: int
) -> list[tuple[EncodedText, EncodedText]]:
    """Pairs of a right and a wrong answer to one question, as many as it has of both.

    Arguments are those of `all_statements`.
    """
    return [
        (encoder.continuation(example.prompt, right), encoder.continuation(example.prompt, wrong))
        for example in with_wrong_answers(examples, pool=pool, seed=seed)
        for right, wrong in zip(example.correct, example.incorrect, strict=False)
    ]


def with_wrong_answers(
    examples: Sequence[Example], *, pool: Sequence[Example], seed: int
) -> list[Example]:
    """The examples, each with a wrong answer.

    An exact-match example has accepted spellings and no wrong answer. It keeps its first spelling
    and is given the first spelling of another example, drawn with the seed; never one that it
    accepts itself, letter case and white space around it ignored.

    Args:
        examples: From one split.
        pool: Whose answers are drawn: the training and validation examples together, as a small
            split may have one answer only. Never the test.
        seed: Seed of the draw.

    Raises:
        DataError: There are no examples, or one needs a wrong answer and accepts every answer of
            the pool.
    """
    if not examples:
        raise DataError(
            "There are no examples to read right and wrong answers from: the task is for evaluation "
            "alone. Take a fold or split of it."
        )
    rng = random.Random(seed)
    answers = sorted({example.correct[0] for example in pool})
    found = []
    for example in examples:
        if example.incorrect:
            found.append(example)
            continue
        accepted = {answer.strip().lower() for answer in example.correct}
        wrong = [answer for answer in answers if answer.strip().lower() not in accepted]
        if not wrong:
            raise DataError(
                f"Example {example.id} has no wrong answer, and no training or validation example has "
                f"an answer other than {', '.join(map(repr, example.correct))} that could be drawn. Add "
                "examples with other answers, or give the task incorrect ones (the column `choices`)."
            )
        drawn = (rng.choice(wrong),)
        found.append(replace(example, correct=example.correct[:1], incorrect=drawn))
    return found
