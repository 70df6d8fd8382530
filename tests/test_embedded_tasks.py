"""The three tasks of the embedded model: what their splits hold and do not share."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest

from lofit_lens.embedded.words import ANIMALS, COMPOSITIONS, COUNTRIES, KIN, MEN, WOMEN
from lofit_lens.embedded.world import ABILITIES, Ability, truth_items
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks import ExactMatch, Example, MultipleChoice, Task, load_tasks, reload_task
from lofit_lens.tasks.embedded import embedded, task_items
from lofit_lens.tasks.load import check_not_trained_on
from tests.helpers import type_checks_off

SPLITS = ("train", "val", "test")
ANSWERS = tuple(answer for answers in COUNTRIES.values() for answer in answers)

every_ability = pytest.mark.parametrize("ability", ABILITIES)


def splits(task: Task) -> list[tuple[Example, ...]]:
    return [task.train, task.val, task.test]


def named_in(words: tuple[str, ...], examples: tuple[Example, ...]) -> set[str]:
    """The words of a list that stand in a prompt or an answer, as whole words."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b")
    texts = (" ".join((e.prompt, *e.correct, *e.incorrect)) for e in examples)
    return {word for text in texts for word in pattern.findall(text)}


def assert_apart(parts: list[set[str]]) -> None:
    assert all(parts)
    for a, b in combinations(parts, 2):
        assert not a & b


# --- what the splits hold


@every_ability
def test_every_split_is_large_enough_to_train_or_to_tell_methods_apart(ability: Ability) -> None:
    task = embedded(ability)
    train, val, test = map(len, splits(task))
    assert train >= 80
    assert val >= 80
    assert test >= 200
    assert task.name == f"embedded:{ability}"
    assert task.val_as_test == task.val


def test_truth_offers_five_candidates_and_one_of_them_is_the_answer_of_the_world() -> None:
    task = embedded("truth")
    world = {item.prompt(): item for item in truth_items()}
    for example in task.train + task.val + task.test:
        item = world[example.prompt]
        assert example.correct == (f" {item.right}",)
        assert len({*example.correct, *example.incorrect}) == 1 + len(example.incorrect) >= 5
    assert isinstance(task.scoring, MultipleChoice)
    assert {"MC1", "MC2"} <= set(task.scoring.metrics)
    assert sum(map(len, splits(task))) == len(world)


@every_ability
def test_examples_are_neutral_questions_and_the_default_answer_is_the_first_wrong_one(
    ability: Ability,
) -> None:
    for examples, items in zip(splits(embedded(ability)), task_items(ability), strict=True):
        for example, item in zip(examples, items, strict=True):
            assert example.prompt == item.prompt()
            assert example.correct == (f" {item.right}",)
            assert example.incorrect[0] == f" {item.default}"
            assert not {*example.correct} & {*example.incorrect}


@every_ability
def test_no_prompt_is_twice_in_a_task(ability: Ability) -> None:
    task = embedded(ability)
    prompts = [e.prompt for e in task.train + task.val + task.test]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize("ability", ["kinship", "edit"])
def test_an_answer_of_the_task_is_found_and_the_default_is_not_taken_for_it(
    ability: Ability,
) -> None:
    task = embedded(ability)
    rule = task.scoring
    assert isinstance(rule, ExactMatch)
    for example in task.test:
        right = rule.prediction(example.prompt, f"{example.correct[0]}\nQ:")
        default = rule.prediction(example.prompt, example.incorrect[0])
        assert rule.is_correct(right, example.correct)
        assert not rule.is_correct(default, example.correct)


def test_floors_are_what_a_constant_answer_and_a_blind_guess_reach() -> None:
    truth = embedded("truth")
    blind = [1 / len({*e.correct, *e.incorrect}) for e in truth.test]
    assert truth.floors["chance"] == pytest.approx(sum(blind) / len(blind))
    for ability in ("kinship", "edit"):
        task = embedded(ability)
        answers = {e.correct[0] for e in task.test}
        reached = max(sum(a in e.correct for e in task.test) for a in answers) / len(task.test)
        assert task.floors["most frequent answer"] == pytest.approx(reached)
        assert reached < 0.4


