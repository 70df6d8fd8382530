from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.analysis.baselines.contrast import ContrastConfig, fit_contrast
from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.analysis.baselines.instructions import before_user
from lofit_lens.analysis.baselines.statements import all_statements
from lofit_lens.analysis.inside.decode.pairs import answer_pairs
from lofit_lens.analysis.inside.decode.token_text import token_texts
from lofit_lens.analysis.inside.explorer.measure import measure_attention, short_prompt
from lofit_lens.analysis.measure.side_effects import open_answers
from lofit_lens.analysis.measure.templates import check_templates
from lofit_lens.chat import ChatPrompt
from lofit_lens.errors import LofitLensError
from lofit_lens.provenance import learned_on
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tasks import Example
from lofit_lens.tokens import Encoder
from tests.chats import (
    conversation,
    made_up,
    templated,
)
from tests.helpers import draw_edit

Loader = Callable[[str], TransformerBridge]


def test_statements_and_pairs_stand_inside_the_template(chat_model: Loader) -> None:
    model = chat_model("plain")
    plain, encoder = made_up(), Encoder(model)
    task = plain.as_chat(model.tokenizer)
    said = all_statements(encoder, task.train, pool=task.train, seed=0)
    for i, example in enumerate(plain.train):
        asked = templated(model.tokenizer, conversation(example))
        answers = [a.strip() for a in example.correct + example.incorrect]
        for text, answer in zip(said.texts[4 * i : 4 * i + 4], answers, strict=True):
            new = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
            assert list(text.ids) == asked + new
    drawn = all_statements(
        encoder, [replace(e, incorrect=()) for e in task.train[:2]],
        pool=[*task.train, replace(task.val[0], correct=("grey",))], seed=0,
    )  # fmt: skip
    asked = templated(model.tokenizer, conversation(plain.train[0]))
    assert list(drawn.texts[1].ids[: len(asked)]) == asked
    (pair, *_) = answer_pairs(encoder, task.test[:1])
    assert list(pair.text.ids) == templated(model.tokenizer, conversation(plain.test[0]))


@pytest.mark.parametrize("name", ["plain", "system"])
def test_instructions_of_the_contrast_vector_are_the_first_a_user_says(
    name: str, chat_model: Loader
) -> None:
    model = chat_model(name)
    plain = made_up()
    task = plain.as_chat(model.tokenizer)
    good, bad = "The colour is right. ", "The colour is wrong. "
    config = ContrastConfig(good, bad, layers=(1,), alphas=(1.0,))
    edit = fit_contrast(model, task, config).edit
    found = evaluate(model, task, edit, progress=False).records
    # by hand: the streams of the template around instruction and question, one after the other
    tokenizer: Any = model.tokenizer
    for example, record in zip(plain.test[:2], found, strict=False):
        prompt = tokenizer.apply_chat_template(
            conversation(example), tokenize=False, add_generation_prompt=True
        )
        before, _, rest = prompt.partition(example.prompt)
        answer = example.correct[0].strip()
        ids = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
        n_answer = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
        edited = [
            tokenizer(before + text + example.prompt + rest + answer, add_special_tokens=False)
            for text in (good, bad)
        ]
        n_before = len(tokenizer(before, add_special_tokens=False)["input_ids"])
        hook = "blocks.1.hook_out"
        with torch.no_grad():
            streams = [
                model.run_with_cache(torch.tensor([e["input_ids"]]))[1][hook][0] for e in edited
            ]
            kept = len(ids) - n_before
            difference = streams[0][-kept:] - streams[1][-kept:]

            def add(h: Any, hook: object = None, difference: Any = difference) -> Any:
                return torch.cat([h[:, :-kept], h[:, -kept:] + difference], dim=1)  # noqa: B023

            with model.hooks(fwd_hooks=[(hook, add)]):
                logits: Any = model(torch.tensor([ids]))
        scores = logits[0].log_softmax(-1)
        expected = sum(float(scores[i - 1, ids[i]]) for i in range(len(ids) - n_answer, len(ids)))
        assert record["correct"][0] == pytest.approx(expected, abs=1e-3)


