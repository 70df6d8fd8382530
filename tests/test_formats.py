"""Preferences, conversations and instructions, as their users have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.errors import RowErrors
from lofit_lens.tasks import ExactMatch, Example, MultipleChoice, from_file
from tests.own_files import in_order, jsonl, problem, read, ten


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# --- preference pairs


def test_plain_preference_pairs_are_trained_by_preference(tmp_path: Path) -> None:
    task = read(
        tmp_path,
        lambda i: {"prompt": f"The sky {i} is", "chosen": " blue.", "rejected": " green."},
    )
    example = in_order(task)[3]
    assert example == Example("line-4", "The sky 3 is", (" blue.",), (" green.",), "line-4")
    assert (task.objective, task.scoring) == ("dpo", MultipleChoice())
    assert task.floors == {"chance": 0.5}


def test_answers_without_a_blank_get_one_unless_the_prompt_ends_with_white_space(
    tmp_path: Path,
) -> None:
    rows = {"chosen": "blue", "rejected": "green"}
    glued = read(tmp_path, lambda i: {"prompt": f"{i} Q?", **rows})
    apart = read(tmp_path, lambda i: {"prompt": f"{i} Q?\n", **rows})
    assert in_order(glued)[0].correct == (" blue",)
    assert in_order(apart)[0].correct == ("blue",)
    bare = read(tmp_path, lambda i: {"prompt": f"{i} Q?", **rows}, answer_prefix="")
    assert in_order(bare)[0].correct == ("blue",)


def test_the_common_beginning_of_plain_pairs_is_their_prompt(tmp_path: Path) -> None:
    task = read(
        tmp_path,
        lambda i: {"chosen": f"Sky {i} is blue today.", "rejected": f"Sky {i} is black."},
    )
    example = in_order(task)[0]
    assert example.prompt == "Sky 0 is"
    assert (example.correct, example.incorrect) == ((" blue today.",), (" black.",))


def test_dialogues_of_human_and_assistant_are_cut_at_the_last_common_turn(tmp_path: Path) -> None:
    start = "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Why {}?\n\nAssistant:"
    task = read(
        tmp_path,
        lambda i: {
            "chosen": f"{start.format(i)} It is so.",
            "rejected": f"{start.format(i)} It is not.",
        },
    )
    example = in_order(task)[2]
    assert example.prompt == start.format(2)
    assert (example.correct, example.incorrect) == ((" It is so.",), (" It is not.",))


CONVERSATIONAL: dict[str, Callable[[int], dict[str, Any]]] = {
    "an explicit prompt": lambda i: {
        "prompt": [user(f"Q{i}")],
        "chosen": [assistant("Good.")],
        "rejected": [assistant("Bad.")],
    },
    "an implicit prompt": lambda i: {
        "chosen": [user(f"Q{i}"), assistant("Good.")],
        "rejected": [user(f"Q{i}"), assistant("Bad.")],
    },
    "a prompt as text beside whole conversations": lambda i: {
        "prompt": f"Q{i}",
        "chosen": [user(f"Q{i}"), assistant("Good.")],
        "rejected": [user(f"Q{i}"), assistant("Bad.")],
    },
    "a prompt as turns that both repeat": lambda i: {
        "prompt": [user(f"Q{i}")],
        "chosen": [user(f"Q{i}"), assistant("Good.")],
        "rejected": [user(f"Q{i}"), assistant("Bad.")],
    },
    "a prompt as text beside answers as turns": lambda i: {
        "prompt": f"Q{i}",
        "chosen": [assistant("Good.")],
        "rejected": [assistant("Bad.")],
    },
}


@pytest.mark.parametrize("how", list(CONVERSATIONAL))
def test_conversational_preference_pairs_keep_their_turns(tmp_path: Path, how: str) -> None:
    example = in_order(read(tmp_path, CONVERSATIONAL[how]))[1]
    assert (example.prompt, example.messages) == ("Q1", (("user", "Q1"),))
    assert (example.correct, example.incorrect) == ((" Good.",), (" Bad.",))


def test_a_pair_that_prefers_nothing_is_a_problem_of_its_line(tmp_path: Path) -> None:
    good = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    found = problem(tmp_path, [good, {**good, "rejected": "a"}])
    assert "column 'rejected': the same answer as 'chosen', expected another one" in found


def test_turns_that_part_before_the_last_answer_are_a_problem(tmp_path: Path) -> None:
    good = {"chosen": [user("Q"), assistant("a")], "rejected": [user("Q"), assistant("b")]}
    bad = {**good, "chosen": [user("Q"), assistant("c"), user("And?"), assistant("d")]}
    assert "expected one turn of the assistant" in problem(tmp_path, [good, bad])


# --- conversations, prompts and completions, instructions


def test_the_last_turn_of_the_assistant_is_the_answer_to_those_before(tmp_path: Path) -> None:
    task = read(tmp_path, lambda i: {"messages": [user(f"What is {i}?"), assistant("A number.")]})
    example = in_order(task)[4]
    assert example.prompt == "What is 4?"
    assert example.correct == (" A number.",)
    assert example.messages == (("user", "What is 4?"),)
    assert (task.objective, task.scoring) == ("sft", ExactMatch())


def test_several_turns_become_a_transcript_and_stay_turns(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    turns = [system, user("Hello"), assistant("Hi"), user("Why?"), assistant("So."), user("Oh")]
    example = in_order(read(tmp_path, lambda i: {"messages": turns, "n": i}, group="n"))[0]
    assert example.prompt == "Be brief.\n\nUser: Hello\nAssistant: Hi\nUser: Why?\nAssistant:"
    assert example.correct == (" So.",)
    assert example.messages == (
        ("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Why?"),
    )  # fmt: skip


def test_turns_of_sharegpt_and_of_parts_are_read(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Why?"}]
    shared = read(
        tmp_path,
        lambda i: {
            "conversations": [{"from": "human", "value": f"{i}?"}, {"from": "gpt", "value": "!"}]
        },
    )
    assert in_order(shared)[0].messages == (("user", "0?"),)
    in_parts = read(
        tmp_path,
        lambda i: {"n": i, "messages": [{"role": "user", "content": parts}, assistant("So.")]},
        group="n",
    )
    assert in_order(in_parts)[0].prompt == "Why?"


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([user("Q")], "one of the assistant after it"),
        ([assistant("A")], "one of the assistant after it"),
        ("Q", "expected turns such as"),
        ([{"role": "user"}, assistant("A")], "expected turns such as"),
        ([], "expected turns such as"),
    ],
)
def test_conversations_without_an_answer_are_problems(
    tmp_path: Path, messages: Any, what: str
) -> None:
    rows = [{"messages": [user("Q"), assistant("A")]}, {"messages": messages}]
    assert f"column 'messages': {''}" in (found := problem(tmp_path, rows))
    assert what in found


@pytest.mark.parametrize("turns", [False, True], ids=["plain", "conversational"])
def test_prompts_and_completions_are_questions_and_answers(tmp_path: Path, turns: bool) -> None:
    def row(i: int) -> dict[str, Any]:
        if turns:
            return {"prompt": [user(f"Sky {i}?")], "completion": [assistant("Blue.")]}
        return {"prompt": f"Sky {i}?", "completion": " Blue."}

    task = read(tmp_path, row)
    example = in_order(task)[0]
    assert (example.prompt, example.correct) == ("Sky 0?", (" Blue.",))
    assert example.messages == ((("user", "Sky 0?"),) if turns else ())
    assert task.objective == "sft"


def test_completions_that_are_not_wanted_are_not_trained_on(tmp_path: Path) -> None:
    row = {"prompt": "Q", "completion": "A", "label": True}
    found = problem(tmp_path, [row, {**row, "label": False}])
    assert "column 'label': False: a completion that is not wanted" in found


def test_instructions_have_their_input_behind_them_if_there_is_one(tmp_path: Path) -> None:
    task = read(
        tmp_path,
        lambda i: {"instruction": f"Add {i}.", "input": "1" if i else "", "output": "Sum"},
    )
    first, second = in_order(task)[:2]
    assert (first.prompt, second.prompt) == ("Add 0.", "Add 1.\n\n1")
    assert second.correct == (" Sum",)


def test_answers_of_several_lines_end_at_a_longer_break(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ten(lambda i: {"instruction": f"Do {i}", "output": "one\n\ntwo\nthree"})
    task = from_file(jsonl(tmp_path, rows))
    assert task.scoring == ExactMatch(stop="\n\n\n")
    assert r"predictions end at '\n\n\n'" in capsys.readouterr().err
    with pytest.raises(RowErrors, match=r"line 1, column 'output': holds the stop text"):
        from_file(jsonl(tmp_path, rows), stop="\n")


def test_a_prompt_of_ones_own_replaces_that_of_the_format(tmp_path: Path) -> None:
    task = read(
        tmp_path,
        lambda i: {"messages": [user(f"What is {i}?"), assistant("A number.")]},
        prompt="Q: {messages[0].content}\nA:",
    )
    assert in_order(task)[7].prompt == "Q: What is 7?\nA:"
    assert in_order(task)[7].messages == ()


# --- model-written evals


def test_model_written_evals_keep_their_leading_blank(tmp_path: Path) -> None:
    question = "Do you agree?\n\nChoices:\n (A) Yes\n (B) No"
    task = read(
        tmp_path,
        lambda i: {
            "question": f"{i}. {question}",
            "answer_matching_behavior": " (A)",
            "answer_not_matching_behavior": " (B)" if i else [" (B)", " (C)"],
        },
    )
    first, second = in_order(task)[:2]
    assert second.prompt == f"1. {question}"
    assert (second.correct, second.incorrect) == ((" (A)",), (" (B)",))
    assert first.incorrect == (" (B)", " (C)")


# --- what is said, and what is kept


def test_a_recognised_format_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, CONVERSATIONAL["an implicit prompt"])
    said = capsys.readouterr()
    assert said.err == "own.jsonl: read as preference pairs (chosen, rejected).\n"
    assert said.out == ""


def test_named_columns_are_not_guessed_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"prompt": "P", "chosen": "c", "rejected": "r"}
    task = read(tmp_path, lambda i: {**row, "n": i}, prompt="{n}", answer="chosen")
    assert isinstance(task.scoring, ExactMatch)
    assert capsys.readouterr().err == ""


def test_turns_are_part_of_the_data_hash_and_their_absence_is_not() -> None:
    import hashlib
    from dataclasses import asdict, replace

    from lofit_lens.tasks.task import Task as Plain

    one = Example("a", "p", ("x",), ("y",), "g")
    parts: dict[str, Any] = {"train": (one,), "val": (one,), "test": (one,), "val_as_test": (one,)}
    task = Plain(name="t", objective="sft", scoring=ExactMatch(), **parts)
    fields = {key: value for key, value in asdict(one).items() if key != "messages"}
    text = json.dumps({s: [fields] for s in ("train", "val", "test")}, sort_keys=True)
    assert task.data_hash() == hashlib.sha256(text.encode()).hexdigest()
    spoken = replace(task, test=(replace(one, messages=(("user", "p"),)),))
    assert spoken.data_hash() != task.data_hash()
