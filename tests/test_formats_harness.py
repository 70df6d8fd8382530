"""Samples of lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lofit_lens.tasks import ExactMatch, MultipleChoice, from_file
from tests.own_files import in_order, jsonl, problem, read


def sample(i: int, requests: list[tuple[str, Any]], target: str, **more: Any) -> dict[str, Any]:
    return {
        "doc_id": i,
        "doc": {"question": f"Q{i}"},
        "target": target,
        "arguments": {
            f"gen_args_{n}": {"arg_0": context, "arg_1": argument}
            for n, (context, argument) in enumerate(requests)
        },
        "resps": [[["-1.5", "False"]]] * len(requests),
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": "0",
        **more,
    }


def test_samples_of_multiple_choice_have_their_exact_prompts(tmp_path: Path) -> None:
    shots = "Question: 1+1\nAnswer: 2\n\nQuestion: {}\nAnswer:"
    task = read(tmp_path, lambda i: sample(i, [(shots.format(i), f" {c}") for c in "abc"], "1"))
    example = in_order(task)[6]
    assert example.prompt == shots.format(6)
    assert (example.correct, example.incorrect) == ((" b",), (" a", " c"))
    assert (task.objective, task.scoring) == ("choice", MultipleChoice(as_lm_eval=True))


def test_samples_without_a_blank_between_context_and_candidate_get_none(tmp_path: Path) -> None:
    task = read(tmp_path, lambda i: sample(i, [(f"{i}(", "a"), (f"{i}(", "b")], "b"))
    assert (in_order(task)[0].correct, in_order(task)[0].incorrect) == (("b",), ("a",))


def test_samples_that_were_asked_for_mutual_information_are_taken_once(tmp_path: Path) -> None:
    task = read(
        tmp_path,
        lambda i: sample(i, [(f"Q{i}", " a"), (f"Q{i}", " b"), ("", " a"), ("", " b")], "0"),
    )
    assert (in_order(task)[0].correct, in_order(task)[0].incorrect) == ((" a",), (" b",))


def test_samples_with_several_right_answers_are_scored_so(tmp_path: Path) -> None:
    doc = {"mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 1, 0]}}
    task = read(tmp_path, lambda i: sample(i, [(f"{i}", f" {c}") for c in "abc"], "0", doc=doc))
    assert in_order(task)[0].correct == (" a", " b")
    assert task.scoring == MultipleChoice(("MC1", "MC2", "MC3"), as_lm_eval=True)
    listed = read(tmp_path, lambda i: sample(i, [(f"{i}", f" {c}") for c in "abc"], "[0, 2]"))
    assert in_order(listed)[0].correct == (" a", " c")


def test_samples_of_a_generation_say_where_it_ends(tmp_path: Path) -> None:
    settings = {"until": ["\n\n", "Q:"], "do_sample": False, "max_gen_toks": 7}
    task = read(tmp_path, lambda i: sample(i, [(f"Q: {i}\nA:", settings)], "one\ntwo"))
    example = in_order(task)[0]
    assert (example.prompt, example.correct) == ("Q: 0\nA:", (" one\ntwo",))
    assert task.scoring == ExactMatch(max_new_tokens=7, stop="\n\n")
    assert task.objective == "sft"


def test_samples_of_one_continuation_are_questions(tmp_path: Path) -> None:
    task = read(tmp_path, lambda i: sample(i, [(f"He said {i}", " hello")], " hello"))
    assert (in_order(task)[1].prompt, in_order(task)[1].correct) == ("He said 1", (" hello",))


def test_samples_of_several_filters_count_once(tmp_path: Path) -> None:
    rows = [
        sample(i, [(f"Q{i}", {"until": ["\n"]})], "x", filter=name)
        for name in ("strict-match", "flexible-extract")
        for i in range(10)
    ]
    assert len(in_order(from_file(jsonl(tmp_path, rows)))) == 10


@pytest.mark.parametrize(
    ("requests", "target", "what"),
    [
        ([("Q", " a"), ("Q", " b")], "7", "'target': '7', expected the place or the text"),
        ([("Q a", " x"), ("Q b", " x")], "0", "'arguments': contexts that differ"),
    ],
)
def test_samples_that_cannot_be_read_are_problems(
    tmp_path: Path, requests: list[tuple[str, Any]], target: str, what: str
) -> None:
    rows = [sample(0, [("Q", " a"), ("Q", " b")], "0"), sample(1, requests, target)]
    assert what in problem(tmp_path, rows)
