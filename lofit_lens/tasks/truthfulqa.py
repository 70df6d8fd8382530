"""TruthfulQA in ITI's two folds, as the paper trains and scores it (section 4, appendix A)."""

from __future__ import annotations

import csv
from pathlib import Path

from lofit_lens.errors import LofitLensError
from lofit_lens.tasks.sources import find_file, find_prompts
from lofit_lens.tasks.task import Example, MultipleChoice, Task

LEAD = "\nA:"


def truthfulqa(fold: int = 0, *, data_dir: str | Path | None = None) -> Task:
    """One fold of TruthfulQA: 326/82/409 (fold 0) or 327/82/408 questions (fold 1).

    Training is DPO on (best answer, first incorrect answer) with the zero-shot prompt; the test
    has an instruction and a six-shot primer, as the paper's. Metrics: MC1, MC2, MC3.
    `compat="paper-code"` finds the answer by counting three tokens after the question.

    Args:
        fold: 0 or 1.
        data_dir: Folder that holds `truthfulqa/`.

    Raises:
        LofitLensError: There is no such fold.
        DataError: The files cannot be found or fetched.
    """
    if fold not in (0, 1):
        raise LofitLensError(f"TruthfulQA has folds 0 and 1, got {fold!r}.")
    prompts = find_prompts(data_dir)
    shots = f"{prompts['instruction']}\n\n{prompts['qa_primer']}\n\n"
    rows = {split: _rows(fold, split, data_dir) for split in ("train", "val", "test")}
    test = tuple(_scored(row, shots) for row in rows["test"])
    metrics = ("MC1", "MC2", "MC3")
    return Task(
        name=f"truthfulqa:{fold}",
        train=tuple(_trained(row) for row in rows["train"]),
        val=tuple(_trained(row) for row in rows["val"]),
        test=test,
        val_as_test=tuple(_scored(row, shots) for row in rows["val"]),
        objective="dpo",
        scoring=MultipleChoice(metrics),
        compat={"paper-code": MultipleChoice(metrics, counted_lead=(LEAD, 3))},
        floors={"MC1 by chance": sum(1 / (1 + len(e.incorrect)) for e in test) / len(test)},
        source={"name": "truthfulqa", "fold": fold},
    )


def _rows(fold: int, split: str, data_dir: str | Path | None) -> list[dict[str, str]]:
    path = find_file(f"truthfulqa/fold_{fold}_{split}_seed_42.csv", data_dir)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _trained(row: dict[str, str]) -> Example:
    best, correct, incorrect = _answers(row)
    question = row["Question"]
    return Example(question, f"Q: {question} A:", (best, *correct), tuple(incorrect), question)


def _scored(row: dict[str, str], shots: str) -> Example:
    best, correct, incorrect = _answers(row)
    question = row["Question"]
    return Example(
        id=question,
        prompt=f"{shots}Q: {question}{LEAD}",
        correct=tuple(" " + _closed(answer) for answer in (best, *correct)),
        incorrect=tuple(" " + _closed(answer) for answer in incorrect),
        group=question,
    )


def _answers(row: dict[str, str]) -> tuple[str, list[str], list[str]]:
    """The best answer, the other correct ones, the incorrect ones."""
    best = row["Best Answer"].strip()
    correct = [answer.strip() for answer in row["Correct Answers"].split(";")]
    incorrect = [answer.strip() for answer in row["Incorrect Answers"].split(";")]
    return (
        best,
        [answer for answer in correct if answer and answer != best],
        [answer for answer in incorrect if answer],
    )


def _closed(answer: str) -> str:
    return answer if answer.endswith(".") else answer + "."
