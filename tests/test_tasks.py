from __future__ import annotations

import ast
import csv
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.tasks import (
    ExactMatch,
    Example,
    MultipleChoice,
    Task,
    clutrr,
    load_tasks,
    mquake,
    reload_task,
    truthfulqa,
)

LOADERS: dict[str, Callable[[Path], Task]] = {
    "truthfulqa:0": lambda folder: truthfulqa(0, data_dir=folder),
    "truthfulqa:1": lambda folder: truthfulqa(1, data_dir=folder),
    "mquake": lambda folder: mquake(data_dir=folder),
    "clutrr": lambda folder: clutrr(data_dir=folder),
}


@pytest.fixture(params=list(LOADERS))
def real_task(request: pytest.FixtureRequest, data_dir: Path) -> Task:
    return LOADERS[request.param](data_dir)


def clutrr_records(folder: Path, split: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"clutrr/{split}.json").read_text(encoding="utf-8"))


def mquake_records(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = (folder / f"mquake/{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def truthfulqa_rows(folder: Path, fold: int, split: str) -> list[dict[str, str]]:
    path = folder / f"truthfulqa/fold_{fold}_{split}_seed_42.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("truthfulqa:0", (326, 82, 409)),
        ("truthfulqa:1", (327, 82, 408)),
        ("mquake", (134, 95, 864)),
        ("clutrr", (300, 450, 450)),
    ],
)
def test_splits_have_the_papers_sizes(
    data_dir: Path, name: str, sizes: tuple[int, int, int]
) -> None:
    task = LOADERS[name](data_dir)
    assert (len(task.train), len(task.val), len(task.test)) == sizes
    assert len(task.val_as_test) == len(task.val)
    assert task.name == name


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "floor", "percent"),
    [("mquake", "copying the edit", 35.9), ("clutrr", "majority class", 10.2)],
)
def test_floors_are_those_of_the_paper(
    data_dir: Path, name: str, floor: str, percent: float
) -> None:
    assert round(100 * LOADERS[name](data_dir).floors[floor], 1) == percent


@pytest.mark.real
def test_the_majority_floor_is_reached_by_the_majority_class(data_dir: Path) -> None:
    task = clutrr(data_dir=data_dir)
    most = Counter(example.correct[0] for example in task.test).most_common(1)[0][1]
    assert task.floors["majority class"] == most / 450


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "objective", "rule"),
    [
        ("truthfulqa:0", "dpo", MultipleChoice(("MC1", "MC2", "MC3"))),
        ("mquake", "sft", ExactMatch()),
        ("clutrr", "sft", ExactMatch(stop=".")),
    ],
)
def test_a_task_names_its_objective_and_rule(
    data_dir: Path, name: str, objective: str, rule: object
) -> None:
    task = LOADERS[name](data_dir)
    assert (task.objective, task.scoring) == (objective, rule)


# --- CLUTRR


@pytest.mark.real
def test_clutrr_prompts_have_the_papers_spacing(data_dir: Path) -> None:
    task = clutrr(data_dir=data_dir)
    for record, example in zip(clutrr_records(data_dir, "test"), task.test, strict=True):
        story = "".join(c for c in record["clean_story"] if c not in "[]")
        a, b = ast.literal_eval(record["query"])
        expected = (
            f'Read the following story about a family. "{story}" Assume the relations described '
            "in the story are all true. Based on relations between the fictional characters in "
            "the story (assume the relations are all true) and your commonsense knowledge about "
            f"family relationship, how is  {b} related to {a}? Answer:  {b} is {a} 's\n"
        )
        assert example.prompt == expected
        assert example.correct == (record["target_text"],)


@pytest.mark.real
@pytest.mark.parametrize("seed", [42, 12450])
def test_clutrr_draws_as_random_sample_does_with_the_seed(data_dir: Path, seed: int) -> None:
    pool = [record["id"] for record in clutrr_records(data_dir, "train")]
    assert len(pool) == 3151
    drawn = [example.id for example in clutrr(seed, data_dir=data_dir).train]
    assert drawn == random.Random(seed).sample(pool, 300)


@pytest.mark.real
def test_the_seed_of_clutrr_changes_the_training_stories_only(data_dir: Path) -> None:
    first, second = clutrr(42, data_dir=data_dir), clutrr(12450, data_dir=data_dir)
    assert first.train != second.train
    assert (first.val, first.test) == (second.val, second.test)


