"""A user's own data as a task: questions with answers, multiple choice, or minimal pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.tasks.rows import AnswerIs, RowReader, row_errors, template_columns
from lofit_lens.tasks.sources import data_folder
from lofit_lens.tasks.tables import Row, read_rows
from lofit_lens.tasks.task import ExactMatch, Example, MultipleChoice, Objective, Scoring, Task

BLIMP_COLUMNS = ("sentence_good", "sentence_bad")


def from_file(
    path: str | Path,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    choices: str | Sequence[str] | None = None,
    separator: str | None = None,
    good: str | None = None,
    bad: str | None = None,
    accepted: str | None = None,
    answer_is: AnswerIs = "text",
    answer_prefix: str = " ",
    group: str | None = None,
    objective: Objective | None = None,
    split: tuple[float, float, float] = (0.4, 0.1, 0.5),
    split_seed: int = 42,
    max_new_tokens: int = 16,
    stop: str = "\n",
    name: str | None = None,
) -> Task:
    r"""Make a task of a CSV, TSV, JSONL or JSON-list file.

    Three kinds, told apart by the arguments:

    * question and answer (`prompt`, `answer`): exact match of a greedy generation;
    * multiple choice (`prompt`, `answer`, `choices`): candidates by log-probability;
    * minimal pairs (`good`, `bad`, `prompt` optional): which sentence is likelier. Files with the
      columns `sentence_good` and `sentence_bad`, as BLiMP's, are recognised.

    Args:
        path: The file; a relative path is also looked for in `$LOFIT_LENS_DATA`.
        prompt: Template over the columns, such as `"Q: {question}\nA:"`.
        answer: Column of the right answer.
        choices: The candidates: a column that holds a list, several columns, or, with
            `separator`, one column cut into parts.
        separator: What separates the parts of the one column `choices`.
        good: Column of the better sentence of a pair.
        bad: Column of the worse one.
        accepted: Column with a list of further spellings of the answer (exact match).
        answer_is: What the column `answer` holds in multiple choice: the "text" of a choice, its
            "letter" (A, B, …), or its place counted from 0 ("index0") or from 1 ("index1").
        answer_prefix: Text between prompt and answer.
        group: Column whose equal values stay in one split. Default: equal prompts (for pairs
            without a prompt, equal pairs) stay together.
        objective: Default "choice" for choices and pairs, "sft" for questions.
        split: Shares of training, validation and test.
        split_seed: Seed of the split.
        max_new_tokens: Length of a generated answer.
        stop: Text at which a generated answer ends.
        name: Name of the task; default the file's.

    Raises:
        DataError: The file cannot be read, lacks a column, or is too small to split.
        RowErrors: Rows are malformed; all are listed.
        LofitLensError: The arguments do not describe one of the three kinds.

    Examples:
        >>> task = from_file("colours.csv", prompt="{thing} is", answer="colour")  # doctest: +SKIP
    """
    file = _find(path)
    rows, problems = read_rows(file)
    if not rows:
        raise row_errors(file, problems)
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    if not any((prompt, answer, choices, good, bad)) and set(BLIMP_COLUMNS) <= set(columns):
        good, bad = BLIMP_COLUMNS
    if answer_is not in get_args(AnswerIs):
        raise LofitLensError(
            f"answer_is must be one of {', '.join(get_args(AnswerIs))}, got {answer_is!r}."
        )

    reader = RowReader(file, columns, problems)
    scoring: Scoring
    if good and bad:
        reader.require(good, bad, *template_columns(prompt or ""), group)
        template, glue = prompt or "", answer_prefix if prompt else ""

        def build(row: Row) -> Example:
            better, worse = reader.text(row, good), reader.text(row, bad)
            if better and better == worse:
                reader.problem(row, bad, f"the same text as {good!r}, expected another sentence")
            return reader.example(row, template, [better], [worse], glue, group)

        scoring = MultipleChoice()
    elif prompt and answer and choices:
        several = [choices] if isinstance(choices, str) else list(choices)
        reader.require(answer, *several, *template_columns(prompt), group)

        def build(row: Row) -> Example:
            candidates = reader.choices(row, several, separator)
            right = reader.chosen(row, answer, answer_is, candidates)
            wrong = [candidate for candidate in candidates if candidate != right]
            return reader.example(row, prompt, [right], wrong, answer_prefix, group)

        scoring = MultipleChoice()
    elif prompt and answer:
        if not stop:
            raise LofitLensError("stop must not be empty; for a whole line give a line break.")
        reader.require(answer, accepted, *template_columns(prompt), group)

        def build(row: Row) -> Example:
            spellings = [reader.text(row, answer)]
            spellings += reader.texts(row, accepted) if accepted else []
            if any(stop in spelling for spelling in spellings):
                reader.problem(
                    row, answer, f"holds the stop text {stop!r}, which ends a prediction"
                )
            return reader.example(row, prompt, spellings, [], answer_prefix, group)

        scoring = ExactMatch(max_new_tokens=max_new_tokens, stop=stop)
    else:
        raise LofitLensError(
            f"Say what the columns of {file.name} are ({', '.join(columns)}): prompt and answer; "
            "prompt, answer and choices; or good and bad."
        )

    examples = reader.build_all(rows, build)
    train, val, test = _split(examples, split, split_seed, file)
    arguments = {
        "prompt": prompt, "answer": answer, "choices": choices, "separator": separator,
        "good": good, "bad": bad, "accepted": accepted, "answer_is": answer_is,
        "answer_prefix": answer_prefix, "group": group, "objective": objective, "split": split,
        "split_seed": split_seed, "max_new_tokens": max_new_tokens, "stop": stop,
    }  # fmt: skip
    return Task(
        name=name or file.stem,
        train=train,
        val=val,
        test=test,
        val_as_test=val,
        objective=objective or ("choice" if isinstance(scoring, MultipleChoice) else "sft"),
        scoring=scoring,
        floors=_floors(test, scoring),
        source={"name": str(file), **arguments, "task_name": name},
    )


def _find(path: str | Path) -> Path:
    path = Path(path).expanduser()
    folder = data_folder()
    if not path.exists() and folder and (folder / path).is_file():
        return (folder / path).resolve()
    return path.resolve() if path.exists() else path


def _split(
    examples: list[Example], shares: tuple[float, float, float], seed: int, file: Path
) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[Example, ...]]:
    """Deal whole groups into three splits, in an order drawn by `seed`."""
    if len(shares) != 3 or min(shares) <= 0 or sum(shares) > 1 + 1e-9:
        raise LofitLensError(
            f"split must be three positive shares that sum to at most 1, got {tuple(shares)}."
        )
    if seed < 0:
        raise LofitLensError(f"split_seed must be 0 or greater, got {seed}.")
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    order = np.random.default_rng(seed).permutation(len(groups))
    members = list(groups.values())
    ends = np.cumsum(shares) * len(examples)
    splits: tuple[list[Example], ...] = ([], [], [])
    dealt = 0
    for i in order:
        place = int(np.searchsorted(ends, dealt + 1e-9, side="right"))
        if place < 3:
            splits[place].extend(members[i])
        dealt += len(members[i])
    if not all(splits):
        largest = max(map(len, members))
        raise DataError(
            f"{file} has {len(examples)} rows in {len(groups)} groups, the largest of {largest} rows: "
            f"that cannot be dealt into shares of {tuple(shares)}."
        )
    train, val, test = (tuple(split) for split in splits)
    return train, val, test


def _floors(test: tuple[Example, ...], scoring: Scoring) -> dict[str, float]:
    if isinstance(scoring, MultipleChoice):
        return {"chance": sum(1 / (1 + len(e.incorrect)) for e in test) / len(test)}
    most = Counter(example.correct[0] for example in test).most_common(1)[0][1]
    return {"most frequent answer": most / len(test)}
