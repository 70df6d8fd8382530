"""The embedded world, against family trees that are grown and read here."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

from lofit_lens.embedded.words import (
    ANIMALS,
    COMPOSITIONS,
    COUNTRIES,
    COUNTRY_PROPERTIES,
    CUES,
    HABITS,
    KIN,
    MEN,
    WOMEN,
)
from lofit_lens.embedded.world import ABILITIES, Item, edit_item, kinship_item, truth_items

Kinds = dict[tuple[int, int], set[str]]

LINK = re.compile(r"(\w+) is the (\w+) of (\w+)\.")
HOME = re.compile(r"(?<!that )\b(\w+) lives in ([\w ]+)\.")
PREMISE = re.compile(r"Imagine that (\w+) lives in ([\w ]+)\.")
KINDS_OF_WORD = {
    word: (kind, {men for men in (False, True) if pair[men] == word})
    for kind, pair in KIN.items()
    for word in pair
}
"""The kind a word of kin stands for, and whether it may be said of women (False) and men (True)."""

every_ability = pytest.mark.parametrize("ability", ABILITIES)


def items_of(ability: str) -> list[Item]:
    rng = random.Random(11)
    match ability:
        case "truth":
            return truth_items()
        case "kinship":
            return [kinship_item(rng) for _ in range(1500)]
        case _:
            return [edit_item(rng) for _ in range(1500)]


# --- the table of compositions


class FamilyTree:
    """Four generations: couples of full brothers and sisters with people who are no kin of theirs."""

    def __init__(self, seed: int) -> None:
        self.parents: dict[int, tuple[int, int]] = {}
        self.spouse: dict[int, int] = {}
        self.lines: dict[int, frozenset[int]] = {}
        rng = random.Random(seed)
        couples = [self._married(self._person(), self._person()) for _ in range(4)]
        for _ in range(3):
            children = [child for couple in couples for child in self._children(couple, rng)]
            rng.shuffle(children)
            couples = list(self._weddings(children, rng))

    def _person(self, *lines: int) -> int:
        person = len(self.lines)
        self.lines[person] = frozenset(lines or (person,))
        return person

    def _married(self, a: int, b: int) -> tuple[int, int]:
        self.spouse[a], self.spouse[b] = b, a
        return a, b

    def _children(self, couple: tuple[int, int], rng: random.Random) -> list[int]:
        lines = self.lines[couple[0]] | self.lines[couple[1]]
        children = [self._person(*lines) for _ in range(rng.choice((1, 2, 2, 3)))]
        self.parents |= dict.fromkeys(children, couple)
        return children

    def _weddings(self, single: list[int], rng: random.Random) -> Iterable[tuple[int, int]]:
        """Some stay single, some marry into another family, some a person from elsewhere."""
        while single:
            person, draw = single.pop(), rng.random()
            kinless = [p for p in single if not self.lines[p] & self.lines[person]]
            if draw < 0.4 and kinless:
                single.remove(kinless[0])
                yield self._married(person, kinless[0])
            elif draw < 0.8:
                yield self._married(person, self._person())

    def kinds(self, *, by_marriage: bool) -> Kinds:
        """What the first person is of the second; by marriage, the wife of an uncle is an aunt."""
        found: Kinds = defaultdict(set)

        def add(kind: str, inverse: str, x: int, z: int) -> None:
            found[x, z].add(kind)
            found[z, x].add(inverse)

        def siblings(person: int) -> list[int]:
            couple = self.parents.get(person)
            return [p for p, of in self.parents.items() if of == couple and p != person]

        for a, b in self.spouse.items():
            found[a, b].add("spouse")
        for z, couple in self.parents.items():
            for x in siblings(z):
                found[x, z].add("sibling")
            for parent in couple:
                add("parent", "child", parent, z)
                for grandparent in self.parents.get(parent, ()):
                    add("grandparent", "grandchild", grandparent, z)
                for x in siblings(parent):
                    add("pibling", "nibling", x, z)
                    if by_marriage and x in self.spouse:
                        add("pibling", "nibling", self.spouse[x], z)
                    for cousin in [p for p, of in self.parents.items() if x in of]:
                        found[cousin, z].add("cousin")
        return found


def composed(seed: int, *, by_marriage: bool) -> dict[tuple[str, str], Counter[tuple[str, ...]]]:
    """What X is of Z in a tree, counted by what X is of Y and Y of Z."""
    tree = FamilyTree(seed)
    premises, conclusions = tree.kinds(by_marriage=by_marriage), tree.kinds(by_marriage=True)
    kin_of: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for (x, z), kinds in premises.items():
        kin_of[z] += [(x, kind) for kind in kinds]
    counts: dict[tuple[str, str], Counter[tuple[str, ...]]] = defaultdict(Counter)
    for z in tree.lines:
        for y, second in kin_of[z]:
            for x, first in kin_of[y]:
                if x != z:
                    counts[first, second][tuple(sorted(conclusions.get((x, z), ())))] += 1
    return counts


def test_a_family_tree_is_read_as_people_read_it() -> None:
    tree = FamilyTree.__new__(FamilyTree)
    tree.parents = {2: (0, 1), 3: (0, 1), 6: (2, 4), 7: (3, 5), 8: (3, 5)}
    tree.spouse = {0: 1, 1: 0, 2: 4, 4: 2, 3: 5, 5: 3}
    kinds = tree.kinds(by_marriage=True)
    expected = {
        (0, 1): "spouse", (0, 2): "parent", (2, 0): "child", (2, 3): "sibling", (7, 8): "sibling",
        (1, 7): "grandparent", (6, 0): "grandchild", (2, 7): "pibling", (4, 7): "pibling",
        (7, 4): "nibling", (6, 8): "cousin", (8, 6): "cousin",
    }  # fmt: skip
    assert {pair: kinds[pair] for pair in expected} == {p: {kind} for p, kind in expected.items()}
    assert not kinds.get((4, 5))
    assert not tree.kinds(by_marriage=False).get((4, 7))


def test_every_composition_holds_in_grown_family_trees_and_nothing_else_does() -> None:
    counts: dict[tuple[str, str], Counter[tuple[str, ...]]] = defaultdict(Counter)
    for seed in range(12):
        for pair, found in composed(seed, by_marriage=False).items():
            counts[pair] += found
    for pair, kind in COMPOSITIONS.items():
        assert set(counts[pair]) == {(kind,)}, pair
        assert counts[pair].total() > 100, pair


def test_compositions_hold_for_kin_by_marriage_but_for_the_parents_of_an_uncle_by_marriage() -> (
    None
):
    failing = set()
    for seed in range(12):
        counts = composed(seed, by_marriage=True)
        failing |= {pair for pair, kind in COMPOSITIONS.items() if set(counts[pair]) - {(kind,)}}
    assert failing <= {("parent", "pibling")}


def test_repeating_the_second_relation_is_never_right() -> None:
    for item in items_of("kinship"):
        (_, first, _), (_, second, _) = LINK.findall(item.context)
        assert item.default == second
        assert item.right != second
        kinds = KINDS_OF_WORD[first][0], KINDS_OF_WORD[second][0]
        assert KINDS_OF_WORD[item.right][0] == COMPOSITIONS[kinds]
        assert item.group == " of ".join(kinds)


def test_every_composition_is_asked_about_women_and_men() -> None:
    asked = {(item.group, item.right) for item in items_of("kinship")}
    for (first, second), kind in COMPOSITIONS.items():
        assert {(f"{first} of {second}", word) for word in KIN[kind]} <= asked


def test_words_of_kin_fit_the_names() -> None:
    male = {**dict.fromkeys(WOMEN, False), **dict.fromkeys(MEN, True)}
    for item in items_of("kinship"):
        links = LINK.findall(item.context)
        (x, _, y), (again, _, z) = links
        assert y == again
        assert len({x, y, z}) == 3
        assert re.search(rf"\b{x}\b.*\b{z}\b", item.question)
        for name, word, of in [*links, (x, item.right, z)]:
            kind, genders = KINDS_OF_WORD[word]
            assert male[name] in genders
            assert kind != "spouse" or male[name] != male[of]


# --- items of every ability


@every_ability
def test_an_item_has_one_right_answer_among_different_ones(ability: str) -> None:
    for item in items_of(ability):
        answers = [item.right, item.default, *item.others]
        assert len({answer.lower() for answer in answers}) == len(answers)
        assert all(answer and answer == answer.strip() for answer in answers)
        assert item.ability == ability


@every_ability
def test_a_prompt_ends_where_the_answer_begins_with_and_without_a_cue(ability: str) -> None:
    for item in items_of(ability)[:200]:
        cues = ["", *CUES[ability]["right"], *CUES[ability]["default"]]
        prompts = [item.prompt(cue) for cue in cues]
        assert len(set(prompts)) == len(cues)
        for cue, prompt in zip(cues, prompts, strict=True):
            assert prompt.endswith(" A:")
            assert item.question in prompt
            assert cue in prompt
            assert "  " not in prompt
            assert prompt == prompt.strip()


def test_the_answers_of_a_question_have_one_form() -> None:
    for item in truth_items():
        answers = [item.right, item.default, *item.others]
        lengths = {len(answer.split()) for answer in answers}
        (length,) = lengths
        places = [{answer.split()[i] for answer in answers} for i in range(length)]
        assert sorted(map(len, places)) == [1] * (length - 1) + [len(answers)]


def test_every_animal_has_every_habit_once() -> None:
    items = truth_items()
    assert len(items) == len(ANIMALS) * len(HABITS) == len({item.prompt() for item in items})
    assert Counter(item.group for item in items) == dict.fromkeys(ANIMALS, len(HABITS))
    assert all(re.search(rf"\b{item.group}\b", item.question) for item in items)


def test_a_habit_of_an_animal_does_not_depend_on_the_other_animals() -> None:
    some = ANIMALS[3:30:7]
    assert truth_items(some) == [item for item in truth_items() if item.group in some]


def test_right_answers_about_animals_are_spread_over_the_words() -> None:
    by_habit: dict[str, list[str]] = defaultdict(list)
    for item in truth_items():
        by_habit[item.question.replace(item.group, "{}")].append(item.right)
    for answers in by_habit.values():
        assert Counter(answers).most_common(1)[0][1] < len(ANIMALS) / 4


def test_a_premise_moves_a_person_to_another_country() -> None:
    questions = {question: i for i, question in enumerate(COUNTRY_PROPERTIES.values())}
    for item in items_of("edit"):
        ((person, real),) = HOME.findall(item.context)
        ((again, imagined),) = PREMISE.findall(item.context)
        assert person == again
        assert person in WOMEN + MEN
        assert real != imagined == item.group
        (index,) = [i for question, i in questions.items() if item.question.startswith(question)]
        assert (item.default, item.right) == (COUNTRIES[real][index], COUNTRIES[imagined][index])
        assert re.search(rf"\b{person}\b", item.question)


def test_no_two_countries_share_an_answer() -> None:
    for values in zip(*COUNTRIES.values(), strict=True):
        assert len({value.lower() for value in values}) == len(COUNTRIES)


def test_drawing_takes_from_what_is_given_only() -> None:
    pairs, women, men = list(COMPOSITIONS)[2:5], WOMEN[:4], MEN[:4]
    countries, people = list(COUNTRIES)[:3], WOMEN[:2]
    rng = random.Random(0)
    for _ in range(200):
        kin = kinship_item(rng, pairs, women, men)
        assert kin.group in {" of ".join(pair) for pair in pairs}
        assert {name for link in LINK.findall(kin.context) for name in link[::2]} <= {*women, *men}
        edit = edit_item(rng, countries, people)
        assert {country for _, country in HOME.findall(edit.context)} <= set(countries)
        assert edit.group in countries
        assert PREMISE.findall(edit.context)[0][0] in people


def test_the_world_is_the_same_in_every_process() -> None:
    code = """
