"""The kinds of task a file can hold: how a row's cells become a prompt and its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lofit_lens.tasks.exact_match import ExactMatch
from lofit_lens.tasks.label_f1 import NO_LABEL, LabelF1
from lofit_lens.tasks.multiple_choice import MultipleChoice
from lofit_lens.tasks.readers import Row
from lofit_lens.tasks.rows import AnswerIs, Cells, counted
from lofit_lens.tasks.scoring import Scoring
from lofit_lens.tasks.task import Objective

SCORINGS: Mapping[str, Callable[[], Scoring]] = {
    "multiple-choice": MultipleChoice,
    "exact-match": ExactMatch,
    "label-f1": LabelF1,
}
"""The scorings by name. `from_file` sets those of the fields `max_new_tokens`, `stop`, `lead`, `match` and
`separator` that one has."""

SEVERAL_RIGHT = MultipleChoice(("MC1", "MC2", "MC3"))


@dataclass(frozen=True)
class Parts:
    """What an example is made of.

    Attributes:
        prompt: Text before the answer, where no template makes it.
        correct: Right answers, the best first.
        incorrect: Wrong answers.
        messages: Role and content of the turns before the answer.
    """

    prompt: str = ""
    correct: Sequence[str] = ()
    incorrect: Sequence[str] = ()
    messages: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Kind:
    """How rows become examples, and how those are scored and trained on.

    Attributes:
        read: Takes the parts of an example out of a row.
        columns: Columns that must exist, that of the answer last.
        choices: Those of them that hold the candidates.
        scoring: How the examples are scored, unless another scoring is asked for.
        objective: What training maximises by default; None leaves it to the scoring.
        prompt: Template over the columns; empty where `read` says what stands before the answer.
        prefixed: When `answer_prefix` goes between prompt and answer: always, only where no white
            space stands there already, or never.
        separator: What separates the parts of a list that is written as text.
        stop: Text that ends a generation, where the file says so.
        max_new_tokens: Length of a generation, likewise.
        name: What messages call it, where it is a format recognised by its columns.
        settings: What else of the kind the rows tell, by field.
        kept: Which rows count.
    """

    read: Callable[[Cells], Parts]
    columns: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    scoring: Scoring = field(default_factory=MultipleChoice)
    objective: Objective | None = None
    prompt: str = ""
    prefixed: Literal["always", "without a blank", "never"] = "always"
    separator: str | None = None
    stop: str | None = None
    max_new_tokens: int | None = None
    name: str = ""
    settings: Callable[[Sequence[Row]], Mapping[str, Any]] = lambda _: {}
    kept: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows


def pairs(good: str, bad: str) -> Kind:
    """Which of two sentences is likelier."""

    def read(cells: Cells) -> Parts:
        better, worse = cells.text(good), cells.text(bad)
        if better and better == worse:
            cells.problem(bad, f"the same text as {good!r}, expected another sentence")
        return Parts(correct=[better], incorrect=[worse])

    return Kind(read, (good, bad))


def choice(answer: str, choices: Sequence[str], answer_is: AnswerIs) -> Kind:
    """Which of a row's candidates is likeliest."""

    def read(cells: Cells) -> Parts:
        return Parts("", *cells.chosen(answer, answer_is, cells.choices(choices)))

    return Kind(read, (*choices, answer), tuple(choices))


def classification(answer: str, labels: Sequence[str], answer_is: AnswerIs) -> Kind:
    """Which of the same labels is likeliest in every row; "text" may be the place from 0 as well."""

    def read(cells: Cells) -> Parts:
        if answer_is != "text":
            return Parts("", *cells.chosen(answer, answer_is, labels))
        expected = f"one of the labels {list(labels)}, or its place counted from 0"
        return Parts("", *cells.named(answer, labels, (labels, counted(labels, 0)), expected))

    return Kind(read, (answer,))


def several_right(best: str | None, correct: str, incorrect: str) -> Kind:
    """Several right answers against several wrong ones; the best is the first, if no column says."""

    def read(cells: Cells) -> Parts:
        first = [cells.text(best)] if best else []
        right = list(dict.fromkeys([*first, *cells.texts(correct, at_least=1)]))
        return Parts("", right, cells.texts(incorrect, at_least=1))

    columns = (correct, incorrect, *((best,) if best else ()))
    return Kind(read, columns, scoring=SEVERAL_RIGHT)


def questions(answer: str, accepted: str | None, scoring: Scoring) -> Kind:
    """Whether a generation is the answer; or, if several make one, which of them it holds."""

    def read(cells: Cells) -> Parts:
        right = (cells.texts(answer) or [NO_LABEL]) if scoring.several else [cells.text(answer)]
        return Parts("", [*right, *(cells.texts(accepted) if accepted else ())])

    columns = (*((accepted,) if accepted else ()), answer)
    return Kind(read, columns, scoring=scoring, separator="," if scoring.several else None)
