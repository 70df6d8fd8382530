"""Answers in the columns that well-known benchmarks have, on the hub and in their own files."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

from lofit_lens.tasks.kinds import Parts
from lofit_lens.tasks.rows import Cells, as_text, counted, shown

MATCHING, NOT_MATCHING = "answer_matching_behavior", "answer_not_matching_behavior"
MC1, MC2 = "mc1_targets", "mc2_targets"

_NO_YES = ("no", "yes")


def labelled(cells: Cells, texts: str, labels: str) -> Parts:
    """Candidates with labels of their own, such as A to D or 1 to 4 (ARC, CommonsenseQA)."""
    names = cells.texts(labels)
    return _chosen(cells, "answerKey", cells.texts(texts), [names], f"one of the labels {names}")


def placed(cells: Cells, column: str, first: int, choices: str | Sequence[str]) -> Parts:
    """Candidates in one list or in columns of their own; the right one's place (HellaSwag, SIQA)."""
    in_list = isinstance(choices, str)
    texts = cells.texts(choices) if in_list else [cells.text(choice) for choice in choices]
    names = counted(texts, first)
    return _chosen(cells, column, texts, [names], f"one of the places {', '.join(names)}")


def listed(cells: Cells) -> Parts:
    """A list of choices; the answer is its place from 0, its text or its letter (MMLU)."""
    texts = cells.texts("choices")
    places, letters = counted(texts, 0), list(string.ascii_uppercase[: len(texts)])
    is_text = isinstance(cells.value("answer"), str)
    ways = [texts, letters, places] if is_text else [places, texts]
    expected = f"the text, the letter or the place from 0 of one of {texts}"
    return _chosen(cells, "answer", texts, ways, expected)


def yes_or_no(cells: Cells, column: str) -> Parts:
    """A statement that is true or false (BoolQ)."""
    ways = [_NO_YES, ("0", "1"), ("false", "true"), ("False", "True")]
    return _chosen(cells, column, _NO_YES, ways, "true or false (or yes, no, 1, 0)")


def behaviour(cells: Cells) -> Parts:
    """The answers keep their leading blank; several may not match (model-written evals)."""
    other = cells.value(NOT_MATCHING)
    wrong = [as_text(text) for text in other] if isinstance(other, list) else []
    return Parts(
        cells.exact("question"), [cells.exact(MATCHING)], wrong or [cells.exact(NOT_MATCHING)]
    )


def targets(cells: Cells) -> Parts:
    """TruthfulQA's targets: lists of choices and labels, or an object of text and label."""
    right, wrong = _sides(cells, MC2)
    best = _sides(cells, MC1)[0] if cells.value(MC1) else []
    return Parts("", list(dict.fromkeys([*best, *right])), wrong)


def instruction(cells: Cells) -> Parts:
    """An instruction, its input if there is one, and the output (Alpaca)."""
    further = [cells.text("input")] if as_text(cells.value("input")).strip() else []
    return Parts("\n\n".join([cells.text("instruction"), *further]), [cells.text("output")])


def _chosen(
    cells: Cells, column: str, texts: Sequence[str], ways: Sequence[Sequence[str]], expected: str
) -> Parts:
    right, wrong = cells.named(column, texts, ways, expected)
    if right[0] and not wrong:
        cells.problem(column, f"{list(texts)}, expected two or more different choices")
    return Parts("", right, wrong)


def _sides(cells: Cells, column: str) -> tuple[list[str], list[str]]:
    found = cells.value(column)
    found = found if isinstance(found, Mapping) else {}
    pairs = zip(found.get("choices") or (), found.get("labels") or (), strict=False)
    pairs = list(pairs) if "choices" in found else list(found.items())
    right, wrong = ([as_text(text) for text, label in pairs if label == side] for side in (1, 0))
    if not right or not wrong:
        what = f"{shown(cells.value(column))}, expected choices with labels, some 1 and some 0"
        cells.problem(column, what)
    return right, wrong
