"""Formats that are recognised by their columns: a table, a row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lofit_lens.tasks import benchmarks
from lofit_lens.tasks.columns import value_at
from lofit_lens.tasks.conversations import completion, conversation, preference
from lofit_lens.tasks.exact_match import ExactMatch
from lofit_lens.tasks.harness import (
    choice_settings,
    generation_settings,
    of_first_filter,
    sampled_answer,
    sampled_choice,
)
from lofit_lens.tasks.kinds import SEVERAL_RIGHT, Kind, Parts, pairs, several_right
from lofit_lens.tasks.multiple_choice import MultipleChoice
from lofit_lens.tasks.readers import BAD, GOOD, Row
from lofit_lens.tasks.rows import Cells

Read = Callable[[Cells], Parts]


@dataclass(frozen=True)
class Format:
    """A format that people's files have.

    Attributes:
        name: What messages call it.
        kind: How its rows are read; its columns betray the format.
        settings: What else of the kind the rows tell.
        kept: Which rows count.
    """

    name: str
    kind: Kind
    settings: Callable[[Sequence[Row]], Mapping[str, Any]] = lambda _: {}
    kept: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows


def recognise(rows: Sequence[Row]) -> Format | None:
    """The first format whose columns the rows have."""
    for known in FORMATS:
        if all(has_column(rows, column) for column in known.kind.columns):
            return replace(known, kind=replace(known.kind, **known.settings(rows)))
    return None


def has_column(rows: Sequence[Row], column: str) -> bool:
    """Whether some row has a column, or a value in a part of one."""
    if any(column in row.values for row in rows):
        return True
    whole = column.partition(".")[0].partition("[")[0]
    nested = whole != column
    return nested and any(
        whole in row.values and value_at(row.values, column) is not None for row in rows
    )


def _choice(name: str, columns: Sequence[str], prompt: str, read: Read) -> Format:
    return Format(name, Kind(read, tuple(columns), prompt=prompt, prefixed="without a blank"))


def _free(name: str, columns: Sequence[str], read: Read) -> Format:
    kind = Kind(read, tuple(columns), scoring=ExactMatch(), prefixed="without a blank")
    return Format(name, kind)


def _labelled(name: str, question: str, choices: str) -> Format:
    texts, labels = f"{choices}.text", f"{choices}.label"
    read = partial(benchmarks.labelled, texts=texts, labels=labels)
    return _choice(name, (question, texts, labels, "answerKey"), _question(question), read)


def _truthful(name: str, question: str, best: str, right: str, wrong: str) -> Format:
    kind = several_right(f"Q: {{{question}}}\nA:", best, right, wrong)
    columns = (question, *kind.columns)
    return Format(name, replace(kind, columns=columns, objective="dpo", separator=";"))


def _samples(name: str, request: str, kind: Kind, settings: Callable[..., Any]) -> Format:
    columns = ("doc", "target", "resps", f"arguments.{request}")
    exact = replace(kind, columns=columns, prefixed="never")
    return Format(name, exact, settings, of_first_filter)


def _question(column: str) -> str:
    return f"Question: {{{column}}}\nAnswer:"


_SIQA = ("answerA", "answerB", "answerC")
_PIQA = ("sol1", "sol2")
_BOOLQ = "{passage}\nQuestion: {question}?\nAnswer:"
_TRUTHFULQA = "Q: {question}\nA:"

FORMATS: tuple[Format, ...] = (
    Format("minimal pairs", pairs(GOOD, BAD, "")),
    _samples(
        "lm-eval samples of multiple choice",
        "gen_args_1",
        Kind(sampled_choice, scoring=MultipleChoice(as_lm_eval=True)),
        choice_settings,
    ),
    _samples(
        "lm-eval samples of a generation",
        "gen_args_0",
        Kind(sampled_answer, scoring=ExactMatch()),
        generation_settings,
    ),
    _choice(
        "model-written evals",
        ("question", benchmarks.MATCHING, benchmarks.NOT_MATCHING),
        "",
        benchmarks.behaviour,
    ),
    Format(
        "TruthfulQA's targets",
        Kind(
            benchmarks.targets,
            ("question", benchmarks.MC2),
            scoring=SEVERAL_RIGHT,
            objective="dpo",
            prompt=_TRUTHFULQA,
        ),
    ),
    _truthful("TruthfulQA", "question", "best_answer", "correct_answers", "incorrect_answers"),
    _truthful("TruthfulQA", "Question", "Best Answer", "Correct Answers", "Incorrect Answers"),
    Format(
        "several right answers",
        replace(
            several_right(_TRUTHFULQA, None, "correct", "incorrect"),
            columns=("question", "correct", "incorrect"),
        ),
    ),
    Format(
        "preference pairs",
        Kind(
            preference,
            ("chosen", "rejected"),
            objective="dpo",
            prefixed="without a blank",
        ),
    ),
    _free("conversations", ("messages",), partial(conversation, column="messages")),
    _free("conversations", ("conversations",), partial(conversation, column="conversations")),
    _free("prompts and completions", ("prompt", "completion"), completion),
    _free("instructions", ("instruction", "output"), benchmarks.instruction),
    _labelled("multiple choice with labels", "question", "choices"),
    _labelled("multiple choice with labels", "question_stem", "choices"),
    _labelled("multiple choice with labels", "question.stem", "question.choices"),
    _choice(
        "multiple choice with a list",
        ("question", "choices", "answer"),
        _question("question"),
        benchmarks.listed,
    ),
    _choice(
        "multiple choice of endings",
        ("ctx", "endings", "label"),
        "{ctx}",
        partial(benchmarks.placed_in_list, column="label", choices="endings"),
    ),
    _choice(
        "Social IQa",
        ("context", "question", *_SIQA, "label"),
        "Q: {context} {question}\nA:",
        partial(benchmarks.placed, column="label", first=1, choices=_SIQA),
    ),
    _choice(
        "PIQA",
        ("goal", *_PIQA, "label"),
        _question("goal"),
        partial(benchmarks.placed, column="label", first=0, choices=_PIQA),
    ),
    *(
        _choice(
            "questions of yes or no",
            ("passage", "question", answer),
            _BOOLQ,
            partial(benchmarks.yes_or_no, column=answer),
        )
        for answer in ("answer", "label")
    ),
)
