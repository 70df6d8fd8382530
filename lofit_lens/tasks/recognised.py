"""Formats that are recognised by their columns: a table, a row for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lofit_lens.tasks import benchmarks, harness
from lofit_lens.tasks.columns import value_at
from lofit_lens.tasks.conversations import completion, conversation, preference
from lofit_lens.tasks.exact_match import ExactMatch
from lofit_lens.tasks.kinds import SEVERAL_RIGHT, Kind, pairs, several_right
from lofit_lens.tasks.multiple_choice import MultipleChoice
from lofit_lens.tasks.readers import BAD, GOOD, Row


def recognise(rows: Sequence[Row]) -> Kind | None:
    """The first format whose columns the rows have."""
    for known in FORMATS:
        if all(has_column(rows, column) for column in known.columns):
            return replace(known, **known.settings(rows))
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


_choice = partial(Kind, prefixed="without a blank")
_free = partial(Kind, scoring=ExactMatch(), prefixed="without a blank")
_samples = partial(Kind, prefixed="never", kept=harness.of_first_filter)
_SAMPLE = ("doc", "target", "resps")


def _labelled(question: str, choices: str) -> Kind:
    texts, labels = f"{choices}.text", f"{choices}.label"
    return _choice(
        partial(benchmarks.labelled, texts=texts, labels=labels),
        (question, texts, labels, "answerKey"),
        prompt=_question(question),
        name="multiple choice with labels",
    )


def _several(
    name: str, question: str, best: str | None, right: str, wrong: str, **more: Any
) -> Kind:
    kind = several_right(best, right, wrong)
    prompt = f"Q: {{{question}}}\nA:"
    return replace(kind, columns=(question, *kind.columns), prompt=prompt, name=name, **more)


def _question(column: str) -> str:
    return f"Question: {{{column}}}\nAnswer:"


_SIQA = ("answerA", "answerB", "answerC")
_PIQA = ("sol1", "sol2")

FORMATS: tuple[Kind, ...] = (
    replace(pairs(GOOD, BAD), name="minimal pairs"),
    _samples(
        harness.sampled_choice,
        (*_SAMPLE, "arguments.gen_args_1"),
        scoring=MultipleChoice(as_lm_eval=True),
        settings=harness.choice_settings,
        name="lm-eval samples of multiple choice",
    ),
    _samples(
        harness.sampled_answer,
        (*_SAMPLE, "arguments.gen_args_0"),
        scoring=ExactMatch(),
        settings=harness.generation_settings,
        name="lm-eval samples of a generation",
    ),
    _choice(
        benchmarks.behaviour,
        ("question", benchmarks.MATCHING, benchmarks.NOT_MATCHING),
        name="model-written evals",
    ),
    Kind(
        benchmarks.targets,
        ("question", benchmarks.MC2),
        scoring=SEVERAL_RIGHT,
        objective="dpo",
        prompt="Q: {question}\nA:",
        name="TruthfulQA's targets",
    ),
    *(
        _several("TruthfulQA", *columns, objective="dpo", separator=";")
        for columns in (
            ("question", "best_answer", "correct_answers", "incorrect_answers"),
            ("Question", "Best Answer", "Correct Answers", "Incorrect Answers"),
        )
    ),
    _several("several right answers", "question", None, "correct", "incorrect"),
    _choice(preference, ("chosen", "rejected"), objective="dpo", name="preference pairs"),
    *(
        _free(partial(conversation, column=column), (column,), name="conversations")
        for column in ("messages", "conversations")
    ),
    _free(completion, ("prompt", "completion"), name="prompts and completions"),
    _free(benchmarks.instruction, ("instruction", "output"), name="instructions"),
    _labelled("question", "choices"),
    _labelled("question_stem", "choices"),
    _labelled("question.stem", "question.choices"),
    _choice(
        benchmarks.listed,
        ("question", "choices", "answer"),
        prompt=_question("question"),
        name="multiple choice with a list",
    ),
    _choice(
        partial(benchmarks.placed, column="label", first=0, choices="endings"),
        ("ctx", "endings", "label"),
        prompt="{ctx}",
        name="multiple choice of endings",
    ),
    _choice(
        partial(benchmarks.placed, column="label", first=1, choices=_SIQA),
        ("context", "question", *_SIQA, "label"),
        prompt="Q: {context} {question}\nA:",
        name="Social IQa",
    ),
    _choice(
        partial(benchmarks.placed, column="label", first=0, choices=_PIQA),
        ("goal", *_PIQA, "label"),
        prompt=_question("goal"),
        name="PIQA",
    ),
    *(
        _choice(
            partial(benchmarks.yes_or_no, column=answer),
            ("passage", "question", answer),
            prompt="{passage}\nQuestion: {question}?\nAnswer:",
            name="questions of yes or no",
        )
        for answer in ("answer", "label")
    ),
)
