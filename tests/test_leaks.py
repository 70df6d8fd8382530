"""The test split out of reach, items in two splits, and two formats of prompts."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lofit_lens.analysis.measure.leaks import check_splits, leaks, sealed, without_leaks
from lofit_lens.analysis.measure.templates import check_templates
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LeakError
from lofit_lens.heads import HeadSet
from lofit_lens.provenance import learned_on
from lofit_lens.scoring import evaluate
from lofit_lens.tasks import (
    Example,
    MultipleChoice,
    Task,
    clutrr,
    embedded,
    from_file,
    mquake,
    truthfulqa,
)
from lofit_lens.training import TuningConfig
from tests.helpers import train

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

THINGS = [
    "sky",
    "sea",
    "house",
    "cat",
    "dog",
    "roof",
    "door",
    "lamp",
    "tree",
    "boat",
    "hill",
    "road",
]


def item(i: int) -> Example:
    thing = THINGS[i]
    return Example(
        str(i), f"Q: What colour is the {thing}? A:", (f" blue {thing}.", " blue."), (" red.",), thing
    )  # fmt: skip


def task(**changes: Any) -> Task:
    """Four items a split, each of its own group."""
    train, val, test = (tuple(map(item, range(start, start + 4))) for start in (0, 4, 8))
    made = Task(
        name="colours", train=train, val=val, test=test, val_as_test=val,
        objective="dpo", scoring=MultipleChoice(), floors={"chance": 0.5}, source={"name": "c.csv"},
    )  # fmt: skip
    return replace(made, **changes)


def with_val(val: tuple[Example, ...]) -> Task:
    return task(val=val, val_as_test=val)


# --- sealed ---------------------------------------------------------------------------------------

WAYS_TO_READ: dict[str, Callable[[Task], object]] = {
    "attribute": lambda t: t.test,
    "loop": lambda t: [example.prompt for example in t.test],
    "length": lambda t: len(t.test),
    "getattr with a default": lambda t: getattr(t, "test", ()),
    "hasattr": lambda t: hasattr(t, "test"),
    "asdict": dataclasses.asdict,
    "astuple": dataclasses.astuple,
    "replace": lambda t: replace(t, train=t.train[:2]),
    "replace the test": lambda t: replace(t, test=t.val),
    "comparison": lambda t: t == copy.copy(t),
    "a deep copy": lambda t: copy.deepcopy(t).test,
    "a pickled copy": lambda t: pickle.loads(pickle.dumps(t)).test,
    "sealing again": lambda t: sealed(t).test,
    "leaks": leaks,
}


@pytest.mark.parametrize("way", WAYS_TO_READ)
def test_the_sealed_test_cannot_be_read(way: str) -> None:
    with pytest.raises(LeakError):
        WAYS_TO_READ[way](sealed(task()))


def test_the_message_names_the_task_and_what_to_use_instead() -> None:
    with pytest.raises(
        LeakError, match=r"colours was read while.*task\.train.*task\.val.*split="
    ) as e:
        sealed(task()).test  # noqa: B018
    assert "before it is sealed" in str(e.value)


def test_no_item_of_the_test_is_in_a_sealed_task() -> None:
    secret = "nowhere else"
    whole = task(test=(Example("t", secret, (secret,), (secret,), secret),))
    assert secret in repr(vars(whole))
    assert secret not in repr(vars(sealed(whole)))


def test_all_but_the_test_is_as_before() -> None:
    whole = task()
    closed = sealed(whole)
    assert isinstance(closed, Task)
    for field in dataclasses.fields(Task):
        if field.name != "test":
            assert getattr(closed, field.name) == getattr(whole, field.name), field.name
    assert closed.data_hash() == whole.data_hash()
    assert closed.scoring_rule(None) == whole.scoring
    assert repr(closed) == "Task(colours: 4 train, 4 val, test sealed)"
    assert sealed(closed) is closed
    assert len(whole.test) == 4
    with pytest.raises(AttributeError, match="'tset'"):
        getattr(closed, "tset")  # noqa: B009


def test_a_sealed_task_scores_on_validation_and_trains_as_the_whole_one(
    llama: TransformerBridge,
) -> None:
    whole, closed = task(), sealed(task())
    config, heads = TuningConfig(epochs=1), HeadSet([(1, 2)], n_layers=3, n_heads=4)
    edits = [train(llama, t, heads, "bias", config, progress=False) for t in (whole, closed)]
    assert (edits[0].bias == edits[1].bias).all()  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert edits[0].provenance == edits[1].provenance
    assert learned_on(llama, whole, {}) == learned_on(llama, closed, {})
    scores = [evaluate(llama, t, edits[1], split="val", progress=False) for t in (whole, closed)]
    assert scores[0].records == scores[1].records


@pytest.mark.parametrize("where", ["training", "choice of alpha"])
def test_a_method_that_fits_on_the_test_is_caught(where: str, llama: TransformerBridge) -> None:
    def cheat(model: TransformerBridge, given: Task, seed: int) -> Edit:
        config, heads = TuningConfig(epochs=1, seed=seed), HeadSet([(1, 2)], n_layers=3, n_heads=4)
        if where == "training":
            given = replace(given, train=given.train + given.test)
        edit = train(model, given, heads, "bias", config, progress=False)
        scores = {
            alpha: evaluate(model, given, alpha * edit, progress=False).main.value
            for alpha in (1.0, 2.0)
        }
        return max(scores, key=scores.__getitem__) * edit

    whole = task()
    if where == "choice of alpha":
        assert cheat(llama, whole, 0).n_parameters
    with pytest.raises(LeakError, match="colours"):
        cheat(llama, sealed(whole), 0)


# --- items in two splits --------------------------------------------------------------------------

ALIKE = {
    "group": Example("0", "Q: Which colour has the boat? A:", (" green",), (" red",), THINGS[9]),
    "prompt": replace(item(9), id="0", group="other", correct=(" white",)),
    "text": Example("0", "Q: What colour is", (" the boat? A: blue.",), (" red",), "other"),
}
"""Items that share one thing with item 9, of the test."""


def test_splits_without_a_common_item_pass() -> None:
    assert leaks(task()) == ()
    check_splits(task())
    assert without_leaks(task()) == (task(), ())


def test_equal_ids_blank_groups_and_blank_prompts_are_no_leak() -> None:
    pairs = [Example("0", "", (f"The {t} is.",), (f"The {t} are.",)) for t in THINGS[:3]]
    train, val, test = ((pair,) for pair in pairs)
    check_splits(task(train=train, val=val, test=test, val_as_test=val))


@pytest.mark.parametrize("shares", ALIKE)
def test_a_test_item_planted_in_training_is_found(shares: str) -> None:
    planted = task(train=(*task().train[1:], ALIKE[shares]))
    (leak,) = leaks(planted)
    assert (leak.split, leak.id, leak.shares) == ("train", "0", shares)
    assert (leak.with_split, leak.with_id) == ("test", "9")
    with pytest.raises(
        LeakError, match=rf"(?s)1 examples .*train '0' has the {shares} of test '9'"
    ) as e:
        check_splits(planted)
    assert "without_leaks" in str(e.value)


@pytest.mark.parametrize("shares", ALIKE)
def test_a_test_item_planted_in_validation_is_found(shares: str) -> None:
    (leak,) = leaks(with_val((*task().val[1:], ALIKE[shares])))
    assert (leak.split, leak.id, leak.shares, leak.with_split) == ("val", "0", shares, "test")


def test_a_test_item_planted_in_the_validation_items_of_the_other_format_is_found() -> None:
    (leak,) = leaks(task(val_as_test=(*task().val[1:], replace(item(9), id="4"))))
    assert (leak.split, leak.id) == ("val", "4")


def test_a_training_item_planted_in_validation_is_found() -> None:
    (leak,) = leaks(with_val((*task().val, replace(item(2), id="x"))))
    assert (leak.split, leak.id, leak.with_split, leak.with_id) == ("val", "x", "train", "2")


def test_a_minimal_pair_in_two_splits_is_found_by_its_text() -> None:
    pair = Example("0", "", ("The cat is.",), ("The cat are.",))
    (leak,) = leaks(task(train=(pair,), test=(replace(pair, id="9"),)))
    assert leak.shares == "text"


def test_leaking_items_can_be_left_out_and_the_test_stays() -> None:
    train = (*task().train, replace(item(9), id="a"))
    val = (*task().val, replace(item(10), id="b"), replace(item(1), id="c"))
    shown = tuple(replace(example, prompt="Primer. " + example.prompt) for example in val)
    test = tuple(replace(example, prompt="Primer. " + example.prompt) for example in task().test)
    dirty = task(train=train, val=val, val_as_test=shown, test=test)
    clean, dropped = without_leaks(dirty)
    assert [(leak.split, leak.id) for leak in dropped] == [
        ("train", "a"),
        ("val", "b"),
        ("val", "c"),
    ]
    assert clean.train == task().train
    assert clean.val == task().val
    assert [example.id for example in clean.val_as_test] == [example.id for example in clean.val]
    assert clean.test == dirty.test
    check_splits(clean)
    with pytest.raises(LeakError, match="1 train in test, 1 val in test, 1 val in train"):
        check_splits(dirty)


def test_a_split_that_leaks_wholly_is_refused() -> None:
    with pytest.raises(LeakError, match="0 training and 4 validation examples would be left"):
        without_leaks(task(train=task().test))


def test_a_long_list_of_leaks_is_cut() -> None:
    many = [Example(str(i), f"Q: {i}", ("a",), ("b",)) for i in range(25)]
    with pytest.raises(LeakError, match=r"25 examples .*\n(  .*\n){10}  … and 15 more"):
        check_splits(task(train=tuple(many), test=tuple(many)))


# --- templates ------------------------------------------------------------------------------------


def colours(prompts: str = "Q: What colour is the {}? A:", n: int = 12) -> Task:
    """Up to twelve items a split, each of its own group."""
    names = [f"{('old', 'big', 'new')[(i + i // 12) % 3]} {THINGS[i % 12]}" for i in range(36)]
    items = [Example(name, prompts.format(name), (" blue.",), (" red.",), name) for name in names]
    splits = {s: tuple(items[at : at + n]) for s, at in (("train", 0), ("val", 12), ("test", 24))}
    return task(**splits, val_as_test=splits["val"])


def cloze(*splits: Sequence[str], group: Callable[[str], str] = lambda _: "") -> Task:
    """A task of bare prompts, for training, validation and test."""
    made = [
        tuple(Example(str(i), prompt, ("a",), ("b",), group(prompt)) for i, prompt in enumerate(s))
        for s in splits
    ]
    return task(**dict(zip(("train", "val", "test", "val_as_test"), (*made, made[1]), strict=True)))


def reworded(examples: tuple[Example, ...], change: Callable[[str], str]) -> tuple[Example, ...]:
    return tuple(replace(example, prompt=change(example.prompt)) for example in examples)


DOCTORED: dict[str, Callable[[str], str]] = {
    "a primer in front": lambda prompt: "Q: Is ice hot? A: No.\n\n" + prompt,
    "an item of the task in front": lambda prompt: item(0).prompt + " Blue.\n\n" + prompt,
    "a primer of its own for each": lambda prompt: f"Q: Is {len(prompt)} odd? A: So.\n\n" + prompt,
    "an instruction in front": lambda prompt: "Be honest. " + prompt,
    "a line break": lambda prompt: prompt.replace(" A:", "\nA:"),
    "a blank at the end": lambda prompt: prompt + " ",
    "another word for question": lambda prompt: prompt.replace("Q:", "Question:"),
    "another word for answer": lambda prompt: prompt.replace("A:", "Answer:"),
    "no lead": lambda prompt: prompt.removesuffix(" A:"),
    "no label": lambda prompt: prompt.removeprefix("Q: "),
    "nothing": lambda _: "",
}


@pytest.mark.parametrize("way", DOCTORED)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_doctored_format_is_caught(way: str, split: str) -> None:
    changes = {split: reworded(getattr(colours(), split), DOCTORED[way])}
    if split == "val":
        changes["val_as_test"] = changes["val"]
    with pytest.raises(LeakError, match=r"colours have two formats: .*Q: What colour is the "):
        check_templates(replace(colours(), **changes))


@pytest.mark.parametrize("ability", ["truth", "kinship", "edit"])
@pytest.mark.parametrize("way", ["a primer in front", "an instruction in front", "no lead"])
def test_a_doctored_embedded_task_is_caught(ability: Any, way: str) -> None:
    made = embedded(ability)
    with pytest.raises(LeakError, match="two formats"):
        check_templates(replace(made, test=reworded(made.test, DOCTORED[way])))


@pytest.mark.parametrize("way", ["an instruction in front", "a blank at the end"])
def test_a_doctored_cloze_is_caught(way: str) -> None:
    plain = colours("The colour of the {} is")
    assert check_templates(plain) is None
    with pytest.raises(LeakError, match="two formats"):
        check_templates(replace(plain, test=reworded(plain.test, DOCTORED[way])))


def test_an_instruction_is_caught_where_the_other_prompts_have_nothing_in_common() -> None:
    mixed = [f"{THINGS[i]} number {i}" for i in range(12)]
    primed = ["Be honest. " + prompt for prompt in mixed]
    with pytest.raises(LeakError, match="two formats"):
        check_templates(cloze(mixed, mixed, primed))
    assert check_templates(cloze([*mixed, *primed], mixed, mixed)) is None


@pytest.mark.parametrize("n", [1, 4, 12])
def test_answers_glued_with_and_without_a_blank_are_two_formats(n: int) -> None:
    bare = tuple(replace(example, correct=("blue",)) for example in colours(n=n).test)
    with pytest.raises(LeakError, match=r"test '.*A:'\. A method"):
        check_templates(replace(colours(n=n), test=bare))


@pytest.mark.parametrize("n", [1, 4, 12])
def test_prompts_and_none_are_two_formats(n: int) -> None:
    with pytest.raises(LeakError, match=r"test '…'"):
        check_templates(replace(colours(n=n), test=reworded(colours(n=n).test, lambda _: "")))


def test_one_odd_answer_is_told_and_no_error() -> None:
    made = colours()
    odd = replace(made.test[0], correct=("blue",))
    note = check_templates(replace(colours(), test=(odd, *made.test[1:])))
    assert note is not None
    assert note.startswith("train 'Q: What colour is the …? A:' + blank, test 'Q: ")


def test_what_prompts_share_by_accident_is_no_format() -> None:
    assert check_templates(task()) is None
    assert check_templates(colours()) is None
    assert check_templates(task(test=(item(8),))) is None
    boats = tuple(replace(item(9), id=str(i)) for i in range(12))
    assert check_templates(replace(colours(), test=boats)) is None


def test_a_few_items_do_not_make_a_format() -> None:
    questions = [f"Q: {word} {i}? A:" for i, word in enumerate(["When", "Where", "Is it"] * 4)]
    assert check_templates(cloze(questions, ["Q: Is it? A:"], questions[:2])) is None
    assert check_templates(cloze(questions[:2], ["Q: Is it? A:"], questions)) is None
    few = [["A dog has ears", "A cat has ears"], ["The sun"], ["The moon is up", "The sea is up"]]
    assert check_templates(cloze(*few)) is None


def test_a_split_by_relation_is_told_and_no_error() -> None:
    def of(relation: str) -> list[str]:
        return [f"The {relation} of {thing} is" for thing in THINGS]

    note = check_templates(cloze(of("capital"), of("mother"), of("father")))
    told = (
        "train 'The capital of … is', test 'The father of … is'",
        "val 'The mother of … is', test 'The father of … is'",
    )
    assert note == "; ".join(told)
    many = of("capital") + of("king") + of("hymn")
    assert check_templates(cloze(many, of("mother"), of("mother") + of("hymn"))) is None


def test_words_after_a_label_may_differ_as_the_items_do() -> None:
    said = [
        [f"Q: {thing}? A: The {what} is" for thing in THINGS] for what in ("king", "food", "god")
    ]
    note = check_templates(cloze(*said))
    assert note is not None
    assert "train 'Q: …? A: The king is', test 'Q: …? A: The god is'" in note
    for label in ("\nA:", " Answer:", ""):
        other = [prompt.replace(" A:", label) for prompt in said[2]]
        with pytest.raises(LeakError, match="two formats"):
            check_templates(cloze(*said[:2], other))


def test_words_shared_by_chance_are_told_and_no_error() -> None:
    ends = [[f"{thing} {word}" for thing in THINGS] for word in ("lives in", "is in", "was born")]
    note = check_templates(cloze(*ends))
    assert note is not None
    assert "train '… lives in', test '… was born'" in note


def test_a_split_by_template_or_story_is_told_and_no_error() -> None:
    templates = {
        "cloze": [f"The capital of {thing} is" for thing in THINGS],
        "question": [f"Q: What is the capital of {thing}? A:" for thing in THINGS],
        "story": [f"Sue met Joe. They ate.\nWhere is the {thing}?" for thing in THINGS],
    }
    owner = {prompt: name for name, prompts in templates.items() for prompt in prompts}
    note = check_templates(cloze(*templates.values(), group=owner.__getitem__))
    assert note is not None
    assert note.count("They ate.") == 2
    with pytest.raises(LeakError, match="two formats"):
        check_templates(cloze(*templates.values()))


def test_a_split_by_relation_made_from_a_file_passes(tmp_path: Path) -> None:
    rows = [
        f"The {relation} of {thing} is,{thing},king,{relation}"
        for relation in ("capital", "father", "mother", "colour")
        for thing in THINGS
    ]
    file = tmp_path / "relations.csv"
    file.write_text("\n".join(["text,right,wrong,relation", *rows]))
    for seed in range(3):
        made = from_file(
            file, prompt="{text}", answer="right", choices=["right", "wrong"], group="relation",
            split=(0.5, 0.25, 0.25), split_seed=seed,
        )  # fmt: skip
        note = check_templates(made)
        assert note is not None
        assert "test 'The " in note


def test_a_task_in_two_formats_says_so_and_is_checked_within_each() -> None:
    made = colours()
    primed = {
        split: reworded(getattr(made, split), DOCTORED["a primer in front"])
        for split in ("val_as_test", "test")
    }
    note = check_templates(replace(colours(), **primed))
    assert note is not None
    assert "trained as 'Q: What colour is the …? A:' + blank, scored as 'Q: Is ice hot?" in note
    assert check_templates(replace(made, val_as_test=made.val[:2])) is None
    with pytest.raises(LeakError, match=r"val_as_test .*, test "):
        check_templates(replace(made, val_as_test=primed["val_as_test"]))
    with pytest.raises(LeakError, match=r"train .*, val "):
        check_templates(
            replace(colours(), **primed, val=reworded(made.val, DOCTORED["a line break"]))
        )


# --- the tasks there are --------------------------------------------------------------------------


@pytest.mark.parametrize("ability", ["truth", "kinship", "edit"])
def test_the_embedded_tasks_are_clean(ability: Any) -> None:
    made = embedded(ability)
    check_splits(made)
    assert check_templates(made) is None


@pytest.mark.real
@pytest.mark.parametrize("fold", [0, 1])
def test_truthfulqa_is_clean_and_has_two_formats(fold: int, data_dir: Path) -> None:
    made = truthfulqa(fold, data_dir=data_dir)
    check_splits(made)
    note = check_templates(made)
    assert note is not None
    assert note.startswith("trained as 'Q: …")


@pytest.mark.real
def test_files_are_split_cleanly(data_dir: Path) -> None:
    files = sorted((data_dir / "blimp").glob("*.jsonl"))
    assert files
    for file in files:
        pairs = from_file(file)
        check_splits(pairs)
        assert check_templates(pairs) is None
    words = data_dir / "function_vectors" / "choose_last_of_3.json"
    made = from_file(
        words, prompt="{input}. The last word is", answer="output", choices="input", separator=", "
    )
    check_splits(made)
    assert check_templates(made) is None


@pytest.mark.real
def test_the_papers_files_of_mquake_and_clutrr_leak_into_their_tests(data_dir: Path) -> None:
    def counted(made: Task) -> dict[tuple[str, str], int]:
        assert check_templates(made) is None
        clean, dropped = without_leaks(made)
        check_splits(clean)
        return dict(Counter((leak.split, leak.with_split) for leak in dropped))

    assert counted(mquake(data_dir=data_dir)) == {("val", "test"): 38}
    in_test = {("train", "test"): 1, ("val", "test"): 1}
    assert counted(clutrr(42, data_dir=data_dir)) == in_test | {("val", "train"): 1}
    assert counted(clutrr(12450, data_dir=data_dir)) == in_test