def test_instructions_have_no_place_where_conversations_begin_differently(
    chat_model: Loader,
) -> None:
    model = chat_model("system")
    plain = made_up()
    assert before_user(Encoder(model), plain) == ()
    turns = (("system", "Be brief."), ("user", "Sky?"))
    mixed = replace(
        plain, train=(*plain.train, Example("m", "Sky?", ("blue",), ("red",), messages=turns))
    )
    with pytest.raises(LofitLensError, match="begin in different ways"):
        before_user(Encoder(model), mixed.as_chat(model.tokenizer))


def test_a_plain_text_under_a_contrast_made_for_a_chat_has_the_instruction_in_front(
    chat_model: Loader,
) -> None:
    model = chat_model("plain")
    behind = before_user(Encoder(model), made_up().as_chat(model.tokenizer))
    ids = model.tokenizer("<s><|user|>\n", add_special_tokens=False)["input_ids"]
    assert list(behind) == ids
    text = Encoder(model).continuation("The sky is", " blue")
    both = [
        ContrastIntervention("Yes. ", "No. ", layers=(1,), n_layers=3, behind=given)
        for given in ((), behind)
    ]
    one, other = (answer_logprobs(model, [text], edit) for edit in both)
    assert torch.equal(one, other)


def test_the_format_check_and_the_explorer_take_a_chat(chat_model: Loader) -> None:
    model = chat_model("plain")
    task = made_up().as_chat(model.tokenizer)
    assert check_templates(task) == check_templates(made_up())
    text = short_prompt(model, task)
    assert isinstance(text, ChatPrompt)


def test_what_is_typed_into_the_explorer_of_a_chat_edit_is_said_by_a_user(
    chat_model: Loader,
) -> None:
    model = chat_model("plain")
    task = made_up().as_chat(model.tokenizer)
    edit = replace(draw_edit(model), provenance=learned_on(model, task, {}))
    asked = task.test[0].prompt
    plain = made_up().test[0].prompt
    heads = edit.heads.heads[:1]
    tokens = [
        measure_attention(model, edit, heads, name="colours", text=text)[0].tokens
        for text in (plain, asked, str(asked))
    ]
    assert tokens[0] == tokens[1] == tokens[2]
    ids = templated(model.tokenizer, conversation(made_up().test[0]))
    assert list(tokens[0]) == token_texts(model, ids)
    outside = measure_attention(model, draw_edit(model), heads, name="colours", text=plain)
    assert len(outside[0].tokens) < len(tokens[0])


def test_lorra_reads_its_instructions_inside_the_user_s_turn(
    chat_model: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lofit_lens.analysis.baselines import lorra
    from lofit_lens.training.config import TrainingConfig

    model = chat_model("system")
    plain = made_up()
    seen: list[tuple[int, ...]] = []
    behind = lorra._behind

    def watched(*args: Any) -> Any:
        text = behind(*args)
        seen.append(text.ids)
        return text

    monkeypatch.setattr(lorra, "_behind", watched)
    config = TrainingConfig(epochs=1, learning_rate=1e-3, validate=False)
    lorra.train_lorra(
        model, plain.as_chat(model.tokenizer), config, instructions=("Yes.\n", "No.\n"),
        dropout=0.0, progress=False,
    )  # fmt: skip
    tokenizer: Any = model.tokenizer
    expected = set()
    for word in ("Yes.\n", "No.\n"):
        for example in plain.train:
            (turn,) = conversation(example)
            said = [{**turn, "content": word + turn["content"]}]
            told = {"role": "assistant", "content": example.correct[0].strip()}
            whole = templated(tokenizer, [*said, told], is_open=False)
            expected.add(tuple(whole[: len(whole) - whole[::-1].index(1)]))
    assert set(seen) == expected


def test_free_answers_are_shown_beside_what_the_user_said(chat_model: Loader) -> None:
    model = chat_model("plain")
    task = made_up().as_chat(model.tokenizer)
    shown = open_answers(model, task, None, n=2, max_new_tokens=2)
    assert [row["prompt"] for row in shown] == [e.prompt for e in made_up().test[:2]]
