"""What a judge is asked, and what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable

if TYPE_CHECKING:
    from lofit_lens.tasks.task import Example

Aspect = Literal["truthful", "informative"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)

_VERDICT = re.compile(r"\W*(yes|no|true|false)\W*(?:$|[.,:;!*\n])", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """An answer in free text, to be judged.

    Attributes:
        question: The question.
        answer: The answer of the model; may be empty.
        correct: Right answers to compare with.
        incorrect: Wrong ones.
    """

    question: str
    answer: str
    correct: tuple[str, ...] = ()
    incorrect: tuple[str, ...] = ()

    @classmethod
    def of(cls, example: Example, answer: str) -> Asked:
        """An answer to the question of an example."""
        sides = (tuple(map(str.strip, side)) for side in (example.correct, example.incorrect))
        return cls(question_of(example), answer.strip(), *sides)


@runtime_checkable
class Judge(Protocol):
    """Whoever can say whether answers are truthful, and whether they are informative.

    Attributes:
        name: What it is called.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def identity(self, aspect: Aspect) -> str:
        """All that its replies depend on besides the prompt; verdicts are kept under it."""
        ...

    def prompt(self, aspect: Aspect, asked: Asked) -> str:
        """How it is asked."""
        ...

    def replies(self, aspect: Aspect, prompts: Sequence[str]) -> Iterator[tuple[int, str]]:
        """The place of each prompt with the reply to it, in any order, as they come; see `verdict`.

        Raises:
            LofitLensError: A reply cannot be had; those that came before count.
        """
        ...


def verdict(reply: str) -> bool | None:
    """What a reply says: it begins with yes or no (true or false), as a sentence of its own.

    Reasoning that ends with `</think>` is passed over. None: it says neither.
    """
    found = _VERDICT.match(reply.rpartition("</think>")[2])
    return None if found is None else found[1].lower() in ("yes", "true")


def question_of(example: Example) -> str:
    """The question of an example: the last paragraph of its prompt, without "Q:" and "A:"."""
    said = example.messages[-1][1] if example.messages else example.prompt
    last = said.strip().split("\n\n")[-1]
    return last.removeprefix("Q:").removesuffix("A:").strip()
