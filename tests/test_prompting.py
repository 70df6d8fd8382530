"""Prompting as a rival: where a text is put, what examples it holds, and that nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lofit_lens.analysis.baselines.prompting import draw_shots, with_text
from lofit_lens.analysis.kinds.compare import compare
from lofit_lens.analysis.measure.leaks import sealed
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.chat import ChatPrompt
from lofit_lens.errors import LofitLensError
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.tasks import Example, Task, truthfulqa
from tests.test_training import colour_task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def task(n: int = 12, lead: str = "") -> Task:
    """Houses 0 to 2 for training, 3 to 5 for validation, the others for the test."""
    items = colour_task(n).test
    scored = tuple(replace(item, prompt=lead + item.prompt) for item in items)
    return replace(
        colour_task(n), train=items[:3], val=items[3:6], val_as_test=scored[3:6], test=scored[6:]
    )


def test_a_text_stands_before_the_question_and_behind_what_all_questions_begin_with() -> None:
    found = with_text(task(lead="Answer.\n\nSky: blue.\n\n"), "Be good. ")
    for item, plain in zip(found.test, task().test, strict=True):
        assert item.prompt == f"Answer.\n\nSky: blue.\n\nBe good. {plain.prompt}"
        assert item.correct == plain.correct
    assert found.val_as_test[0].prompt.endswith("Be good. The colour of house 3 is")
    assert found.train == task().train
    assert with_text(task(), "Be good. ").test[0].prompt == "Be good. The colour of house 6 is"


def test_in_a_chat_it_is_the_first_that_the_user_says() -> None:
    def chat(item: Example) -> Example:
        prompt = ChatPrompt(f"<user>{item.prompt}</user>", before="<user>", close="</bot>")
        return replace(item, prompt=prompt)

    plain = task()
    test, val = (tuple(map(chat, items)) for items in (plain.test, plain.val_as_test))
    chats = replace(plain, test=test, val_as_test=val)
    found = with_text(chats, "Be good. ").test[0].prompt
    assert found == "<user>Be good. The colour of house 6 is</user>"
    assert isinstance(found, ChatPrompt)
    assert (found.before, found.close) == ("<user>", "</bot>")
    with pytest.raises(LofitLensError, match="chat template"):
        draw_shots(chats, 1, seed=0)


def test_solved_examples_are_validation_items_as_they_are_scored() -> None:
    found = draw_shots(sealed(task(lead="Answer.\n\n")), 2, seed=1)
    own = {item.id: item for item in task().val}
    assert len(set(found.ids)) == 2
    parts = found.text.split("\n\n")
    assert parts.pop() == ""
    assert parts == [own[name].prompt + own[name].correct[0] for name in found.ids]
    assert found == draw_shots(task(lead="Answer.\n\n"), 2, seed=1)
    assert len({draw_shots(task(), 3, seed=seed).ids for seed in range(9)}) > 1
    with pytest.raises(LofitLensError, match="3 validation items, so 4"):
        draw_shots(task(), 4, seed=0)


@pytest.mark.real
def test_solved_examples_of_truthfulqa_stand_behind_its_primer(data_dir: Path) -> None:
    fold = truthfulqa(0, data_dir=data_dir)
    shots = draw_shots(sealed(fold), 2, seed=42)
    found, plain = with_text(fold, shots.text).test[5].prompt, fold.test[5].prompt
    question = plain.rpartition("\n\n")[2]
    assert found == plain.removesuffix(question) + shots.text + question
    assert shots.text.count("Q: ") == 2
    assert shots.text.count("\nA: ") == 2


def test_a_comparison_scores_the_model_as_it_is_on_the_prompts_with_the_text(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    names = ["prompt", "few-shot-2"]
    found = compare(llama, [task()], names, seeds=[7], out=tmp_path, progress=False)
    prompt, few = (next(r for r in found.runs if r.method == name) for name in names)
    text = draw_shots(task(), 2, seed=7).text
    for record, before in ((prompt, "Give a correct answer.\n"), (few, text)):
        by_hand = evaluate(llama, with_text(task(), before), progress=False)
        assert record.evaluation.records == by_hand.records
        assert record.cost.parameters == 0
        assert record.side_effects["kl"] == 0
    assert few.choices["examples"] == list(draw_shots(task(), 2, seed=7).ids)
    assert few.cost.score_tokens > prompt.cost.score_tokens


def test_the_text_is_kept_with_what_waits_for_being_scored(tmp_path: Path) -> None:
    path = Fitted(None, before="Q: Why?\n\n").save(tmp_path / "one.json")
    assert Fitted.load(path).before == "Q: Why?\n\n"
    old = json.loads(path.read_text(encoding="utf-8"))
    del old["before"]
    path.write_text(json.dumps(old), encoding="utf-8")
    assert Fitted.load(path).before == ""
