"""Files as their users have them: each format is read, or refused with the line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.errors import DataError, LofitLensError, RowErrors
from lofit_lens.tasks import ExactMatch, Example, MultipleChoice, Task, from_file, reload_task

Rows = list[dict[str, Any]]
HALF: dict[str, Any] = {"split": (0.4, 0.3, 0.3)}


def jsonl(folder: Path, rows: Rows, name: str = "own.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ten(make: Callable[[int], dict[str, Any]]) -> Rows:
    return [make(i) for i in range(10)]


def in_order(task: Task) -> list[Example]:
    every = task.train + task.val + task.test
    return sorted(every, key=lambda example: int(example.id.rpartition("-")[2]))


def read(folder: Path, make: Callable[[int], dict[str, Any]], **options: Any) -> Task:
    """The task of ten rows in a JSONL file."""
    task = from_file(jsonl(folder, ten(make)), **options)
    assert len(in_order(task)) == 10
    return task


def problem(folder: Path, rows: Rows, **options: Any) -> str:
    """What is wrong with the last of ten rows."""
    good = [rows[0]] * 9
    with pytest.raises(RowErrors) as error:
        from_file(jsonl(folder, [*good, rows[1]]), **options)
    (found,) = error.value.problems
    assert found.startswith("own.jsonl line 10")
    return found


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


# --- multiple choice as on the hub

ARC = {"text": ["red", "blue", "grey", "pink"], "label": ["A", "B", "C", "D"]}
HUB: dict[str, tuple[dict[str, Any], str]] = {
    "ARC": ({"question": "Q?", "choices": ARC, "answerKey": "B"}, "Question: Q?\nAnswer:"),
    "ARC with numbers": (
        {
            "question": "Q?",
            "choices": {**ARC, "label": ["1", "2", "3", "4"]},
            "answerKey": "2",
        },
        "Question: Q?\nAnswer:",
    ),
    "OpenBookQA": (
        {"question_stem": "Q?", "choices": ARC, "answerKey": "B"},
        "Question: Q?\nAnswer:",
    ),
    "ARC as its authors write it": (
        {
            "question": {
                "stem": "Q?",
                "choices": [
                    {"text": text, "label": label}
                    for text, label in zip(ARC["text"], ARC["label"], strict=True)
                ],
            },
            "answerKey": "B",
        },
        "Question: Q?\nAnswer:",
    ),
    "MMLU": (
        {"question": "Q?", "subject": "x", "choices": ARC["text"], "answer": 1},
        "Question: Q?\nAnswer:",
    ),
    "a list with a letter": (
        {"question": "Q?", "choices": ARC["text"], "answer": "B"},
        "Question: Q?\nAnswer:",
    ),
    "a list with a text": (
        {"question": "Q?", "choices": ARC["text"], "answer": "blue"},
        "Question: Q?\nAnswer:",
    ),
    "HellaSwag": ({"ctx": "A man", "endings": ARC["text"], "label": "1"}, "A man"),
}


@pytest.mark.parametrize("name", list(HUB))
def test_multiple_choice_of_the_hub_is_read(tmp_path: Path, name: str) -> None:
    row, prompt = HUB[name]
    task = read(tmp_path, lambda i: {**row, "n": i}, group="n")
    for example in in_order(task):
        assert example.prompt == prompt
        assert example.correct == (" blue",)
        assert example.incorrect == (" red", " grey", " pink")
    assert (task.objective, task.scoring) == ("choice", MultipleChoice())


OWN_COLUMNS: dict[str, tuple[dict[str, Any], str, str, tuple[str, ...]]] = {
    "Social IQa": (
        {
            "context": "Ann fell.", "question": "How is she?", "answerA": "well",
            "answerB": "hurt", "answerC": "away", "label": "2",
        },
        "Q: Ann fell. How is she?\nA:", " hurt", (" well", " away"),
    ),
    "PIQA": (
        {"goal": "Boil water", "sol1": "heat it", "sol2": "cool it", "label": 0},
        "Question: Boil water\nAnswer:", " heat it", (" cool it",),
    ),
    "BoolQ": (
        {"passage": "It is so.", "question": "is it so", "answer": True},
        "It is so.\nQuestion: is it so?\nAnswer:", " yes", (" no",),
    ),
    "BoolQ of SuperGLUE": (
        {"passage": "It is so.", "question": "is it not", "label": 0},
        "It is so.\nQuestion: is it not?\nAnswer:", " no", (" yes",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(OWN_COLUMNS))
def test_benchmarks_with_columns_of_their_own_are_read(tmp_path: Path, name: str) -> None:
    row, prompt, right, wrong = OWN_COLUMNS[name]
    for example in in_order(read(tmp_path, lambda i: {**row, "n": i}, group="n")):
        assert (example.prompt, example.correct) == (prompt, (right,))
        assert example.incorrect == wrong


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("ARC", {"answerKey": "E"}, "'answerKey': 'E', expected one of the labels ['A', 'B'"),
        ("ARC", {"answerKey": ""}, "'answerKey': nothing, expected text"),
        ("MMLU", {"answer": 4}, "'answer': 4, expected the text, the letter or the place from 0"),
        ("HellaSwag", {"label": ""}, "'label': nothing, expected text"),
        ("HellaSwag", {"endings": "red"}, "'endings': 'red', expected a list of texts"),
    ],
)
def test_an_answer_that_is_none_of_the_choices_is_a_problem_of_its_line(
    tmp_path: Path, name: str, change: dict[str, Any], what: str
) -> None:
    assert f"column {what}" in problem(tmp_path, [HUB[name][0], {**HUB[name][0], **change}])


def test_an_answer_of_boolq_that_is_neither_is_a_problem(tmp_path: Path) -> None:
    row = OWN_COLUMNS["BoolQ"][0]
    found = problem(tmp_path, [row, {**row, "answer": "maybe"}])
    assert "column 'answer': 'maybe', expected true or false" in found


def test_nested_columns_can_be_named(tmp_path: Path) -> None:
    task = read(
        tmp_path,
        lambda i: {"doc": {"question": f"Q{i}"}, "choices": ARC, "key": "C"},
        prompt="{doc.question} ({choices.text}; not {choices.text[0]})",
        answer="key",
        choices="choices.text",
        answer_is="letter",
    )
    example = in_order(task)[5]
    assert example.prompt == "Q5 (red, blue, grey, pink; not red)"
    assert example.correct == (" grey",)


def test_a_column_that_holds_a_tuple_as_text_can_be_taken_apart(tmp_path: Path) -> None:
    task = read(
        tmp_path,
        lambda i: {"query": f"('Jason {i}', 'Lewis')", "relation": "uncle"},
        prompt="How is {query[1]} related to {query[0]}?",
        answer="relation",
    )
    assert in_order(task)[2].prompt == "How is Lewis related to Jason 2?"


@pytest.mark.real
def test_the_people_of_clutrr_are_taken_out_of_its_query(data_dir: Path) -> None:
    path = data_dir / "clutrr/val.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    task = from_file(path, prompt="{query[0]}|{query[1]}|{clean_story}", answer="target_text")
    for row, example in zip(rows, in_order(task), strict=True):
        first, second = row["query"].strip("()").replace("'", "").split(", ")
        assert example.prompt == f"{first}|{second}|{row['clean_story'].strip()}"


@pytest.mark.parametrize("query", ["__import__('os')", "(1", "[].append", "Jason"])
def test_text_that_is_no_list_is_not_taken_apart(tmp_path: Path, query: str) -> None:
    rows = [{"query": "('a', 'b')", "a": "x"}, {"query": query, "a": "x"}]
    found = problem(tmp_path, rows, prompt="{query[0]}", answer="a")
    assert "column 'query[0]': nothing, expected text" in found


# --- several right answers

MC2 = {"choices": ["Yes.", "Sure.", "No."], "labels": [1, 1, 0]}
SEVERAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lists": ({"question": "Q?", "correct": ["Yes.", "Sure."], "incorrect": ["No."]}, {}),
    "targets": ({"question": "Q?", "mc2_targets": MC2}, {}),
    "targets as an object": (
        {"question": "Q?", "mc2_targets": {"Yes.": 1, "Sure.": 1, "No.": 0}},
        {},
    ),
    "the best of other targets": (
        {
            "question": "Q?",
            "mc1_targets": {"choices": ["Yes.", "No."], "labels": [1, 0]},
            "mc2_targets": {"choices": ["Sure.", "Yes.", "No."], "labels": [1, 1, 0]},
        },
        {},
    ),
    "TruthfulQA of the hub": (
        {
            "question": "Q?", "best_answer": "Yes.",
            "correct_answers": ["Sure.", "Yes."], "incorrect_answers": ["No."],
        },
        {},
    ),
    "TruthfulQA's table": (
        {
            "Question": "Q?", "Best Answer": "Yes.",
            "Correct Answers": "Yes.; Sure.", "Incorrect Answers": "No.",
        },
        {},
    ),
    "columns of one's own": (
        {"q": "Q?", "r": "Yes. | Sure.", "w": "No."},
        {"prompt": "Q: {q}\nA:", "correct": "r", "incorrect": "w", "separator": "|"},
    ),
    "a best answer of one's own": (
        {"q": "Q?", "b": "Yes.", "r": ["Sure."], "w": ["No."]},
        {"prompt": "Q: {q}\nA:", "answer": "b", "correct": "r", "incorrect": "w"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", list(SEVERAL))
def test_several_right_answers_are_scored_by_mc1_mc2_and_mc3(tmp_path: Path, how: str) -> None:
    row, options = SEVERAL[how]
    task = read(tmp_path, lambda i: {**row, "n": i}, group="n", **options)
    for example in in_order(task):
        assert example.prompt == "Q: Q?\nA:"
        assert example.correct == (" Yes.", " Sure.")
        assert example.incorrect == (" No.",)
    assert task.scoring == MultipleChoice(("MC1", "MC2", "MC3"))
    assert task.floors == {"MC1 by chance": 0.5}


@pytest.mark.parametrize(
    ("how", "change", "column"),
    [
        ("lists", {"incorrect": []}, "incorrect"),
        ("targets", {"mc2_targets": {"choices": ["Yes."], "labels": [1]}}, "mc2_targets"),
        ("columns of one's own", {"r": " | "}, "r"),
    ],
)
def test_a_row_without_right_or_wrong_answers_is_a_problem(
    tmp_path: Path, how: str, change: dict[str, Any], column: str
) -> None:
    row, options = SEVERAL[how]
    assert f"column {column!r}" in problem(tmp_path, [row, {**row, **change}], **options)


@pytest.mark.real
def test_the_table_of_truthfulqa_is_read_as_its_task_is(data_dir: Path) -> None:
    from lofit_lens.tasks import truthfulqa

    task = from_file(data_dir / "truthfulqa/fold_0_train_seed_42.csv", prompt="Q: {Question} A:")
    published = {example.prompt: example for example in truthfulqa(0, data_dir=data_dir).train}
    for example in in_order(task):
        known = published[example.prompt]
        assert example.correct[0] == " " + known.correct[0].strip()
        assert [text.strip() for text in example.incorrect] == [
            text.strip() for text in known.incorrect
        ]


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


# --- samples of lm-evaluation-harness


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
    assert (task.objective, task.scoring) == ("choice", MultipleChoice())


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
    assert task.scoring == MultipleChoice(("MC1", "MC2", "MC3"))
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


# --- minimal pairs in alternating lines


def test_alternating_lines_are_minimal_pairs(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("".join(f"He has {i}.\nHe have {i}.\n\n" for i in range(10)))
    task = from_file(path)
    assert [(e.id, e.prompt, e.correct, e.incorrect) for e in in_order(task)] == [
        (f"line-{1 + 3 * i}", "", (f"He has {i}.",), (f"He have {i}.",)) for i in range(10)
    ]


def test_a_line_without_its_twin_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("good\nbad\nalone\n")
    with pytest.raises(RowErrors, match=r"own\.txt line 3: .* expected its worse twin"):
        from_file(path)


# --- other containers


def test_parquet_files_are_read_with_their_nested_columns(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = ten(lambda i: {"question": f"Q{i}", "choices": ARC, "answerKey": "D"})
    pd.DataFrame(rows).to_parquet(tmp_path / "own.parquet")
    examples = in_order(from_file(tmp_path / "own.parquet"))
    assert [e.id for e in examples] == [f"row-{n}" for n in range(1, 11)]
    assert examples[9].prompt == "Question: Q9\nAnswer:"
    assert examples[9].correct == (" pink",)


def test_whole_numbers_of_parquet_stay_whole_beside_missing_ones(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {"q": [f"Q{i}" for i in range(10)], "a": pd.array([1] * 9 + [None], "Int64")}
    )
    frame.to_parquet(tmp_path / "own.parquet")
    with pytest.raises(RowErrors) as error:
        from_file(tmp_path / "own.parquet", prompt="{q}", answer="a")
    assert error.value.problems == ["own.parquet row 10, column 'a': nothing, expected text"]
    frame[:9].to_parquet(tmp_path / "own.parquet")
    task = from_file(tmp_path / "own.parquet", prompt="{q}", answer="a")
    assert in_order(task)[0].correct == (" 1",)


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "own.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match=r"own\.parquet is not readable as Parquet"):
        from_file(tmp_path / "own.parquet")


def test_parquet_without_pyarrow_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", missing)
    (tmp_path / "own.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pip install pyarrow"):
        from_file(tmp_path / "own.parquet")


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_zipped_files_are_read_as_what_they_hold(tmp_path: Path, ending: str) -> None:
    rows = ten(lambda i: {"sentence_good": f"He has {i}.", "sentence_bad": f"He have {i}."})
    text = {
        ".jsonl": "\n".join(map(json.dumps, rows)),
        ".json": json.dumps(rows),
        ".csv": "\n".join(["sentence_good,sentence_bad", *(",".join(r.values()) for r in rows)]),
    }[ending]
    path = tmp_path / f"own{ending}.gz"
    path.write_bytes(gzip.compress(text.encode()))
    task = from_file(path)
    assert task.name == "own"
    assert in_order(task)[0].correct == ("He has 0.",)


def test_a_zipped_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}' * 100)[:-9])
    with pytest.raises(DataError, match=r"own\.jsonl\.gz is not a whole gzip file"):
        from_file(path)


# --- spreadsheets

SHEET = [("Frage", "Antwort"), *((f"Größe {i}, „grün“", "schön") for i in range(10))]
GERMAN: dict[str, Any] = {"prompt": "{Frage}", "answer": "Antwort"}


def sheet(path: Path, delimiter: str, encoding: str, start: str = "") -> Path:
    text = start + "\r\n".join(delimiter.join(f'"{c}"' for c in row) for row in SHEET)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_spreadsheets_are_read_in_their_delimiter_and_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], delimiter: str, encoding: str
) -> None:
    task = from_file(sheet(tmp_path / "own.csv", delimiter, encoding), **GERMAN)
    assert in_order(task)[2].prompt == "Größe 2, „grün“"
    assert in_order(task)[2].correct == (" schön",)
    said = capsys.readouterr().err
    assert (f"own.csv: cells separated by {delimiter!r}" in said) == (delimiter != ",")
    assert ("cp1252" in said) == (encoding == "cp1252")
    assert said.count("\n") == (delimiter != "," or encoding in ("cp1252", "utf-16"))


def test_a_first_line_that_names_the_delimiter_is_no_row(tmp_path: Path) -> None:
    path = sheet(tmp_path / "own.csv", ";", "utf-8-sig", start="sep=;\r\n")
    task = from_file(path, **GERMAN)
    assert [e.id for e in in_order(task)][:2] == ["line-3", "line-4"]


def test_cells_of_several_lines_with_other_delimiters_in_them_are_read(tmp_path: Path) -> None:
    rows = "".join(f'"one,\ntwo, three {i}";x\n' for i in range(10))
    (tmp_path / "own.csv").write_text("q;a\n" + rows)
    task = from_file(tmp_path / "own.csv", prompt="{q}", answer="a")
    assert in_order(task)[1].prompt == "one,\ntwo, three 1"


def test_empty_rows_and_columns_of_spreadsheets_do_not_count(tmp_path: Path) -> None:
    rows = "".join(f"Q{i};x;;\n" for i in range(10))
    (tmp_path / "own.csv").write_text("q; a;;\n;;;\n" + rows + ";;;\n;;\n")
    task = from_file(tmp_path / "own.csv", prompt="{q}", answer="a")
    assert [e.id for e in in_order(task)] == [f"line-{n}" for n in range(3, 13)]


def test_commas_in_prose_do_not_hide_the_semicolon_of_the_header(tmp_path: Path) -> None:
    rows = "".join(f"a, b, {i};x\n" for i in range(10))
    (tmp_path / "own.csv").write_text("question, of all;answer\n" + rows)
    task = from_file(tmp_path / "own.csv", prompt="{question, of all}", answer="answer")
    assert in_order(task)[3].prompt == "a, b, 3"


def test_bytes_of_no_encoding_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes(b"q,a\nx,y\nx,\x81\x8d\n")
    with pytest.raises(DataError, match=r"own\.csv line 3: not UTF-8"):
        from_file(tmp_path / "own.csv", prompt="{q}", answer="a")


# --- labels


@pytest.mark.parametrize("value", ["negative", 0, "0"])
def test_labels_are_the_candidates_of_every_row(tmp_path: Path, value: Any) -> None:
    task = read(
        tmp_path,
        lambda i: {"text": f"Film {i}", "label": value},
        prompt="{text}. It was",
        answer="label",
        labels=["negative", "positive"],
    )
    assert in_order(task)[0].correct == (" negative",)
    assert in_order(task)[0].incorrect == (" positive",)
    assert (task.objective, task.floors) == ("choice", {"chance": 0.5})


@pytest.mark.parametrize(
    ("labels", "right"),
    [
        (["no", "yes"], " yes"),
        (["yes", "no"], " yes"),
        (["True", "False"], " True"),
        (["-", "+"], " +"),
    ],
)
def test_true_is_the_label_that_says_so_or_the_second(
    tmp_path: Path, labels: list[str], right: str
) -> None:
    options = {"prompt": "{q}", "answer": "a", "labels": labels}
    task = read(tmp_path, lambda i: {"q": f"Q{i}", "a": True}, **options)
    assert in_order(task)[0].correct == (right,)


def test_a_label_that_is_none_is_a_problem(tmp_path: Path) -> None:
    options = {"prompt": "{q}", "answer": "a", "labels": ["bad", "good"]}
    found = problem(tmp_path, [{"q": "x", "a": "bad"}, {"q": "y", "a": "Bad"}], **options)
    assert "column 'a': 'Bad', expected one of the labels ['bad', 'good']" in found


def test_choices_that_are_no_columns_are_told_of_labels(tmp_path: Path) -> None:
    path = jsonl(tmp_path, ten(lambda i: {"q": f"{i}", "a": "good"}))
    with pytest.raises(DataError, match="candidates themselves, give them as labels"):
        from_file(path, prompt="{q}", answer="a", choices=["bad", "good"])
    with pytest.raises(LofitLensError, match="not both"):
        from_file(path, prompt="{q}", answer="a", choices=["q", "a"], labels=["bad", "good"])


@pytest.mark.parametrize("labels", ["good", ["good"], ["good", "good"], []])
def test_labels_that_are_no_choice_are_refused(tmp_path: Path, labels: Any) -> None:
    path = jsonl(tmp_path, ten(lambda i: {"q": f"{i}", "a": "good"}))
    with pytest.raises(LofitLensError, match="two or more different texts"):
        from_file(path, prompt="{q}", answer="a", labels=labels)


@pytest.mark.parametrize("half", ["good", "bad", "correct", "incorrect"])
def test_half_a_pair_of_columns_is_refused(tmp_path: Path, half: str) -> None:
    path = jsonl(tmp_path, ten(lambda i: {"q": f"{i}", "a": "x", "b": "y"}))
    columns: dict[str, Any] = {half: "b"}
    with pytest.raises(LofitLensError, match=r"name both.*: q, a, b\."):
        from_file(path, prompt="{q}", answer="a", **columns)


# --- ready splits


def by_split(name: str, n: int) -> Rows:
    return [{"q": f"{name} {i}", "a": "x", "part": name} for i in range(n)]


QA: dict[str, Any] = {"prompt": "{q}", "answer": "a"}


@pytest.mark.parametrize("val", ["val", "validation", "dev", "Valid"])
def test_a_column_says_the_split(tmp_path: Path, val: str) -> None:
    rows = by_split("test", 5) + by_split("train", 4) + by_split(val, 3)
    task = from_file(jsonl(tmp_path, rows), **QA, split="part")
    assert [len(part) for part in (task.train, task.val, task.test)] == [4, 3, 5]
    assert {e.prompt.split()[0] for e in task.val} == {val}


def test_without_validation_a_fifth_of_training_validates_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = by_split("test", 5) + by_split("train", 20)
    path = jsonl(tmp_path, rows)
    task = from_file(path, **QA, split="part", split_seed=3)
    assert [len(part) for part in (task.train, task.val, task.test)] == [16, 4, 5]
    assert "4 of 20 training rows validate (seed 3)" in capsys.readouterr().err
    assert from_file(path, **QA, split="part", split_seed=4).val != task.val


def test_other_values_of_the_split_are_problems(tmp_path: Path) -> None:
    rows = [*by_split("train", 1), *by_split("extra", 1)]
    found = problem(tmp_path, rows, **QA, split="part")
    assert "column 'part': 'extra', expected train, val or test" in found


def test_a_column_without_test_rows_is_refused(tmp_path: Path) -> None:
    rows = by_split("train", 4) + by_split("val", 3)
    with pytest.raises(DataError, match=r"own\.jsonl has no test rows; it has 4 train, 3 val"):
        from_file(jsonl(tmp_path, rows), **QA, split="part")


def test_three_files_are_three_splits(tmp_path: Path) -> None:
    files = {
        split: jsonl(tmp_path, by_split(name, n), f"clutrr_{name}.jsonl")
        for split, name, n in (("test", "test", 5), ("train", "train", 4), ("val", "dev", 3))
    }
    task = from_file(files, **QA)
    assert [len(part) for part in (task.train, task.val, task.test)] == [4, 3, 5]
    assert task.name == "clutrr"
    every = task.train + task.val + task.test
    assert len({e.id for e in every}) == len({e.group for e in every}) == 12
    assert reload_task(json.loads(json.dumps(dict(task.source)))) == task


def test_two_files_and_a_part_of_training_are_three_splits(tmp_path: Path) -> None:
    files = {
        name: jsonl(tmp_path, by_split(name, 10), f"{name}.jsonl") for name in ("train", "test")
    }
    task = from_file(files, **QA)
    assert [len(part) for part in (task.train, task.val, task.test)] == [8, 2, 10]
    assert task.name == tmp_path.name


def test_equal_prompts_of_two_files_are_one_group(tmp_path: Path) -> None:
    files = {
        name: jsonl(tmp_path, by_split("same", 10), f"{name}.jsonl") for name in ("train", "test")
    }
    task = from_file(files, **QA)
    assert {e.group for e in task.test} == {e.group for e in task.train + task.val}


def test_problems_of_several_files_name_their_file(tmp_path: Path) -> None:
    files = {
        name: jsonl(tmp_path, [*by_split(name, 3), {"q": name}], f"{name}.jsonl")
        for name in ("train", "test")
    }
    with pytest.raises(RowErrors) as error:
        from_file(files, **QA)
    assert [p.split(",")[0] for p in error.value.problems] == [
        "train.jsonl line 4",
        "test.jsonl line 4",
    ]


@pytest.mark.parametrize("names", [("train",), ("train", "exam"), ("train", "test", "val", "dev")])
def test_files_of_other_splits_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    files = {name: jsonl(tmp_path, by_split(name, 5), f"{name}.jsonl") for name in names}
    with pytest.raises(LofitLensError, match=r"named train, val \(may lack\) and test"):
        from_file(files, **QA)


def test_a_column_cannot_name_splits_that_are_ready(tmp_path: Path) -> None:
    files = {
        name: jsonl(tmp_path, by_split(name, 5), f"{name}.jsonl") for name in ("train", "test")
    }
    with pytest.raises(LofitLensError, match="splits are ready"):
        from_file(files, **QA, split="part")


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
