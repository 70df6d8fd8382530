"""F1 over several labels, against scikit-learn; from a file to an edit trained on it."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from transformer_lens.model_bridge import TransformerBridge

import lofit_lens as ll
from lofit_lens.analysis.measure.effect import check_effect
from lofit_lens.errors import LofitLensError, ScoringError
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tasks import (
    SCORINGS,
    Example,
    LabelF1,
    Scoring,
    Task,
    embedded,
    from_file,
    reload_task,
)
from lofit_lens.tasks.exact_match import ExactMatch
from lofit_lens.tokens import Encoder
from lofit_lens.training.objectives import encode_items

LABELS = ("red", "deep blue", "green", "grey")
RULE = LabelF1()
Loader = Callable[[str], TransformerBridge]


def drawn(rng: random.Random) -> list[str]:
    return rng.sample(LABELS, rng.randint(0, len(LABELS)))


def write_labels(folder: Path, n: int = 20) -> Path:
    path = folder / "colours.jsonl"
    rows = [{"thing": f"thing {i}", "colours": list(LABELS[: i % 4])} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def colours(folder: Path, **options: Any) -> Task:
    options = {"prompt": "The colours of {thing} are", "answer": "colours", **options}
    return from_file(write_labels(folder), scoring="label-f1", **options)


def test_f1_and_em_are_those_of_scikit_learn_over_many_items() -> None:
    rng = random.Random(0)
    pairs = [(drawn(rng), drawn(rng)) for _ in range(300)]
    found = [RULE.judge(", ".join(said), Example("", "", tuple(right))) for said, right in pairs]
    binarise = MultiLabelBinarizer().fit([LABELS])
    said, right = (binarise.transform([pair[side] for pair in pairs]) for side in (0, 1))
    wanted = f1_score(right, said, average="samples", zero_division=1)  # pyright: ignore
    assert sum(item["F1"] for item in found) / len(found) == pytest.approx(wanted)
    assert sum(item["EM"] for item in found) / len(found) == pytest.approx(
        accuracy_score(right, said)
    )
    assert any(not a and not b for a, b in pairs)


@pytest.mark.parametrize(
    ("generated", "right", "f1"),
    [
        (" Deep  Blue, red.\nQ: next", (" red", " deep blue"), 1.0),
        (" red, red, green", (" red",), 2 / 3),
        (" none", (" none",), 1.0),
        ("", (" none",), 1.0),
        (" red", (" none",), 0.0),
        (" green", (" red", " grey"), 0.0),
        (" grey, red", (" red, grey",), 1.0),
    ],
)
def test_order_repetition_case_and_what_stands_behind_the_stop_do_not_count(
    generated: str, right: tuple[str, ...], f1: float
) -> None:
    assert RULE.judge(RULE.prediction("", generated), Example("", "", right))[
        "F1"
    ] == pytest.approx(f1)


def test_all_labels_of_an_item_are_trained_on_with_the_separator_between_them(
    llama: TransformerBridge,
) -> None:
    example = Example("1", "It is", (" red", " deep blue", " grey"))
    (item,) = encode_items(Encoder(llama), [example], "sft", RULE)
    whole = Encoder(llama).continuation("It is", " red, deep blue, grey", end=True)
    assert item.texts == (whole,)
    chat = Example("1", "It is", ("Answer: red", "Answer: blue"))
    assert LabelF1(lead="Answer:", separator=";").target(chat) == "Answer: red; blue"


def test_the_floor_is_the_best_answer_that_is_the_same_everywhere() -> None:
    rng = random.Random(1)
    items = [drawn(rng) or ["none"] for _ in range(40)]
    examples = [
        Example(str(i), "x", tuple(f" {label}" for label in each)) for i, each in enumerate(items)
    ]
    sets = [set(each) - {"none"} for each in items]
    counts = sorted(LABELS, key=lambda label: -sum(label in one for one in sets))
    constants = [set(counts[:n]) for n in range(len(LABELS) + 1)]
    scores = [
        sum(2 * len(said & one) / (len(said) + len(one)) if said | one else 1 for one in sets) / 40
        for said in constants
    ]
    assert RULE.floors(examples) == {"most frequent labels": pytest.approx(max(scores))}


def test_a_file_of_labels_is_a_task_that_loads_again(tmp_path: Path) -> None:
    task = colours(tmp_path)
    by_prompt = {e.prompt: e for e in (*task.train, *task.val, *task.test)}
    assert by_prompt["The colours of thing 2 are"].correct == (" red", " deep blue")
    assert by_prompt["The colours of thing 0 are"].correct == (" none",)
    assert (task.objective, task.scoring) == ("sft", LabelF1())
    assert list(task.floors) == ["most frequent labels"]
    again = reload_task(json.loads(json.dumps(dict(task.source))))
    assert (again.data_hash(), again.scoring) == (task.data_hash(), task.scoring)


def test_labels_written_as_text_are_cut_at_the_separator_and_joined_by_it(tmp_path: Path) -> None:
    path = tmp_path / "colours.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["t", "c"], *([f"a{i}", "red; grey"] for i in range(9))])
    options: dict[str, Any] = {
        "prompt": "{t} is",
        "answer": "c",
        "separator": ";",
        "scoring": "label-f1",
    }
    task = from_file(path, **options)
    assert task.test[0].correct == (" red", " grey")
    assert task.scoring == LabelF1(separator=";")
    assert task.scoring.target(task.test[0]) == " red; grey"


def test_records_hold_the_labels_found_in_what_was_generated(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    task = colours(tmp_path, max_new_tokens=6)
    result = evaluate(llama, task, progress=False)
    assert result.metric_names == ("F1", "EM")
    texts = generate_greedily(
        llama, [example.prompt for example in task.test], max_new_tokens=6, progress=False
    )
    for record, example, text in zip(result.records, task.test, texts, strict=True):
        assert record["generated"] == text
        assert record["expected"] == task.scoring.target(example)
        said = {part.strip().lower().rstrip(".") for part in text.split("\n")[0].split(",")}
        wanted = {label.strip() for label in example.correct} - {"none"}
        both = len(said - {"", "none"}) + len(wanted)
        assert record["F1"] == pytest.approx(2 * len(said & wanted) / both if both else 1)


def test_training_makes_all_labels_of_unseen_items_likelier() -> None:
    model = ll.load_model("embedded", device="cpu")
    whole = embedded("kinship")
    train, val, test = (
        tuple(replace(e, correct=(" brother", " sister"), incorrect=()) for e in split)
        for split in (whole.train[:40], whole.val[:5], whole.test[:20])
    )
    task = Task("two", train, val, test, val, "sft", LabelF1(max_new_tokens=8))
    layers, per_layer = range(model.cfg.n_layers), range(model.cfg.n_heads)
    every = [(layer, head) for layer in layers for head in per_layer]
    heads = ll.HeadSet(every, n_layers=len(layers), n_heads=len(per_layer))
    config = ll.TuningConfig(learning_rate=2e-2, epochs=5, validate=False)
    edit = ll.tune_heads(model, task, heads, config, progress=False)
    texts = [Encoder(model).continuation(e.prompt, " brother, sister", end=True) for e in test]
    zero_shot, tuned = (answer_logprobs(model, texts, e) for e in (None, edit))
    assert (tuned - zero_shot).min() > 3
    before, after = (evaluate(model, task, e, progress=False) for e in (None, edit))
    check_effect(task.scoring, before, after, kl=0.0)
    with pytest.raises(ScoringError, match="changed none of the 20"):
        check_effect(task.scoring, before, before, kl=0.0)


def test_in_a_chat_template_labels_stay_labels(
    tmp_path: Path, chat_model: Callable[[str], TransformerBridge]
) -> None:
    model = chat_model("plain")
    task = colours(tmp_path, max_new_tokens=4)
    chat = task.as_chat(model.tokenizer)
    assert isinstance(chat.scoring, LabelF1)
    assert [chat.scoring.target(e).strip() for e in chat.test] == [
        task.scoring.target(e).strip() for e in task.test
    ]
    assert evaluate(model, chat, progress=False).metric_names == ("F1", "EM")


@dataclass(frozen=True)
class FirstWord(ExactMatch):
    """A stranger's scoring: one class."""

    def prediction(self, prompt: str, generated: str) -> str:
        return super().prediction(prompt, generated).partition(" ")[0]


def test_a_new_scoring_is_a_class_and_a_row(
    tmp_path: Path, llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lofit_lens.tasks.kinds.SCORINGS", {**SCORINGS, "first-word": FirstWord})
    path = tmp_path / "own.csv"
    path.write_text("q,a\n" + "".join(f"q{i},a{i}\n" for i in range(20)), encoding="utf-8")
    task = from_file(path, prompt="{q}", answer="a", scoring="first-word", max_new_tokens=3)
    assert task.scoring == FirstWord(max_new_tokens=3)
    assert reload_task(task.source).scoring == task.scoring
    assert all(" " not in r["prediction"] for r in evaluate(llama, task, progress=False).records)


@pytest.mark.parametrize("name", list(SCORINGS))
def test_every_scoring_of_the_table_keeps_the_protocol_and_is_plain_json(name: str) -> None:
    rule = SCORINGS[name]()
    assert isinstance(rule, Scoring)
    assert json.loads(json.dumps(rule.to_json()))["scoring"] == type(rule).__name__
    assert rule == type(rule)()


def test_an_unknown_scoring_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match="multiple-choice, exact-match, label-f1, got 'f1'"):
        from_file(write_labels(tmp_path), prompt="{thing}", answer="colours", scoring="f1")