@pytest.mark.real
def test_loading_leaves_the_global_random_state_alone(data_dir: Path) -> None:
    # In a process of its own: the shape checks of this one draw from `random`.
    code = f"""
import random
from lofit_lens.tasks import clutrr
random.seed(7)
before = random.getstate()
clutrr(data_dir={str(data_dir)!r})
assert random.getstate() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_clutrr_predictions_end_at_the_full_stop() -> None:
    prompt = "… Answer:  Roy is Cleo 's\n"
    for rule in (ExactMatch(stop="."), ExactMatch(stop=".", after="'s\n", after_index=1)):
        found = rule.prediction(prompt, " Grandfather. Cleo is Roy 's\n granddaughter")
        assert found == "grandfather"
        assert rule.is_correct(found, ("grandfather",))


@pytest.mark.real
def test_both_clutrr_rules_find_a_right_and_a_wrong_answer(data_dir: Path) -> None:
    task = clutrr(data_dir=data_dir)
    for rule in (task.scoring_rule(None), task.scoring_rule("paper-code")):
        assert isinstance(rule, ExactMatch)
        for example in task.test:
            right = rule.prediction(example.prompt, f" {example.correct[0].title()}.\nRead")
            assert rule.is_correct(right, example.correct)
            wrong = rule.prediction(example.prompt, f"{example.correct[0]} in law.")
            assert not rule.is_correct(wrong, example.correct)


# --- MQuAKE


@pytest.mark.real
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_mquake_prompts_imagine_the_edit(data_dir: Path, split: str) -> None:
    examples: tuple[Example, ...] = getattr(mquake(data_dir=data_dir), split)
    for record, example in zip(mquake_records(data_dir, split), examples, strict=True):
        (rewrite,) = record["requested_rewrite"]
        edit = rewrite["prompt"].replace("{}", rewrite["subject"])
        question, new = record["questions"][0], rewrite["target_new"]["str"]
        assert example.prompt == f"Q: Imagine that {edit} {new}. {question} A:"
        assert example.correct[0] == record["new_answer"]
        assert set(example.correct[1:]) == set(record["new_answer_alias"])


@pytest.mark.real
def test_no_edit_of_mquake_is_shared_by_train_and_test(data_dir: Path) -> None:
    task = mquake(data_dir=data_dir)
    assert not {e.group for e in task.train} & {e.group for e in task.test}


@pytest.mark.parametrize(
    ("generated", "stripped", "as_coded"),
    [
        ("Sweden\nQ: Who", "sweden", "sweden"),
        (" Sweden\nQ: Who", "sweden", " sweden"),
        ("Norway A: Sweden", "norway a: sweden", " sweden"),
        ("Norway\nQ: And?\nA:Sweden", "norway", "sweden"),
        ("\nSweden", "", ""),
    ],
)
def test_mquake_predictions_of_both_rules(generated: str, stripped: str, as_coded: str) -> None:
    prompt = "Q: Imagine that … A: … A:"
    assert ExactMatch().prediction(prompt, generated) == stripped
    assert ExactMatch(strip=False, after="A:").prediction(prompt, generated) == as_coded


@pytest.mark.real
def test_only_the_default_rule_of_mquake_forgives_a_blank(data_dir: Path) -> None:
    task = mquake(data_dir=data_dir)
    default, as_coded = task.scoring_rule(None), task.scoring_rule("paper-code")
    assert isinstance(default, ExactMatch)
    assert isinstance(as_coded, ExactMatch)
    example = task.test[0]
    for blank, expected in (("", True), (" ", False)):
        generated = f"{blank}{example.correct[0].upper()}\nQ:"
        assert default.is_correct(default.prediction(example.prompt, generated), example.correct)
        found = as_coded.prediction(example.prompt, generated)
        assert as_coded.is_correct(found, example.correct) == expected


@pytest.mark.parametrize(
    ("generated", "stop", "lead", "expected"),
    [
        (" Sweden is", " ", "", "sweden"),
        ("\tSweden\t", "\t", "", "sweden"),
        ("\nSweden", " ", "", "sweden"),
        ("\nSweden\nQ:", "\n", "\n", "sweden"),
        ("Sweden\nQ:", "\n", "\n", "sweden"),
        (" => Sweden is", " ", "=>", "=> sweden"),
        (" ", " ", "", ""),
        ("\nSweden", "\n", "", ""),
        (" .Sweden", ".", "", ""),
    ],
)
def test_a_stop_is_looked_for_behind_blanks_and_the_answer_prefix(
    generated: str, stop: str, lead: str, expected: str
) -> None:
    assert ExactMatch(stop=stop, lead=lead).prediction("Q: Where? A:", generated) == expected


@pytest.mark.parametrize("after", ["A:", "Q: "])
def test_what_the_papers_code_cuts_is_cut_as_it_does(after: str) -> None:
    rule = ExactMatch(strip=False, after=after, stop=" ")
    prompt, generated = "Q: Where? A:", " Sweden is"
    as_coded = (prompt + generated).split(after)[-1].split(" ")[0].lower()
    assert rule.prediction(prompt, generated) == as_coded


def test_every_accepted_spelling_counts_and_nothing_else() -> None:
    accepted = (" Sweden", "Kingdom of Sweden ")
    assert ExactMatch().is_correct("sweden", accepted)
    assert ExactMatch().is_correct("kingdom of sweden", accepted)
    assert not ExactMatch().is_correct("swede", accepted)
    assert not ExactMatch().is_correct("", accepted)
    assert not ExactMatch(strip=False).is_correct("sweden", accepted)


# --- TruthfulQA


@pytest.mark.real
def test_the_test_folds_of_truthfulqa_partition_all_questions(data_dir: Path) -> None:
    first, second = (
        {example.id for example in truthfulqa(fold, data_dir=data_dir).test} for fold in (0, 1)
    )
    assert not first & second
    assert len(first | second) == 817


@pytest.mark.real
def test_no_group_of_a_fold_is_in_two_of_its_splits(data_dir: Path) -> None:
    for fold in (0, 1):
        task = truthfulqa(fold, data_dir=data_dir)
        train, val, test = ({e.group for e in s} for s in (task.train, task.val, task.test))
        assert not (train & val or train & test or val & test)


@pytest.mark.real
@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_truthfulqa_trains_zero_shot_on_best_against_first_incorrect(
    data_dir: Path, fold: int, split: str
) -> None:
    examples: tuple[Example, ...] = getattr(truthfulqa(fold, data_dir=data_dir), split)
    for row, example in zip(truthfulqa_rows(data_dir, fold, split), examples, strict=True):
        assert example.prompt == f"Q: {row['Question']} A:"
        assert example.correct[0] == row["Best Answer"].strip()
        assert example.incorrect[0] == row["Incorrect Answers"].split("; ")[0].strip()


@pytest.mark.real
@pytest.mark.parametrize("fold", [0, 1])
def test_truthfulqa_is_tested_behind_instruction_and_primer(data_dir: Path, fold: int) -> None:
    prompts = json.loads((data_dir / "truthfulqa/prompts.json").read_text(encoding="utf-8"))
    before = prompts["instruction"] + "\n\n" + prompts["qa_primer"]
    task = truthfulqa(fold, data_dir=data_dir)
    for row, example in zip(truthfulqa_rows(data_dir, fold, "test"), task.test, strict=True):
        assert example.prompt == before + "\n\nQ: " + row["Question"] + "\nA:"
    assert before.count("Q: ") == 6


@pytest.mark.real
@pytest.mark.parametrize("fold", [0, 1])
def test_scored_answers_are_all_there_with_one_blank_and_a_full_stop(
    data_dir: Path, fold: int
) -> None:
    def closed(cell: str) -> set[str]:
        answers = {part.strip() for part in cell.split(";")} - {""}
        return {" " + (answer if answer.endswith(".") else answer + ".") for answer in answers}

    task = truthfulqa(fold, data_dir=data_dir)
    for row, example in zip(truthfulqa_rows(data_dir, fold, "test"), task.test, strict=True):
        assert {example.correct[0]} == closed(row["Best Answer"].replace(";", ","))
        assert set(example.correct) == closed(row["Correct Answers"]) | {example.correct[0]}
        assert set(example.incorrect) == closed(row["Incorrect Answers"])


@pytest.mark.real
def test_validation_as_test_holds_the_validation_questions_in_the_format_of_the_test(
    data_dir: Path,
) -> None:
    task = truthfulqa(data_dir=data_dir)
    assert [e.id for e in task.val_as_test] == [e.id for e in task.val]
    shots = task.test[0].prompt.removesuffix(f"Q: {task.test[0].id}\nA:")
    assert all(e.prompt == f"{shots}Q: {e.id}\nA:" for e in task.val_as_test)


def test_there_is_no_third_fold() -> None:
    with pytest.raises(LofitLensError, match="folds 0 and 1, got 2"):
        truthfulqa(2)


# --- Task


def made_up() -> Task:
    examples = tuple(Example(f"i{i}", f"Q{i}", ("yes",), ("no",), f"g{i}") for i in range(3))
    return Task(
        "made-up", examples[:1], examples[1:2], examples[2:], (), "dpo", MultipleChoice(),
        compat={"odd": ExactMatch(strip=False)},
    )  # fmt: skip


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    "change",
    [{"prompt": "other"}, {"correct": ("yes", "y")}, {"incorrect": ("nope",)}, {"id": "other"}],
    ids=lambda change: next(iter(change)),
)
def test_the_data_hash_changes_with_the_data(split: str, change: dict[str, Any]) -> None:
    task = made_up()
    (example,) = getattr(task, split)
    changed = replace(task, **{split: (replace(example, **change),)})
    assert changed.data_hash() != task.data_hash()


def test_the_data_hash_depends_on_the_examples_only() -> None:
    assert made_up().data_hash() == replace(made_up(), name="other", objective="sft").data_hash()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_split_is_refused_by_name(split: str) -> None:
    with pytest.raises(DataError, match=f"{split} split of made-up is empty"):
        replace(made_up(), **{split: ()})


def test_repeated_ids_are_refused() -> None:
    with pytest.raises(DataError, match="Ids repeat in the test split"):
        replace(made_up(), test=made_up().test * 2)


@pytest.mark.parametrize("objective", ["dpo", "choice"])
def test_an_objective_needs_incorrect_answers(objective: str) -> None:
    lone = (Example("lone", "Q", ("yes",)),)
    with pytest.raises(DataError, match="example lone of made-up"):
        replace(made_up(), train=lone, objective=objective)
    assert replace(made_up(), train=lone, objective="sft").train == lone


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(LofitLensError, match="sft, dpo, ipo, choice, got 'rlhf'"):
        made_up().check_objective("rlhf")


def test_a_compat_rule_is_found_by_name() -> None:
    task = made_up()
    assert task.scoring_rule(None) is task.scoring
    assert task.scoring_rule("odd") is task.compat["odd"]
    with pytest.raises(LofitLensError, match=r"'paper-code'\. It has: odd"):
        task.scoring_rule("paper-code")


@pytest.mark.real
def test_the_repr_of_a_task_is_short(real_task: Task) -> None:
    assert len(repr(real_task)) < 100
    assert real_task.name in repr(real_task)


# --- by name


@pytest.mark.real
def test_a_task_is_loaded_again_from_its_source(real_task: Task, data_dir: Path) -> None:
    source = json.loads(json.dumps(dict(real_task.source)))
    again = reload_task(source, data_dir=data_dir)
    assert (again.name, again.data_hash()) == (real_task.name, real_task.data_hash())


@pytest.mark.real
def test_reloading_keeps_the_seed(data_dir: Path) -> None:
    task = clutrr(5, data_dir=data_dir)
    assert reload_task(task.source, data_dir=data_dir).train == task.train


def test_a_task_built_by_hand_cannot_be_loaded_again() -> None:
    with pytest.raises(LofitLensError, match="name the task"):
        reload_task(made_up().source)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("truthfulqa", ["truthfulqa:0", "truthfulqa:1"]),
        ("truthfulqa:0", ["truthfulqa:0"]),
        ("truthfulqa:1", ["truthfulqa:1"]),
        ("mquake", ["mquake"]),
        ("clutrr", ["clutrr"]),
    ],
)
def test_a_name_gives_its_folds(data_dir: Path, name: str, expected: list[str]) -> None:
    assert [task.name for task in load_tasks(name, data_dir=data_dir)] == expected


@pytest.mark.real
def test_the_seed_of_load_tasks_is_that_of_the_draw(data_dir: Path) -> None:
    (task,) = load_tasks("clutrr", seed=3, data_dir=data_dir)
    assert task.train == clutrr(3, data_dir=data_dir).train


@pytest.mark.parametrize("name", ["mqake", "truthfulqa:2", "mquake:0", "clutrr:42", "truthfulqa:"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(LofitLensError, match=f"no task '{name}'.*truthfulqa:0.*clutrr.*jsonl"):
        load_tasks(name)


@pytest.mark.parametrize("name", ["truthfulqa", "truthfulqa:0", "mquake", "clutrr"])
def test_options_are_for_files_only(name: str) -> None:
    with pytest.raises(LofitLensError, match="prompt"):
        load_tasks(name, options={"prompt": "Q: {q}"})


def test_a_file_is_a_task_with_its_options(tmp_path: Path) -> None:
    rows = "".join(f"thing {i},colour {i}\n" for i in range(10))
    (tmp_path / "own.csv").write_text("thing,colour\n" + rows, encoding="utf-8")
    options = {"prompt": "{thing} is", "answer": "colour"}
    (task,) = load_tasks(str(tmp_path / "own.csv"), options=options)
    assert (task.name, len(task.train), len(task.test)) == ("own", 4, 5)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv"):
        load_tasks(str(tmp_path / "none.csv"))
