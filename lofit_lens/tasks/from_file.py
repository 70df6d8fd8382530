"""A user's own data as a task: questions with answers, multiple choice, or minimal pairs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, get_args

from lofit_lens.errors import LofitLensError, check_not_empty, check_one_of
from lofit_lens.progress import say
from lofit_lens.tasks import kinds
from lofit_lens.tasks.building import examples_of
from lofit_lens.tasks.choices import ScoredBy, scored_by
from lofit_lens.tasks.data import Data, read_files, rows_in_memory
from lofit_lens.tasks.exact_match import ExactMatch, Match
from lofit_lens.tasks.recognised import recognise
from lofit_lens.tasks.rows import AnswerIs
from lofit_lens.tasks.splits import Shares, into_splits
from lofit_lens.tasks.task import Example, Objective, Task

P = ParamSpec("P")


def from_file(
    path: str | Path | Mapping[str, str | Path] | Data,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    choices: str | Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    correct: str | None = None,
    incorrect: str | None = None,
    separator: str | None = None,
    good: str | None = None,
    bad: str | None = None,
    accepted: str | None = None,
    answer_is: AnswerIs = "text",
    answer_prefix: str = " ",
    group: str | None = None,
    objective: Objective | None = None,
    split: Shares | str = (0.4, 0.1, 0.5),
    split_seed: int = 42,
    max_new_tokens: int | None = None,
    stop: str | None = None,
    match: Match = "exact",
    name: str | None = None,
    by: ScoredBy = "text",
    scoring: str | None = None,
) -> Task:
    r"""Make a task of a CSV, TSV, JSONL, JSON-list or Parquet file, or of minimal pairs in a text.

    The kinds, told apart by the arguments:

    * question and answer (`prompt`, `answer`): exact match of a greedy generation; or several
      labels, with `scoring="label-f1"`: F1 of the labels generated;
    * multiple choice (`prompt`, `answer`, and `choices` or `labels`): candidates by log-probability;
    * several right answers (`prompt`, `correct`, `incorrect`): MC1, MC2 and MC3;
    * minimal pairs (`good`, `bad`, `prompt` optional): which sentence is likelier.

    Where none of these columns is named, the format is recognised by the columns there are, and one
    line on standard error says as what; the guide lists the formats. `prompt` then replaces the
    format's own prompt.

    A column may be a part of a nested one: `choices.text`, `query[0]`.

    Args:
        path: The file; a relative path is also looked for in `$LOFIT_LENS_DATA`. Ready splits are
            given as `{"train": …, "val": …, "test": …}`; without "val" a part of train is cut off.
        prompt: Template over the columns, such as `"Q: {question}\nA:"`.
        answer: Column of the right answer; beside `correct`, of the best one.
        choices: The candidates: a column that holds a list, several columns, or, with
            `separator`, one column cut into parts.
        labels: The candidates themselves, the same in every row, such as
            `["positive", "negative"]`; `answer` then holds one of them, or its place from 0.
        correct: Column with a list of right answers, the best first.
        incorrect: Column with a list of wrong ones.
        separator: What separates the parts of a list that is written as text; of labels also in
            what is generated, by default a comma.
        good: Column of the better sentence of a pair.
        bad: Column of the worse one.
        accepted: Column with a list of further spellings of the answer (exact match).
        answer_is: What the column `answer` holds in multiple choice: the "text" of a choice, its
            "letter" (A, B, …), or its place counted from 0 ("index0") or from 1 ("index1").
        answer_prefix: Text between prompt and answer. In a recognised format it is left out where
            white space stands there already.
        group: Column whose equal values stay in one split. Default: equal prompts (for pairs
            without a prompt, equal pairs) stay together.
        objective: Default "choice" for choices and pairs, "sft" for questions, "dpo" for
            preferences and TruthfulQA.
        split: Shares of training, validation and test; or the column that says train, val or test.
        split_seed: Seed of the split.
        max_new_tokens: Length of a generated answer; default 16, or what the file says.
        stop: Text at which a generated answer ends. Default: a line break; in a recognised format
            what the file says, or as many line breaks as stand together in no answer.
        match: "begins" counts a generation that begins with the answer as right, for models that do
            not stop behind it; see `ExactMatch`.
        name: Name of the task; default the file's.
        by: How candidates are compared: by their "text", by "text-normalised" (divided by its
            length), or by "letter"; see `scored_by`.
        scoring: How answers are scored: "multiple-choice", "exact-match", or "label-f1" for several
            labels, listed in `answer` (F1; an empty list is "none"). Default: by the columns.

    Raises:
        DataError: The file cannot be read, lacks a column, or is too small to split.
        RowErrors: Rows are malformed; all are listed.
        LofitLensError: The arguments do not describe one of the kinds.

    Examples:
        >>> task = from_file("colours.csv", prompt="{thing} is", answer="colour")  # doctest: +SKIP
    """
    arguments = {key: value for key, value in locals().items() if key not in ("path", "name", "by")}
    chosen = None
    if scoring is None:
        del arguments["scoring"]  # as sources were before it could be said
    else:
        check_one_of("scoring", scoring, kinds.SCORINGS)
        chosen = kinds.SCORINGS[scoring]()
    data = path if isinstance(path, Data) else read_files(path)
    if not data.rows:
        raise data.row_errors()
    check_one_of("answer_is", answer_is, get_args(AnswerIs))
    check_not_empty("stop", stop)
    check_not_empty("separator", separator)
    if choices and labels:
        raise LofitLensError("Give choices (columns) or labels (the candidates), not both.")
    if labels is not None and (isinstance(labels, str) or len(set(labels)) < max(2, len(labels))):
        raise LofitLensError(f"labels must be two or more different texts, got {labels!r}.")
    if isinstance(split, str) and None not in data.tables:
        raise LofitLensError(f"The splits are ready, so no column {split!r} can name them.")

    if bool(good) != bool(bad) or bool(correct) != bool(incorrect):
        raise LofitLensError(
            "good goes with bad, and correct with incorrect: name both. The columns of "
            f"{data.called}: {', '.join(data.columns)}."
        )

    if good and bad:
        kind = kinds.pairs(good, bad)
    elif prompt and correct and incorrect:
        kind = kinds.several_right(answer, correct, incorrect)
    elif prompt and answer and labels:
        kind = kinds.classification(answer, labels, answer_is)
    elif prompt and answer and choices:
        several = [choices] if isinstance(choices, str) else list(choices)
        kind = kinds.choice(answer, several, answer_is)
    elif prompt and answer:
        kind = kinds.questions(answer, accepted, chosen or ExactMatch())
    else:
        named = any((answer, choices, labels, correct, incorrect, good, bad, accepted))
        kind = None if named else recognise(data.rows)
        if kind is None:
            raise LofitLensError(
                f"Say what the columns of {data.called} are ({', '.join(data.columns)}): prompt and "
                "answer; these and choices or labels; prompt, correct and incorrect; or good and bad."
            )

    data = data.only(kind.kept)
    kind = replace(kind, prompt=prompt or kind.prompt, separator=separator or kind.separator)
    rule = kind.scoring if chosen is None or type(chosen) is type(kind.scoring) else chosen
    stated = stop or (None if kind.name else "\n") if rule.generates else None
    column = split if isinstance(split, str) else None
    examples = examples_of(
        data, kind, prefix=answer_prefix, group=group, column=column, stop=stated
    )
    (train, val, test), cut = into_splits(examples, split, split_seed, data.called)
    if rule.generates:
        usual = kind.stop or "\n"
        end = stated or _outside([example for _, example in examples], usual)
        tokens = (kind.max_new_tokens or 16) if max_new_tokens is None else max_new_tokens
        said = {"max_new_tokens": tokens, "stop": end, "lead": answer_prefix.strip(" \t")}
        said |= {"match": match, "separator": kind.separator or ","}
        rule = replace(rule, **{f.name: said[f.name] for f in fields(rule) if f.name in said})
        if end != (stated or usual):
            cut.append(f"predictions end at {end!r}, as answers hold shorter breaks")
    task = Task(
        name=name or data.name,
        train=train,
        val=val,
        test=test,
        val_as_test=val,
        objective=objective or kind.objective or rule.default_objective,
        scoring=rule,
        floors=rule.floors(test),
        source={"name": data.source, **arguments, "task_name": name},
    )
    read_as = [f"read as {kind.name} ({', '.join(kind.columns)})"] if kind.name else []
    told = [*read_as, *data.notes, *cut]
    if told:
        say(f"{data.called}: {'; '.join(told)}.")
    return scored_by(task, by)


def _options_of(
    make: Callable[Concatenate[Any, P], Task],
) -> Callable[[Callable[..., Task]], Callable[Concatenate[Any, P], Task]]:
    """Give a function the options of another one, which are then written once."""
    _, *options = inspect.signature(make).parameters.values()

    def decorate(function: Callable[..., Task]) -> Callable[Concatenate[Any, P], Task]:
        own = inspect.signature(function)
        first = next(iter(own.parameters.values()))
        function.__signature__ = own.replace(parameters=[first, *options])  # pyright: ignore
        return function

    return decorate


@_options_of(from_file)
def from_rows(rows: Any, **options: Any) -> Task:
    """Make a task of rows in memory; the options are those of `from_file`.

    Such a task cannot be loaded again from a saved result: pass it to `evaluate` yourself.

    Args:
        rows: A pandas frame, a `datasets.Dataset`, or any iterable of mappings from columns to
            values. Ready splits are given as a mapping, `{"train": …, "val": …, "test": …}`, such
            as a `DatasetDict`.
        **options: All that `from_file` takes but the path.

    Raises:
        DataError: There are no rows, or they lack a column.
        RowErrors: Rows are malformed; all are listed.
        LofitLensError: The argument does not hold rows, or the options describe no kind.

    Examples:
        >>> rows = [{"thing": f"sky {i}", "colour": "blue"} for i in range(10)]
        >>> from_rows(rows, prompt="{thing} is", answer="colour")
        Task(rows: 4 train, 1 val, 5 test; sft, ExactMatch)
    """
    return from_file(rows_in_memory(rows), **options)


def _outside(examples: Sequence[Example], stop: str) -> str:
    """A stop text that stands in no answer: the one given, else line breaks, as many as it takes."""
    answers = [answer.strip() for example in examples for answer in example.correct]
    while any(stop in answer for answer in answers):
        stop = "\n" * (1 + stop.count("\n")) if set(stop) == {"\n"} else "\n"
    return stop