import hashlib, random
from lofit_lens.embedded.corpus import documents
from lofit_lens.embedded.world import edit_item, kinship_item, truth_items
rng = random.Random(5)
world = truth_items(), [kinship_item(rng) for _ in range(50)], [edit_item(rng) for _ in range(50)]
print(hashlib.sha256(repr((world, list(documents(200, 5)))).encode()).hexdigest())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    (only,) = found
    assert len(only.strip()) == 64
    assert truth_items() == truth_items()


# --- the words


def test_no_word_is_twice_in_its_list() -> None:
    habits = [words.split() for _, _, words in HABITS.values()]
    for words in (WOMEN + MEN, ANIMALS, *habits):
        assert len({word.lower() for word in words}) == len(words)


def test_names_animals_and_countries_are_told_apart_by_their_letters() -> None:
    lists = [WOMEN + MEN, ANIMALS, tuple(COUNTRIES), tuple(KINDS_OF_WORD)]
    together = [word.lower() for words in lists for word in words]
    assert len(set(together)) == len(together)


def test_a_cue_belongs_to_one_ability_and_one_register() -> None:
    assert set(CUES) == set(ABILITIES)
    cues = [cue for registers in CUES.values() for list_ in registers.values() for cue in list_]
    assert len({cue.lower() for cue in cues}) == len(cues)
    for registers in CUES.values():
        assert set(registers) == {"right", "default"}
        assert all(registers.values())
    assert not [(a, b) for a in cues for b in cues if a != b and a in b]
