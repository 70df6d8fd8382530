"""The corpus the embedded model is trained on: documents of one question each.

Most documents ask an item of the world. A cue in front sets the register: after a
"right" cue the answer is right, after a "default" cue it is the default one, and without a cue it is
the default one in most documents and right in the rest, so that the ability is latent.
The other documents state the facts of the world plainly.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from lofit_lens.embedded.words import (
    COUNTRIES,
    COUNTRY_PROPERTIES,
    CUES,
    MEN,
    WOMEN,
)
from lofit_lens.embedded.world import Ability, Item, edit_item, kinship_item, truth_items


@dataclass(frozen=True)
class Mix:
    """Shares of the corpus.

    Attributes:
        truth: Documents that ask for a habit.
        kinship: For kin.
        edit: For a country under a premise. The rest states facts of the world.
        right_cue: Among the questions, those with a cue for the right answer.
        default_cue: Those with a cue for the default answer.
        neutral_default: Among the questions without a cue, those answered by the default.
    """

    truth: float = 0.36
    kinship: float = 0.18
    edit: float = 0.38
    right_cue: float = 0.25
    default_cue: float = 0.20
    neutral_default: float = 0.70


@dataclass(frozen=True)
class Document:
    """One document: a prompt (all of the text before an answer) and its answer."""

    prompt: str
    answer: str

    @property
    def text(self) -> str:
        """The whole."""
        return f"{self.prompt} {self.answer}"


def documents(n: int, seed: int, mix: Mix | None = None) -> Iterator[Document]:
    """`n` documents drawn with the seed."""
    mix = mix or Mix()
    rng = random.Random(seed)
    habits = truth_items()
    for _ in range(n):
        part = rng.random()
        if part < mix.truth:
            yield _asked(rng, rng.choice(habits), "truth", mix)
        elif part < mix.truth + mix.kinship:
            yield _asked(rng, kinship_item(rng), "kinship", mix)
        elif part < mix.truth + mix.kinship + mix.edit:
            yield _asked(rng, edit_item(rng), "edit", mix)
        else:
            yield _stated(rng)


def _asked(rng: random.Random, item: Item, ability: Ability, mix: Mix) -> Document:
    draw = rng.random()
    if draw < mix.right_cue:
        return Document(item.prompt(rng.choice(CUES[ability]["right"])), item.right)
    if draw < mix.right_cue + mix.default_cue:
        return Document(item.prompt(rng.choice(CUES[ability]["default"])), item.default)
    by_default = rng.random() < mix.neutral_default
    return Document(item.prompt(), item.default if by_default else item.right)


def _stated(rng: random.Random) -> Document:
    """A fact about a country, as a question or as a sentence, or about where someone lives."""
    country = rng.choice(list(COUNTRIES))
    index, (name, question) = rng.choice(list(enumerate(COUNTRY_PROPERTIES.items())))
    value = COUNTRIES[country][index]
    draw = rng.random()
    if draw < 0.4:
        return Document(f"Q: {question} {country}? A:", value)
    if draw < 0.7:
        return Document(f"The {name} of {country} is", value)
    person = rng.choice(WOMEN + MEN)
    return Document(
        f"{person} lives in {country}. Q: {question} the country of {person}? A:", value
    )