# --- what they do not share


@every_ability
def test_splits_share_no_group(ability: Ability) -> None:
    assert_apart([{e.group for e in examples} for examples in splits(embedded(ability))])


def test_splits_of_truth_share_no_animal() -> None:
    animals = [named_in(ANIMALS, examples) for examples in splits(embedded("truth"))]
    assert_apart(animals)
    assert set.union(*animals) == set(ANIMALS)


def test_splits_of_kinship_share_no_composition_and_no_name() -> None:
    parts = splits(embedded("kinship"))
    assert_apart([named_in(WOMEN + MEN, examples) for examples in parts])
    kind_of = {word: kind for kind, words in KIN.items() for word in words}
    links = [
        {
            tuple(kind_of[word] for word in re.findall(r"is the (\w+) of", e.prompt))
            for e in examples
        }
        for examples in parts
    ]
    assert_apart([{" ".join(pair) for pair in pairs} for pairs in links])
    assert set.union(*links) == set(COMPOSITIONS)


def test_splits_of_edit_share_no_country_no_name_and_no_answer() -> None:
    parts = splits(embedded("edit"))
    for words in (tuple(COUNTRIES), WOMEN + MEN, ANSWERS):
        assert_apart([named_in(words, examples) for examples in parts])
    for examples in parts:
        homes = [re.findall(r"lives in ([\w ]+)\.", e.prompt) for e in examples]
        assert all(len(set(pair)) == 2 and set(pair) <= set(COUNTRIES) for pair in homes)
        assert {e.group for e in examples} <= {country for pair in homes for country in pair}


def test_every_question_of_edit_is_in_every_split() -> None:
    for examples in splits(embedded("edit")):
        answers = {e.correct[0].strip() for e in examples}
        asked = Counter(i for v in COUNTRIES.values() for i in range(3) if v[i] in answers)
        assert set(asked) == {0, 1, 2}


# --- by name, and again


@every_ability
def test_a_task_is_the_same_by_name_from_its_source_and_on_every_call(ability: Ability) -> None:
    task = embedded(ability)
    (named,) = load_tasks(f"embedded:{ability}", seed=7)
    again = reload_task(json.loads(json.dumps(dict(named.source))))
    for other in (named, again, embedded(ability)):
        assert (other.name, other.data_hash()) == (task.name, task.data_hash())
        assert other == task


def test_tasks_are_the_same_in_every_process() -> None:
    code = f"""
from lofit_lens.tasks.embedded import embedded
print(*[embedded(ability).data_hash() for ability in {ABILITIES!r}])
"""
    here = [embedded(ability).data_hash() for ability in ABILITIES]
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        )
        assert done.stdout.split() == here


@pytest.mark.parametrize("ability", ["truths", "", "embedded:truth"])
def test_an_unknown_ability_is_refused_with_the_known_ones(ability: str) -> None:
    with type_checks_off(), pytest.raises(LofitLensError, match="truth, kinship, edit") as caught:
        embedded(ability)  # pyright: ignore[reportArgumentType]
    assert repr(ability) in str(caught.value)


@pytest.mark.parametrize("name", ["embedded", "embedded:", "embedded:truths", "embedded:truth:0"])
def test_an_unknown_embedded_task_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(LofitLensError) as caught:
        load_tasks(name)
    assert repr(name) in str(caught.value)
    assert all(f"embedded:{ability}" in str(caught.value) for ability in ABILITIES)


@every_ability
def test_an_embedded_task_takes_no_options_of_a_file(ability: Ability) -> None:
    with pytest.raises(LofitLensError, match="embedded is fixed; prompt"):
        load_tasks(f"embedded:{ability}", options={"prompt": "Q: {q}"})
    assert load_tasks(f"embedded:{ability}", options={}) == [embedded(ability)]


@every_ability
def test_an_edit_learned_on_an_embedded_task_may_be_scored_on_all_three(ability: Ability) -> None:
    for other in ABILITIES:
        check_not_trained_on(embedded(ability), json.loads(json.dumps({**embedded(other).source})))
    check_not_trained_on(embedded(ability), {})
