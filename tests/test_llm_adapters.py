"""The four tasks of the paper's Table 3."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.analysis.measure.leaks import leaks
from lofit_lens.errors import DataError
from lofit_lens.tasks import (
    ExactMatch,
    Task,
    arc_challenge,
    boolq,
    load_tasks,
    reload_task,
    siqa,
    svamp,
)

REAL: dict[str, Callable[..., Task]] = {
    "arc-challenge": arc_challenge,
    "boolq": boolq,
    "svamp": svamp,
}
SIZES = {"arc-challenge": (100, 299, 1172), "boolq": (100, 100, 3270), "svamp": (350, 350, 300)}


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"llm_adapters/{name}.json").read_text(encoding="utf-8"))


def sizes(task: Task) -> tuple[int, int, int]:
    return len(task.train), len(task.val), len(task.test)


def first_option(text: str, options: str) -> str:
    """How LLM-Adapters reads an answer."""
    found = re.findall(options, text.strip())
    return found[0] if found else ""


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_splits_have_the_papers_sizes_and_share_nothing(data_dir: Path, name: str) -> None:
    task = REAL[name](data_dir=data_dir)
    assert (task.name, sizes(task)) == (name, SIZES[name])
    assert leaks(task) == ()
    assert task.objective == "sft"


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_the_seed_changes_what_is_trained_on_and_never_the_test(data_dir: Path, name: str) -> None:
    first, again, other = (REAL[name](seed, data_dir=data_dir) for seed in (42, 42, 43))
    assert first == again
    assert first.test == other.test
    trained, others = ({e.prompt for e in task.train} for task in (first, other))
    assert len(trained & others) < 0.7 * len(trained)


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_a_name_loads_the_task_and_its_source_loads_it_again(data_dir: Path, name: str) -> None:
    (task,) = load_tasks(name, seed=7, data_dir=data_dir)
    assert task == REAL[name](7, data_dir=data_dir)
    assert reload_task(json.loads(json.dumps(dict(task.source))), data_dir=data_dir) == task


@pytest.mark.real
@pytest.mark.parametrize("name", ["arc-challenge", "boolq"])
def test_prompt_and_answer_together_are_the_text_of_the_file(data_dir: Path, name: str) -> None:
    task = REAL[name](data_dir=data_dir)
    for record, example in zip(records(data_dir, f"{name}_test"), task.test, strict=True):
        whole = f"{record['instruction']}\n\n{record['output']}"
        assert example.prompt + example.correct[0] == whole
        assert example.correct == (f" {record['answer']}",)
        options = {answer.strip() for answer in example.correct + example.incorrect}
        named = record["instruction"].split("Answer format: ")[1].split("/")
        assert options == set(named) and len(named) == 1 + len(example.incorrect)


@pytest.mark.real
def test_floors_are_those_of_the_most_frequent_answer(data_dir: Path) -> None:
    for name, floor in (("arc-challenge", "majority class"), ("boolq", "majority class")):
        answers = [record["answer"] for record in records(data_dir, f"{name}_test")]
        most = Counter(answers).most_common(1)[0][1]
        assert REAL[name](data_dir=data_dir).floors == {floor: most / len(answers)}
    assert round(100 * boolq(data_dir=data_dir).floors["majority class"], 1) == 62.2


@pytest.mark.real
def test_equations_of_svamp_come_to_the_number_that_is_scored(data_dir: Path) -> None:
    task = svamp(data_dir=data_dir)
    rule = task.scoring
    assert isinstance(rule, ExactMatch)
    solutions = {record["ID"]: record["lSolutions"] for record in records(data_dir, "svamp")}
    assert Counter(e.id for e in task.train + task.val + task.test) == Counter(list(solutions))
    for example in task.train + task.val + task.test:
        target = example.correct[0]
        equation, _, result = target.rpartition("=")
        if example.id != "chal-680":  # the file's own mistake: ( ( 4.0 - 2.0 ) + 3.0 ), 1.0
            assert eval(equation, {"__builtins__": {}}) == pytest.approx(solutions[example.id])
        assert float(result) == solutions[example.id]
        assert rule.is_correct(rule.prediction(example.prompt, target), example.correct)
        assert example.prompt.startswith("Q: ") and example.prompt.endswith("\nA:")


@pytest.mark.real
@pytest.mark.parametrize(
    ("generated", "number"),
    [
        (" ( 76.0 - 25.0 ) = 51", "51"),
        (" 51.0\nQ: 3 more", "51.0"),
        (" He pays $1,453.", "1,453"),
        (" -3 degrees", "-3"),
        (" 8-3=5 cakes left", "5"),
        (" no number", ""),
        ("\n51", ""),
    ],
)
def test_the_last_number_of_the_first_line_is_the_prediction(
    data_dir: Path, generated: str, number: str
) -> None:
    rule = svamp(data_dir=data_dir).scoring
    assert isinstance(rule, ExactMatch)
    assert rule.prediction("Q: 2 apples?\nA:", generated) == number


def test_the_first_match_of_a_pattern_is_the_prediction() -> None:
    texts = [" answer3", " Answer3.", "answer1/answer2", " the answer2 of 3", " none", ""]
    rule = ExactMatch(pattern=r"answer\d")
    for text in texts:
        assert rule.prediction("answer4", text) == first_option(text, r"answer1|answer2|answer3")


def made_siqa(folder: Path, n_train: int) -> Path:
    """Files of made-up questions in the form of SIQA's."""

    def record(question: int) -> dict[str, str]:
        return {
            "instruction": "Please choose the correct answer to the question: "
            f"Person {question} sings. How would you describe them?\n\n"
            "Answer1: loud Answer2: quiet Answer3: away\n\n"
            "Answer format: answer1/answer2/answer3",
            "input": "",
            "output": f"the correct answer is answer{question % 3 + 1}",
            "answer": f"answer{question % 3 + 1}",
        }

    place = folder / "llm_adapters"
    place.mkdir(parents=True)
    train = [record(i // 2) for i in range(2 * n_train)]  # every question twice
    test = [record(i) for i in range(n_train - 5, n_train + 10)]  # five of them in training too
    (place / "social_i_qa_train.json").write_text(json.dumps(train), encoding="utf-8")
    (place / "social_i_qa_test.json").write_text(json.dumps(test), encoding="utf-8")
    return folder


def test_siqa_draws_different_questions_that_are_not_in_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sources_files(), "llm_adapters/social_i_qa_test.json", None)
    task = siqa(3, data_dir=made_siqa(tmp_path / "enough", 205))
    assert sizes(task) == (100, 100, 15)
    assert leaks(task) == ()
    assert task.floors == {"majority class": 1 / 3}
    assert task.test[0].correct + task.test[0].incorrect == (" answer3", " answer1", " answer2")
    assert task.test[0].prompt.endswith("answer1/answer2/answer3\n\nthe correct answer is")
    assert load_tasks("siqa", seed=3, data_dir=tmp_path / "enough") == [task]
    with pytest.raises(DataError, match="has 199 questions that are not in the test, 200 are"):
        siqa(data_dir=made_siqa(tmp_path / "few", 204))


def sources_files() -> dict[str, str | None]:
    from lofit_lens.tasks import sources

    return sources.FILES


@pytest.mark.real
def test_the_real_test_split_of_siqa_is_read(data_dir: Path, tmp_path: Path) -> None:
    folder = made_siqa(tmp_path / "made", 250)
    name = "llm_adapters/social_i_qa_test.json"
    (folder / name).write_bytes((data_dir / name).read_bytes())
    task = siqa(data_dir=folder)
    assert sizes(task) == (100, 100, 1954)
    answers = [record["answer"] for record in records(data_dir, "social_i_qa_test")]
    assert [example.correct[0].strip() for example in task.test] == answers
