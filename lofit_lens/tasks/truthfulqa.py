"""TruthfulQA in ITI's two folds, scored as the paper does, as lm-evaluation-harness does, or open-ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from lofit_lens.errors import LofitLensError, check_one_of
from lofit_lens.tasks.multiple_choice import MultipleChoice
from lofit_lens.tasks.references import NO_COMMENT, References
from lofit_lens.tasks.sources import find_prompts, read_records
from lofit_lens.tasks.task import Example, Task

Protocol = Literal["paper", "lm-eval", "gen"]

LEAD = "\nA:"
Row = dict[str, str]


def truthfulqa(
    fold: int | None = None,
    *,
    protocol: Protocol = "paper",
    data_dir: str | Path | None = None,
) -> Task:
    """One fold of TruthfulQA: 326/82/409 (fold 0) or 327/82/408 questions (fold 1); or all 817.

    Training is DPO on (best answer, first incorrect answer) with the zero-shot prompt, under every
    protocol. What is scored:

    * "paper": an instruction and a six-shot primer in front of the question; metrics MC1, MC2, MC3.
      `compat="paper-code"` finds the answer by counting three tokens after the question, and counts
      the best answer twice where the file lists it twice (one question of fold 0).
    * "lm-eval": the prompts of lm-evaluation-harness, which are the same primer without the
      instruction; metrics MC1 and MC2. Its tasks `truthfulqa_mc1` and `truthfulqa_mc2` read their
      candidates from a file of their own on the hub, an older and shorter list (4,114 and 5,882
      candidates over all questions; these files give 4,185 and 6,205, each text once for right and
      once for wrong). On equal candidates the scores are equal. A tie is lost here and won there.
    * "gen": greedy answers to the prompts of "paper", up to 50 tokens or a line break, beside the
      reference answers, of which "I have no comment." is a right one; see `References`. Judges may
      read them later (`lofit-lens judge`).

    Args:
        fold: 0 or 1. None is fold 0; under "lm-eval" it is all 817 questions in the
            order of the hub, for evaluation alone.
        protocol: How the test and the validation questions are scored.
        data_dir: Folder that holds `truthfulqa/`.

    Raises:
        LofitLensError: There is no such fold or protocol.
        DataError: The files cannot be found or fetched.
    """
    check_one_of("protocol", protocol, get_args(Protocol))
    if fold is None and protocol != "lm-eval":
        fold = 0
    if fold not in (None, 0, 1):
        raise LofitLensError(f"TruthfulQA has folds 0 and 1, got {fold!r}.")
    training, validation = (
        [] if fold is None else _rows(fold, split, data_dir) for split in ("train", "val")
    )
    tested = [row for one in (0, 1) if fold in (None, one) for row in _rows(one, "test", data_dir)]
    prompts = find_prompts(data_dir)
    shots = f"{prompts['qa_primer']}\n\n"
    if protocol != "lm-eval":
        shots = f"{prompts['instruction']}\n\n{shots}"
    once = protocol != "paper"
    test, val = (
        tuple(_scored(row, shots, once=once) for row in rows) for rows in (tested, validation)
    )
    source: dict[str, Any] = {"name": "truthfulqa", "fold": fold}
    compat = {}
    if protocol == "paper":
        scoring = MultipleChoice(("MC1", "MC2", "MC3"))
        again = {
            example.id: example.correct[:1]
            for row, example in zip(tested + validation, test + val, strict=True)
            if _listed(row["Correct Answers"]).count(row["Best Answer"].strip()) > 1
        }
        compat["paper-code"] = MultipleChoice(
            scoring.metrics, counted_lead=(LEAD, 3), also_correct=again
        )
    elif protocol == "lm-eval":
        scoring = MultipleChoice(("MC1", "MC2"), as_lm_eval=True)
    else:
        scoring = References()
        test, val = (tuple(map(_with_no_comment, examples)) for examples in (test, val))
    if protocol != "paper":
        source["protocol"] = protocol
    return Task(
        name=":".join(str(part) for part in source.values() if part is not None),
        train=tuple(map(_trained, training)),
        val=tuple(map(_trained, validation)),
        test=test,
        val_as_test=val,
        objective="dpo",
        scoring=scoring,
        compat=compat,
        floors=scoring.floors(test),
        source=source,
    )


def _rows(fold: int | None, split: str, data_dir: str | Path | None) -> list[Row]:
    return read_records(f"truthfulqa/fold_{fold}_{split}_seed_42.csv", data_dir)


def _trained(row: Row) -> Example:
    best, correct, incorrect = _answers(row)
    question = row["Question"]
    return Example(question, f"Q: {question} A:", (best, *correct), tuple(incorrect), question)


def _scored(row: Row, shots: str, *, once: bool) -> Example:
    best, correct, incorrect = _answers(row)
    question = row["Question"]
    return Example(
        id=question,
        prompt=f"{shots}Q: {question}{LEAD}",
        correct=_candidates([best, *correct], once=once),
        incorrect=_candidates(incorrect, once=once),
        group=question,
    )


def _with_no_comment(example: Example) -> Example:
    correct = dict.fromkeys((*example.correct, f" {NO_COMMENT}"))
    return replace(example, correct=tuple(correct))


def _answers(row: Row) -> tuple[str, list[str], list[str]]:
    """The best answer, the other correct ones, the incorrect ones."""
    best = row["Best Answer"].strip()
    correct = [answer for answer in _listed(row["Correct Answers"]) if answer != best]
    return best, correct, _listed(row["Incorrect Answers"])


def _listed(answers: str) -> list[str]:
    return [answer for part in answers.split(";") if (answer := part.strip())]


def _candidates(answers: Sequence[str], *, once: bool) -> tuple[str, ...]:
    """Answers behind a blank, each closed by a full stop."""
    closed = [f" {answer}" if answer.endswith(".") else f" {answer}." for answer in answers]
    return tuple(dict.fromkeys(closed) if once else closed)
