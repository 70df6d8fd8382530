"""Where a right and a wrong answer part, and which position of the text decides between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lofit_lens.errors import DataError
from lofit_lens.sequences import common_start
from lofit_lens.tasks.task import Example
from lofit_lens.tokens import EncodedText, Encoder


@dataclass(frozen=True)
class AnswerPair:
    """One example cut where its right and its wrong answer part.

    Attributes:
        id: Of the example.
        group: Of the example; its id if it has none.
        text: The tokens before the two part; the last position predicts the next token.
        right: The token with which the right answer goes on.
        wrong: The token with which the wrong answer goes on.
    """

    id: str
    group: str
    text: EncodedText
    right: int
    wrong: int


def answer_pairs(encoder: Encoder, examples: Sequence[Example]) -> list[AnswerPair]:
    """The first right and the first wrong answer of each example, cut where their tokens part.

    Both are put behind the prompt as they are. The tokens that they share, such as " the", are
    part of the text; the first token in which they differ is what is predicted.

    Raises:
        DataError: There is no example, one has no wrong answer, or its two answers do not part.
    """
    if not examples:
        raise DataError("There is no example to look at. Give at least one, as task.test[:50].")
    return [_parted(encoder, example) for example in examples]


def _parted(encoder: Encoder, example: Example) -> AnswerPair:
    if not example.incorrect:
        raise DataError(
            f"Example {example.id} has no incorrect answer to set against {example.correct[0]!r}. "
            "Give examples with `incorrect`, or draw them with `with_wrong_answers`."
        )
    answers = example.correct[0], example.incorrect[0]
    right, wrong = encoder.candidates(example.prompt, answers)
    place = common_start((right.ids, wrong.ids))
    if place in (0, len(right.ids), len(wrong.ids)):
        raise DataError(
            f"The answers {answers[0]!r} and {answers[1]!r} of example {example.id} do not part "
            "behind a token of the text: one begins with the other, or there is nothing before "
            "them. Give another wrong answer or a prompt."
        )
    text = EncodedText(right.ids[:place], min(right.n_prompt, place))
    group = example.group or example.id
    return AnswerPair(example.id, group, text, right.ids[place], wrong.ids[place])
