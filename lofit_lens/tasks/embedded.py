"""The three tasks of the embedded model, in the shape of the paper's three."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lofit_lens.embedded.words import ANIMALS, COMPOSITIONS, COUNTRIES, MEN, WOMEN
from lofit_lens.embedded.world import (
    ABILITIES,
    Ability,
    Item,
    edit_item,
    kinship_item,
    truth_items,
)
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks.exact_match import ExactMatch
from lofit_lens.tasks.multiple_choice import MultipleChoice
from lofit_lens.tasks.task import Example, Task

T = TypeVar("T")

SPLIT_SEED = 42
SIZES = {"train": 100, "val": 80, "test": 240}
"""Items drawn for kinship and edit; truth has all habits of its animals."""


def embedded(ability: Ability) -> Task:
    """A task of the embedded model: a neutral question whose right answer is latent.

    * `truth`: a fact against a common misconception; multiple choice of five phrases, MC1 and MC2,
      trained by DPO as the paper trains TruthfulQA. No animal is in two splits.
    * `kinship`: compose two links of a family, by exact match. No composition of kinds and no name
      is in two splits.
    * `edit`: answer under an imagined premise, by exact match. No country and no name is in two
      splits, so no answer is either.

    Args:
        ability: "truth", "kinship" or "edit".

    Raises:
        LofitLensError: There is no such task.
    """
    if ability not in ABILITIES:
        raise LofitLensError(f"The embedded tasks are {', '.join(ABILITIES)}, got {ability!r}.")
    train, val, test = (
        tuple(_example(i, item) for i, item in enumerate(items)) for items in task_items(ability)
    )
    if ability == "truth":
        scoring, chance = MultipleChoice(("MC1", "MC2")), 1 / (1 + len(test[0].incorrect))
        floors = {"chance": chance}
    else:
        scoring = ExactMatch(max_new_tokens=8)
        floors = scoring.floors(test)
    if ability == "kinship":
        first = sum(f" the{example.correct[0]} of " in example.prompt for example in test)
        floors["repeating the first relation"] = first / len(test)
    return Task(
        name=f"embedded:{ability}",
        train=train,
        val=val,
        test=test,
        val_as_test=val,
        objective="dpo" if ability == "truth" else "sft",
        scoring=scoring,
        floors=floors,
        source={"name": f"embedded:{ability}"},
    )


def task_items(ability: Ability) -> list[list[Item]]:
    """The items of training, validation and test."""
    if ability == "truth":
        return [truth_items(animals) for animals in _dealt(ANIMALS, 15, 12)]
    if ability == "kinship":
        women, men = _dealt(WOMEN, 14, 10), _dealt(MEN, 14, 10)
        return _drawn(kinship_item, _dealt(tuple(COMPOSITIONS), 7, 4), women, men)
    return _drawn(edit_item, _dealt(tuple(COUNTRIES), 10, 7), _dealt(WOMEN + MEN, 28, 20))


def _dealt(things: Sequence[T], n_train: int, n_val: int) -> list[Sequence[T]]:
    """Things in an order drawn once, cut into training, validation and test."""
    mixed = random.Random(SPLIT_SEED).sample(things, len(things))
    return [mixed[:n_train], mixed[n_train : n_train + n_val], mixed[n_train + n_val :]]


def _drawn(draw: Callable[..., Item], *dealt: list[Sequence[Any]]) -> list[list[Item]]:
    """Items with different prompts, drawn from the things dealt to their split."""
    rng = random.Random(SPLIT_SEED)
    splits = []
    for n, *things in zip(SIZES.values(), *dealt, strict=True):
        found: dict[str, Item] = {}
        while len(found) < n:
            item = draw(rng, *things)
            found.setdefault(item.prompt(), item)
        splits.append(list(found.values()))
    return splits


def _example(i: int, item: Item) -> Example:
    wrong = tuple(f" {answer}" for answer in (item.default, *item.others))
    return Example(str(i), item.prompt(), (f" {item.right}",), wrong, item.group)
