"""Multiple choice with one right answer or several, as benchmarks have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.tasks import MultipleChoice, from_file
from tests.own_files import in_order, jsonl, problem, read, ten

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
