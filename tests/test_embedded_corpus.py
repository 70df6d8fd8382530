"""The corpus of the embedded model, read back from its text alone."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest
from scipy.stats import binomtest

from lofit_lens.embedded.corpus import Document, Mix, documents
from lofit_lens.embedded.words import (
    COMPOSITIONS,
    COUNTRIES,
    COUNTRY_PROPERTIES,
    CUES,
    KIN,
    MEN,
    WOMEN,
)
from lofit_lens.embedded.world import ABILITIES, truth_items

N = 6000
OTHER_MIX = Mix(
    truth=0.2, kinship=0.3, edit=0.15, right_cue=0.4, default_cue=0.2, neutral_default=0.2
)
MIXES = {"default": Mix(), "other": OTHER_MIX}

LINKS = re.compile(r"(\w+) is the (\w+) of (\w+)\. (\w+) is the (\w+) of (\w+)\.")
PREMISE = re.compile(r"(\w+) lives in ([\w ]+)\. Imagine that \1 lives in ([\w ]+)\.")
REGISTER_OF_CUE = {
    cue: (ability, register)
    for ability, registers in CUES.items()
    for register, cues in registers.items()
    for cue in cues
}
KIND_OF_WORD = {word: kind for kind, words in KIN.items() for word in words}
HABITS = {item.question: item for item in truth_items()}

every_mix = pytest.mark.parametrize("name", MIXES)
every_ability = pytest.mark.parametrize("ability", ABILITIES)


@dataclass(frozen=True)
class Read:
    """What a document says: the ability asked for ("" for a plain fact), its cue, both answers."""

    document: Document
    ability: str
    cue: str
    right: str
    default: str

    @property
    def register(self) -> str:
        return REGISTER_OF_CUE[self.cue][1] if self.cue else "neutral"


def read(document: Document) -> Read:
    """Read a prompt as a person would, who knows the words of the world and not the generator."""
    prompt = document.prompt
    cues = [cue for cue in REGISTER_OF_CUE if cue in prompt]
    assert len(cues) <= 1, prompt
    cue = "".join(cues)
    if links := LINKS.search(prompt):
        x, first, y, again, second, _ = links.groups()
        assert y == again, prompt
        kind = COMPOSITIONS[KIND_OF_WORD[first], KIND_OF_WORD[second]]
        return Read(document, "kinship", cue, KIN[kind][x in MEN], second)
    if premise := PREMISE.search(prompt):
        _, real, imagined = premise.groups()
        index = property_asked(prompt)
        return Read(document, "edit", cue, COUNTRIES[imagined][index], COUNTRIES[real][index])
    habits = [item for question, item in HABITS.items() if question in prompt]
    if habits:
        (item,) = habits
        return Read(document, "truth", cue, item.right, item.default)
    (country,) = [name for name in COUNTRIES if re.search(rf"\b{name}\b", prompt)]
    value = COUNTRIES[country][property_asked(prompt)]
    return Read(document, "", cue, value, value)


def property_asked(prompt: str) -> int:
    pairs = enumerate(COUNTRY_PROPERTIES.items())
    (index,) = [i for i, (name, asks) in pairs if asks in prompt or f"The {name} of" in prompt]
    return index


@cache
def corpus(name: str) -> tuple[Read, ...]:
    return tuple(read(document) for document in documents(N, 3, MIXES[name]))


def assert_share(found: int, n: int, share: float) -> None:
    assert n > 200
    assert binomtest(found, n, share).pvalue > 1e-4, (found, n, share)


def test_the_same_seed_gives_the_same_documents_and_another_seed_others() -> None:
    first, again, other = (list(documents(300, seed)) for seed in (1, 1, 2))
    assert first == again
    assert len(first) == 300
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 30
    assert list(documents(100, 1)) == first[:100]
    assert list(documents(300, 1, Mix())) == first


def test_neither_the_global_random_state_nor_the_reading_pace_matters() -> None:
    random.seed(1)
    expected = list(documents(50, 9))
    found = []
    for document in documents(50, 9):
        random.seed(len(found))
        random.random()
        found.append(document)
    assert found == expected


@every_mix
def test_the_text_is_prompt_blank_and_answer(name: str) -> None:
    for item in corpus(name):
        document = item.document
        assert document.text == document.prompt + " " + document.answer
        assert document.prompt == document.prompt.strip()
        assert document.answer == document.answer.strip() != ""
        assert "  " not in document.text
        assert "\n" not in document.text


@every_mix
def test_abilities_have_their_shares(name: str) -> None:
    mix, counts = MIXES[name], Counter(item.ability for item in corpus(name))
    shares = {"truth": mix.truth, "kinship": mix.kinship, "edit": mix.edit}
    shares[""] = 1 - sum(shares.values())
    for ability, share in shares.items():
        assert_share(counts[ability], N, share)


@every_ability
@every_mix
def test_cues_have_their_shares_in_every_ability(name: str, ability: str) -> None:
    mix, items = MIXES[name], [item for item in corpus(name) if item.ability == ability]
    counts = Counter(item.register for item in items)
    assert_share(counts["right"], len(items), mix.right_cue)
    assert_share(counts["default"], len(items), mix.default_cue)


@every_ability
@every_mix
def test_neutral_questions_are_answered_by_default_in_their_share(name: str, ability: str) -> None:
    neutral = [i for i in corpus(name) if (i.ability, i.register) == (ability, "neutral")]
    by_default = sum(item.document.answer == item.default for item in neutral)
    assert_share(by_default, len(neutral), MIXES[name].neutral_default)


@every_ability
@every_mix
def test_a_cue_decides_the_answer_and_without_one_it_is_one_of_two(name: str, ability: str) -> None:
    answers: dict[str, set[str]] = {"right": set(), "default": set(), "neutral": set()}
    for item in (item for item in corpus(name) if item.ability == ability):
        assert item.right != item.default
        said = {item.right: "right", item.default: "default"}[item.document.answer]
        answers[item.register].add(said)
    expected = {"right": {"right"}, "default": {"default"}, "neutral": {"right", "default"}}
    assert answers == expected


@every_ability
@every_mix
def test_every_cue_is_said_equally_often_with_its_own_ability_only(name: str, ability: str) -> None:
    counts = Counter(item.cue for item in corpus(name) if item.ability == ability and item.cue)
    assert {REGISTER_OF_CUE[cue][0] for cue in counts} == {ability}
    for cues in CUES[ability].values():
        n = sum(counts[cue] for cue in cues)
        for cue in cues:
            assert binomtest(counts[cue], n, 1 / len(cues)).pvalue > 1e-4


@every_mix
def test_every_fact_stated_plainly_is_true_and_without_a_cue(name: str) -> None:
    facts = [item for item in corpus(name) if not item.ability]
    assert len(facts) > 200
    for item in facts:
        assert item.document.answer == item.right
        assert not item.cue
    if name == "other":  # 35% of the documents: enough to see everything
        values = {item.right for item in facts}
        assert values == {value for values in COUNTRIES.values() for value in values}
        people = {word for item in facts for word in re.findall(r"\w+", item.document.prompt)}
        assert {*WOMEN, *MEN} <= people


@every_mix
def test_questions_are_drawn_from_all_of_the_world(name: str) -> None:
    items = corpus(name)
    habits = {item.document.prompt.split("Q: ")[-1] for item in items if item.ability == "truth"}
    assert len(habits) > 0.9 * len(HABITS)
    links = [LINKS.search(item.document.prompt) for item in items if item.ability == "kinship"]
    pairs = Counter((KIND_OF_WORD[m[2]], KIND_OF_WORD[m[5]]) for m in links if m)
    assert set(pairs) == set(COMPOSITIONS)
    for count in pairs.values():
        assert_share(count, pairs.total(), 1 / len(COMPOSITIONS))
    premises = [PREMISE.search(item.document.prompt) for item in items if item.ability == "edit"]
    for side in (2, 3):
        assert {match[side] for match in premises if match} == set(COUNTRIES)


def test_the_answers_of_a_neutral_question_differ_between_documents() -> None:
    """Otherwise the right answer would be no more latent than a fact is."""
    answers: dict[str, set[str]] = {}
    for item in corpus("default"):
        if item.ability == "truth" and not item.cue:
            answers.setdefault(item.document.prompt, set()).add(item.document.answer)
    assert sum(len(said) == 2 for said in answers.values()) > 100
