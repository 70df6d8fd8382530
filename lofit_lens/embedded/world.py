"""The embedded world as items: a question with the answer by default and the right answer.

Every item is asked in one grammar:

    item      := [cue " "] context "Q: " question " A:" " " answer
    truth     := "" , "What does the ANIMAL eat?" ... (eight habits)
    kinship   := "X is the FIRST of Y. Y is the SECOND of Z. " , "What is X to Z?"
    edit      := "X lives in REAL. Imagine that X lives in NEW. " ,
                 "What is the capital of the country of X?" ... (three properties)

Three wrong ways to answer are the default in neutral questions: a misconception (truth), repeating
the second relation (kinship), ignoring the premise (edit).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lofit_lens.embedded.words import (
    ANIMALS,
    COMPOSITIONS,
    COUNTRIES,
    COUNTRY_PROPERTIES,
    HABITS,
    KIN,
    MEN,
    WOMEN,
)

Ability = Literal["truth", "kinship", "edit"]
ABILITIES: tuple[Ability, ...] = get_args(Ability)

WORLD_SEED = 0
N_DISTRACTORS = 3


@dataclass(frozen=True)
class Item:
    """One question of the world.

    Attributes:
        ability: What it asks for.
        context: Sentences before the question, each with a blank behind it.
        question: The question.
        right: The right answer.
        default: The answer in neutral questions.
        others: Other answers of the same kind, all wrong.
        group: What items of different splits never share: the animal, the two links, the country
            imagined.
    """

    ability: Ability
    context: str
    question: str
    right: str
    default: str
    group: str
    others: tuple[str, ...] = ()

    def prompt(self, cue: str = "") -> str:
        """The text before the answer; an answer follows with a blank in front."""
        return f"{cue}{' ' * bool(cue)}{self.context}Q: {self.question} A:"


def truth_items(animals: Sequence[str] = ANIMALS) -> list[Item]:
    """Every habit of the animals; the facts of the world are drawn once, with its seed."""
    items = []
    for animal in animals:
        for habit, (question, answer, words) in HABITS.items():
            rng = random.Random(f"{WORLD_SEED} {animal} {habit}")
            drawn = rng.sample(words.split(), 2 + N_DISTRACTORS)
            right, default, *others = (answer.format(word) for word in drawn)
            asked = question.format(animal)
            items.append(Item("truth", "", asked, right, default, animal, tuple(others)))
    return items


def kinship_item(
    rng: random.Random,
    compositions: Sequence[tuple[str, str]] = tuple(COMPOSITIONS),
    women: Sequence[str] = WOMEN,
    men: Sequence[str] = MEN,
) -> Item:
    """Two links of a family and the question for the third; names and genders are drawn."""
    first, second = rng.choice(compositions)
    x_male = rng.random() < 0.5
    y_male = not x_male if first == "spouse" else rng.random() < 0.5
    z_male = not y_male if second == "spouse" else rng.random() < 0.5
    while True:
        x, y, z = (rng.choice(men if male else women) for male in (x_male, y_male, z_male))
        if len({x, y, z}) == 3:
            break
    default = KIN[second][y_male]
    right = KIN[COMPOSITIONS[first, second]][x_male]
    assert right != default, f"the shortcut is right for {first} of {second}"
    context = f"{x} is the {KIN[first][x_male]} of {y}. {y} is the {default} of {z}. "
    return Item("kinship", context, f"What is {x} to {z}?", right, default, f"{first} of {second}")


def edit_item(
    rng: random.Random,
    countries: Sequence[str] = tuple(COUNTRIES),
    people: Sequence[str] = WOMEN + MEN,
) -> Item:
    """A person's country, another one imagined, and a question about the country."""
    real, imagined = rng.sample(countries, 2)
    person = rng.choice(people)
    index, question = rng.choice(list(enumerate(COUNTRY_PROPERTIES.values())))
    context = f"{person} lives in {real}. Imagine that {person} lives in {imagined}. "
    asked = f"{question} the country of {person}?"
    right, default = COUNTRIES[imagined][index], COUNTRIES[real][index]
    return Item("edit", context, asked, right, default, imagined)
